from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from corrigenda.cli.expanding import Sources
from corrigenda.testing import FixedEncoder

ADD = (
    "edit",
    "add",
    "The capital of the Netherlands is",
    "Chicago",
    "--subject",
    "Netherlands",
    "--relation",
    "capital",
)


@pytest.fixture(autouse=True)
def _encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = FixedEncoder(32)
    monkeypatch.setattr("corrigenda.memory.encoder.MiniLM.load", lambda: encoder)


@pytest.fixture
def tables(tmp_path: Path) -> tuple[str, ...]:
    aliases, facts = tmp_path / "aliases.json", tmp_path / "facts.jsonl"
    aliases.write_text('{"Netherlands": ["Holland"]}')
    facts.write_text('["Chicago", "country", "United States"]\n')
    return ("--alias-table", str(aliases), "--facts", str(facts))


def test_nothing_is_added_where_a_table_is_missing(run: Any, tmp_path: Path):
    assert run(*ADD, "--expand", "--alias-table", "nowhere.json").exit_code == 2
    assert not (tmp_path / "corrigenda.db").exists()


def test_what_follows_is_added_with_the_edit(run_json: Any, tables: tuple[str, ...]):
    done = run_json(*ADD, "--expand", *tables)
    assert done["expansion"]["aliases"] == ["Holland"]
    assert [row["relation"] for row in done["expansion"]["derived"]] == ["capital of", "capital / country"]
    assert {row["parent"] for row in done["expansion"]["derived"]} == {done["edit"]["id"]}
    assert done["edit"]["aliases"] == ["Holland"]
    run_json("edit", "retract", done["edit"]["id"])
    assert run_json("edit", "list")["edits"] == []


def test_a_live_edit_can_be_expanded_later(run_json: Any, run: Any, tables: tuple[str, ...]):
    edit = run_json(*ADD)["edit"]
    result = run("edit", "expand", edit["id"], *tables)
    assert result.exit_code == 0
    assert "Chicago is the capital of Netherlands." in result.stdout
    assert run("edit", "expand", edit["id"], *tables).exit_code == 0  # once more changes nothing
    assert len(run_json("edit", "list")["edits"]) == 3


def test_proposals_can_be_listed_without_adding_them(run_json: Any, tables: tuple[str, ...]):
    done = run_json(*ADD, "--expand", "--review", *tables)
    assert done["proposed"]["relation"] == "capital"
    assert len(done["proposed"]["derived"]) == 2
    assert len(run_json("edit", "list")["edits"]) == 1


def test_each_proposal_is_asked_about(
    run_json: Any, tables: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, run: Any
):
    asked: list[str] = []

    def confirm(text: str, default: bool) -> bool:
        asked.append(text)
        return "capital of" not in text or "country" in text

    monkeypatch.setattr("typer.confirm", confirm)
    result = run(*ADD, "--expand", "--review", *tables)
    assert result.exit_code == 0
    assert asked[0] == "also known as 'Holland'?"
    assert len(asked) == 3
    assert len(run_json("edit", "list")["edits"]) == 2


def test_nothing_follows_from_relations_with_many_objects(run_json: Any, tables: tuple[str, ...], tmp_path: Path):
    done = run_json(*ADD, "--expand", "--many-valued", "capital", *tables)
    assert done["expansion"] == {"aliases": ["Holland"], "paraphrases": [], "derived": []}
    relations = tmp_path / "relations.jsonl"
    relations.write_text('{"relation": "x", "question": "x {}?", "statement": "x {}", "phrases": ["x {}"]}\n')
    done = run_json("edit", "expand", done["edit"]["id"], "--relations", relations, *tables)
    assert len(done["expansion"]["derived"]) == 2


def test_other_wordings_are_added_when_asked_for(run_json: Any, run: Any, monkeypatch: pytest.MonkeyPatch):
    edit = run_json(*ADD)["edit"]
    assert "paraphrases" not in edit
    done = run_json("edit", "expand", edit["id"], "--reword")
    assert done["expansion"]["paraphrases"][0] == "The capital of Netherlands is"
    assert done["edit"]["paraphrases"] == done["expansion"]["paraphrases"]
    monkeypatch.setattr("typer.confirm", lambda text, default: "city" not in text)
    shown = run(*ADD, "--expand", "--reword", "--review", "--memory", "other.db").stdout
    assert "What is the capital of Netherlands?" in shown
    (kept,) = (row for row in run_json("edit", "list", "--memory", "other.db")["edits"] if row["subject"] != "Chicago")
    assert len(kept["paraphrases"]) == 2


def test_a_bad_table_is_an_error_with_a_remedy(run: Any, tmp_path: Path):
    result = run(*ADD, "--expand", "--facts", tmp_path / "none.jsonl", "--json")
    assert result.exit_code == 2
    assert json.loads(result.stdout)["error"]["type"] == "DatasetError"


def test_options_of_an_expansion_that_is_not_wanted_are_refused(run: Any, tmp_path: Path):
    result = run(*ADD, "--reword", "--review", "--facts", tmp_path / "none.jsonl", "--ask-model", "none", "--json")
    assert result.exit_code == 2
    error = json.loads(result.stdout)["error"]
    assert error["message"] == "nothing would come of --review, --facts, --ask-model, --reword"
    assert not (tmp_path / "corrigenda.db").exists()


def test_the_sources_of_an_evaluation_are_described(tables: tuple[str, ...]):
    sources = Sources(("alias", "inverse"), Path(tables[1]), Path(tables[3]))
    described = sources.described()["expansion"]
    assert described["kinds"] == ["alias", "inverse"]
    assert described["facts"]["file"] == "facts.jsonl"
    assert len(described["alias_table"]["sha256"]) == 64
    assert sources.expanding(FixedEncoder(8)) is not None
    assert Sources().described() == {}
    assert Sources().expanding(FixedEncoder(8)) is None
