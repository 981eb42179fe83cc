"""eval run, eval show and the benches through the command line."""

from __future__ import annotations

import json
import shlex

import pytest

from corrigenda.cli import bench, eval_memory, eval_methods
from corrigenda.cli.eval_show import wrong_probes
from corrigenda.errors import EvaluationError, InvalidRequest
from corrigenda.eval import synthetic
from corrigenda.eval.cache import Cached
from corrigenda.eval.editable import Bare
from corrigenda.eval.report import runs
from corrigenda.eval.results import load
from corrigenda.memory.memory import Memory
from corrigenda.testing import FixedEncoder


def test_run_writes_results_that_conform(evaluate, tmp_path):
    out = tmp_path / "r.json"
    text = evaluate("--out", out, "--limit", 4, "--seed", 3).stdout
    assert "locality_teacher_forced" in text
    results = load(out)
    assert results["metrics"]["locality"]["value"] == 1.0
    assert results["metrics"]["locality"]["n"] == 4
    assert results["metrics"]["locality_teacher_forced"]["value"] == 1.0
    assert results["metrics"]["reliability"]["value"] == 0.0
    assert results["data"] | {"sha256": ""} == {
        "name": "edits.jsonl",
        "format": "edits",
        "sha256": "",
        "records": 6,
        "limit": 4,
        "seed": 3,
    }
    assert results["cost"]["cache_misses"] > 0
    assert results["journal"] == "r.journal.jsonl"


def test_the_same_seed_gives_the_same_results_and_the_cache_saves_the_work(evaluate):
    first, second = (json.loads(evaluate("--json", "--protocol", "sequential").stdout) for _ in range(2))
    assert first["metrics"] == second["metrics"]
    assert first["edits"] == second["edits"]
    assert second["cost"]["cache_misses"] == 0
    third = json.loads(evaluate("--json", "--no-cache", "--no-teacher-forced").stdout)
    assert set(third["metrics"]) == {"reliability", "generalization", "locality"}
    assert third["metrics"]["locality"] == first["metrics"]["locality"]
    assert third["cost"]["cache_misses"] > 0


def test_a_run_that_was_killed_is_taken_up(evaluate, tmp_path):
    out, journal = tmp_path / "r.json", tmp_path / "r.journal.jsonl"
    evaluate("--out", out)
    whole = load(out)
    lines = journal.read_text("utf-8").splitlines(keepends=True)
    journal.write_text("".join(lines[:4]) + lines[4][:50], "utf-8")
    result = evaluate("--out", out, "--limit", 5, code=2)
    assert "unfinished run with other settings" in result.output
    evaluate("--out", out)
    results = load(out)
    assert results["cases"] == {"total": 6, "failed": 0, "withdrawn": 0, "resumed": 3}
    assert results["metrics"] == whole["metrics"]
    evaluate("--out", out)
    assert load(out)["cases"]["resumed"] == 0
    journal.write_text("".join(lines[:4]), "utf-8")
    evaluate("--out", out, "--limit", 2, "--fresh")
    assert load(out)["cases"] == {"total": 2, "failed": 0, "withdrawn": 0, "resumed": 0}


def test_a_place_that_cannot_be_written_is_refused_before_the_model_is_loaded(evaluate, tmp_path, monkeypatch):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("")
    monkeypatch.delattr("corrigenda.cli.eval.load_model")
    for out in ("folder", ".", "/", "file/r.json"):
        assert "cannot be written to" in evaluate("--out", out, code=2).output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["edits.jsonl", "file", "folder"]


def test_results_that_could_not_be_kept_are_not_scored_again(evaluate, tmp_path, monkeypatch):
    out = tmp_path / "r.json"
    with monkeypatch.context() as patched:
        patched.setattr("corrigenda.eval.results.save", lambda results, path: 1 / 0)
        evaluate("--out", out, code=1)
    evaluate("--out", out)
    assert load(out)["cases"]["resumed"] == 6


