"""Every number here can be worked out with a pencil; the comments do."""

from __future__ import annotations

import math

import pytest

from corrigenda.errors import EvaluationError
from corrigenda.eval.asking import Columns
from corrigenda.eval.case import ANSWER_ROLES, Case, Probe
from corrigenda.eval.metrics import FACETS, METRICS, Score, aggregate, metrics, metrics_by_kind, standard_error
from corrigenda.eval.protocol import Run
from corrigenda.eval.scoring import Budget, scores_of


def scored(cases, method, budget, **settings):
    rows = Run(method, method, budget, **settings)(cases)
    return metrics([scores_of(row) for row in rows]), rows


@pytest.mark.parametrize("protocol", ["single", "sequential"])
def test_generated_metrics_by_hand(two_capitals, budget, protocol):
    cases, method = two_capitals
    table, _ = scored(cases, method, budget, protocol=protocol, columns=Columns(forced=False))
    assert list(table) == ["reliability", "generalization", "locality"]
    # both right: mean 1, no spread
    assert table["reliability"].to_dict() == {
        "value": 1.0,
        "n": 2,
        "stderr": 0.0,
        "low": 1.0,
        "high": 1.0,
        "probes": 2,
        "unscored": 0,
        "higher_is_better": True,
    }
    # A 1 of 2, B 0 of 2: mean of 0.5 and 0; deviation sqrt(2 · 0.25²) = 0.3536, over sqrt(2) = 0.25
    assert table["generalization"].value == pytest.approx(0.25)
    assert table["generalization"].stderr == pytest.approx(0.25)
    assert table["generalization"].probes == 4
    # A 2 of 2, B 1 of 2
    assert table["locality"].value == pytest.approx(0.75)
    assert table["locality"].stderr == pytest.approx(0.25)


def test_teacher_forced_metrics_by_hand(scripted, budget, case):
    (one, two) = case("A", "France", "Lyon"), case("B", "Spain", "Porto")
    method = scripted(
        bare={
            "The river of France is": " the Seine",
            "The king of France is": " dead",
            "The river of Spain is": " Ebro",
        },
        # Of its own three tokens " the", " Sei", "ne" the bare model would choose the first two.
        first_choices={
            ("The river of France is", " the Seine"): (True, True, False),
            ("The king of France is", " dead"): (False,),
        },
        edited_choices={
            ("The capital of France is", "Lyon"): (True, True),
            ("France's capital is", "Lyon"): (True, False),
            ("What is the capital of France?", "Lyon"): (False, False),
            ("The capital of Spain is", "Porto"): (True, False, False, False),
            # The first of the two that count is kept, the third does not count.
            ("The river of France is", " the Seine"): (True, False, True),
            ("The river of Spain is", " Ebro"): (False,),
        },
    )
    table, rows = scored([one, two], method, budget)
    # EasyEdit's mean over target tokens: A 2 of 2; B 1 of 4
    assert table["reliability_teacher_forced"].value == pytest.approx((1 + 0.25) / 2)
    # A (1/2 + 0)/2; B (1 + 1)/2, nothing else being written down
    assert table["generalization_teacher_forced"].value == pytest.approx((0.25 + 1) / 2)
    # A: river 1 of the 2 that count, king unscored; B: river 0, king unscored
    locality = table["locality_teacher_forced"]
    assert locality.value == pytest.approx((0.5 + 0) / 2)
    assert (locality.probes, locality.unscored) == (2, 2)
    reasons = {probe["unscored"]["locality_teacher_forced"] for row in rows for probe in row["probes"][4:]}
    assert reasons == {
        "the unedited model would choose no token of its own answer",
        "the unedited model is silent",
    }


def test_a_changed_tokenisation_counts_every_token(scripted, budget, case):
    method = scripted(
        bare={"The river of France is": " the Seine"},
        first_choices={("The river of France is", " the Seine"): (False, True)},
        edited_choices={("The river of France is", " the Seine"): (True, False, False)},
    )
    table, _ = scored([case("A", "France", "Lyon")], method, budget)
    assert table["locality_teacher_forced"].value == pytest.approx(1 / 3)


def test_portability_and_multi_hop_by_kind(scripted, budget, case):
    base = case("A", "France", "Lyon")
    extra = (
        Probe("portability", "Lyon is the capital of", ("France", "the French Republic"), "reversed"),
        Probe("portability", "The mayor of the capital of France is", ("Doucet",), "one_hop"),
        Probe("multi_hop", "Who is the mayor of the capital of France?", ("Doucet",), "2_hops"),
    )
    method = scripted(edited={("Lyon", "Lyon is the capital of"): " French Republic"})
    rows = Run(method, method, budget, columns=Columns(forced=False))([Case("A", base.edits, base.probes + extra)])
    scores = [scores_of(row) for row in rows]
    table = metrics(scores)
    assert table["portability"].value == pytest.approx(0.5)
    assert table["portability"].stderr is None  # one case has no spread
    assert table["multi_hop"].value == 0.0
    kinds = metrics_by_kind(scores)["portability"]
    assert {kind: metric.value for kind, metric in kinds.items()} == {"reversed": 1.0, "one_hop": 0.0}


def test_unscored_is_not_zero():
    cases = [
        [Score("locality", "n", 1.0), Score("locality", "n", None, "refused")],
        [Score("locality", "n", None, "refused")],
    ]
    metric = aggregate("locality", cases)
    assert (metric.value, metric.n, metric.probes, metric.unscored) == (1.0, 1, 1, 2)
    nothing = aggregate("locality", cases[1:])
    assert (nothing.value, nothing.n, nothing.stderr) == (None, 0, None)
    assert nothing.to_dict()["value"] is None


def test_errors_are_over_edits_not_probes():
    # Ten probes of one edit fail together and ten of another succeed: two observations, not twenty.
    cases = [[Score("locality", "n", value)] * 10 for value in (0.0, 1.0)]
    assert aggregate("locality", cases).stderr == pytest.approx(0.5)


def test_standard_error():
    assert standard_error([]) is None
    assert standard_error([1.0]) is None
    # deviations -2 … 2: variance 10/4; error sqrt(2.5/5)
    assert standard_error([1, 2, 3, 4, 5]) == pytest.approx(math.sqrt(0.5))


@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan")])
def test_a_score_is_between_0_and_1(value):
    with pytest.raises(ValueError, match="between 0 and 1"):
        Score("locality", "n", value)


def test_every_role_has_both_metrics():
    assert set(METRICS) >= {name for role in (*ANSWER_ROLES, "locality") for name in (role, f"{role}_teacher_forced")}
    assert all(metric.text for metric in METRICS.values())
    assert [name for name, metric in METRICS.items() if not metric.higher_is_better] == ["locality_kl"]
    assert set(FACETS.values()) < set(METRICS)


def test_token_limits_cover_the_longest_accepted_answer():
    budget = Budget(lambda text: len(text.split()), locality=8)

    def limit(*answers, role="reliability"):
        return budget.of(Probe(role, "x", answers, "k"))

    assert limit("one") == 8
    assert limit("one", "a b c d e") == 12
    assert limit("one two three four five six seven eight nine") == 16
    assert limit("a b c d e f g h i j k", role="locality") == 8


def test_a_method_that_loses_answers_is_an_error(scripted, budget, case):
    class Loses(scripted):
        def generate(self, prompts, *, max_new_tokens):
            return super().generate(prompts, max_new_tokens=max_new_tokens)[:-1] if self.live else [""] * len(prompts)

    method = Loses()
    with pytest.raises(EvaluationError, match="4 results for 5 prompts"):
        Run(method, scripted(), budget)([case("A", "France", "Lyon")])
