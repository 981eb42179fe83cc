"""The journal of an evaluation: one line a case, appended as soon as the case is scored, so that a kill loses little.

The first line holds the settings of the run; the last, once the results are kept, says so. Lines with ``note`` hold
what belongs to no case: checkpoints of a sequence, other tasks. A run whose journal is unfinished and has the same
settings goes on where it stopped. Rows also hold prompts and answers: the journal is where to look at failures.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from corrigenda.errors import EvaluationError

Row: TypeAlias = dict[str, Any]
KIND = "corrigenda.eval.journal/1"


@dataclass
class Journal:
    """An open journal.

    Attributes:
        path: The file; ``None`` keeps the rows in memory only.
        rows: The cases scored so far, earlier sessions included, in the order in which they were written.
        notes: What belongs to no case, in the same order.
    """

    path: Path | None = None
    rows: list[Row] = field(default_factory=list)
    notes: list[Row] = field(default_factory=list)

    @classmethod
    def open(cls, path: Path, settings: Mapping[str, Any], *, fresh: bool = False) -> Journal:
        """Open the journal at ``path`` for a run with ``settings`` (JSON-ready).

        An unfinished journal of the same settings is taken up again; one that is finished, empty or unwanted
        (``fresh``) is begun anew.

        Raises:
            EvaluationError: The file is no journal, cannot be written, or belongs to an unfinished run with other
                settings.
        """
        text = json.dumps({"journal": KIND, "settings": settings}, ensure_ascii=False)
        try:
            kept = None if fresh else _unfinished(path, json.loads(text)["settings"])
            if kept is not None:
                rows, size = kept
                with path.open("r+b") as file:
                    file.truncate(size)
                return cls(path, *_parted(rows))
            path.parent.mkdir(parents=True, exist_ok=True)
            _write(path, "w", text + "\n")
        except OSError as error:
            raise EvaluationError(
                f"the journal {path} cannot be written: {error.strerror or error}",
                remedy="Name a writable place with --out.",
            ) from error
        return cls(path)

    def append(self, rows: Iterable[Row]) -> None:
        """Add ``rows``; they are on disk when this returns."""
        new = list(rows)
        self.rows += new
        if self.path is not None and new:
            _write(self.path, "a", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in new))

    def note(self, row: Row) -> None:
        """Add something that belongs to no case; ``row["note"]`` says what. It is on disk when this returns."""
        self.notes.append(row)
        if self.path is not None:
            _write(self.path, "a", json.dumps(row, ensure_ascii=False) + "\n")

    def finish(self) -> None:
        """Note that every case has been scored and the results are kept: the next run begins anew."""
        if self.path is not None:
            _write(self.path, "a", json.dumps({"finished": len(self.rows)}) + "\n")


def journal_path(out: Path) -> Path:
    """Return where the journal of the results file ``out`` is: next to it, ``results.journal.jsonl``."""
    return out.with_name(f"{out.stem}.journal.jsonl")


def read_rows(path: Path) -> list[Row]:
    """Return the rows of a journal, finished or not; raises as :func:`read`."""
    return read(path).rows


def read(path: Path) -> Journal:
    """Return rows and notes of a journal, finished or not, without opening it for more.

    Raises:
        EvaluationError: No such file, or not a journal.
    """
    try:
        header, rows, _, _ = _parse(path)
    except OSError as error:
        raise EvaluationError(
            f"the journal {path} cannot be read: {error.strerror or error}",
            remedy="It lies next to the results file; run the evaluation again if it is gone.",
        ) from error
    if header is None:
        raise _no_journal(path)
    return Journal(None, *_parted(rows))


def _parted(lines: Iterable[Row]) -> tuple[list[Row], list[Row]]:
    """Split lines into rows and notes."""
    rows: list[Row] = []
    notes: list[Row] = []
    for line in lines:
        (notes if "note" in line else rows).append(line)
    return rows, notes


def _unfinished(path: Path, settings: Mapping[str, Any]) -> tuple[list[Row], int] | None:
    """Return the rows of the unfinished journal at ``path`` and the size of its sound part, if there is one."""
    if not path.exists() or not path.stat().st_size:
        return None
    header, rows, finished, size = _parse(path)
    if header is None:
        if path.read_bytes().count(b"\n"):
            raise _no_journal(path)
        return None  # killed while the first line was written
    if finished:
        return None
    theirs = header["settings"]
    if differing := sorted(key for key in {*theirs, *settings} if theirs.get(key) != settings.get(key)):
        key = differing[0]
        raise EvaluationError(
            f"{path.name} belongs to an unfinished run with other settings "
            f"({key}: {theirs.get(key)!r} there, {settings.get(key)!r} here)",
            remedy="Finish that run with its own settings, discard it with --fresh, or write to another --out.",
        )
    return rows, size


def _parse(path: Path) -> tuple[Row | None, list[Row], bool, int]:
    """Return header, rows, whether finished, and the bytes up to the last sound line."""
    header: Row | None = None
    rows: list[Row] = []
    size, finished = 0, False
    for line in path.read_bytes().splitlines(keepends=True):
        try:
            row = json.loads(line) if line.endswith(b"\n") else None
        except ValueError:
            row = None
        if not isinstance(row, dict):
            break
        if header is None:
            if row.get("journal") != KIND or not isinstance(row.get("settings"), dict):
                break
            header = row
        elif "finished" in row:
            finished = True
        else:
            rows.append(row)
        size += len(line)
    return header, rows, finished, size


def _no_journal(path: Path) -> EvaluationError:
    return EvaluationError(f"{path} is not a journal of an evaluation", remedy="Write to another --out.")


def _write(path: Path, mode: str, text: str) -> None:
    with path.open(mode, encoding="utf-8", newline="\n") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
