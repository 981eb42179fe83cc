from __future__ import annotations

import os
import sqlite3
import struct
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from corrigenda.edit import Edit
from corrigenda.errors import StoreBusy, StoreDamaged, StoreError, StoreNotWritable, StoreTooNew
from corrigenda.memory import migrations
from corrigenda.memory.files import inspect, wal
from corrigenda.memory.ledger import Event
from corrigenda.memory.sqlite import SQLiteStore


def event(number: int = 0, **fields: object) -> Event:
    return Event("added", Edit(f"prompt {number}", "x"), **fields)  # type: ignore[arg-type]


@pytest.fixture
def filled(ledger: Path) -> Path:
    """A closed ledger of 200 events."""
    store = SQLiteStore.open(ledger)
    store.append([event(i) for i in range(200)])
    store.close()
    return ledger


def test_events_come_back_as_they_were(ledger: Path) -> None:
    store = SQLiteStore.open(ledger)
    given = [event(1, author="Ann", reason="été"), event(2, replaces="e1")]
    assert store.append(given) == 2
    assert store.append([]) == 2
    assert store.append([event(3)]) == 3
    read = store.read()
    assert [e.seq for e in read] == [1, 2, 3]
    assert [(e.id, e.kind, e.edit, e.author, e.reason, e.when, e.replaces) for e in read[:2]] == [
        (e.id, e.kind, e.edit, e.author, e.reason, e.when, e.replaces) for e in given
    ]
    assert [e.seq for e in store.read(1, until=2)] == [2]
    assert [e.seq for e in store.read(about=["e1", given[0].edit.id, *map(str, range(600))])] == [1, 2]
    store.close()


def test_it_only_grows(filled: Path) -> None:
    db = sqlite3.connect(filled)
    for statement in ("DELETE FROM events", "UPDATE events SET kind = 'retracted'"):
        with pytest.raises(sqlite3.IntegrityError, match="append-only"):
            db.execute(statement)
    assert db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    db.close()


def test_blocks_are_all_or_nothing(ledger: Path) -> None:
    store = SQLiteStore.open(ledger)
    with suppress(RuntimeError), store.exclusive():
        store.append([event(1)])
        with store.exclusive():
            store.append([event(2)])
        raise RuntimeError
    assert store.read() == []
    same = event(3)
    with pytest.raises(StoreError, match="UNIQUE"):
        store.append([same, same])
    assert store.read() == []
    store.close()


def test_changed(ledger: Path) -> None:
    one, two = SQLiteStore.open(ledger), SQLiteStore.open(ledger)
    assert not one.changed()
    two.append([event()])
    assert one.changed()
    assert not one.changed()
    assert not two.changed()
    one.close()
    two.close()


def test_vectors(ledger: Path) -> None:
    store = SQLiteStore.open(ledger)
    store.keep_vectors("f", {b"a": b"1", b"b": b"2"})
    store.keep_vectors("f", {b"a": b"other"})
    store.keep_vectors("f", {})
    assert store.vectors("f", [b"a", b"z"]) == {b"a": b"1"}
    assert store.vectors("g", [b"a"]) == {}
    assert store.vectors("f", []) == {}
    store.close()


def test_busy(ledger: Path) -> None:
    one, two = SQLiteStore.open(ledger), SQLiteStore.open(ledger, busy_seconds=0.05)
    with one.exclusive():
        with pytest.raises(StoreBusy, match="holds the write lock") as caught:
            two.append([event()])
        assert isinstance(caught.value, TimeoutError)
        assert two.read() == []
    two.append([event()])
    one.close()
    two.close()


@pytest.mark.parametrize("kept", [1, 50, 99, 100, 4096, 8192, 20_000])
def test_cut_off(filled: Path, kept: int) -> None:
    whole = filled.read_bytes()
    assert len(whole) > 20_000
    filled.write_bytes(whole[:kept])
    for readonly in (False, True):
        with pytest.raises(StoreDamaged, match="cut off") as caught:
            SQLiteStore.open(filled, readonly=readonly)
        assert "Restore it" in str(caught.value)
    assert filled.read_bytes() == whole[:kept]


def test_not_a_ledger(ledger: Path) -> None:
    ledger.write_text("prompt,target\n" * 20)
    with pytest.raises(StoreDamaged, match="not a ledger"):
        SQLiteStore.open(ledger)
    assert ledger.read_text().startswith("prompt")


def test_emptied(filled: Path) -> None:
    filled.write_bytes(b"")
    filled.with_name("facts.db.index").touch()
    with pytest.raises(StoreDamaged, match="not always"):
        SQLiteStore.open(filled)


def test_emptied_under_a_log(ledger: Path) -> None:
    store = SQLiteStore.open(ledger)
    store.append([event()])
    log = wal(ledger).read_bytes()
    store.close()
    ledger.write_bytes(b"")
    wal(ledger).write_bytes(log)
    with pytest.raises(StoreDamaged, match="not always"):
        SQLiteStore.open(ledger)
    assert wal(ledger).read_bytes() == log


