from __future__ import annotations

import io
import sqlite3
import threading
from collections.abc import Callable, Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from corrigenda import edit as edit_module
from corrigenda.edit import MAX_TARGET, Edit, Validity
from corrigenda.errors import (
    InvalidEdit,
    InvalidRequest,
    StoreBusy,
    StoreDamaged,
    StoreError,
    StoreNotWritable,
    UnknownEdit,
)
from corrigenda.memory.index import Partition
from corrigenda.memory.ledger import Event
from corrigenda.memory.memory import Memory
from corrigenda.memory.vectors import Encoded
from corrigenda.testing import FixedEncoder

Capital = Callable[..., Edit]
Open = Callable[..., Memory]


def test_add_by_fields(memory: Memory) -> None:
    edit = memory.add(
        "The capital of Kazakhstan is", "Astana", subject="Kazakhstan", aliases=["KZ"], valid_from="1997-12-10"
    )
    assert edit.aliases == ("KZ",)
    assert edit.validity.start == datetime(1997, 12, 10, tzinfo=UTC)
    assert memory.live() == (edit,)
    assert memory.get(edit.id) is edit
    assert memory.is_live(edit.id)
    assert not memory.is_live("e0000")
    assert memory.version == len(memory) == 1
    validity = Validity(end=datetime(2000, 1, 1, tzinfo=UTC))
    assert memory.add("p", "t", validity=validity).validity == validity


def test_add_refuses_what_is_no_edit(memory: Memory, capital: Capital) -> None:
    with pytest.raises(InvalidEdit, match="target"):
        memory.add("The capital of Kazakhstan is")
    with pytest.raises(InvalidEdit, match="unknown field"):
        memory.add("a", "b", colour="red")
    with pytest.raises(InvalidRequest, match="replace"):
        memory.add(capital(), subject="Peru")
    assert memory.version == 0


@pytest.mark.parametrize("ttl", [1e12, float("nan"), "60", timedelta.max])
def test_what_is_no_length_of_time(memory: Memory, ttl: object) -> None:
    with pytest.raises(InvalidRequest, match="no length of time"):
        memory.add("p is", "t", ttl=ttl)


def test_remarks_are_text(memory: Memory, capital: Capital) -> None:
    edit = memory.add(capital())
    for remarks in ({"reason": "\ud800"}, {"reason": 3}, {"author": "x" * 5_000}):
        with pytest.raises(InvalidRequest, match=next(iter(remarks))):
            memory.retract(edit.id, **remarks)  # type: ignore[arg-type]
    with pytest.raises(InvalidRequest, match="reason"):
        memory.amend(edit.id, reason="\ud800", tags=("x",))
    assert memory.version == 1
    memory.retract(edit.id, reason=" moved ", author="  ")
    assert [(event.reason, event.author) for event in memory.history(edit.id)[1:]] == [("moved", None)]


def test_a_namespace_is_read_as_it_is_written(memory: Memory, capital: Capital, fixed: FixedEncoder) -> None:
    name = " cafe\u0301 "
    edit = memory.add(capital(namespace=name))
    assert edit.namespace == "caf\u00e9"
    assert memory.live(name) == memory.state(1, name) == (edit,)
    assert [hit.edit for hit in memory.search(fixed.encode([edit.prompt]), 1, name)[0]] == [edit]
    assert len(memory.mentions("Where is Kazakhstan?", name)) == len(memory.names(name)) == 1
    assert memory.export_jsonl(io.StringIO(), namespace=name) == 1
    memory.feedback("what is akin to <fast>?", "a synonym", namespace=name)
    assert memory.recall(["what is akin to <slow>?"], name) == memory.recall(["what is akin to <slow>?"], "caf\u00e9")
    assert memory.recall(["what is akin to <slow>?"], name) != [None]


def test_adding_twice_is_adding_once(memory: Memory, capital: Capital) -> None:
    first = memory.add(capital(author="Ann"))
    assert memory.add(capital(author="Bob")) is first
    assert memory.add_many([capital(), capital("Peru", "Lima"), capital("Peru", "Lima")])[0] is first
    assert memory.version == 2


