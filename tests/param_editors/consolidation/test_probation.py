from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest
from learned_consolidation import good_edits

from corrigenda.errors import InvalidRequest, PlanOutdated
from corrigenda.lm.loading import load
from corrigenda.param_editors.consolidation.overview import overview
from corrigenda.param_editors.consolidation.probation import Probation, Terms
from corrigenda.param_editors.consolidation.promotion import promote, rollback
from corrigenda.param_editors.consolidation.publishing import load_edition


@pytest.fixture
def watched(world):
    change = promote(world.editions, world.run().job, world.memory, kind="delta")
    return world, Probation(world.editions, world.memory), change


def test_shadows_that_answer_alone_retire_and_return_on_rollback(watched):
    world, probation, change = watched
    lm = load_edition(world.editions)
    assert all(probation.check(lm).values())
    now = datetime.now(UTC)
    assert probation.retire(Terms(days=7, asked=1), now=now) == []
    assert probation.retire(Terms(days=7, asked=2), now=now + timedelta(days=8)) == []
    retired = probation.retire(Terms(days=7, asked=1), now=now + timedelta(days=8))
    assert set(retired) == {one.id for one in good_edits()}
    assert world.memory.live() == ()
    assert [event.kind for event in world.memory.history(retired[0])] == ["added", "amended", "consolidated"]
    counts = overview(world.editions, world.memory)["memory"]
    assert (counts["shadows"], counts["retired"], counts["warnings"]) == (0, 8, [])
    rollback(world.editions, change.promotions[0], world.memory)
    assert {one.id for one in world.memory.live()} == {one.id for one in good_edits()}


def test_live_traffic_is_watched_and_what_fails_stays(watched):
    world, probation, _ = watched
    edited, base = load_edition(world.editions), load(world.model)
    one, other = good_edits()[:2]
    assert probation.observe(edited, one.prompt, [one.id]) == {one.id: True}
    assert probation.observe(base, other.prompt, [other.id]) == {other.id: False}
    assert probation.observe(edited, one.prompt, [one.id, other.id]) == {}  # which of them was it?
    assert probation.observe(edited, "The shape of Kabar", ["e0"]) == {}
    standing = {row.edit.id: row for row in probation.standings(Terms(days=0, asked=1))}
    assert (standing[one.id].asked, standing[one.id].right, standing[one.id].due) == (1, 1, True)
    assert (standing[other.id].asked, standing[other.id].right, standing[other.id].due) == (1, 0, False)
    with probation.path.open("a") as file:
        file.write('{"edit": "e1", "promo')  # a process that was killed while it wrote
    assert probation.retire(Terms(days=0, asked=1)) == [one.id]
    assert other.id in {edit.id for edit in world.memory.live()}


def test_a_line_that_was_cut_off_spoils_none_after_it(watched):
    _, probation, _ = watched
    row = {"edit": "e0", "promotion": "x", "right": True}
    probation._note([row])
    with probation.path.open("a") as file:
        file.write('{"edit": "e1", "promo')
    probation._note([row | {"edit": "e2"}])
    assert [found["edit"] for found in probation._rows()] == ["e0", "e2"]


def test_the_edition_of_another_base_model_is_refused(watched):
    world, *_ = watched
    lm = load(world.model)
    about = world.editions.folder / "about.json"
    about.write_text(json.dumps({"model": str(world.model), "fingerprint": "of another"}))
    with pytest.raises(PlanOutdated, match="weights differ"):
        load_edition(world.editions)
    assert lm.fingerprint == world.fingerprint


def test_what_other_weights_said_proves_nothing(watched):
    world, probation, _ = watched
    probation.check(load_edition(world.editions))
    rows = [json.loads(line) for line in probation.path.read_text().splitlines()]
    probation.path.write_text("".join(json.dumps({**row, "edition": "another"}) + "\n" for row in rows))
    assert not any(row.due for row in probation.standings(Terms(days=0, asked=1)))


def test_a_shadow_that_was_retracted_is_warned_about(watched):
    world, _, _ = watched
    world.memory.retract(good_edits()[0].id)
    (warning,) = overview(world.editions, world.memory)["memory"]["warnings"]
    assert good_edits()[0].id in warning


def test_terms_that_mean_nothing_are_refused():
    for wrong in ({"days": -1}, {"asked": 0}, {"right": 1.5}):
        with pytest.raises(InvalidRequest):
            Terms(**wrong)
