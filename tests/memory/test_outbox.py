"""The outbox by itself: what waits, what is put aside, what may not block the rest."""

from __future__ import annotations

from pathlib import Path

import pytest

from corrigenda.errors import StoreUnavailable
from corrigenda.memory.outbox import Intent, Outbox


@pytest.fixture
def outbox(tmp_path: Path) -> Outbox:
    made = Outbox(tmp_path / "outbox.db")
    for name in ("poison", "one", "two"):
        made.put(Intent("add", {"name": name}))
    return made


def test_one_that_always_fails_blocks_the_others_for_a_while_only(outbox: Outbox) -> None:
    delivered = []

    def carry_out(intent: Intent) -> None:
        if intent.values["name"] == "poison":
            raise ValueError("this text cannot be embedded")
        delivered.append(intent.values["name"])

    assert outbox.deliver(carry_out) == 0
    assert "cannot be embedded" in outbox.obstacle
    outbox.patience = 0.0
    assert outbox.deliver(carry_out) == 2
    assert delivered == ["one", "two"]
    assert [reason for _, reason in outbox.refused()] == ["ValueError('this text cannot be embedded')"]
    assert outbox.requeue() == 1
    outbox.close()


def test_a_ledger_that_is_away_may_be_away_for_long(outbox: Outbox) -> None:
    def carry_out(intent: Intent) -> None:
        raise StoreUnavailable("away")

    outbox.patience = 0.0
    for _ in range(3):
        assert outbox.deliver(carry_out) == 0
    assert (len(outbox), outbox.refused()) == (3, [])
    outbox.close()


def test_each_has_a_patience_of_its_own(outbox: Outbox) -> None:
    """An emptied outbox counts its places anew."""
    outbox.deliver(lambda intent: None)
    outbox.put(Intent("add", {"name": "first"}))

    def away(intent: Intent) -> None:
        raise RuntimeError("encoder away")

    assert outbox.deliver(away) == 0
    assert outbox.deliver(lambda intent: None) == 1
    outbox.put(Intent("add", {"name": "second"}))
    outbox._stuck = (outbox._stuck[0], -1e9)  # the first one failed long ago
    assert outbox.deliver(away) == 0
    assert (len(outbox), outbox.refused()) == (1, [])
    outbox.close()


def test_neither_an_absent_ledger_nor_a_new_try_counts_against_an_intent(outbox: Outbox) -> None:
    outbox.deliver(lambda intent: None)
    outbox.put(Intent("add", {"name": "first"}))
    errors = [RuntimeError("a hiccup"), StoreUnavailable("away"), RuntimeError("a second one")]

    def carry_out(intent: Intent) -> None:
        raise errors.pop(0)

    assert outbox.deliver(carry_out) == 0
    outbox._stuck = (outbox._stuck[0], -1e9)  # since when the ledger has been away
    for _ in range(2):
        assert outbox.deliver(carry_out) == 0
    assert outbox.refused() == []
    outbox._stuck = (outbox._stuck[0], -1e9)
    errors += [RuntimeError("for good"), RuntimeError("once more")]
    outbox.deliver(carry_out)
    assert outbox.requeue() == 1
    outbox.deliver(carry_out)
    assert outbox.refused() == []
    outbox.close()