def test_an_empty_file_is_a_new_ledger(ledger: Path) -> None:
    ledger.touch()
    store = SQLiteStore.open(ledger)
    assert store.append([event()]) == 1
    store.close()


def test_a_short_file_with_its_log_is_whole(ledger: Path) -> None:
    store = SQLiteStore.open(ledger)
    store.append([event(i) for i in range(300)])
    # As after a kill in the midst of folding the log in: the header promises pages that only the log holds.
    header = bytearray(ledger.read_bytes())
    header[28:32] = struct.pack(">I", 10_000)
    header[92:96] = header[24:28]
    image, log = bytes(header), wal(ledger).read_bytes()
    store.close()
    for file in ledger.parent.glob("facts.db*"):
        file.unlink()
    ledger.write_bytes(image)
    wal(ledger).write_bytes(log)
    assert inspect(ledger) == "suspect"
    again = SQLiteStore.open(ledger)
    assert len(again.read()) == 300
    again.close()


def test_a_short_file_whose_log_does_not_help(filled: Path) -> None:
    # Reopened and written to without folding the log in, then the file loses pages that are not in the log.
    store = SQLiteStore.open(filled)
    store.append([event(1000)])
    image, log = filled.read_bytes(), wal(filled).read_bytes()
    store.close()
    for file in filled.parent.glob("facts.db*"):
        file.unlink()
    filled.write_bytes(image[: len(image) // 2])
    wal(filled).write_bytes(log)
    with pytest.raises(StoreDamaged):
        SQLiteStore.open(filled)


def test_a_damaged_page(filled: Path) -> None:
    whole = bytearray(filled.read_bytes())
    for start in range(4096, len(whole), 4096):
        whole[start : start + 200] = b"\xff" * 200
    filled.write_bytes(whole)
    with pytest.raises(StoreDamaged, match="damaged"):
        SQLiteStore.open(filled).read()


@pytest.mark.parametrize(
    ("column", "value", "why"),
    [
        ("edit", "{", "cannot be read"),
        ("edit", '{"prompt":"p","target":"q"}', "does not match"),
        ("kind", "eaten", "match"),
    ],
)
def test_damaged_content(filled: Path, column: str, value: str, why: str) -> None:
    db = sqlite3.connect(filled)
    db.execute("DROP TRIGGER events_refuse_update")
    db.execute(f"UPDATE events SET {column} = ? WHERE seq = 7", (value,))
    db.commit()
    db.close()
    store = SQLiteStore.open(filled)
    with pytest.raises(StoreDamaged, match=f"event 7 .*{why}"):
        store.read()
    store.close()


def test_a_file_of_another_program(ledger: Path) -> None:
    db = sqlite3.connect(ledger)
    db.execute("CREATE TABLE cats (name)")
    db.close()
    before = ledger.read_bytes()
    with pytest.raises(StoreDamaged, match="another program"):
        SQLiteStore.open(ledger)
    assert ledger.read_bytes() == before


def test_too_new(filled: Path) -> None:
    db = sqlite3.connect(filled)
    db.execute("PRAGMA user_version = 99")
    db.close()
    for readonly in (False, True):
        with pytest.raises(StoreTooNew, match=r"format 99.*up to format 2") as caught:
            SQLiteStore.open(filled, readonly=readonly)
        assert "Upgrade" in str(caught.value)


def test_an_older_format_is_brought_up_to_date(ledger: Path) -> None:
    db = sqlite3.connect(ledger)
    migrations.m001_events(db)
    db.execute(f"PRAGMA application_id = {migrations.APPLICATION_ID}")
    db.execute("PRAGMA user_version = 1")
    db.commit()
    db.close()
    with pytest.raises(StoreError, match="present format"):
        SQLiteStore.open(ledger, readonly=True)
    store = SQLiteStore.open(ledger)
    assert store.vectors("f", [b"a"]) == {}
    store.close()


def test_wrong_places(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="is a folder"):
        SQLiteStore.open(tmp_path)
    with pytest.raises(StoreNotWritable, match="does not exist"):
        SQLiteStore.open(tmp_path / "no" / "facts.db")
    with pytest.raises(StoreError, match="no ledger at"):
        SQLiteStore.open(tmp_path / "facts.db", readonly=True)
    assert list(tmp_path.iterdir()) == []


def test_readonly_refuses_to_write(filled: Path) -> None:
    store = SQLiteStore.open(filled, readonly=True)
    assert len(store.read()) == 200
    with pytest.raises(StoreNotWritable, match="opened read-only"):
        store.append([event(1)])
    store.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_across_a_fork(ledger: Path) -> None:
    """In a process of its own: a fork of one that runs other threads is another matter."""
    script = f"""
import os
from corrigenda.edit import Edit
from corrigenda.memory.ledger import Event
from corrigenda.memory.sqlite import SQLiteStore
store = SQLiteStore.open({str(ledger)!r})
store.append([Event("added", Edit("parent", "x"))])
child = os.fork()
store.append([Event("added", Edit(f"{{i}} of {{child > 0}}", "x")) for i in range(50)])
if not child:
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
assert store.changed()
print(len(store.read()))
store.close()
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.strip() == "101", done.stderr
