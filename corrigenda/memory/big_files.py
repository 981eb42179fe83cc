"""Big files of edits, added batch by batch: what is in stays in, and an import that was stopped can go on."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from corrigenda.atomic import replacing
from corrigenda.edit import Edit
from corrigenda.errors import ImportFailed, InvalidEdit, StoreError
from corrigenda.memory.conflicts import OnConflict
from corrigenda.memory.memory import Memory
from corrigenda.memory.upkeep import Progress


def rows_of(path: Path) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """Yield the rows of a CSV (by its suffix) or JSONL file with their line numbers; a reason for one that is none.

    In CSV the columns are fields of an edit; several values of a list are separated by ``|``; empty is unset.
    """
    if path.suffix.lower() == ".csv":
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            for row in reader:
                values = {str(key): value for key, value in row.items() if value not in (None, "")}
                lists = ("aliases", "target_aliases", "paraphrases", "tags")
                yield reader.line_num, values | {key: values[key].split("|") for key in lists if key in values}
        return
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                yield number, json.loads(line)
            except (ValueError, RecursionError) as error:  # the latter: nested too deeply
                yield number, f"not JSON: {error}"


def import_big(
    memory: Memory,
    path: Path,
    *,
    on_conflict: OnConflict = "coexist",
    batch: int = 5_000,
    resume: bool = False,
    progress: Progress = lambda done: None,
) -> tuple[int, dict[int, str]]:
    """Add the edits of a big CSV or JSONL file in batches; return how many rows were read, and the bad lines.

    Each batch is durable when the next begins, and noted beside the file (``FILE.progress``): with ``resume``, an
    import that was stopped goes on there. Without, it reads all again, which changes nothing that is there already.
    A refused edit makes its line a bad one. A note that cannot be written is among the memory's notices.

    Raises:
        ImportFailed: The file cannot be read, or is not the one that was begun.
        StoreError: The batch at hand was not written.
    """
    note = path.with_name(path.name + ".progress")
    done, bad = 0, {}
    try:
        size = path.stat().st_size
        skip = _noted(note, size) if resume else 0
        rows = ((number, row) for number, row in rows_of(path) if number > skip)
        while part := list(islice(rows, batch)):
            edits = {}
            for number, row in part:
                if isinstance(row, str):
                    bad[number] = row
                    continue
                try:
                    edits[number] = Edit.from_dict(row)
                except InvalidEdit as error:
                    bad[number] = error.message
            bad |= memory.add_unrefused(edits.values(), on_conflict=on_conflict).refusals(list(edits))
            done += len(part)
            _keep(note, {"size": size, "line": part[-1][0]}, memory)
            progress(done)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        if isinstance(error, StoreError):
            raise
        raise ImportFailed(f"{path} cannot be read: {error}", bad_lines=bad) from error
    _keep(note, None, memory)
    return done, bad


def _keep(note: Path, row: dict[str, int] | None, memory: Memory) -> None:
    """Write how far an import is, or that it is over; where that cannot be, the edits count more than the note."""
    try:
        if row is not None:
            with replacing(note) as file:
                file.write(json.dumps(row).encode())
        elif note.exists():  # a file system that is read-only complains even of files that are not there
            note.unlink()
    except OSError as error:
        text = f"how far the import is cannot be noted in {note}: {error.strerror or error}"
        if text not in memory.notices:
            memory.replica.note(text)


def _noted(note: Path, size: int) -> int:
    try:
        row = json.loads(note.read_bytes())
        before, line = int(row["size"]), int(row["line"])
    except FileNotFoundError:
        return 0
    except (ValueError, KeyError, TypeError) as error:
        raise ImportFailed(f"{note} cannot be read: {error}", bad_lines={}, remedy=f"rm {note}") from error
    if before != size:
        raise ImportFailed("the file is not the one that was begun", bad_lines={}, remedy=f"rm {note}")
    return line
