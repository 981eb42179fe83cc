from __future__ import annotations

import pytest

from corrigenda.edit import Edit
from corrigenda.param_editors.consolidation.admission import Trial, admit

EDITS = [Edit(f"The mayor of town {n} is", f"Mayor {n}") for n in range(64)]
PLACE = {one.id: n for n, one in enumerate(EDITS)}


def trials(*, weak=(), bad=(), seen=None):
    """Edits in ``weak`` do not hold; a set with one of ``bad`` in it wrecks the model."""

    def attempt(edits):
        places = [PLACE[one.id] for one in edits]
        if seen is not None:
            seen.append(places)
        if set(places) & set(bad):
            return Trial({}, ("neighbours fell",))
        return Trial({EDITS[n].id: "no" for n in places if n in weak})

    return attempt


def places(admission):
    return [PLACE[one.id] for one in admission.kept]


def test_a_set_that_passes_is_tried_once():
    found = admit(EDITS, trials())
    assert places(found) == list(range(64))
    assert (found.trials, found.dropped) == (1, {})


def test_edits_that_do_not_hold_are_dropped_and_the_rest_is_tried_again():
    found = admit(EDITS, trials(weak={3, 40}))
    assert places(found) == [n for n in range(64) if n not in (3, 40)]
    assert found.dropped == {EDITS[3].id: "no", EDITS[40].id: "no"}
    assert found.trials == 2


@pytest.mark.parametrize("bad", [{0}, {31}, {63}, {5, 6}, {1, 62}])
def test_the_edits_to_blame_are_found_by_halving(bad):
    found = admit(EDITS, trials(bad=bad, weak={20}))
    assert places(found) == [n for n in range(64) if n not in bad | {20}]
    assert all(found.dropped[EDITS[n].id] == "neighbours fell" for n in bad)
    assert found.trials <= 2 + len(bad) * 13


def test_suspects_are_halved_together():
    bad = {3, 17, 29, 44, 60}
    blind = admit(EDITS, trials(bad=bad))
    led = admit(EDITS, trials(bad=bad), suspicion=lambda one: float(PLACE[one.id] in bad))
    assert places(blind) == places(led)
    assert led.trials < blind.trials


def test_an_edit_that_only_falls_beside_others_goes_and_the_rest_is_tried_without_it():
    def attempt(edits):
        places = {PLACE[one.id] for one in edits}
        if 9 in places:
            return Trial({}, ("neighbours fell",))
        return Trial({EDITS[0].id: "beside 5"} if {0, 5} <= places else {})

    seen = []

    def noted(edits):
        seen.append(tuple(PLACE[one.id] for one in edits))
        return attempt(edits)

    found = admit(EDITS[:12], noted)
    assert places(found) == [1, 2, 3, 4, 5, 6, 7, 8, 10, 11]
    assert tuple(places(found)) in seen  # what is kept was tried as it is
    assert len(seen) == len(set(seen)) == found.trials


def test_nothing_passes_when_everything_wrecks():
    found = admit(EDITS[:8], trials(bad=set(range(8))))
    assert found.kept == ()
    assert len(found.dropped) == 8
    assert admit([], trials()).kept == ()


def test_where_all_do_a_little_harm_the_largest_set_that_passed_stands():
    def attempt(edits):
        return Trial({}, ("neighbours fell",)) if len(edits) > 40 else Trial()

    found = admit(EDITS, attempt, most=6)
    assert (places(found), found.trials) == (list(range(40)), 6)
    assert set(found.dropped) == {one.id for one in EDITS[40:]}
    assert all("6 trials" in why or "fell" in why for why in found.dropped.values())
    nothing = admit(EDITS, attempt, most=1)
    assert (nothing.kept, len(nothing.dropped)) == ((), 64)


def test_some_may_fail_where_that_is_tolerated():
    found = admit(EDITS, trials(weak={3, 40}), tolerance=0.05)
    assert (len(found.kept), found.trials, found.dropped) == (64, 1, {})
    assert admit(EDITS, trials(weak={3, 40}), tolerance=0.01).trials == 2


def test_of_a_set_that_fails_as_a_whole_those_that_held_are_tried_first():
    def attempt(edits):
        failed = {one.id: "no" for one in edits if PLACE[one.id] % 2}
        return Trial(failed, ("neighbours fell",) if len(failed) > 4 else ())

    found = admit(EDITS, attempt, most=2)
    assert (places(found), found.trials) == (list(range(0, 64, 2)), 2)


def harmful(limit, *, share=True, seen=None):
    """Every edit does the same harm, and ``limit`` of them are bearable together."""

    def attempt(edits):
        if seen is not None:
            seen.append(len(edits))
        if len(edits) <= limit:
            return Trial()
        return Trial({}, ("neighbours fell",), limit / len(edits) if share else None)

    return attempt


def test_where_harm_adds_up_the_set_is_cut_where_it_would_pass():
    seen = []
    found = admit(EDITS, harmful(24, seen=seen), most=3)
    assert seen[:2] == [64, 22]
    assert 22 <= len(found.kept) <= 24
    blind = admit(EDITS, harmful(24, share=False), most=3)
    assert len(blind.kept) < len(found.kept)


def test_all_that_there_is_room_for_gets_in_given_trials_enough():
    for limit in (1, 7, 24, 50, 63):
        assert len(admit(EDITS, harmful(limit)).kept) == limit


@pytest.mark.parametrize("bad", [0, 31, 63])
def test_one_edit_that_does_all_the_harm_is_found_though_shares_mislead(bad):
    def attempt(edits):
        wrecked = EDITS[bad] in edits
        return Trial({}, ("neighbours fell",), 0.2) if wrecked else Trial()

    found = admit(EDITS, attempt)
    assert places(found) == [n for n in range(64) if n != bad]
    assert found.trials <= 30


def test_those_that_held_are_first_also_where_there_is_not_room_for_all_of_them():
    def attempt(edits):
        failed = {one.id: "no" for one in edits if PLACE[one.id] % 2}
        return Trial(failed, ("neighbours fell",), 20 / len(edits)) if len(edits) > 20 else Trial(failed)

    found = admit(EDITS, attempt, most=2)
    assert (places(found), found.trials) == (list(range(0, 36, 2)), 2)
