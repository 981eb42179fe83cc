from __future__ import annotations

import json
import subprocess

import pytest

from corrigenda.errors import EvaluationError
from corrigenda.eval import meter, results
from corrigenda.eval.datasets.detect import Dataset
from corrigenda.eval.metrics import METRICS
from corrigenda.eval.protocol import Run
from corrigenda.eval.schema import problems, results_schema


@pytest.fixture
def complete(two_capitals, budget):
    cases, method = two_capitals
    method.refuses = frozenset({"Porto"})
    rows = Run(method, method, budget)(cases)
    dataset = Dataset("capitals.jsonl", "edits", "0" * 64, tuple(cases))
    return {
        "schema": results.KIND,
        "method": "scripted",
        "protocol": "single",
        **results.summarise(rows),
        "cases": {"total": 2, "failed": 1, "resumed": 0},
        "data": results.describe_data(dataset, None, 0),
        "edits": results.describe_edits(cases),
        "model": {"name": "scripted", "fingerprint": "f" * 64, "dtype": "float32", "device": "cpu"},
        "settings": {},
        "cost": {
            "wall_seconds": 1.5,
            "scoring_seconds": 1,
            "peak_memory_mb": meter.peak_memory_mb(),
            "generated_tokens": results.count_answers(rows, len),
            "cache_hits": 0,
            "cache_misses": 0,
        },
        "versions": results.versions(),
        "commit": results.commit(),
        "started": "2026-01-31T12:00:00+00:00",
        "journal": None,
    }


def test_what_is_saved_conforms_and_is_read_back(complete, tmp_path):
    path = tmp_path / "deep" / "r.json"
    results.save(complete, path)
    assert results.load(path) == json.loads(json.dumps(complete))
    assert [entry.name for entry in path.parent.iterdir()] == ["r.json"]
    assert complete["unscored"] == {"SubjectNotFound": 10}
    assert complete["metrics"]["reliability"]["unscored"] == 1
    # " Lyon.", " the Lyon City.", " Lyons", " the Seine", " dead"
    assert complete["cost"]["generated_tokens"] == 6 + 15 + 6 + 10 + 5
    assert complete["cost"]["peak_memory_mb"] > 10
    assert set(complete["metrics"]) <= set(METRICS)
    assert complete["versions"]["torch"]


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("protocol",), "triple", "not one of"),
        (("schema",), "x/2", "expected 'corrigenda.eval.results/1'"),
        (("metrics", "reliability", "value"), 1.5, r"\$.metrics.reliability.value: 1.5 is not within 0 and 1"),
        (("metrics", "reliability", "value"), -2, r"\$.metrics.reliability.value: -2 is below -1"),
        (("metrics", "reliability", "n"), -1, "is below 0"),
        (("metrics", "reliability", "n"), True, "expected integer, found bool"),
        (("metrics", "reliability", "extra"), 1, "'extra' is unknown"),
        (("by_kind", "locality", "neighbour", "stderr"), "x", r"\$.by_kind.locality.neighbour.stderr: expected number"),
        (("model", "fingerprint"), "abc", "does not match"),
        (("method",), "", "shorter than 1"),
        (("cost",), {}, "'wall_seconds' is missing"),
        (("data", "limit"), 0, "below 1"),
    ],
)
def test_what_does_not_conform_is_refused(complete, tmp_path, path, value, message):
    inner = complete
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    with pytest.raises(EvaluationError, match=message):
        results.save(complete, tmp_path / "r.json")
    assert not list(tmp_path.iterdir())


def test_files_that_are_no_results(tmp_path, complete):
    path = tmp_path / "r.json"
    with pytest.raises(EvaluationError, match="cannot be read"):
        results.load(path)
    path.write_text("{")
    with pytest.raises(EvaluationError, match="not JSON"):
        results.load(path)
    path.write_bytes(b"\xff")
    with pytest.raises(EvaluationError, match="not JSON"):
        results.load(path)
    path.write_text("[]")
    with pytest.raises(EvaluationError, match="expected object, found list"):
        results.load(path)
    with pytest.raises(EvaluationError, match="cannot be written"):
        results.save(complete, path / "below" / "r.json")


def test_the_schema_describes_itself_and_uses_only_what_is_checked():
    schema = results_schema()
    assert problems({}, schema)
    assert set(schema["required"]) <= set(schema["properties"])
    with pytest.raises(NotImplementedError, match="oneOf"):
        problems(1, {"oneOf": []})
    assert problems([1, "x"], {"items": {"type": "integer"}}) == ["$[1]: expected integer, found str"]
    assert problems({"a": 1}, {"additionalProperties": {"type": "string"}}) == ["$.a: expected string, found int"]


def test_outside_git_there_is_no_commit(monkeypatch):
    def missing(*arguments, **options):
        raise FileNotFoundError("git")

    monkeypatch.setattr(subprocess, "run", missing)
    assert results.commit() is None
