"""Batches, sequences with checkpoints, streams, shards, other tasks with all edits live."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from scripted_methods import Scripted, make_case

from corrigenda.edit import Edit
from corrigenda.errors import EvaluationError, NotRevertible, SubjectNotFound, about
from corrigenda.eval.asking import Columns
from corrigenda.eval.case import Case
from corrigenda.eval.datasets.tasks import Question, Task
from corrigenda.eval.journal import Journal, read
from corrigenda.eval.metrics import metrics
from corrigenda.eval.protocol import Run
from corrigenda.eval.results import by_relation, retention, summarise
from corrigenda.eval.scoring import scores_of
from corrigenda.eval.sequence import evenly, plan_withdrawals
from corrigenda.eval.undoing import Stack
from corrigenda.lm.scoring import TargetScore

PLAIN = Columns(forced=False)


def lands(count):
    return [make_case(str(number), f"Land {number}", f"Town {number}") for number in range(count)]


def right_answers(cases):
    return {(case.edits[0].target, case.edits[0].prompt): f" {case.edits[0].target}" for case in cases}


class Counting(Scripted):
    """Notes how many edits each call of ``edit`` made, and the most that were live."""

    def edit(self, edits):
        self.limits.setdefault("made", []).append(len(edits))
        undo = super().edit(edits)
        self.limits["most"] = max(self.limits.get("most", 0), len(self.live))
        return undo


class Stacked(Scripted):
    """Takes back its last edit only, as editors of weights do."""

    def edit(self, edits):
        base = super().edit(edits)
        owner = self

        class Undo:
            def revert(self):
                if owner.live[-len(base.edits) :] != list(base.edits):
                    raise NotRevertible("later edits are on top")
                del owner.live[-len(base.edits) :]

        return Undo()


def values(rows):
    return {name: metric.value for name, metric in metrics([scores_of(row) for row in rows]).items()}


# Batches


def test_a_batch_is_made_in_one_call_and_is_live_together(budget):
    cases = lands(5)
    method = Counting(edited=right_answers(cases))
    rows = Run(method, Scripted(), budget, protocol="batch", together=2, columns=PLAIN)(cases)
    assert method.limits["made"] == [2, 2, 1]
    assert method.limits["most"] == 2
    assert method.live == []
    assert values(rows)["reliability"] == 1.0
    assert [row["case"] for row in rows] == ["0", "1", "2", "3", "4"]
    assert all(row["edit_seconds"] >= 0 for row in rows)


def test_the_edit_to_blame_is_left_out_of_a_batch(budget):
    cases = lands(3)

    class Picky(Counting):
        def edit(self, edits):
            for edit in edits:
                with about(edit):
                    if edit.target == "Town 1":
                        raise SubjectNotFound("no subject")
            return super().edit(edits)

    method = Picky(edited=right_answers(cases))
    rows = Run(method, Scripted(), budget, protocol="batch", together=3, columns=PLAIN)(cases)
    found = {row["case"]: row.get("failure") for row in rows}
    assert found == {"0": None, "1": "SubjectNotFound: no subject", "2": None}
    assert method.limits["made"] == [2]
    assert values(rows)["reliability"] == 1.0


def test_a_batch_whose_culprit_is_unknown_fails_as_a_whole(budget):
    cases = lands(4)
    method = Scripted(edited=right_answers(cases), refuses=frozenset({"Town 1"}))
    rows = Run(method, Scripted(), budget, protocol="batch", together=2, columns=PLAIN)(cases)
    assert ["failure" in row for row in rows] == [True, True, False, False]
    assert values(rows)["reliability"] == 1.0
    assert metrics([scores_of(row) for row in rows])["reliability"].unscored == 2


def test_a_batch_that_leaves_traces_is_found(budget):
    cases = lands(2)
    method = Scripted(edited=right_answers(cases), forgets_to_undo=True)
    with pytest.raises(EvaluationError, match="the undo left traces"):
        Run(method, Scripted(), budget, protocol="batch", together=2, columns=PLAIN)(cases)


def test_a_batch_run_goes_on_where_it_stopped(budget, tmp_path):
    cases = lands(6)
    path = tmp_path / "b.journal.jsonl"
    journal = Journal.open(path, {})
    first = Run(Scripted(), Scripted(), budget, protocol="batch", together=2, columns=PLAIN)(cases[:3])
    journal.append(first)  # as after a kill in the middle of the second group's line-up
    method = Counting(edited=right_answers(cases))
    resumed = Journal.open(path, {})
    rows = Run(method, Scripted(), budget, protocol="batch", together=2, columns=PLAIN, journal=resumed)(cases)
    assert [row["case"] for row in rows] == [case.id for case in cases]
    assert method.limits["made"] == [2, 2]  # the group of 2 and 3 is made again, the first is not


# Sequences


class Forgetful(Scripted):
    """Remembers the last three edits only."""

    def _answer(self, prompt):
        kept, self.live = self.live, self.live[-3:]
        answer = super()._answer(prompt)
        self.live = kept
        return answer


def test_retention_curve_and_reliability_at_edit(budget):
    cases = lands(8)
    method = Forgetful(edited=right_answers(cases))
    journal = Journal()
    run = Run(
        method,
        Scripted(),
        budget,
        protocol="sequential",
        columns=PLAIN,
        at_edit=8,
        checkpoints=(2, 4, 99),
        journal=journal,
    )
    rows = run(cases)
    found = values(rows)
    assert found["reliability_at_edit"] == 1.0
    assert found["reliability"] == pytest.approx(3 / 8)
    points = retention(rows, journal.notes, [case.id for case in cases])
    # after 2 edits both are remembered, after 4 three of them, at the end three of eight
    assert [(point["after"], point["metrics"]["reliability"]["value"]) for point in points] == [
        (2, 1.0),
        (4, 0.75),
        (8, 0.375),
    ]
    assert points[0]["cases"] == 2
    assert retention(rows, [], []) == []
    assert summarise(rows, journal.notes)["retention"] == points


def test_a_sample_is_asked_right_after_the_edit(budget):
    cases = lands(10)
    method = Scripted(edited=right_answers(cases))
    rows = Run(method, Scripted(), budget, protocol="sequential", columns=PLAIN, at_edit=3)(cases)
    assert [row["case"] for row in rows if "reliability_at_edit" in row.get("scores", {})] == ["2", "5", "9"]
    assert evenly(cases, 99) == cases
    assert [case.id for case in evenly(cases, 2)] == ["4", "9"]


def test_an_answer_that_cannot_be_had_right_after_the_edit_is_unscored(budget):
    cases = lands(1)
    method = Scripted(too_long=frozenset({cases[0].edits[0].prompt}))
    (row,) = Run(method, Scripted(), budget, protocol="sequential", columns=PLAIN, at_edit=1)(cases)
    assert row["scores"] == {"reliability_at_edit": None}
    assert row["unscored"] == {"reliability_at_edit": "not answered"}


def test_checkpoints_in_the_journal_are_not_asked_again(budget, tmp_path):
    cases = lands(4)
    path = tmp_path / "s.journal.jsonl"
    journal = Journal.open(path, {})
    journal.note({"note": "checkpoint", "after": 2, "cases": 2, "metrics": {}})
    resumed = Journal.open(path, {})
    assert (resumed.rows, len(resumed.notes)) == ([], 1)
    run = Run(Scripted(), Scripted(), budget, protocol="sequential", columns=PLAIN, checkpoints=(2, 3), journal=resumed)
    run(cases)
    assert [note["after"] for note in read(path).notes] == [2, 3]
    assert read(path).notes[0]["metrics"] == {}


def test_a_sequence_that_left_traces_fails_again_when_it_is_repeated(budget, tmp_path):
    cases = lands(3)
    path = tmp_path / "s.journal.jsonl"
    for _ in range(2):
        method = Scripted(edited=right_answers(cases), forgets_to_undo=True)
        journal = Journal.open(path, {})
        run = Run(method, Scripted(), budget, protocol="sequential", batch=2, columns=PLAIN, journal=journal)
        with pytest.raises(EvaluationError, match="the undo left traces"):
            run(cases)


# Streams


def test_edits_that_are_made_again_are_timed_once(monkeypatch):
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr("corrigenda.eval.undoing.time", SimpleNamespace(perf_counter=lambda: clock.now))

    class Slow(Stacked):
        def edit(self, edits):
            clock.now += 1
            return super().edit(edits)

    stack, cases = Stack(Slow()), lands(3)
    for case in cases:
        stack.push(case)
    stack.retract(cases[0])
    assert stack.seconds == {"0": 1.0, "1": 2.0, "2": 2.0}


@pytest.mark.parametrize("method", [Scripted, Stacked])
def test_what_was_taken_back_leaves_no_trace_and_the_rest_holds(budget, method):
    cases = lands(10)
    bare = {case.edits[0].prompt: f" Old {case.id}" for case in cases}
    edited = method(bare=dict(bare), edited=right_answers(cases))
    run = Run(edited, Scripted(bare=bare), budget, protocol="stream", columns=PLAIN, retracted=0.3, seed=1)
    rows = run(cases)
    gone = [row for row in rows if row.get("withdrawn")]
    assert len(gone) == 3
    assert {probe["role"] for row in gone for probe in row["probes"]} == {"retraction"}
    found = values(rows)
    assert found["retraction"] == 1.0
    assert found["reliability"] == 1.0
    assert edited.live == []
    assert metrics([scores_of(row) for row in rows])["reliability"].n == 7


def test_a_retraction_that_does_not_take_is_seen(budget):
    cases = lands(6)

    class Clings(Scripted):
        def _answer(self, prompt):
            self.limits.setdefault("said", {})
            said = super()._answer(prompt)
            if said.startswith(" Town"):
                self.limits["said"][prompt] = said
            return self.limits["said"].get(prompt, said) if len(self.live) > 1 else said

    method = Clings(edited=right_answers(cases))
    run = Run(method, Scripted(), budget, protocol="stream", columns=PLAIN, retracted=0.3, at_edit=6, seed=1)
    assert values(run(cases))["retraction"] < 1.0


def test_plans_of_streams_meet_their_share_and_depend_on_the_seed():
    cases = lands(40)
    plan = plan_withdrawals(cases, 0.25, 3)
    assert len(plan) == 10
    assert len({case.id for case in plan.values()}) == 10
    assert all(int(case.id) < number for number, case in plan.items())
    assert plan == plan_withdrawals(cases, 0.25, 3)
    assert plan != plan_withdrawals(cases, 0.25, 4)


def test_a_withdrawn_prompt_that_a_live_edit_claims_is_not_asked(budget):
    again = Case("again", (Edit("The capital of Land 0 is", "Elsewhere"),), lands(1)[0].probes)
    cases = [*lands(2), again]
    run = Run(Scripted(), Scripted(), budget, protocol="stream", columns=PLAIN, retracted=0.4, seed=0)
    rows = run(cases)
    gone = next(row for row in rows if row.get("withdrawn"))
    if gone["case"] in ("0", "again"):
        assert all("unscored" in probe for probe in gone["probes"])


# Shards and tasks


@pytest.mark.parametrize(("protocol", "together"), [("single", 1), ("sequential", 1), ("batch", 2)])
def test_shards_are_disjoint_and_together_are_the_whole(budget, protocol, together):
    cases = lands(7)
    settings = {"protocol": protocol, "together": together, "columns": PLAIN}
    whole = Run(Scripted(edited=right_answers(cases)), Scripted(), budget, **settings)(cases)
    parts = [
        row
        for number in (1, 2, 3)
        for row in Run(Scripted(edited=right_answers(cases)), Scripted(), budget, shard=(number, 3), **settings)(cases)
    ]
    assert sorted(row["case"] for row in parts) == sorted(row["case"] for row in whole)
    table = {row["case"]: row["probes"] for row in parts}
    assert all(table[row["case"]] == row["probes"] for row in whole)


class Chooser(Scripted):
    """Chooses rightly until an edit is live."""

    def score(self, prompts, targets):
        good = 0.0 if self.live else 1.0
        return [TargetScore((-1.0 - (target == "right") * (0.5 - good),), (True,)) for target in targets]


@pytest.mark.parametrize("protocol", ["batch", "sequential"])
def test_other_tasks_before_and_after(budget, protocol):
    task = Task("choices", "c.jsonl", "0" * 64, tuple(Question(str(n), "?", ("wrong", "right"), 1) for n in range(4)))
    cases = lands(4)
    journal = Journal()
    method = Chooser(edited=right_answers(cases))
    run = Run(method, method, budget, protocol=protocol, together=2, columns=PLAIN, tasks=(task,), journal=journal)
    rows = run(cases)
    tasks = summarise(rows, journal.notes)["tasks"]
    assert (tasks["choices"]["before"]["value"], tasks["choices"]["after"]["value"]) == (1.0, 0.0)
    assert tasks["choices"]["drop"] == 1.0
    assert tasks["choices"]["live"] == (2 if protocol == "batch" else 4)


def test_by_relation():
    cases = lands(2)
    rows = Run(Scripted(edited=right_answers(cases[:1])), Scripted(), _budget(), columns=PLAIN)(cases)
    table = by_relation(rows, [scores_of(row) for row in rows])
    assert table["capital"]["reliability"] == {"value": 0.5, "n": 2}


def _budget():
    from corrigenda.eval.asking import Budget

    return Budget(lambda text: len(text.split()))


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"protocol": "triple"}, "unknown protocol"),
        ({"batch": 0}, "at least one case"),
        ({"shard": (3, 2)}, "no shard 3 of 2"),
        ({"retracted": 0.2}, "single run cannot be taken back"),
        ({"protocol": "stream", "retracted": 1.0}, "cannot be taken back"),
        ({"tasks": (Task("piqa", "x", "0" * 64, ()),)}, "a single run has one at a time"),
    ],
)
def test_runs_that_make_no_sense(budget, settings, complaint):
    with pytest.raises(EvaluationError, match=complaint):
        Run(Scripted(), Scripted(), budget, **settings)
