"""Columns besides the generated ones: every number can be worked out with a pencil; the comments do."""

from __future__ import annotations

import math

import pytest

from corrigenda.edit import Edit
from corrigenda.errors import UnknownName
from corrigenda.eval.asking import Asked, Columns
from corrigenda.eval.case import Case, Probe, distracted
from corrigenda.eval.contexts import CONTEXTS, INSTRUCTION, QUESTION, context
from corrigenda.eval.editable import NextToken
from corrigenda.eval.metrics import FACETS, METRICS, Score, bootstrap, metrics
from corrigenda.eval.next_token import FLOOR, certain, divergence
from corrigenda.eval.normalise import mentions
from corrigenda.eval.protocol import Run
from corrigenda.eval.scoring import judge, scores_of
from corrigenda.lm.scoring import TargetScore


def by_metric(case, method, budget, **columns):
    row = Run(method, method, budget, columns=Columns(**columns))([case])[0]
    return row, {score.metric: score.value for score in scores_of(row)}


@pytest.fixture
def rome_case():
    """The edit of ROME's paper: the Space Needle is in Rome now; Steve Jobs' Macintosh stays with Apple."""
    edit = Edit("The Space Needle is in", "Rome", subject="The Space Needle", old_answer="Seattle")
    return Case(
        "needle",
        (edit,),
        (
            Probe("reliability", edit.prompt, ("Rome",), "prompt", "Seattle"),
            Probe("generalization", "One visits the Space Needle in", ("Rome",), "paraphrase", "Seattle"),
            Probe("locality", "Pike Place Market is in", ("Seattle",), "neighborhood", "Rome"),
        ),
    )


class Probable:
    """A method with written log-probabilities: (prompt, target) to one value a token."""

    def __init__(self, table):
        self.table = table

    def edit(self, edits):
        return type("Undo", (), {"revert": lambda self: None})()

    def generate(self, prompts, *, max_new_tokens):
        return ["x"] * len(prompts)

    def score(self, prompts, targets):
        rows = [self.table[pair] for pair in zip(prompts, targets, strict=True)]
        return [TargetScore(row, (False,) * len(row)) for row in rows]


def test_success_and_magnitude_as_rome_defines_them(rome_case, budget):
    ln = math.log
    method = Probable(
        {
            # 0.5 against 0.2: efficacy success, magnitude 0.3
            ("The Space Needle is in", "Rome"): (ln(0.5),),
            ("The Space Needle is in", "Seattle"): (ln(0.2),),
            # the mean over tokens counts: Rome exp((ln .09 + ln .01)/2) = 0.03 against 0.05: no success, -0.02
            ("One visits the Space Needle in", "Rome"): (ln(0.09), ln(0.01)),
            ("One visits the Space Needle in", "Seattle"): (ln(0.05),),
            # the neighbour keeps the old answer: 0.4 for Seattle against 0.1 for Rome: success, 0.3
            ("Pike Place Market is in", "Seattle"): (ln(0.4),),
            ("Pike Place Market is in", "Rome"): (ln(0.1),),
        }
    )
    _, scores = by_metric(rome_case, method, budget, forced=False, success=True)
    assert scores["efficacy_success"] == 1.0
    assert scores["efficacy_magnitude"] == pytest.approx(0.3)
    assert scores["paraphrase_success"] == 0.0
    assert scores["paraphrase_magnitude"] == pytest.approx(-0.02)
    assert scores["neighborhood_success"] == 1.0
    assert scores["neighborhood_magnitude"] == pytest.approx(0.3)


def test_without_a_rival_there_is_no_success_column(two_capitals, budget):
    cases, method = two_capitals
    _, scores = by_metric(cases[0], method, budget, success=True)
    assert not any("success" in name for name in scores)


def test_teacher_forced_as_easyedit_defines_it(rome_case, budget, scripted):
    # Share of the target's tokens that are the first choice: 2 of 3, then 0 of 1; the edit counts once each.
    method = scripted(
        bare={"Pike Place Market is in": " Seattle"},
        first_choices={("Pike Place Market is in", " Seattle"): (True, True)},
        edited_choices={
            ("The Space Needle is in", "Rome"): (True, False, True),
            ("One visits the Space Needle in", "Rome"): (False,),
            # EasyEdit's locality compares tokens before and after: 1 of 2 stayed
            ("Pike Place Market is in", " Seattle"): (True, False),
        },
    )
    _, scores = by_metric(rome_case, method, budget)
    assert scores["reliability_teacher_forced"] == pytest.approx(2 / 3)
    assert scores["generalization_teacher_forced"] == 0.0
    assert scores["locality_teacher_forced"] == 0.5


