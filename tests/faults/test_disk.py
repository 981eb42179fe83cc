"""Disks that are full, folders that are read-only: an error that says so, and nothing lost or half written."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from corrigenda.edit import Edit
from corrigenda.errors import StoreNotWritable
from corrigenda.memory.memory import Memory
from corrigenda.memory.sqlite import SQLiteStore
from corrigenda.testing import FixedEncoder

posix = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX")
NOBODY = 65534


def edits(count: int) -> list[Edit]:
    return [Edit(f"The motto of town {i} is", "x" * 500, subject=f"town {i}") for i in range(count)]


def test_a_full_database_refuses_and_keeps_what_it_has(tmp_path: Path) -> None:
    store = SQLiteStore.open(tmp_path / "facts.db")
    with Memory(store, encoder=FixedEncoder()) as memory:
        first = memory.add(edits(1)[0])
        (pages,) = store._db.execute("PRAGMA page_count").fetchone()
        store._db.execute(f"PRAGMA max_page_count = {pages + 3}")
        with pytest.raises(StoreNotWritable, match="full") as caught:
            memory.add_many(edits(100))
        assert "Free some disk space" in str(caught.value)
        assert isinstance(caught.value, OSError)
        assert memory.live() == (first,)
        assert memory.version == 1
        store._db.execute("PRAGMA max_page_count = 100000")
        assert len(memory.add_many(edits(100))) == 100
    with Memory.open(tmp_path / "facts.db", encoder=FixedEncoder()) as again:
        assert len(again) == 100


LIMITED = """
import resource, sys
from corrigenda.edit import Edit
from corrigenda.errors import StoreNotWritable
from corrigenda.memory.memory import Memory
from corrigenda.testing import FixedEncoder
memory = Memory.open(sys.argv[1], encoder=FixedEncoder())
resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))  # what a quota does
done = 0
try:
    for i in range(10_000):
        memory.add(f"The motto of town {i} is", "x" * 500, subject=f"town {i}")
        done += 1
except StoreNotWritable as error:
    assert "cannot be written" in str(error) and "Free some disk space" in str(error), error
    assert len(memory) == memory.version == done
    print(done)
memory.close()
"""


@posix
def test_a_file_that_may_not_grow(tmp_path: Path) -> None:
    path = tmp_path / "facts.db"
    done = subprocess.run([sys.executable, "-c", LIMITED, str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    acknowledged = int(done.stdout)
    assert acknowledged > 10
    with Memory.open(path, encoder=FixedEncoder()) as memory:
        assert len(memory) == acknowledged
        memory.add("The motto of another town is", "y")


READER = """
import os, sys, tempfile
from corrigenda.errors import StoreError, StoreNotWritable
from corrigenda.memory.memory import Memory
from corrigenda.testing import FixedEncoder
if os.getuid() == 0:  # nothing is read-only for root
    with tempfile.TemporaryDirectory() as folder:  # imports everything: the interpreter's own files may be root's
        for _ in range(2):
            with Memory.open(folder + "/facts.db", encoder=FixedEncoder()) as memory:
                memory.search(memory.encoder.encode([memory.add("a", "b").prompt]), 1)
    os.setgid(int(sys.argv[2]))
    os.setuid(int(sys.argv[2]))
try:
    Memory.open(sys.argv[1], encoder=FixedEncoder())
except StoreNotWritable as error:
    print(str(error).replace(chr(10), " "))
try:
    with Memory.open(sys.argv[1], encoder=FixedEncoder(), readonly=True) as memory:
        print(len(memory), len(memory.search(memory.encoder.encode(["town"]), 3)[0]), memory.refresh())
except StoreError as error:
    print(str(error).replace(chr(10), " "))
"""


def read_as_nobody(path: Path) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", READER, str(path), str(NOBODY)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.fixture
def shared() -> Iterator[Path]:
    """A folder that others may enter (pytest's own are private), holding a closed memory of five edits."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    with Memory.open(folder / "facts.db", encoder=FixedEncoder()) as memory:
        memory.add_many(edits(5))
    yield folder
    folder.chmod(0o755)
    shutil.rmtree(folder)


def protect(folder: Path, mode: int = 0o444) -> None:
    for file in folder.iterdir():
        file.chmod(mode)
    folder.chmod(0o555)


@posix
def test_a_read_only_folder(shared: Path) -> None:
    protect(shared)
    refused, read = read_as_nobody(shared / "facts.db")
    assert "write-protected" in refused
    assert "readonly=True" in refused
    assert read == "5 3 False"


@posix
def test_a_read_only_folder_around_a_writable_file(shared: Path) -> None:
    protect(shared, 0o666)
    refused, read = read_as_nobody(shared / "facts.db")
    nowhere = read_as_nobody(shared / "new.db")[0]
    assert "cannot be written" in refused
    assert read == "5 3 False"
    assert "cannot be written" in nowhere


@posix
def test_a_read_only_folder_with_a_log_is_not_read_in_part(shared: Path) -> None:
    """Events that only the log holds were acknowledged: leaving them out would be a wrong answer."""
    with Memory.open(shared / "facts.db", encoder=FixedEncoder()) as memory:
        memory.add("The motto of another town is", "y")
        copies = {file.name: file.read_bytes() for file in shared.iterdir() if file.suffix != ".db-shm"}
    for file in shared.iterdir():
        file.unlink()
    for name, content in copies.items():
        (shared / name).write_bytes(content)
    assert (shared / "facts.db-wal").stat().st_size
    (shared / "facts.db-shm").unlink(missing_ok=True)
    protect(shared)
    _, read = read_as_nobody(shared / "facts.db")
    assert "cannot be" in read


@posix
def test_an_unreadable_file(shared: Path) -> None:
    (shared / "facts.db").chmod(0o000)
    refused, read = read_as_nobody(shared / "facts.db")
    assert "cannot be read: Permission denied" in refused
    assert "cannot be read: Permission denied" in read
