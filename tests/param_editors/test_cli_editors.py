"""``corrigenda stats collect`` and ``corrigenda export`` on a tiny checkpoint."""

from __future__ import annotations

import json

import pytest
import torch
from tiny_editing import EDITS, quick, tiny_models
from typer.testing import CliRunner

from corrigenda.cli.main import app
from corrigenda.cli.stats import parse_layers
from corrigenda.errors import InvalidRequest
from corrigenda.eval import results
from corrigenda.lm.loading import load
from corrigenda.memory.memory import Memory
from corrigenda.param_editors import params
from corrigenda.param_editors.statistics import find
from corrigenda.testing import FixedEncoder


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A checkpoint, with presets for its architecture."""
    monkeypatch.chdir(tmp_path)
    lm = tiny_models.tiny("llama")
    lm.model.save_pretrained(tmp_path / "tiny")
    lm.tokenizer.save_pretrained(tmp_path / "tiny")
    match = {"model_type": "llama", "hidden_size": 32}
    methods = {name: quick(name).to_dict() for name in ("rome", "memit", "ft-m")}
    monkeypatch.setattr(params, "presets", lambda: {"tiny": {"match": match, "found": "", "methods": methods}})
    return tmp_path / "tiny"


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def run_json(*arguments):
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_statistics_are_collected_from_a_corpus_or_from_the_model(folder, tmp_path):
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("\n\n".join(tiny_models.TEXTS), encoding="utf-8")
    told = run_json("stats", "collect", "--model", folder, "--corpus", corpus, "--layers", "0-1")
    assert told["layers"] == [0, 1]
    assert told["tokens"] > 30
    assert any("thin statistics" in note for note in told["notes"])
    again = run_json("stats", "collect", "--model", folder, "--from-model", 300)
    assert again["layers"] == [0, 1]  # those of the presets
    assert again["source"] == "sampled from tiny"
    assert find(load(folder), [0, 1]).moment(0).tokens == max(told["tokens"], again["tokens"])
    shown = run("stats", "collect", "--model", folder, "--from-model", 300)
    assert "second moments of tiny, layers 0, 1" in shown.stdout


def test_contradictory_or_unreadable_input_is_refused(folder, tmp_path):
    for arguments, words in (
        (("--corpus", "x", "--from-model", 5), "exclude"),
        (("--corpus", tmp_path / "absent"), "cannot be read"),
        (("--layers", "a"), "no list of layers"),
    ):
        result = run("stats", "collect", "--model", folder, *arguments)
        assert result.exit_code == 2
        assert words in result.output
    assert parse_layers("3, 5,7-9") == [3, 5, 7, 8, 9]
    with pytest.raises(InvalidRequest):
        parse_layers("3-")


def test_a_memory_is_printed_and_exported(folder, tmp_path):
    with Memory.open(tmp_path / "edits.db", encoder=FixedEncoder()) as memory:
        for edit in EDITS[:2]:
            memory.add(edit)
    run_json("stats", "collect", "--model", folder, "--from-model", 300)
    common = ("--memory", tmp_path / "edits.db", "--model", folder)
    told = run_json("export", "--method", "memit", "--save", tmp_path / "kept.safetensors", *common)
    assert told["edits"] == 2
    assert (tmp_path / told["path"] / "adapter_config.json").is_file()
    delta = run_json("export", tmp_path / "kept.safetensors", "--as", "delta", "--model", folder)
    assert delta["path"] == told["path"] + ".safetensors"
    whole = run("export", tmp_path / "kept.safetensors", "--as", "checkpoint", "--out", "model", "--model", folder)
    assert "written model: 2 edits, 2 weights" in whole.stdout
    before, after = load(folder).model.state_dict(), load(tmp_path / "model").model.state_dict()
    assert {name for name in before if not torch.equal(before[name], after[name])} == set(told["weights"])
    refused = run("export", tmp_path / "kept.safetensors", "--as", "checkpoint", "--out", "model", "--model", folder)
    assert refused.exit_code == 2
    assert "never written over" in refused.output


def test_an_export_needs_a_source_and_edits(folder, tmp_path):
    assert "either consolidation files or --method" in run("export").output
    Memory.open(tmp_path / "empty.db", encoder=FixedEncoder()).close()
    result = run("export", "--method", "ft-m", "--memory", tmp_path / "empty.db", "--model", folder)
    assert "no live edits" in result.output


def test_editors_are_methods_of_the_evaluation(folder):
    results = run_json("eval", "run", "--method", "ft-m", "--limit", 2, "--model", folder)
    assert results["metrics"]["reliability"]["n"] == 2
    assert results["settings"]["editor"] == "ft-m"


def test_what_an_evaluation_found_is_kept_until_its_results_are_there(folder, tmp_path, monkeypatch):
    """A batch may take hours: killed, it goes on with the values that it had found."""
    run_json("stats", "collect", "--model", folder, "--from-model", 300)
    arguments = ("eval", "run", "--method", "memit", "--protocol", "batch", "--edits-per-batch", 2, "--limit", 2)
    arguments += ("--model", folder, "--out", tmp_path / "r.json")
    with monkeypatch.context() as killed:

        def die(*_):
            raise KeyboardInterrupt

        killed.setattr(results, "save", die)
        assert run(*arguments).exit_code != 0
    kept = [path.name for path in (tmp_path / "r.edits").iterdir()]
    assert {name.split("-")[0] for name in kept} == {"value", "edits"}
    again = run_json(*arguments)
    assert not (tmp_path / "r.edits").exists()
    fresh = run_json(*arguments, "--fresh")
    assert again["metrics"] == fresh["metrics"]
