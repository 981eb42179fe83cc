from __future__ import annotations

import pytest

from corrigenda.errors import EvaluationError
from corrigenda.eval.gate import Check, Gate, values_of


def test_minimum_maximum_and_drop():
    gate = Gate(minimums={"reliability": 0.98}, maximums={"locality_kl": 0.1}, max_drops={"piqa": 0.01})
    fine = gate.check({"reliability": 0.98, "locality_kl": 0.1, "piqa": 0.658}, before={"piqa": 0.668})
    assert fine.passed  # equal to the threshold passes, whatever floating point makes of 0.668 - 0.658
    assert fine.failures == ()
    bad = gate.check({"reliability": 0.9799, "locality_kl": 0.11, "piqa": 0.65}, before={"piqa": 0.668})
    assert [check.name for check in bad.failures] == ["reliability", "locality_kl", "piqa"]
    assert not bad.passed
    assert bad.to_dict()["checks"][2] == {
        "name": "piqa",
        "kind": "max-drop",
        "limit": 0.01,
        "value": 0.65,
        "before": 0.668,
        "passed": False,
    }


def test_what_was_not_measured_does_not_pass():
    gate = Gate(minimums={"reliability": 0.0}, max_drops={"piqa": 1.0})
    verdict = gate.check({"reliability": None, "piqa": 0.5})
    assert [check.passed for check in verdict.checks] == [False, False]
    assert "reliability: not measured (no value)" in str(verdict)
    assert "piqa: not measured (no before)" in str(verdict)
    assert not Check("x", "min", 0.0, float("nan")).passed


def test_a_gain_is_no_drop():
    verdict = Gate(max_drops={"piqa": 0.0}).check({"piqa": 0.7}, before={"piqa": 0.6})
    assert verdict.passed
    assert str(verdict) == "pass  piqa: 0.6000 → 0.7000, drop -0.1000; at most 0"


def test_texts_for_people():
    verdict = Gate(minimums={"reliability": 0.9}, maximums={"kl": 1}).check({"reliability": 0.5, "kl": 0.2})
    assert str(verdict).splitlines() == ["FAIL  reliability: 0.5000; at least 0.9", "pass  kl: 0.2000; at most 1"]


def test_parse():
    gate = Gate.parse(["reliability=0.98", " locality = .9 "], max_drops=["piqa=0.01"])
    assert gate.minimums == {"reliability": 0.98, "locality": 0.9}
    assert gate.max_drops == {"piqa": 0.01}


@pytest.mark.parametrize("rule", ["reliability", "=0.9", "reliability=high", "reliability=", "reliability=nan"])
def test_what_is_no_threshold(rule):
    with pytest.raises(EvaluationError, match="is not a threshold"):
        Gate.parse([rule])


def test_gates_that_make_no_sense():
    with pytest.raises(EvaluationError, match="two thresholds"):
        Gate.parse(["a=1", "a=2"])
    with pytest.raises(EvaluationError, match="lets everything through"):
        Gate()
    with pytest.raises(EvaluationError, match="finite"):
        Gate(minimums={"a": float("inf")})


def test_figures_of_a_results_file():
    results = {
        "metrics": {"reliability": {"value": 0.9}, "locality": {"value": None}},
        "tasks": {"piqa": {"before": {"value": 0.66}, "after": {"value": 0.65}}},
    }
    values, before = values_of(results)
    assert values == {"reliability": 0.9, "locality": None, "piqa": 0.65}
    assert before == {"piqa": 0.66}
    assert values_of({"metrics": {}}) == ({}, {})
