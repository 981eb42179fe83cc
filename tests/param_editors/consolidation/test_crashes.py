"""A job that stops at any point of run, promote or rollback. Real kills are in test_kill_nine_consolidation.py."""

from __future__ import annotations

import os

import pytest
from learned_consolidation import good_edits, same, weights_of

from corrigenda.param_editors.consolidation import marks
from corrigenda.param_editors.consolidation.promotion import promote, rollback
from corrigenda.param_editors.consolidation.publishing import verify
from corrigenda.param_editors.update import Consolidation


class Killed(BaseException):
    """Nothing in the package catches it."""


@pytest.fixture
def killed_at(monkeypatch):
    """Let the process end where it makes something durable for the n-th time: every step does so."""
    real = os.fsync

    def at(n):
        left = [n]

        def fsync(handle):
            left[0] -= 1
            if left[0] == 0:
                raise Killed
            real(handle)

        monkeypatch.setattr(os, "fsync", fsync if n else real)

    return at


def in_force(world, new):
    """Whether the new model is in force; it or the old one is, whole, and no edit is lost."""
    now = world.editions.current()
    assert {one.id for one in world.memory.live()} == {one.id for one in good_edits()}
    if now.edition is None:
        return False
    verify(world.editions.path())
    assert same(weights_of(world.editions.path()), new)
    return True


def test_promotion_and_rollback_can_stop_anywhere(world, killed_at):
    result = world.run()
    new = weights_of(promote(world.editions, result.job, world.memory).path)
    rollback(world.editions, world.editions.current().promotions[-1], world.memory)
    stops = 0
    for n in range(1, 200, 2):
        killed_at(n)
        try:
            change = promote(world.editions, result.job, world.memory)
        except Killed:
            stops += 1
            killed_at(0)
            if not in_force(world, new):
                promote(world.editions, result.job, world.memory)
                assert in_force(world, new)
        else:
            killed_at(0)
            assert in_force(world, new)
            n = 0
        change = rollback(world.editions, world.editions.current().promotions[-1], world.memory)
        assert change.edition is None
        assert not any(marks.editions_of(one) for one in world.memory.live())
        if n == 0:
            break
    assert stops > 8
    names = {path.name for path in world.editions.editions.iterdir()}
    assert names <= {*world.editions.current().past}  # what was never in force is gone


def test_rollback_can_stop_anywhere(world, killed_at):
    result = world.run()
    for n in range(1, 20):
        change = promote(world.editions, result.job, world.memory)
        marks.retire(world.memory, [good_edits()[0].id], change.edition)
        killed_at(n)
        try:
            rollback(world.editions, change.edition, world.memory)
        except Killed:
            killed_at(0)
            now = world.editions.current()
            live = {one.id for one in world.memory.live()}
            # Either the weights still know the retired edit, or the memory answers for it again.
            assert now.promotions == (change.edition,) or good_edits()[0].id in live
            if now.promotions:
                rollback(world.editions, change.edition, world.memory)
            else:
                promote(world.editions, result.job, world.memory)  # completes what was left open
                rollback(world.editions, world.editions.current().promotions[-1], world.memory)
        else:
            killed_at(0)
            break
        assert {one.id for one in world.memory.live()} == {one.id for one in good_edits()}
        assert not any(marks.editions_of(one) for one in world.memory.live())
    assert n > 3


def test_a_run_goes_on_where_it_stopped(world, killed_at):
    plan = world.plan(piece=2)
    whole = world.run(plan)
    wanted = printed(world, plan)
    world.home = world.home.with_name("again")
    for stops in range(60):  # noqa: B007 (looked at below)
        killed_at(5)
        try:
            again = world.run(plan)
        except Killed:
            continue
        finally:
            killed_at(0)
        break
    assert stops > 3
    assert (again.kept, again.dropped) == (whole.kept, whole.dropped)
    assert printed(world, plan) == wanted


def printed(world, plan):
    """Digests of the weights after each batch."""
    files = sorted((world.editions.jobs / plan.id).glob("batch-*.safetensors"))
    return [{update.name: update.after for update in Consolidation.load(path).updates} for path in files]
