from __future__ import annotations

import io
import json
import os
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from corrigenda.edit import Edit
from corrigenda.errors import ImportFailed, InvalidRequest, LedgerMoved
from corrigenda.memory.ledger import Event
from corrigenda.memory.memory import Memory

Open = Callable[..., Memory]
Capital = Callable[..., Edit]
GOOD = '{"prompt": "The capital of Peru is", "target": "Lima", "subject": "Peru", "relation": "capital"}'
OTHER = '{"prompt": "The capital of Chile is", "target": "Santiago", "valid_from": "2020-01-01"}'
BAD = {
    b'{"prompt": "x"': "not JSON",
    b"[1, 2]": "must be a JSON object",
    b'{"prompt": "x"}': "needs 'target'",
    b'{"prompt": "x", "target": NaN}': "NaN is not JSON",
    b'{"prompt": "x", "target": "y", "prompt": "z"}': "'prompt' stands twice",
    b'{"prompt": "x", "target": "y", "colour": "red"}': "unknown field(s) 'colour'",
    b'{"prompt": "x", "target": ""}': "target is empty",
    b'{"prompt": "x", "target": "caf\xe9"}': "not UTF-8: byte 0xe9 at offset",
    b'{"prompt": "x", "target": "y", "valid_from": "soon"}': "not a time",
    b'{"prompt": "x", "target": "y", "valid_to": "9999-12-31T23:59:59-05:00"}': "outside of the years",
    b"[" * 100_000: "not strict JSON",
}


def write(path: Path, *lines: bytes | str) -> Path:
    path.write_bytes(b"\n".join(line.encode() if isinstance(line, str) else line for line in lines))
    return path


def test_there_and_back(memory: Memory, capital: Capital, tmp_path: Path, open_memory: Open) -> None:
    edits = [
        memory.add(capital(aliases=("KZ", "Қазақстан"), tags=("a",), source="s", author="Ann")),
        memory.add("Who wrote\u2028Abay?", "Auezov", namespace="books", valid_to="2000-01-01T00:00:00+05:00"),
    ]
    path = tmp_path / "edits.jsonl"
    assert memory.export_jsonl(path) == 2
    assert [Edit.from_dict(json.loads(line)) for line in path.read_text("utf-8").split("\n") if line] == edits
    for edit in edits:
        memory.retract(edit.id)
    report = memory.import_jsonl(path)
    assert (report.added, report.unchanged, report.superseded, report.bad_lines) == (2, 0, 0, {})
    assert [memory.get(edit.id) for edit in edits] == edits
    assert memory.import_jsonl(path).unchanged == 2
    file = io.StringIO()
    assert memory.export_jsonl(file, namespace="books") == 1
    assert "Auezov" in file.getvalue()


def test_a_byte_order_mark_and_empty_lines(memory: Memory, tmp_path: Path) -> None:
    path = write(tmp_path / "e.jsonl", b"\xef\xbb\xbf" + GOOD.encode() + b"\r", "", "   ", OTHER, "")
    assert memory.import_jsonl(path).added == 2
    assert memory.live()[0].target == "Lima"


@pytest.mark.parametrize(("line", "reason"), list(BAD.items()), ids=list(BAD.values()))
def test_a_bad_line_stops_the_import(memory: Memory, tmp_path: Path, line: bytes, reason: str) -> None:
    path = write(tmp_path / "e.jsonl", GOOD, "", line, OTHER)
    with pytest.raises(ImportFailed) as caught:
        memory.import_jsonl(path)
    assert list(caught.value.bad_lines) == [3]
    assert reason in caught.value.bad_lines[3]
    assert f"line 3: {caught.value.bad_lines[3]}" in str(caught.value)
    assert "on_error='skip'" in str(caught.value)
    assert memory.version == 0


def test_all_bad_lines_are_named_or_skipped(memory: Memory, tmp_path: Path) -> None:
    path = write(tmp_path / "e.jsonl", *BAD, GOOD, *BAD, OTHER)
    with pytest.raises(ImportFailed, match="22 bad line") as caught:
        memory.import_jsonl(path)
    assert len(caught.value.bad_lines) == 22
    assert "and 12 more" in str(caught.value)
    report = memory.import_jsonl(path, on_error="skip")
    assert report.added == len(memory) == 2
    assert report.bad_lines == caught.value.bad_lines