def test_show(evaluate, call, tmp_path):
    out = tmp_path / "r.json"
    evaluate("--out", out)
    assert "reliability" in call("eval", "show", out).stdout
    assert json.loads(call("eval", "show", out, "--json").stdout)["method"] == "none"
    assert "The capital of" in call("eval", "show", out, "--failures").stdout
    rows = json.loads(call("eval", "show", out, "--failures", "--metric", "reliability", "--json").stdout)
    assert {row["metric"] for row in rows} == {"reliability"}
    assert len(rows) == 6
    assert all(row["score"] == 0 and row["expected"].startswith("Town") and "after" in row for row in rows)
    assert json.loads(call("eval", "show", out, "--unscored", "--metric", "locality", "--json").stdout) == []
    assert len(json.loads(call("eval", "show", out, "--failures", "--most", 2, "--json").stdout)) == 2


def test_a_probe_fails_by_the_measure_of_its_metric():
    def probe(role, **scores):
        return {"role": role, "prompt": "p", "expected": ["Abuja"], "before": "a", "after": "b", "scores": scores}

    probes = [
        probe("locality", locality=1.0, locality_kl=0.0, neighborhood_magnitude=-0.4),
        probe("locality", locality_argmax=1.0, locality_kl=8.5),
        probe("reliability", reliability=1.0, efficacy_success=1.0, efficacy_magnitude=0.9),
        probe("reliability", reliability_teacher_forced=0.5, efficacy_success=0.0),
        probe("retraction", retraction=0.0),
    ]
    found = wrong_probes([{"case": "1", "probes": probes}], True, False, None)
    assert [(row["metric"], row["expected"]) for row in found] == [
        ("locality_kl", "as before"),
        ("reliability_teacher_forced", "Abuja"),
        ("efficacy_success", "Abuja"),
        ("retraction", "as before"),
    ]


def test_show_of_what_was_not_scored(evaluate, call, tmp_path, data_file):
    row = json.loads(data_file.read_text().splitlines()[0])
    data_file.write_text(json.dumps({**row, "locality": ["word " * 700]}))
    out = tmp_path / "r.json"
    evaluate("--out", out, "--protocol", "sequential")
    (row,) = json.loads(call("eval", "show", out, "--unscored", "--metric", "locality", "--json").stdout)
    assert row["score"] is None
    assert row["reason"].startswith("InvalidRequest")
    assert "unscored: 2" in call("eval", "show", out).stdout


def test_errors_are_messages(call, evaluate, tmp_path, data_file):
    assert "unknown method 'nnoe'" in evaluate("--method", "nnoe", code=2).output
    assert "unknown dataset format" in evaluate("--format", "x", code=2).output
    data_file.write_text("{")
    assert "edits.jsonl, record 1" in evaluate(code=2).output
    assert "cannot be read" in call("eval", "show", tmp_path / "none.json", code=2).output
    assert json.loads(evaluate("--json", code=2).stdout)["error"]["type"] == "DatasetError"


def test_methods_are_the_registered_strategies():
    known = eval_methods.known_methods()
    assert known[0] == "none"
    assert {"auto", "ike"} <= set(known)


def test_a_text_is_encoded_once():
    class Counting(FixedEncoder):
        asked = 0

        def encode(self, texts):
            self.asked += len(texts)
            return super().encode(texts)

    inner = Counting()
    encoder = eval_memory.Remembering(inner)
    assert (encoder.encode(["a", "b", "a"]) == inner.encode(["a", "b", "a"])).all()
    inner.asked = 0
    assert encoder.encode(["b", "a"]).shape == (2, encoder.dimension)
    assert encoder.encode([]).shape == (0, encoder.dimension)
    assert inner.asked == 0


