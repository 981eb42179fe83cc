"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from corrigenda.atomic import draft, replacing


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_what_is_interrupted_leaves_the_old_file_and_nothing_else(tmp_path: Path, error: type[BaseException]) -> None:
    (tmp_path / "kept").write_bytes(b"before")

    def begin() -> None:
        with replacing(tmp_path / "kept") as file:
            file.write(b"half")
            raise error

    with pytest.raises(error):
        begin()
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
    assert (tmp_path / "kept").read_bytes() == b"before"


def test_the_new_file_has_the_rights_of_any_other(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        with draft(tmp_path / "new") as part:
            part.write_text("all of it")
    finally:
        os.umask(before)
    assert (tmp_path / "new").read_text() == "all of it"
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o644


def test_what_a_killed_process_left_is_removed_once_it_is_old(tmp_path: Path) -> None:
    old, young = tmp_path / "file.0.part", tmp_path / "file.1.part"
    for path in (old, young):
        path.touch()
    os.utime(old, (0, 0))
    with replacing(tmp_path / "file") as file:
        file.write(b"new")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "file.1.part"]


def test_a_database_and_its_logs_are_never_written_over(tmp_path: Path) -> None:
    (tmp_path / "facts-wal").write_bytes(b"a name like any other")
    with replacing(tmp_path / "facts-wal") as file:
        file.write(b"new")
    with closing(sqlite3.connect(tmp_path / "facts")) as db:
        db.execute("CREATE TABLE kept (x)")
    (tmp_path / "link").symlink_to(tmp_path / "facts")
    before = (tmp_path / "facts").read_bytes()
    for name in ("facts", "facts-wal", "facts-shm", "facts-journal", "link"):
        with pytest.raises(FileExistsError, match="not written over"), replacing(tmp_path / name):
            pass
    assert (tmp_path / "facts").read_bytes() == before
    assert not list(tmp_path.glob("*.part"))