def test_the_offset_of_a_bad_byte(memory: Memory, tmp_path: Path) -> None:
    for mark in (b"", b"\xef\xbb\xbf"):
        path = write(tmp_path / "e.jsonl", mark + GOOD.encode(), b'{"prompt": "\xff"}')
        offset = path.read_bytes().index(b"\xff")
        with pytest.raises(ImportFailed, match=f"line 2: not UTF-8: byte 0xff at offset {offset}"):
            memory.import_jsonl(path)
    path = write(tmp_path / "e.jsonl", b"\xef\xbb\xbf" + b'{"prompt": "\xff"}')
    with pytest.raises(ImportFailed, match="offset 15"):
        memory.import_jsonl(path)


def test_files_that_cannot_be_read(memory: Memory, tmp_path: Path) -> None:
    path = tmp_path / "e.jsonl"
    with pytest.raises(ImportFailed, match="No such file"):
        memory.import_jsonl(path)
    path.write_text(GOOD, encoding="utf-16")
    with pytest.raises(ImportFailed, match="UTF-16") as caught:
        memory.import_jsonl(path, on_error="skip")
    assert "iconv" in str(caught.value)
    with pytest.raises(InvalidRequest, match="stop, skip"):
        memory.import_jsonl(path, on_error="ignore")  # type: ignore[arg-type]
    path.write_bytes(b"")
    assert memory.import_jsonl(path).added == 0


def test_conflicts_in_a_file(memory: Memory, tmp_path: Path) -> None:
    memory.add_many([Edit.from_dict(json.loads(GOOD))])
    path = write(tmp_path / "e.jsonl", OTHER, GOOD.replace("Lima", "Cusco"))
    with pytest.raises(ImportFailed, match=r"line 2: .*contradicts"):
        memory.import_jsonl(path, on_conflict="refuse")
    assert memory.version == 1
    report = memory.import_jsonl(path, on_error="skip", on_conflict="refuse")
    assert (report.added, list(report.bad_lines)) == (1, [2])
    report = memory.import_jsonl(path)
    assert (report.added, report.unchanged, report.superseded) == (1, 1, 1)


def test_what_only_an_attempt_that_failed_refused_is_no_bad_line(
    memory: Memory, open_memory: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lima = memory.add_many([Edit.from_dict(json.loads(GOOD))])[0]
    path = write(tmp_path / "e.jsonl", OTHER, GOOD.replace("Lima", "Cusco"))
    store, other = memory.replica.store, open_memory()
    exclusive, append = store.exclusive, store.append
    attempts: list[int] = []

    def begin() -> AbstractContextManager[None]:
        if attempts and other.is_live(lima.id):
            other.retract(lima.id)  # as another machine does between two attempts
        return exclusive()

    def once_moved(events: Sequence[Event]) -> int:
        attempts.append(len(events))
        if len(attempts) == 1:
            raise LedgerMoved("another writer was faster")
        return append(events)

    monkeypatch.setattr(store, "exclusive", begin)
    monkeypatch.setattr(store, "append", once_moved)
    report = memory.import_jsonl(path, on_error="skip", on_conflict="refuse")
    assert attempts == [1, 2]
    assert (report.added, report.bad_lines) == (2, {})


def test_an_export_takes_the_place_of_no_memory(
    memory: Memory, open_memory: Open, ledger: Path, tmp_path: Path
) -> None:
    memory.add("a", "b")
    other = Memory.open(tmp_path / "other", encoder=memory.encoder)
    other.close()
    names = ["facts.db", "facts.db-wal", "facts.db-shm", "facts.db.index", "facts.db.state", "facts.db.scope.json"]
    for name in [*names, "facts.db.hits", "facts.db.keys", "other", "other.index"]:
        with pytest.raises(FileExistsError, match="not written over"):
            memory.export_jsonl(tmp_path / name)
    assert len(open_memory()) == 1
    assert memory.export_jsonl(tmp_path / "facts.db.jsonl") == memory.export_jsonl(tmp_path / "none.index") == 1


def test_an_export_appears_whole_or_not_at_all(memory: Memory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memory.add("a", "b")
    path = tmp_path / "out.jsonl"
    memory.export_jsonl(path)
    before = path.read_bytes()
    os.umask(mask := os.umask(0))
    assert path.stat().st_mode & 0o777 == 0o666 & ~mask
    abandoned, fresh = tmp_path / "out.jsonl.dead.part", tmp_path / "out.jsonl.busy.part"
    abandoned.touch()
    fresh.touch()
    os.utime(abandoned, times=(time.time() - 7200,) * 2)
    with monkeypatch.context() as broken:
        broken.setattr(json, "dumps", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            memory.export_jsonl(path)
    assert path.read_bytes() == before
    assert {file.name for file in tmp_path.glob("out*")} == {"out.jsonl", fresh.name}
    with pytest.raises(OSError, match="No such file"):
        memory.export_jsonl(tmp_path / "no" / "out.jsonl")
