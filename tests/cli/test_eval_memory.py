"""What an evaluation asks of a memory reaches the model under the plan of its strategy.

A strategy may change requests, know the answer, force a beginning, or bring a worker.
"""

from __future__ import annotations

from contextlib import contextmanager
from types import SimpleNamespace

import pytest
from tiny_editing import tiny_models

from corrigenda.chat import Chat, Trace
from corrigenda.cli.eval_memory import PassingThrough
from corrigenda.eval.cache import Cached
from corrigenda.eval.editable import Bare
from corrigenda.lm.stopping import UNTIL_EOS
from corrigenda.middleware.consult import Decision
from corrigenda.middleware.strategies.base import Plan


class Worker:
    """Notes what it is told when it is at work, and lets the model be."""

    def __init__(self):
        self.told = set()

    def model(self, base):
        return base

    @contextmanager
    def at_work(self, base, details, columns):
        self.told.add(tuple(details))
        yield


class PlannedModel:
    """An edited model whose plans are known beforehand, by query."""

    def __init__(self, lm, plans):
        self.lm, self.plans, self.decided, self.room = lm, plans, 0, 0

    def decide(self, requests, longest):
        self.decided += len(requests)
        self.room = longest
        return [Decision(item, self.plans[item.query], Trace()) for item in requests]

    def continued(self, decisions, max_new_tokens, stop, batch):
        return [f"{len(stop.texts)}" for _ in decisions]


@pytest.fixture
def bare():
    return Bare(tiny_models.cached("llama"))


@pytest.fixture
def planned(bare):
    told, worker = Chat.of("The capital of France"), Worker()
    plans = {
        "changed": Plan(told),
        "known": Plan(told, answer=" Lyon."),
        "forced": Plan(told, prefix=" Lyon"),
        "worker": Plan(told, worker=worker, detail=7),
        "untouched": None,
    }
    empty = SimpleNamespace(live=list)
    edited = SimpleNamespace(model=PlannedModel(bare.lm, plans), batch_size=8, stop=None, memory=empty)
    return SimpleNamespace(
        front=PassingThrough(edited, Cached(bare)), names=list(plans), model=edited.model, worker=worker
    )


def test_what_is_scored_under_a_plan(planned, bare):
    changed, known, forced, worked, untouched = planned.front.score(planned.names, ["Lyon"] * 5)
    (expected,) = bare.score(["The capital of France"], ["Lyon"])
    assert changed.log_prob == pytest.approx(expected.log_prob, abs=1e-4)
    assert known.is_greedy
    assert forced.is_greedy
    assert worked.log_prob == pytest.approx(changed.log_prob, abs=1e-4)
    assert untouched.log_prob == pytest.approx(bare.score(["untouched"], ["Lyon"])[0].log_prob, abs=1e-4)
    assert planned.worker.told == {(7,)}


def test_what_comes_next_under_a_plan(planned, bare):
    changed, known, _, worked, _ = planned.front.next_tokens(planned.names)
    assert changed.first == worked.first == bare.next_tokens(["The capital of France"])[0].first
    assert known.log_probs == (0.0,)
    assert planned.front.next_tokens(["known"], [(1, 2)])[0].ids == (1, 2)
    assert planned.worker.told == {(7,)}


def test_what_is_written_under_a_plan(planned, bare):
    changed, known, forced, _, _ = planned.front.write(planned.names, tokens=4, seed=0)
    assert changed == bare.write(["The capital of France"], tokens=4, seed=0)[0]
    assert known.startswith(" Lyon.")
    assert forced.startswith(" Lyon")
    assert planned.front.continue_until(["changed"], max_new_tokens=4, stops=("x", "y")) == ["2"]


def test_each_prompt_is_decided_about_once_whatever_is_asked_of_it(planned):
    planned.front.score(planned.names, ["Lyon"] * 5)
    planned.front.next_tokens(planned.names)
    assert planned.model.decided == 5


def test_plans_leave_room_for_what_is_to_be_said(planned):
    front = planned.front
    front.edited.stop = UNTIL_EOS
    front.generate(["changed"], max_new_tokens=8)
    usual = planned.model.room
    front.score(["changed"], ["Lyon"])
    assert planned.model.decided == 1
    front.write(["changed"], tokens=usual + 1, seed=0)
    assert planned.model.room == usual + 1
    front.continue_until(["changed"], max_new_tokens=usual + 2, stops=("x",))
    assert planned.model.room == usual + 2
    front.generate(["changed"], max_new_tokens=usual + 3)
    assert planned.model.room == usual + 3