class Drifting:
    """A method with written distributions, one before and one after the edit."""

    def __init__(self, before, after, refuses=False):
        self.tables, self.live = (before, after), 0

    def edit(self, edits):
        self.live = 1
        return type("Undo", (), {"revert": lambda undo: setattr(self, "live", 0)})()

    def generate(self, prompts, *, max_new_tokens):
        return ["x"] * len(prompts)

    def next_tokens(self, prompts, among=None):
        table = self.tables[self.live]
        rows = [tuple(ids) for ids in among] if among is not None else [(0, 1)] * len(prompts)
        first = max(table, key=table.__getitem__)
        return [NextToken(ids, tuple(math.log(table[token]) for token in ids), first) for ids in rows]


def test_divergence_and_first_choice(rome_case, budget):
    method = Drifting({0: 0.5, 1: 0.25, 2: 0.25}, {0: 0.25, 1: 0.5, 2: 0.25})
    _, scores = by_metric(rome_case, method, budget, forced=False, divergence=True)
    assert scores["locality_argmax"] == 0.0
    # D = .5 ln(.5/.25) + .25 ln(.25/.5) + rest .25 ln 1 = .25 ln 2
    assert scores["locality_kl"] == pytest.approx(0.25 * math.log(2))
    same = Drifting({0: 0.5, 1: 0.25, 2: 0.25}, {0: 0.5, 1: 0.25, 2: 0.25})
    _, scores = by_metric(rome_case, same, budget, forced=False, divergence=True)
    assert (scores["locality_argmax"], scores["locality_kl"]) == (1.0, 0.0)


@pytest.mark.parametrize("broken", [math.nan, -math.inf])
def test_a_broken_model_is_unscored_not_perfect(rome_case, budget, broken):
    scored = Probable(
        dict.fromkeys([(p.prompt, t) for p in rome_case.probes for t in ("Rome", "Seattle", "x")], (broken,))
    )
    row, scores = by_metric(rome_case, scored, budget, success=True)
    assert {value for name, value in scores.items() if name.endswith(("success", "magnitude", "forced"))} == {None}
    assert "not finite" in row["probes"][0]["unscored"]["efficacy_success"]
    drifted = Drifting({0: 0.5, 1: 0.5}, {0: 0.5, 1: 0.5})
    drifted.next_tokens = lambda prompts, among=None: [NextToken((0, 1), (broken, broken), 0)] * len(prompts)
    row, scores = by_metric(rome_case, drifted, budget, forced=False, divergence=True)
    assert (scores["locality_argmax"], scores["locality_kl"]) == (None, None)
    assert "not finite" in row["probes"][2]["unscored"]["locality_kl"]


def test_divergence_from_a_broken_model_is_refused():
    with pytest.raises(ValueError, match="not a number"):
        divergence(NextToken((7,), (math.log(0.6),), 7), NextToken((7,), (math.nan,), 7))


def test_a_method_without_distributions_is_unscored(two_capitals, budget):
    cases, method = two_capitals
    row, scores = by_metric(cases[0], method, budget, divergence=True)
    assert scores["locality_kl"] is None
    assert row["probes"][3]["unscored"]["locality_kl"] == "the method gives no distributions"


def test_what_grouping_leaves_out_is_never_too_much():
    before = NextToken((7,), (math.log(0.6),), 7)
    after = NextToken((7,), (math.log(0.3),), 7)
    # two outcomes: .6 ln(.6/.3) + .4 ln(.4/.7)
    assert divergence(before, after) == pytest.approx(0.6 * math.log(2) + 0.4 * math.log(4 / 7))
    with pytest.raises(ValueError, match="different tokens"):
        divergence(before, NextToken((8,), (0.0,), 8))
    # an answer that is forced to begin with another token: finite, since every outcome keeps a floor
    forced = certain(9, before.ids)
    assert forced.first == 9
    expected = 0.6 * (math.log(0.6) - math.log(FLOOR)) + 0.4 * math.log(0.4)
    assert divergence(before, forced) == pytest.approx(expected, rel=1e-6)
    assert divergence(before, certain(7, before.ids)) == pytest.approx(
        0.6 * math.log(0.6) + 0.4 * (math.log(0.4) - math.log(FLOOR)), rel=1e-6
    )


