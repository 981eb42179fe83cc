"""The edit group, over a real ledger and the real encoder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytestmark = pytest.mark.real_model

ABUJA = ("edit", "add", "The capital of Nigeria is", "Abuja", "--subject", "Nigeria", "--relation", "capital")


def test_add_show_amend_retract_history(run_json, run):
    added = run_json(*ABUJA, "--alias", "NG", "--tag", "africa", "--valid-from", "2020-01-01", "--author", "me")
    first = added["edit"]["id"]
    assert added["done"] == "added"
    assert added["edit"]["valid_from"] == "2020-01-01T00:00:00+00:00"

    shown = run_json("edit", "show", first[:8])
    assert shown["live"] is True
    assert shown["aliases"] == ["NG"]

    amended = run_json("edit", "amend", first, "--target", "Lagos", "--valid-to", "2030-01-01")
    second = amended["edit"]["id"]
    assert second != first
    assert amended["edit"]["author"] == "me"
    assert amended["edit"]["valid_to"] == "2030-01-01T00:00:00+00:00"
    assert run_json("edit", "show", first)["live"] is False

    assert run_json("edit", "retract", second, "--reason", "a test")["done"] == "retracted"
    events = run_json("edit", "history", second)
    assert [event["kind"] for event in events] == ["added", "amended", "retracted"]
    assert events[-1]["reason"] == "a test"
    assert run_json("edit", "list")["edits"] == []
    assert [edit["target"] for edit in run_json("edit", "list", "--version", 1)["edits"]] == ["Abuja"]

    for command in (("show", second), ("history", second)):
        result = run("edit", *command)
        assert result.exit_code == 0
        assert "Lagos" in result.stdout
    assert "0 edits" in run("edit", "list").stdout


def test_people_get_text_and_a_hint_about_the_subject(run):
    result = run("edit", "add", "The capital of Nigeria is", "Abuja")
    assert result.exit_code == 0
    assert "added" in result.stdout
    assert "without --subject" in result.stderr
    listed = run("edit", "list", "--contains", "nigeria")
    assert "1 edits, ledger version 1" in listed.stdout


def test_list_filters(run_json):
    run_json(*ABUJA, "--tag", "africa")
    run_json("edit", "add", "The capital of Peru is", "Lima", "--namespace", "south")
    assert len(run_json("edit", "list", "--tag", "africa")["edits"]) == 1
    assert run_json("edit", "list", "--tag", "asia")["edits"] == []
    assert run_json("edit", "list", "--contains", "PERU", "--namespace", "south")["edits"][0]["target"] == "Lima"


def test_a_conflict_can_be_refused(run_json, run):
    run_json(*ABUJA)
    again = ("edit", "add", "Nigeria's capital is", "Kano", "--subject", "nigeria", "--relation", "Capital")
    refused = run(*again, "--on-conflict", "refuse")
    assert refused.exit_code == 2
    assert "→" in refused.stderr
    run_json(*again)
    assert [edit["target"] for edit in run_json("edit", "list")["edits"]] == ["Kano"]


@pytest.mark.parametrize(
    ("arguments", "kind", "words"),
    [
        (("add", "", "x"), "InvalidEdit", "prompt is empty"),
        (("add", "p" * 5000, "x"), "InvalidEdit", "at most 4,000"),
        (("add", "p", "Lagos", "--old-answer", "lagos"), "InvalidEdit", "equals the old answer"),
        (("add", "p", "x", "--valid-from", "soon"), "InvalidEdit", "'soon' is not a time"),
        (("show", "e0000000000"), "UnknownEdit", "e0000000000"),
        (("retract", "e0000000000"), "UnknownEdit", "e0000000000"),
        (("amend", "e0000000000"), "InvalidEdit", "nothing to amend"),
    ],
)
def test_bad_input_is_an_error_with_a_remedy_and_no_traceback(run, run_json, arguments, kind, words):
    run_json(*ABUJA)
    result = run("edit", *arguments, "--json")
    assert result.exit_code == 2
    error = json.loads(result.stdout)["error"]
    assert error["type"] == kind
    assert words in error["message"]
    plain = run("edit", *arguments)
    assert plain.exit_code == 2
    assert "Traceback" not in plain.output
    assert "error:" in plain.stderr


def test_import_and_export(run_json, run, tmp_path: Path):
    good = [{"prompt": f"The capital of country {n} is", "target": f"City {n}"} for n in range(3)]
    lines = [json.dumps(row) for row in good]
    source = tmp_path / "edits.jsonl"
    source.write_text("\n".join([lines[0], "{broken", lines[1], '{"prompt": "no target"}', lines[2]]) + "\n")

    stopped = run("edit", "import", source, "--json")
    assert stopped.exit_code == 2
    assert set(json.loads(stopped.stdout)["error"]["bad_lines"]) == {"2", "4"}
    assert run_json("edit", "list")["edits"] == []
    assert "line 2:" in run("edit", "import", source).stderr

    skipped = run("edit", "import", source, "--on-error", "skip")
    assert skipped.exit_code == 0
    assert "imported 3 edits" in skipped.stdout
    assert "line 4" in skipped.stderr

    target = tmp_path / "out.jsonl"
    assert run_json("edit", "export", target)["exported"] == 3
    assert "exported 3 edits" in run("edit", "export", target).stdout
    report = run_json("edit", "import", target, "--memory", tmp_path / "second.db")
    assert report["imported"] == 3


def test_an_import_brings_back_all_that_an_export_wrote(run_json, run, tmp_path: Path):
    run_json(*ABUJA)
    run_json("edit", "add", "Nigeria's capital is", "Kano", *ABUJA[4:], "--on-conflict", "coexist")
    run_json("edit", "add", "The capital of Peru is", "Lima", "--namespace", "south", "--valid-from", "2999-01-01")
    file, second = tmp_path / "all.jsonl", ("--memory", tmp_path / "second.db")
    assert run_json("edit", "export", file, "--namespace", "south")["exported"] == 1
    assert run_json("edit", "export", file)["exported"] == 3
    assert run_json("edit", "import", file, *second) == {"imported": 3, "superseded": 0, "bad_lines": {}, "version": 3}
    assert {edit["target"] for edit in run_json("edit", "list", *second)["edits"]} == {"Abuja", "Kano"}
    again = tmp_path / "again.jsonl"
    assert run_json("edit", "export", again, *second)["exported"] == 3
    assert again.read_text() == file.read_text()


def test_an_import_says_what_it_superseded(run_json, run, tmp_path: Path):
    file = tmp_path / "edits.jsonl"
    row = {"prompt": "Nigeria's capital is", "target": "Kano", "subject": "Nigeria", "relation": "capital"}
    file.write_text(json.dumps(row))
    run_json(*ABUJA)
    refused = run("edit", "import", file, "--on-conflict", "refuse", "--json")
    assert refused.exit_code == 2
    assert "contradicts" in json.loads(refused.stdout)["error"]["bad_lines"]["1"]
    result = run("edit", "import", file, "--on-conflict", "supersede")
    assert "imported 1 edits, superseded 1, ledger version 2" in result.stdout
    file.write_text(json.dumps(row | {"target": "Jos"}))
    assert run_json("edit", "import", file, "--on-conflict", "supersede")["superseded"] == 1
    assert [edit["target"] for edit in run_json("edit", "list")["edits"]] == ["Jos"]


def test_a_place_that_cannot_be_written_is_an_error_with_a_remedy(run_json, run, tmp_path: Path):
    run_json(*ABUJA)
    for place in (tmp_path, tmp_path / "none" / "x.jsonl", tmp_path / "corrigenda.db" / "x.jsonl"):
        result = run("edit", "export", place, "--json")
        assert result.exit_code == 2
        error = json.loads(result.stdout)["error"]
        assert str(place) in error["message"]
        assert error["remedy"]
    assert "cannot be read or written" in run("edit", "export", tmp_path).stderr


def test_the_memory_comes_from_the_environment(run_json, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CORRIGENDA_MEMORY", str(tmp_path / "elsewhere.db"))
    run_json(*ABUJA)
    assert (tmp_path / "elsewhere.db").exists()
