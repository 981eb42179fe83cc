"""The state beside the index: a big ledger opens where it stands; from its beginning, if anything is wrong with it."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from corrigenda.edit import Edit, Validity
from corrigenda.memory import live_index
from corrigenda.memory.ledger import Event
from corrigenda.memory.memory import Memory
from corrigenda.memory.snapshot import snapshot_path
from corrigenda.memory.sqlite import SQLiteStore
from corrigenda.memory.state_file import Copy, StateUnusable, load, save, state_path
from corrigenda.memory.upkeep import verify
from corrigenda.testing import FixedEncoder

Open = Callable[..., Memory]


def fact(number: int, **fields: object) -> Edit:
    return Edit(f"The capital of land {number} is", f"City {number}", subject=f"land {number}", **fields)  # type: ignore[arg-type]


@pytest.fixture
def kept(ledger: Path, open_memory: Open, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The state of a closed memory with a bit of everything."""
    monkeypatch.setattr(live_index, "_BIG", 10)
    with open_memory() as memory:
        memory.add_many([fact(number) for number in range(20)])
        memory.add(fact(3, namespace="b", aliases=("L3",), tags=("x",)))
        memory.add(fact(4, validity=Validity(datetime(2020, 1, 1, tzinfo=UTC))))
        memory.amend(fact(5).id, target="Other")
        memory.retract(fact(6).id)
        memory.search(memory.encoder.encode(["x"]), 1)
    return state_path(snapshot_path(ledger))


def same(one: Memory, other: Memory) -> bool:
    left, right = one._replica.state, other._replica.state
    return (
        list(left.live.items()) == list(right.live.items())
        and left.known == right.known
        and left.links == right.links
        and left._claims == right._claims
        and (left.seq, left.event) == (right.seq, right.event)
        and {space: [*left.namespace(space)] for space in left.namespaces()}
        == {space: [*right.namespace(space)] for space in right.namespaces()}
        and one.mentions("land 7, L3 and land 6", "b") == other.mentions("land 7, L3 and land 6", "b")
        and one.mentions("land 7, L3 and land 6") == other.mentions("land 7, L3 and land 6")
    )


def test_it_is_what_the_events_say(kept: Path, open_memory: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    again = open_memory()
    asked: list[int] = []
    read = again._replica.store.read
    monkeypatch.setattr(
        type(again._replica.store), "read", lambda _, after=0, **options: asked.append(after) or read(after, **options)
    )
    from_file = open_memory()
    assert asked == [again.version]
    monkeypatch.undo()
    kept.unlink()
    from_events = open_memory()
    assert same(from_file, from_events)
    assert from_file.notices == from_events.notices == ()
    added = from_file.add(fact(5))  # supersedes what it was amended into: the claims are there
    assert [event.kind for event in from_file.history(added.id)] == ["added", "amended", "amended"]


def test_the_tail_is_caught_up(kept: Path, open_memory: Open) -> None:
    before = kept.read_bytes()
    with open_memory() as memory:
        memory.add(fact(100))
        memory.retract(fact(1).id)
    assert kept.read_bytes() == before
    again = open_memory()
    kept.unlink()
    assert same(again, open_memory())


@pytest.mark.parametrize(
    ("harm", "why"),
    [
        (lambda data: data[: len(data) // 2], "damaged"),
        (lambda data: b"", "cut off"),
        (lambda data: b"".join(data.splitlines(keepends=True)[:1]), "cut off"),
        (lambda data: data.replace(b"City 7", b"City 8"), "checksum"),
        (lambda data: data.replace(b'"format":1', b'"format":2'), "another format"),
        (lambda data: data.replace(b'"live":', b'"life":'), "damaged"),
    ],
)
def test_what_is_damaged_does_not_serve(
    kept: Path, open_memory: Open, harm: Callable[[bytes], bytes], why: str
) -> None:
    kept.write_bytes(harm(kept.read_bytes()))
    memory = open_memory()
    assert why in memory.notices[0]
    assert "read from its beginning" in memory.notices[0]
    kept.unlink()
    assert same(memory, open_memory())


def test_another_ledgers_state_does_not_serve(kept: Path, ledger: Path, open_memory: Open) -> None:
    for file in ledger.parent.glob(f"{ledger.name}*"):
        if file != kept:
            file.unlink()
    with open_memory() as memory:
        assert len(memory) == 0
        assert "another state of the ledger" in memory.notices[0]


def test_a_big_one_is_written_while_others_work(kept: Path, open_memory: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_index, "_SAVE_EVERY", 5)
    writing, go_on, write = threading.Event(), threading.Event(), live_index.write

    def slowly(path: Path, arrays: dict[str, object]) -> None:
        writing.set()
        assert go_on.wait(20)
        write(path, arrays)

    monkeypatch.setattr(live_index, "write", slowly)
    before = json.loads(kept.read_bytes().splitlines()[0])["seq"]
    with open_memory() as memory:
        memory.search(memory.encoder.encode(["x"]), 1)
        for number in range(200, 212):
            memory.add(fact(number))
        assert writing.wait(20)
        memory.add(fact(300))  # while it is being written
        go_on.set()
    assert json.loads(kept.read_bytes().splitlines()[0])["seq"] == before + 13
    with open_memory() as memory:
        assert memory.notices == ()


def test_verify_compares_it_with_the_ledger(kept: Path, ledger: Path, open_memory: Open) -> None:
    snapshot, encoder = snapshot_path(ledger), FixedEncoder(32)
    store = open_memory()._replica.store
    findings = verify(store, snapshot, encoder)
    assert (findings.state, findings.snapshot, findings.faults) == ("whole", "whole", [])
    state = load(kept)
    state._remove(fact(2).id)
    save(kept, Copy.of(state))
    assert verify(store, snapshot).faults == [f"state: it does not hold what was live at event {state.seq}"]
    save(kept, Copy(2, "x", [], [], {}))
    assert "another state" in verify(store, snapshot).state
    kept.write_bytes(b"soup")
    assert "damaged" in verify(store, snapshot).state


def test_verify_finds_nothing_wrong_with_what_is_saved_meanwhile(
    kept: Path, ledger: Path, open_memory: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory, store = open_memory(), SQLiteStore.open(ledger, readonly=True)
    read = store.read

    def reading(after: int = 0, **options: int) -> list[Event]:
        events = read(after, **options)
        memory.add(fact(memory.version + 1_000))
        memory.replica.snapshot()
        return events

    monkeypatch.setattr(store, "read", reading)
    findings = verify(store, snapshot_path(ledger), FixedEncoder(32))
    assert (findings.state, findings.snapshot, findings.faults) == ("whole", "whole", [])
    store.close()


def test_a_page_and_more(tmp_path: Path, memory: Memory) -> None:
    memory.add_many([fact(number) for number in range(2_500)])
    save(tmp_path / "s", Copy.of(memory._replica.state))
    assert list(load(tmp_path / "s").live.items()) == list(memory._replica.state.live.items())
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "none")
    (tmp_path / "s").write_text("[]\n")
    with pytest.raises(StateUnusable):
        load(tmp_path / "s")