def test_facets_are_columns_of_their_own(scripted, budget, case):
    base = case("A", "France", "Lyon")
    extra = (
        Probe("portability", "Gaul's capital is", ("Lyon",), "Subject_Aliasing"),
        Probe("portability", "Lyon is the capital of", ("France",), "reversed"),
        Probe("portability", "The mayor of France's capital is", ("Doucet",), "Reasoning"),
        Probe("locality", "The currency of France is", ("euro",), "Relation_Specificity"),
        Probe("locality", "The capital of France is Lyon. Spain's is", ("Madrid",), "Distracting_Neighbor"),
    )
    method = scripted(
        bare={"The currency of France is": " euro", "The capital of France is Lyon. Spain's is": " Madrid"},
        edited={
            ("Lyon", "Gaul's capital is"): " Lyon",
            ("Lyon", "The capital of France is Lyon. Spain's is"): " Lyon",
        },
    )
    _, scores = by_metric(Case("A", base.edits, base.probes + extra), method, budget, forced=False)
    assert scores["subject_replacement"] == 1.0
    assert scores["reversed_relation"] == scores["one_hop"] == 0.0
    assert scores["other_attribution"] == 1.0
    assert scores["distract_neighbourhood"] == 0.0
    assert set(FACETS.values()) < set(METRICS)


def test_multi_hop_counts_a_record_once_as_mquake_does(scripted, budget, case):
    base = case("A", "France", "Lyon")
    hops = tuple(Probe("multi_hop", f"Wording {number}?", ("Doucet",), "2_hops") for number in range(3))
    method = scripted(edited={("Lyon", "Wording 1?"): " Doucet"})
    rows = Run(method, method, budget, columns=Columns(forced=False))([Case("A", base.edits, base.probes + hops)])
    found = metrics([scores_of(row) for row in rows])
    assert found["multi_hop"].value == pytest.approx(1 / 3)
    assert found["multi_hop_any"].value == 1.0


def test_distracted_neighbours(case):
    more = distracted(case("A", "France", "Lyon"), 1)
    assert more.probes[-1] == Probe(
        "locality", "The capital of France is Lyon. The river of France is", ("Seine",), "distracted"
    )
    assert len(more.probes) == 6


def test_bootstrap_interval():
    assert bootstrap([]) == (None, None)
    assert bootstrap([1.0]) == (None, None)
    assert bootstrap([0.5] * 9) == (0.5, 0.5)
    low, high = bootstrap([0.0] * 50 + [1.0] * 50, "x")
    # the normal approximation says .5 ± 1.96 · .05
    assert low == pytest.approx(0.4, abs=0.03)
    assert high == pytest.approx(0.6, abs=0.03)
    assert bootstrap([0.0, 1.0, 1.0], "x") == bootstrap([0.0, 1.0, 1.0], "x")


def test_ranges_of_scores():
    assert Score("fluency", "", 7.5).value == 7.5
    assert Score("paraphrase_magnitude", "k", -1.0).value == -1.0
    with pytest.raises(ValueError, match="locality_kl is between 0 and ∞"):
        Score("locality_kl", "k", -0.1)


def test_contexts():
    assert list(CONTEXTS) == ["completion", "question", "instruction"]
    assert context("completion").request("The capital is").completion
    asked = QUESTION.request("What is the capital of France?")
    assert [(turn.role, turn.content) for turn in asked.messages] == [("user", "What is the capital of France?")]
    system, user = INSTRUCTION.request("The capital of France is").messages
    assert system.role == "system"
    assert user.content == "Complete this sentence with what belongs there: The capital of France is"
    with pytest.raises(UnknownName, match="'chat'"):
        context("chat")


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("The capital of France is Lyon.", True),
        ("It's “Lyon”, of course", True),
        ("The Lyonnais call it home", False),
        ("", False),
        ("I think of the city of Lyon!", True),
    ],
)
def test_right_anywhere_in_a_conversation(answer, right):
    assert mentions(answer, ["Lyon"]) is right
    asked = Asked(Probe("reliability", "?", ("Lyon",), "k"), after=answer)
    assert judge(asked, Columns(forced=False, anywhere=True))["scores"]["reliability"] == float(right)