def test_gate(evaluate, call, tmp_path):
    out, baseline = tmp_path / "r.json", tmp_path / "b.json"
    evaluate("--out", out)
    evaluate("--out", baseline, "--limit", 3)
    passed = call("eval", "gate", out, "--min", "locality=0.98", "--max-drop", "locality=0.01", "--baseline", baseline)
    assert passed.stdout.splitlines() == [
        "pass  locality: 1.0000; at least 0.98",
        "pass  locality: 1.0000 → 1.0000, drop 0.0000; at most 0.01",
    ]
    failed = call("eval", "gate", out, "--min", "reliability=0.98", "--max-drop", "piqa=0.01", "--json", code=1)
    verdict = json.loads(failed.stdout)
    assert not verdict["passed"]
    assert [check["passed"] for check in verdict["checks"]] == [False, False]
    assert "lets everything through" in call("eval", "gate", out, code=2).output
    assert "not a threshold" in call("eval", "gate", out, "--max", "kl", code=2).output


def test_compare(evaluate, call, tmp_path):
    out = tmp_path / "r.json"
    evaluate("--out", out)
    result = call("eval", "compare", out, "--out", tmp_path / "r.html", "--out", tmp_path / "r.md", "--title", "Tiny")
    assert result.stdout.count("wrote") == 2
    assert "<h1>Tiny</h1>" in (tmp_path / "r.html").read_text()


def test_protocols_and_columns_from_the_command_line(evaluate, tmp_path):
    task = tmp_path / "piqa.jsonl"
    task.write_text(json.dumps({"goal": "Dry a dog", "sol1": "a towel", "sol2": "a fork", "label": 0}))
    out = tmp_path / "r.json"
    evaluate(
        *("--out", out, "--protocol", "batch", "--edits-per-batch", 4, "--divergence", "--distract", 1),
        *("--task", task, "--judge", "JUDGE"),
        code=2,
    )
    evaluate(
        *("--out", out, "--protocol", "batch", "--edits-per-batch", 4, "--divergence", "--distract", 1, "--task", task),
        "--fresh",
    )
    found = load(out)
    assert found["metrics"]["locality_argmax"]["value"] == 1.0
    assert found["metrics"]["locality_kl"]["value"] == 0.0
    assert found["metrics"]["distract_neighbourhood"]["value"] == 1.0
    assert found["tasks"]["piqa"]["drop"] == 0.0
    assert found["settings"]["together"] == 4
    stream = json.loads(evaluate("--protocol", "stream", "--retract", 0.5, "--json").stdout)
    assert stream["metrics"]["retraction"]["value"] == 1.0
    assert stream["cases"]["withdrawn"] == 3
    curve = json.loads(evaluate("--protocol", "sequential", "--checkpoints", "2,4", "--json").stdout)
    assert [point["after"] for point in curve["retention"]] == [2, 4, 6]


def test_a_judge_and_contexts_from_the_command_line(evaluate, tiny):
    asked = json.loads(evaluate("--context", "instruction", "--judge", tiny, "--json").stdout)
    assert asked["settings"]["context"] == "instruction"
    assert asked["settings"]["max_new_tokens"]["least"] == 32
    assert asked["metrics"]["reliability_judged"]["n"] == 6
    assert asked["metrics"]["locality"]["value"] == 1.0


def test_the_command_of_a_report_makes_the_same_results(evaluate, call, tiny):
    options = ("--protocol", "sequential", "--at-edit", 2, "--locality-tokens", 4, "--shard", "2/3", "--judge", tiny)
    first = json.loads(evaluate(*options, "--method", "grace", "--threshold", 0.5, "--json").stdout)
    command = shlex.split(runs.command(first | {"model": first["model"] | {"name": str(tiny)}}))
    again = json.loads(call(*command[1:], "--json").stdout)
    assert {name: again[name] for name in ("settings", "shard", "data", "edits", "metrics")} == {
        name: first[name] for name in ("settings", "shard", "data", "edits", "metrics")
    }


