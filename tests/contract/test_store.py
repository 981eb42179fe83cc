"""What every store must do, whatever it is built on."""

from __future__ import annotations

import contextlib
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from servers import RedisServer

from corrigenda.edit import Edit
from corrigenda.errors import LedgerMoved, StoreError, StoreNotWritable
from corrigenda.memory.ledger import Event, Store, replay
from corrigenda.memory.redis import RedisStore
from corrigenda.memory.sqlite import SQLiteStore

Open = Callable[..., Store]


@pytest.fixture(params=["sqlite", pytest.param("redis", marks=pytest.mark.redis)])
def open_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Open]:
    """Open the ledger of this test, as often as wanted."""
    opened: list[Store] = []
    if request.param == "redis":
        server: RedisServer = request.getfixturevalue("redis_server")
        ledger = uuid.uuid4().hex

        def call(**options: bool) -> Store:
            opened.append(RedisStore.connect(server.url, ledger=ledger, **options))  # type: ignore[arg-type]
            return opened[-1]
    else:

        def call(**options: bool) -> Store:
            opened.append(SQLiteStore.open(tmp_path / "ledger.db", **options))
            return opened[-1]

    yield call
    for store in opened:
        store.close()


@pytest.fixture
def store(open_store: Open) -> Store:
    return open_store()


def edit(number: int, **fields: object) -> Edit:
    return Edit(f"The capital of land {number} is", f"City {number}", **fields)  # type: ignore[arg-type]


def added(*numbers: int) -> list[Event]:
    return [Event("added", edit(number)) for number in numbers]


def test_events_come_back_as_they_were_in_order(store: Store) -> None:
    first = Event("added", edit(1, subject="Ländle", aliases=("LD", "“x”"), namespace="a"), author="Ada", reason="so")
    second = Event("amended", edit(2), replaces=first.edit.id)
    assert store.append([first]) == 1
    assert store.append([second]) == 2
    read = store.read()
    assert [event.seq for event in read] == [1, 2]
    for event, given in zip(read, [first, second], strict=True):
        assert event.to_dict() | {"seq": 0} == given.to_dict()
        assert (event.id, event.edit) == (given.id, given.edit)


def test_an_empty_ledger(store: Store) -> None:
    assert store.read() == []
    assert store.read(about=["e" * 21]) == []
    assert store.read(about=[]) == []
    assert not store.changed()
    assert store.has(0, "")
    assert not store.has(1, "x")


def test_reading_a_part(store: Store) -> None:
    events = added(*range(1, 8))
    store.append(events)
    assert [event.seq for event in store.read(2, until=5)] == [3, 4, 5]
    assert [event.seq for event in store.read(6)] == [7]
    assert store.read(7) == store.read(3, until=3) == store.read(5, until=2) == []
    assert store.has(3, events[2].id)
    assert not store.has(3, events[3].id)
    assert not store.has(8, events[3].id)


def test_reading_more_than_a_page(store: Store) -> None:
    events = added(*range(4_500))
    assert store.append(events) == 4_500
    assert [event.id for event in store.read()] == [event.id for event in events]


def test_reading_about_edits(store: Store) -> None:
    one, two, three = edit(1), edit(2), edit(3)
    store.append(
        [Event("added", one), Event("added", two), Event("amended", three, replaces=one.id), Event("retracted", two)]
    )
    assert [event.seq for event in store.read(about=[one.id])] == [1, 3]
    assert [event.seq for event in store.read(about=[three.id, two.id])] == [2, 3, 4]
    assert [event.seq for event in store.read(2, until=3, about=[two.id, one.id])] == [3]
    assert store.read(about=["e" * 21]) == []


def test_a_block_appends_all_or_nothing(store: Store, open_store: Open) -> None:
    other = open_store()

    def fail() -> None:
        with store.exclusive():
            store.append(added(1))
            store.append(added(2, 3))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert other.read() == []
    with store.exclusive():
        store.read()
        assert store.append(added(1)) == 1
        with store.exclusive():
            assert store.append(added(2, 3)) == 3
    assert [event.seq for event in other.read()] == [1, 2, 3]


def test_another_writer_never_comes_between_reading_and_appending(open_store: Open) -> None:
    stores = [open_store() for _ in range(4)]
    failures: list[BaseException] = []

    def work(store: Store) -> None:
        try:
            done = 0
            while done < 25:
                try:
                    with store.exclusive():
                        count = len(store.read())
                        assert store.append(added(count)) == count + 1
                    done += 1
                except LedgerMoved:
                    continue
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(store,)) for store in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    events = stores[0].read()
    assert [event.edit.target for event in events] == [f"City {number}" for number in range(100)]
    assert stores[1].read() == events


def test_changed_tells_of_others_once(store: Store, open_store: Open) -> None:
    other = open_store()
    assert not store.changed()
    other.append(added(1))
    assert store.changed()
    assert not store.changed()
    store.mark_unread()
    assert store.changed()
    assert not store.changed()


def test_vectors_are_kept_by_fingerprint(store: Store, open_store: Open) -> None:
    rows = {bytes([number] * 16): bytes([number] * 40) for number in range(200)}
    store.keep_vectors("one", rows)
    store.keep_vectors("one", {})
    other = open_store()
    assert other.vectors("one", list(rows)) == rows
    assert other.vectors("two", list(rows)) == {}
    assert other.vectors("one", [b"\xff" * 16]) == other.vectors("one", []) == {}


def test_vectors_go_with_the_block_they_are_kept_in(store: Store) -> None:
    def fail() -> None:
        with store.exclusive():
            store.keep_vectors("one", {b"k" * 16: b"v"})
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert store.vectors("one", [b"k" * 16]) == {}


def test_a_ledger_opened_to_read_refuses_to_write(store: Store, open_store: Open) -> None:
    store.append(added(1))
    reader = open_store(readonly=True)
    with pytest.raises(StoreNotWritable):
        reader.append(added(2))
    with pytest.raises(StoreNotWritable):
        reader.keep_vectors("one", {b"k": b"v"})
    assert len(reader.read()) == 1


def test_the_state_that_follows_is_the_same_everywhere(store: Store, open_store: Open) -> None:
    one, two = edit(1, subject="Oz", relation="capital"), edit(2, namespace="other")
    store.append([Event("added", one), Event("added", two), Event("retracted", one), Event("restored", one)])
    here, there = replay(store.read()), replay(open_store().read())
    assert here.live == there.live
    assert here.event == there.event
    assert here.namespaces() == ("default", "other")


def test_a_closed_store_fails_or_reconnects_but_does_not_lie(store: Store) -> None:
    store.append(added(1))
    store.close()
    with contextlib.suppress(StoreError):
        assert len(store.read()) == 1
