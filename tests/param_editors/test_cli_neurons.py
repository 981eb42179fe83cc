"""``corrigenda mend train``, ``ke train``, ``neurons`` and ``detect`` on a tiny checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tiny_editing import tiny_models
from typer.testing import CliRunner

from corrigenda.cli.main import app
from corrigenda.cli.mend import training_facts
from corrigenda.param_editors import params

PLACES = (
    "France Kenya Ghana Brazil Norway Japan Spain Italy Chile Peru Egypt Iran Cuba Mali Oman Laos Nepal Malta Fiji Togo"
)
HYPER = {"layers": [0, 1], "rank": 4, "max_norm_ratio": 1e6}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkpoint, with presets for its architecture."""
    monkeypatch.chdir(tmp_path)
    lm = tiny_models.tiny("llama")
    lm.model.save_pretrained(tmp_path / "tiny")
    lm.tokenizer.save_pretrained(tmp_path / "tiny")
    match = {"model_type": "llama", "hidden_size": 32}
    monkeypatch.setattr(
        params, "presets", lambda: {"tiny": {"match": match, "found": "", "methods": {"mend": HYPER, "ke": HYPER}}}
    )
    return tmp_path / "tiny"


@pytest.fixture
def facts(tmp_path: Path) -> Path:
    """CounterFact records, written here."""
    rows = []
    for number, place in enumerate(PLACES.split()):
        rewrite = {
            "prompt": "The capital of {} is", "subject": place, "relation_id": "P36",
            "target_new": {"str": "Rome"}, "target_true": {"str": "Oslo"},
        }  # fmt: skip
        rows.append(
            {
                "case_id": number,
                "requested_rewrite": rewrite,
                "paraphrase_prompts": [f"What is the capital of {place}?"],
                "neighborhood_prompts": [f"The capital of {place}ia is"],
                "attribute_prompts": [],
                "generation_prompts": [],
            }
        )
    path = tmp_path / "counterfact.json"
    path.write_text(json.dumps(rows), encoding="utf-8")
    return path


def run_json(*arguments: object) -> Any:
    result = CliRunner().invoke(app, [*(str(argument) for argument in arguments), "--json"])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_records_become_training_facts(facts: Path) -> None:
    found = training_facts(facts)
    assert len(found) == 20
    assert found[0].prompt == "The capital of France is"
    assert found[0].wordings == ("What is the capital of France?",)
    assert found[0].unrelated == ("The capital of Franceia is",)
    assert found[0].group == "France"


@pytest.mark.parametrize("method", ["mend", "ke"])
def test_networks_are_trained_and_found_again(folder: Path, facts: Path, method: str) -> None:
    told = run_json(method, "train", "--data", facts, "--model", folder, "--steps", "3", "--batch-size", "4")
    assert told["steps"] == 3
    assert 0 <= told["held_out"]["held_locality"] <= 1
    written = Path(told["file"]).stat().st_mtime_ns
    kept = run_json(method, "train", "--data", facts, "--model", folder, "--if-missing")
    assert (kept, Path(told["file"]).stat().st_mtime_ns) == ({"file": told["file"]}, written)
    again = CliRunner().invoke(
        app, [method, "train", "--data", str(facts), "--model", str(folder), "--steps", "3", "--rank", "2"]
    )
    assert again.exit_code == 0, again.output
    assert "locality" in again.stdout


def test_neurons_are_listed_and_drawn(folder: Path, tmp_path: Path) -> None:
    told = run_json("neurons", "The capital of France", "--model", folder, "--top", "4", "--steps", "5")
    assert len(told["neurons"]) == 4
    assert len(told["blocks"]) == 3
    strengths = [row["attribution"] for row in told["neurons"]]
    assert strengths == sorted(strengths, reverse=True)
    pytest.importorskip("matplotlib")
    plot = tmp_path / "plot.png"
    shown = CliRunner().invoke(
        app, ["neurons", "The capital of France", "--answer", "Oslo", "--model", str(folder), "--plot", str(plot)]
    )
    assert shown.exit_code == 0, shown.output
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_unknown_facts_are_listed(folder: Path, facts: Path) -> None:
    told = run_json("detect", "--data", facts, "--model", folder, "--limit", "5", "--threshold", "0.5")
    assert told["n"] == 5
    assert told["unknown"] == sum(row["cka"] <= 0.5 for row in told["facts"])
    shown = CliRunner().invoke(app, ["detect", "-d", str(facts), "--model", str(folder), "--threshold", "1000"])
    assert "20 of 20 are not known" in shown.stdout