def test_options_that_are_no_options(evaluate, tmp_path):
    assert "not a part such as 2/4" in evaluate("--shard", "3/2", code=2).output
    assert "not a list of numbers" in evaluate("--checkpoints", "ten", code=2).output
    assert "cannot be taken back" in evaluate("--retract", 0.5, code=2).output
    task = tmp_path / "piqa.jsonl"
    task.write_text(json.dumps({"goal": "Dry a dog", "sol1": "a towel", "sol2": "a fork", "label": 0}))
    twice = ("--task", task, "--task", task, "--protocol", "sequential")
    assert "the task piqa is given twice" in evaluate(*twice, code=2).output


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("--threshold", 0.9, "--expand", "alias", "--facts", "none"), "--threshold, --expand, --facts"),
        (("--checkpoints", 5, "--edits-per-batch", 7), "--edits-per-batch, --checkpoints"),
        (("--protocol", "batch", "--at-edit", 0, "--task-limit", 3), "--at-edit, --task-limit"),
        (("--method", "auto", "--alias-table", "none"), "--alias-table"),
        (("--method", "rome", "--threshold", 0.9), "--threshold"),
        (("--method", "ft-l", "--expand", "paraphrase", "--alias-table", "none"), "--alias-table"),
    ],
)
def test_options_of_which_nothing_would_come_are_refused(evaluate, monkeypatch, arguments, named):
    monkeypatch.delattr("corrigenda.cli.eval.load_model")
    error = json.loads(evaluate(*arguments, "--json", code=2).stdout)["error"]
    assert error["message"] == f"nothing would come of {named}"


def test_kinds_that_do_not_exist_are_refused_before_anything_is_scored(evaluate, monkeypatch):
    monkeypatch.delattr("corrigenda.cli.eval.load_model")
    result = evaluate("--method", "auto", "--expand", "aliass", "--json", code=2)
    assert "Did you mean 'alias'?" in json.loads(result.stdout)["error"]["remedy"]


def test_a_run_in_which_every_case_failed_does_not_pass_for_one(evaluate, call, tiny, data_file, monkeypatch):
    def refuse(self, edits):
        raise InvalidRequest("no")

    monkeypatch.setattr(Cached, "edit", refuse)
    results = json.loads(evaluate("--json", "--limit", 2, code=2).stdout)
    assert results["cases"]["failed"] == 2
    settings = ("--data", data_file, "--out", "table", "--methods", "none", "--model", tiny, "--memory-edits", 2)
    for _ in range(2):  # also when the results are there
        assert "every case failed" in call("eval", "table", *settings, code=1).output


class TestBench:
    def test_made_up_edits(self):
        ten = synthetic.edits(10)
        assert synthetic.edits(20)[:10] != synthetic.edits(10, seed=1)
        assert ten == synthetic.edits(10)
        assert len({edit.subject for edit in synthetic.edits(500)}) == 500
        queries = synthetic.foreign_queries(40, ten)
        assert len(queries) == 40
        assert queries == synthetic.foreign_queries(40, ten)
        assert not any(str(edit.subject) in query for edit in ten for query in queries)

    def test_overhead_and_add(self, tmp_path):
        encoder = FixedEncoder()
        with Memory.open(tmp_path / "m.db", encoder=encoder) as memory:
            memory.add_many(synthetic.edits(30))
            figures = bench.measure_overhead(memory, synthetic.foreign_queries(20, synthetic.edits(30)), encoder)
            assert (figures["edits"], figures["queries"]) == (30, 20)
            assert figures["ratio"] > 0
            assert {"encode", "search", "judge"} <= set(figures["stages_ms"])
            added = bench.measure_add(memory, synthetic.edits(5, seed=1), encoder)
            assert (added["edits"], added["added"], added["found_at_once"]) == (30, 5, 5)
            assert 0 < added["add_ms"] <= added["add_p95_ms"]

    def test_requests_that_concern_an_edit_are_no_overhead(self, tmp_path):
        encoder, edits = FixedEncoder(), synthetic.edits(4)
        with Memory.open(tmp_path / "m.db", encoder=encoder) as memory:
            memory.add_many(edits)
            with pytest.raises(EvaluationError, match="fired on 4 of 4"):
                bench.measure_overhead(memory, [edit.prompt for edit in edits], encoder)

    def test_a_filled_memory_is_kept(self, tmp_path, monkeypatch):
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
        edits, encoder = synthetic.edits(12), FixedEncoder()
        for count in (12, 13):  # what is done to the copy does not reach the kept one
            with bench._filled(edits, encoder, quiet=True) as memory:
                assert len(memory) == 12
                memory.add_many(synthetic.edits(1, seed=1))
                assert len(memory) == 13, count
        assert len(list(tmp_path.iterdir())) == 1

    def test_edits_from_a_dataset(self, call, data_file):
        assert len(bench._edits(3, data_file)) == 3
        result = call("bench", "overhead", "--data", data_file, "--edits", 7, code=2)
        assert "holds 6 edits, not 7" in result.output

    def test_evaluation(self, call, tiny, data_file):
        figures = json.loads(call("bench", "eval", "--data", data_file, "--model", tiny, "--json").stdout)
        assert figures["cases"] == 6
        assert figures["total_seconds"] >= figures["model_seconds"] > 0
        assert "model_seconds" in call("bench", "eval", "--data", data_file, "--model", tiny).stdout