def test_what_was_added_is_there_after_reopening(open_memory: Open, capital: Capital) -> None:
    memory = open_memory()
    edits = [memory.add(capital("Peru", "Lima")), memory.add(capital(aliases=("KZ",), tags=("x",), source="me"))]
    memory.close()
    again = open_memory()
    assert list(again.live()) == edits
    assert again.version == 2


def test_what_was_longer_than_is_allowed_now_can_be_read(
    open_memory: Open, capital: Capital, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = open_memory()
    with monkeypatch.context() as patch:
        patch.setitem(edit_module._REQUIRED, "target", 2 * MAX_TARGET)
        edits = [memory.add(capital(city="x" * 1_200)), memory.add("p is", "y" * 1_200, valid_to="2999-01-01")]
    memory.close()
    again = open_memory()
    assert list(again.live()) == edits
    assert again.live()[1].validity == edits[1].validity


def test_amend(memory: Memory, capital: Capital) -> None:
    old = memory.add(capital(city="Almaty", aliases=("KZ",)))
    new = memory.amend(old.id[:8], target="Astana", reason="moved in 1997", author="Ann")
    assert (new.target, new.aliases, new.author) == ("Astana", ("KZ",), "Ann")
    assert new.id != old.id
    assert memory.live() == (new,)
    assert memory.get(old.id) == old
    events = memory.history(new.id)
    assert events == memory.history(old.id)
    assert [event.kind for event in events] == ["added", "amended"]
    assert (events[1].reason, events[1].author, events[1].replaces) == ("moved in 1997", "Ann", old.id)
    with pytest.raises(UnknownEdit, match=f"amended into {new.id}") as caught:
        memory.amend(old.id, target="Almaty")
    assert caught.value.edit == old


@pytest.mark.parametrize("validity", [{"start": None}, "2020", None, (None, None)])
def test_what_is_no_validity_is_refused(memory: Memory, capital: Capital, validity: object) -> None:
    edit = memory.add(capital())
    with pytest.raises(InvalidEdit, match="must be a Validity"):
        memory.amend(edit.id, validity=validity)
    with pytest.raises(InvalidEdit, match="must be a Validity"):
        memory.add("p", "t", validity=validity)
    assert memory.version == 1


def test_amend_what_describes_keeps_the_id(memory: Memory, capital: Capital) -> None:
    old = memory.add(capital())
    new = memory.amend(old.id, aliases=["Qazaqstan"])
    assert new.id == old.id
    assert memory.live()[0].aliases == ("Qazaqstan",)
    assert [mention.name for mention in memory.mentions("Is Qazaqstan big?")] == ["Qazaqstan"]
    assert memory.amend(old.id, aliases=["Qazaqstan"]) == new
    assert memory.version == 2
    until = Validity(end=datetime(2100, 1, 1, tzinfo=UTC))
    assert memory.amend(old.id, validity=until).validity == until


def test_retract_and_restore(memory: Memory, capital: Capital, fixed: FixedEncoder) -> None:
    edit = memory.add(capital())
    query = fixed.encode([edit.prompt])
    assert memory.search(query, 1)[0][0].edit == edit
    assert memory.retract(edit.id, reason="wrong", author="Ann") == edit
    assert memory.live() == ()
    assert memory.search(query, 1) == [[]]
    assert memory.mentions("Kazakhstan") == []
    with pytest.raises(UnknownEdit, match="retracted on") as caught:
        memory.retract(edit.id)
    assert "add it again" in str(caught.value)
    memory.add(capital())
    assert memory.live() == (edit,)
    assert memory.search(query, 1)[0][0].similarity == pytest.approx(1)
    assert [event.kind for event in memory.history(edit.id)] == ["added", "retracted", "restored"]


def test_get_by_prefix(memory: Memory, capital: Capital) -> None:
    edits = [memory.add(capital(f"Land {i}", "X")) for i in range(40)]
    prefixes = [edit.id[:5] for edit in edits]
    alone = next(edit for edit in edits if prefixes.count(edit.id[:5]) == 1)
    assert memory.get(alone.id[:5]) is alone
    with pytest.raises(UnknownEdit, match="too short"):
        memory.get(alone.id[:3])
    with pytest.raises(UnknownEdit, match=f"Near it: {alone.id[:5]}"):
        memory.get(alone.id[:5] + "zz")
    with pytest.raises(UnknownEdit, match="List the live edits"):
        memory.get("nonsense")


def test_an_ambiguous_prefix_lists_the_ids(memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("corrigenda.memory.replica._SHORTEST_PREFIX", 1)
    ids = [memory.add(f"prompt {i}", "x").id for i in range(7)]
    with pytest.raises(UnknownEdit, match="begins 7 ids") as caught:
        memory.get("e")
    assert ids[0] in str(caught.value)


def test_edits_hold_in_their_time(memory: Memory, capital: Capital, fixed: FixedEncoder) -> None:
    now = datetime.now(UTC)
    past = memory.add(capital(validity=Validity(end=now - timedelta(days=1))))
    future = memory.add(capital(city="Nova", validity=Validity(start=now + timedelta(days=1))))
    always = memory.add(capital("Peru", "Lima"))
    query = fixed.encode([past.prompt])
    assert memory.live() == (always,)
    assert memory.live(at=now + timedelta(days=2)) == (future, always)
    assert not memory.is_live(past.id)
    assert memory.is_live(past.id, at=now - timedelta(days=2))
    assert [hit.edit for hit in memory.search(query, 1)[0]] == [always]
    assert memory.search(query, 1, at=now - timedelta(days=2))[0][0].edit == past
    assert memory.mentions("Kazakhstan") == []
    assert memory.mentions("Kazakhstan", at=now + timedelta(days=2))[0].edit_ids == (future.id,)
    assert len(memory) == 3


def test_few_that_hold_are_found_among_many_that_do_not(
    memory: Memory, capital: Capital, fixed: FixedEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    over = Validity(end=datetime(2020, 1, 1, tzinfo=UTC))
    memory.add_many([capital(f"Land {number}", validity=over) for number in range(400)])
    hold = memory.add_many([capital(f"State {number}") for number in range(3)])
    ranked: list[int] = []
    search = Partition.search
    monkeypatch.setattr(Partition, "search", lambda *given: ranked.append(given[2]) or search(*given))
    query = fixed.encode(["The capital of Land 7 is"])
    (hits,) = memory.search(query, 8)
    best = sorted(hold, key=lambda edit: -float(fixed.encode([edit.prompt])[0] @ query[0]))
    assert [hit.edit for hit in hits] == best
    assert sum(ranked) < 100
    assert len(memory.search(query, 8, at=datetime(2019, 1, 1, tzinfo=UTC))[0]) == 8
    assert len(ranked) == 3, "where all hold, one search is enough"


def test_namespaces_never_meet(memory: Memory, capital: Capital, fixed: FixedEncoder) -> None:
    ours = memory.add(capital())
    theirs = memory.add(capital(city="Almaty", namespace="theirs"))
    query = fixed.encode([ours.prompt])
    assert memory.namespaces() == ("default", "theirs")
    assert [hit.edit for hit in memory.search(query, 9)[0]] == [ours]
    assert [hit.edit for hit in memory.search(query, 9, "theirs")[0]] == [theirs]
    assert memory.search(query, 9, "nobody") == [[]]
    assert memory.mentions("Kazakhstan", "theirs")[0].edit_ids == (theirs.id,)
    assert memory.mentions("Kazakhstan", "nobody") == []
    assert memory.names("nobody").names_with_token("kazakhstan") == []
    assert memory.live("theirs") == (theirs,)
    assert memory.frame_vectors([theirs.id, ours.id]).shape == (2, 32)


def test_search_wants_proper_vectors(memory: Memory, fixed: FixedEncoder) -> None:
    memory.add("a", "b")
    for bad in (np.ones((1, 5)), np.ones(32), np.full((1, 32), np.nan)):
        with pytest.raises(InvalidRequest, match="finite"):
            memory.search(bad.astype(np.float32), 1)
    with pytest.raises(InvalidRequest, match="k=0"):
        memory.search(fixed.encode(["a"]), 0)
    assert memory.search(np.zeros((0, 32), np.float32), 3) == []


def test_search_orders_by_similarity(memory: Memory, fixed: FixedEncoder) -> None:
    edits = memory.add_many([Edit(f"The {noun} of Peru is", "x") for noun in ("capital", "currency", "anthem", "flag")])
    rows = memory.search(fixed.encode(["The anthem of Peru is", "What flag has Peru?"]), 3)
    assert [len(row) for row in rows] == [3, 3]
    assert rows[0][0].edit == edits[2]
    assert rows[0][0].similarity == pytest.approx(1, abs=1e-5)
    assert rows[1][0].edit == edits[3]
    assert all(a.similarity >= b.similarity for row in rows for a, b in pairwise(row))


def test_search_passes_over_what_is_not_live(memory: Memory, capital: Capital, fixed: FixedEncoder) -> None:
    gone, stays = memory.add(capital()), memory.add(capital("Peru", "Lima"))
    memory.search(fixed.encode(["x"]), 1)
    memory._replica._index.change = lambda *_: None  # type: ignore[method-assign]
    memory.retract(gone.id)
    (hits,) = memory.search(fixed.encode([gone.prompt]), 2)
    assert [hit.edit for hit in hits] == [stays]


def test_frame_vectors(memory: Memory, capital: Capital) -> None:
    one, two = memory.add(capital("Peru", "Lima")), memory.add(capital("Chile", "Santiago"))
    np.testing.assert_allclose(memory.frame_vector(one.id), memory.frame_vector(two.id))
    assert memory.frame_vectors([]).shape == (0, 32)
    memory.retract(one.id)
    with pytest.raises(UnknownEdit, match="retracted"):
        memory.frame_vector(one.id)


def test_versions(memory: Memory, capital: Capital) -> None:
    one = memory.add(capital("Peru", "Lima"))
    two = memory.add(capital(namespace="n"))
    memory.retract(one.id)
    assert memory.state(0) == memory.state(3) == ()
    assert memory.state(1) == memory.state(2) == (one,)
    assert memory.state(3, "n") == (two,)
    for version in (-1, 4):
        with pytest.raises(InvalidRequest, match="0 to 3"):
            memory.state(version)


def test_readonly(open_memory: Open, ledger: Path, capital: Capital, fixed: FixedEncoder) -> None:
    with pytest.raises(StoreError, match="no ledger"):
        open_memory(readonly=True)
    writer = open_memory()
    edit = writer.add(capital())
    reader = open_memory(readonly=True)
    assert reader.live() == (edit,)
    for attempt in (
        lambda: reader.add(capital("Peru", "Lima")),
        lambda: reader.retract(edit.id),
        lambda: reader.amend(edit.id, target="Lima"),
    ):
        with pytest.raises(StoreNotWritable, match="read-only"):
            attempt()
    new = writer.add(capital("Peru", "Lima"))
    assert reader.refresh()
    assert reader.live() == (edit, new)
    assert reader.search(fixed.encode([new.prompt]), 1)[0][0].edit == new
    reader.close()
    assert not (ledger.parent / "facts.db.index").exists()


def test_one_sees_what_another_wrote(open_memory: Open, capital: Capital, fixed: FixedEncoder) -> None:
    one, two = open_memory(), open_memory(encoder=FixedEncoder(32))
    assert not two.refresh()
    query = fixed.encode([capital().prompt])
    assert two.search(query, 3) == [[]]
    edit = one.add(capital())
    assert two.refresh()
    assert not two.refresh()
    assert two.live() == (edit,)
    assert two.search(query, 3)[0][0].edit == edit
    assert two.mentions("Kazakhstan")[0].edit_ids == (edit.id,)
    assert two.encoder.calls == 0  # type: ignore[attr-defined]  # the vectors came with the ledger
    # Without refreshing, writing takes the latest into account.
    one.retract(edit.id)
    with pytest.raises(UnknownEdit, match="retracted"):
        two.retract(edit.id)
    assert two.version == one.version == 2
    assert two.add(capital()) == edit
    assert one.add(capital()) == edit
    assert one.version == two.version == 3


def test_a_refresh_that_failed_is_made_again(
    open_memory: Open, capital: Capital, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = open_memory(), open_memory()
    edit = one.add(capital())
    assert two.refresh()
    one.retract(edit.id)
    monkeypatch.setattr(two.replica.store, "read", Mock(side_effect=StoreBusy("locked")))
    with pytest.raises(StoreBusy):
        two.refresh()
    monkeypatch.undo()
    assert two.refresh()
    assert not two.is_live(edit.id)


def test_what_cannot_be_read_is_an_error_every_time(open_memory: Open, ledger: Path, capital: Capital) -> None:
    one, two = open_memory(), open_memory()
    two.add(capital())
    with closing(sqlite3.connect(ledger)) as db, db:
        columns = "edit_id, edit, replaces, author, reason, at"
        db.execute(f"INSERT INTO events (seq, id, kind, {columns}) SELECT 2, 'x', 'paused', {columns} FROM events")
    for _ in range(2):
        with pytest.raises(StoreDamaged, match="event 2"):
            one.refresh()


def test_an_interrupted_write_is_taken_in_later(
    open_memory: Open, capital: Capital, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = open_memory()
    append = memory.replica.store.append

    def interrupted(events: Sequence[Event]) -> int:
        monkeypatch.setattr(memory.replica, "_take", Mock(side_effect=KeyboardInterrupt))
        return append(events)

    monkeypatch.setattr(memory.replica.store, "append", interrupted)
    with pytest.raises(KeyboardInterrupt):
        memory.add(capital())
    monkeypatch.undo()
    assert memory.live() == ()
    assert memory.refresh()
    assert memory.live() == (capital(),)


def test_consequences_of_what_another_process_retracted(open_memory: Open, capital: Capital) -> None:
    one, two = open_memory(), open_memory()
    parent = one.add(capital())
    inverse = Edit("Astana is the capital of", "Kazakhstan", parent=parent.id)
    assert two.add_consequences([inverse]) == [inverse]  # added by the other a moment ago
    one.refresh()
    one.retract(parent.id)
    with pytest.raises(UnknownEdit, match="retracted"):
        two.add_consequences([inverse])
    assert two.live() == one.live() == ()


def test_consequences_of_what_is_retracted_while_they_are_encoded(open_memory: Open, capital: Capital) -> None:
    one, two = open_memory(), open_memory()
    parent = one.add(capital())
    encode = two._replica.encode

    def slow(edits: Sequence[Edit]) -> Encoded | None:
        one.retract(parent.id)
        return encode(edits)

    two._replica.encode = slow  # type: ignore[method-assign]
    with pytest.raises(UnknownEdit, match="retracted"):
        two.add_consequences([Edit("Astana is the capital of", "Kazakhstan", parent=parent.id)])
    assert two.live() == ()


def test_aliases_another_process_added_meanwhile_are_kept(open_memory: Open, capital: Capital) -> None:
    one, two = open_memory(), open_memory()
    edit = one.add(capital())
    two.refresh()
    one.amend(edit.id, aliases=["KZ"])
    amended = two.amend(edit.id, tags=["seen"])
    assert (amended.aliases, amended.tags) == (("KZ",), ("seen",))


def test_many_threads(memory: Memory, fixed: FixedEncoder) -> None:
    failures: list[BaseException] = []
    query = fixed.encode(["river of land"])

    def work(number: int) -> None:
        try:
            for i in range(15):
                edit = memory.add(f"The river {i} of land {number} is", "R", subject=f"land {number}x{i}")
                assert edit in [hit.edit for hit in memory.search(fixed.encode([edit.prompt]), 3)[0]]
                assert memory.mentions(f"land {number}x{i}")
                memory.search(query, 5)
                if i % 3 == 0:
                    memory.retract(edit.id)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(memory) == 60
    assert memory.version == 6 * 20


def test_a_damaged_ledger_does_not_open(open_memory: Open, ledger: Path, capital: Capital) -> None:
    with open_memory() as memory:
        memory.add_many([capital(f"Land {i}", "X") for i in range(200)])
    content = ledger.read_bytes()
    ledger.write_bytes(content.replace(b"The capital of Land 150", b"The capital of Land 15X"))
    with pytest.raises(StoreDamaged, match="event 151"):
        open_memory()
    ledger.write_bytes(content[: len(content) // 2])
    with pytest.raises(StoreDamaged, match="cut off"):
        open_memory()


def test_it_is_a_context_manager_and_closes_once(ledger: Path, capital: Capital) -> None:
    with Memory.open(ledger, encoder=FixedEncoder()) as memory:
        memory.add(capital())
    memory.close()
    with pytest.raises(StoreError, match="closed"):
        memory.add(capital("Peru", "Lima"))


class Model:
    """What a memory should do, in ten lines."""

    def __init__(self) -> None:
        self.live: dict[int, str] = {}
        self.versions: list[dict[int, str]] = [{}]

    def settle(self) -> None:
        self.versions.append(dict(self.live))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.sampled_from("aartm"), st.integers(0, 3), st.sampled_from("xyz")), max_size=12))
def test_a_memory_does_what_a_model_does(
    tmp_path_factory: pytest.TempPathFactory, fixed: FixedEncoder, moves: list[tuple[str, int, str]]
) -> None:
    path, model = tmp_path_factory.mktemp("model") / "m.db", Model()
    with Memory.open(path, encoder=fixed) as memory:
        ids: dict[int, str] = {}
        for verb, land, city in moves:
            if verb == "a":
                changed = model.live.get(land) != city
                ids[land] = memory.add(f"The capital of {land} is", city, subject=f"{land}", relation="c").id
            elif land not in model.live:
                continue
            elif verb == "r":
                changed = True
                memory.retract(ids[land])
                del model.live[land]
            else:
                changed = model.live[land] != city
                ids[land] = memory.amend(ids[land], target=city).id
            if verb != "r":
                model.live[land] = city
            if changed:
                model.settle()
        assert memory.version == len(model.versions) - 1
        assert as_model(memory.live()) == model.live
        for version, expected in enumerate(model.versions):
            assert as_model(memory.state(version)) == expected
    with Memory.open(path, encoder=fixed) as again:
        assert as_model(again.live()) == model.live
        assert len(again.search(fixed.encode(["The capital of"]), 9)[0]) == len(model.live)


def as_model(edits: tuple[Edit, ...]) -> dict[int, str]:
    return {int(edit.subject or ""): edit.target for edit in edits}


@pytest.mark.real_model
def test_with_the_real_encoder(ledger: Path, capital: Capital) -> None:
    with Memory.open(ledger) as memory:
        memory.add_many([capital(), capital("Peru", "Lima"), Edit("The author of Dracula is", "Mary Shelley")])
        hits = memory.search(memory.encoder.encode(["Which city is the seat of Kazakhstan's government?"]), 3)
        assert hits[0][0].edit == capital()


def test_a_time_without_a_zone_is_refused_wherever_it_is_asked_for(memory):
    noon = datetime(2026, 1, 1, 12)
    edit = memory.add("The capital of Peru is", "Lima", subject="Peru")
    for ask in (memory.live, lambda at: memory.is_live(edit.id, at=at), lambda at: memory.mentions("Peru", at=at)):
        with pytest.raises(InvalidRequest, match="no time zone"):
            ask(at=noon)
