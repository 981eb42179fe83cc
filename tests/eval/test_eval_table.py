"""eval table: every method on every data set, resumable, and nothing taken for what it is not."""

from __future__ import annotations

import json

from corrigenda.eval.results import load


def test_the_table_of_every_method_is_resumable(call, tiny, data_file, tmp_path):
    out = tmp_path / "table"
    settings = ("--data", data_file, "--out", out, "--methods", "none", "--model", tiny, "--memory-edits", 3)
    call("eval", "table", *settings)
    assert sorted(path.name for path in out.glob("*.json")) == ["edits-sequential-none.json", "edits-single-none.json"]
    assert "Table 1" in (out / "report.md").read_text()
    (out / "edits-single-none.json").unlink()
    (out / "edits-single-none.journal.jsonl").unlink()
    before = (out / "edits-sequential-none.json").stat().st_mtime_ns
    call("eval", "table", *settings, "--portability", data_file, "--shard", "1/1")
    assert (out / "edits-single-none.json").exists()
    assert (out / "edits-sequential-none.json").stat().st_mtime_ns == before
    call("eval", "table", *settings, "--report-only")


def test_a_method_that_fails_does_not_cost_the_table(call, tiny, data_file, tmp_path):
    # an unknown model size has no preset for this editor
    out = tmp_path / "table"
    settings = ("--data", data_file, "--out", out, "--model", tiny, "--memory-edits", 2, "--single-edits", 1)
    call("eval", "table", *settings, "--sequential-edits", 1, "--methods", "none,rome", code=1)
    assert (out / "edits-single-none.json").exists()
    assert "Table 1" in (out / "report.md").read_text()


def test_cells_of_other_settings_are_scored_again(call, tiny, data_file, tmp_path):
    out, task = tmp_path / "table", tmp_path / "piqa.jsonl"
    task.write_text(json.dumps({"goal": "Dry a dog", "sol1": "a towel", "sol2": "a fork", "label": 0}))
    settings = ("--data", data_file, "--out", out, "--methods", "none,grace", "--model", tiny, "--memory-edits", 2)
    call("eval", "table", *settings)
    path = out / "edits-sequential-grace.json"
    assert "tasks" not in load(path)
    call("eval", "table", *settings, "--seed", 7)
    assert load(path)["data"]["seed"] == 7
    call("eval", "table", *settings, "--seed", 7, "--task", task)
    assert load(path)["tasks"]["piqa"]["live"] == 2
    data_file.write_text("\n".join(reversed(data_file.read_text().splitlines())))
    before = path.stat().st_mtime_ns
    call("eval", "table", *settings, "--seed", 7, "--task", task)
    assert path.stat().st_mtime_ns != before


def test_two_data_sets_of_one_name_are_not_one_cell(call, data_file, tmp_path):
    other = tmp_path / "other" / data_file.name
    other.parent.mkdir()
    other.write_text(data_file.read_text())
    result = call("eval", "table", "--data", data_file, "--data", other, "--out", tmp_path / "table", code=2)
    assert "would both be written to edits-single-none.json" in " ".join(result.output.split())


def test_a_table_of_unknown_methods_is_refused_before_anything_is_loaded(call, data_file, tmp_path, monkeypatch):
    monkeypatch.delattr("corrigenda.cli.eval_table.load_model")
    result = call("eval", "table", "--data", data_file, "--out", tmp_path / "t", "--methods", "none,grac", code=2)
    assert "Did you mean 'grace'?" in result.output


def test_a_slow_method_may_have_fewer_edits(call, tiny, data_file, tmp_path):
    out = tmp_path / "table"
    settings = ("--data", data_file, "--out", out, "--model", tiny, "--memory-edits", 2, "--methods", "none,grace")
    call("eval", "table", *settings, "--edits", "none=1", "--edits", "kn=1")
    rows = {name: json.loads((out / f"edits-single-{name}.json").read_text()) for name in ("none", "grace")}
    assert (rows["none"]["edits"]["count"], rows["grace"]["edits"]["count"]) == (1, 2)
    for wrong in ("nobody=1", "none", "none=0", "none=x"):
        call("eval", "table", *settings, "--edits", wrong, code=2)