@pytest.fixture(scope="module")
def lm():
    from corrigenda.lm.loading import load

    return load("smollm2")


@pytest.mark.real_model
class TestWithTheRealThing:
    def test_a_memory_scores_and_the_bare_model_does_not(self, lm, tmp_path):
        from corrigenda.eval.datasets import load
        from corrigenda.eval.metrics import metrics
        from corrigenda.eval.protocol import Run
        from corrigenda.eval.scoring import Budget, scores_of

        cases = load("builtin").cases[:2]
        budget = Budget(lambda text: len(lm.tokenizer(text).input_ids))
        tables = {}
        for name in ("none", "auto"):
            for protocol in ("single", "sequential"):
                unedited = Cached(Bare(lm))
                with eval_methods.open_method(name, lm, unedited) as method:
                    run = Run(method.editable, unedited, budget, protocol=protocol, collecting=method.collecting)
                    tables[name, protocol] = metrics([scores_of(row) for row in run(cases)])
        assert tables["none", "single"]["reliability"].value == 0
        assert tables["none", "single"]["locality"].value == 1
        assert tables["auto", "single"]["reliability"].value == 1
        assert tables["auto", "sequential"]["reliability"].value == 1

    def test_ike(self, lm, tmp_path):
        unedited = Cached(Bare(lm))
        from corrigenda.edit import Edit

        with eval_methods.open_method("ike", lm, unedited, threshold=0.5) as method:
            undo = method.editable.edit([Edit("The capital of Nigeria is", "Enugu", subject="Nigeria")])
            prompts = ["The capital of Nigeria is", "Once upon a time"]
            texts = method.editable.generate(prompts, max_new_tokens=4)
            assert texts[1] == unedited.generate(prompts[1:], max_new_tokens=4)[0]
            scores = method.editable.score(prompts, ["Enugu", "there"])
            assert scores[0].log_prob > unedited.score(prompts[:1], ["Enugu"])[0].log_prob
            undo.revert()
            assert method.editable.generate(prompts, max_new_tokens=4) == unedited.generate(prompts, max_new_tokens=4)
        assert method.settings["scope_threshold"] == 0.5

    def test_bench_overhead(self, call, monkeypatch, tmp_path):
        monkeypatch.delenv("CORRIGENDA_CACHE")
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
        figures = json.loads(call("bench", "overhead", "--edits", 20, "--queries", 10, "--json").stdout)
        assert figures["fired"] == 0
        assert "add_ms" in call("bench", "add", "--edits", 20, "--repeats", 3).stdout
