"""Edits as lines of JSON: one object a line, UTF-8, the fields of :meth:`corrigenda.edit.Edit.to_dict`."""

from __future__ import annotations

import codecs
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Literal, NoReturn

from corrigenda.atomic import refuse_database, replacing
from corrigenda.edit import Edit
from corrigenda.errors import ImportFailed, InvalidEdit
from corrigenda.memory.files import BESIDE

OnError = Literal["stop", "skip"]
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


@dataclass(frozen=True, slots=True)
class ImportReport:
    """What an import did.

    Attributes:
        added: Edits that became live.
        unchanged: Edits that were live already.
        superseded: Live edits whose place others took.
        bad_lines: Line number (from 1) to reason, for the lines left out.
    """

    added: int
    unchanged: int
    superseded: int
    bad_lines: Mapping[int, str] = field(default_factory=dict)


def read_edits(path: str | Path) -> tuple[dict[int, Edit], dict[int, str]]:
    """Read a file of edits; return the edits and the reasons against the bad lines, both by line number from 1.

    Empty lines and a byte-order mark are passed over. The JSON is strict: no NaN, no key twice.

    Raises:
        ImportFailed: The file cannot be read at all, or is UTF-16.
    """
    edits: dict[int, Edit] = {}
    bad: dict[int, str] = {}
    for number, offset, line in _lines(Path(path)):
        try:
            if line.strip():
                edits[number] = Edit.from_dict(_parse(line.decode()))
        except UnicodeDecodeError as error:
            byte = line[error.start]
            bad[number] = f"not UTF-8: byte 0x{byte:02x} at offset {offset + error.start:,} of the file"
        except InvalidEdit as error:
            bad[number] = error.message
        except json.JSONDecodeError as error:
            bad[number] = f"not JSON: {error.msg} at column {error.colno}"
        except (ValueError, RecursionError) as error:
            bad[number] = f"not strict JSON: {error}"
    return edits, bad


def failed(path: str | Path, bad: Mapping[int, str]) -> ImportFailed:
    """Build the error for the ``bad`` lines of ``path``; the message shows the first ten."""
    ordered = dict(sorted(bad.items()))
    shown = [f"line {number}: {reason}" for number, reason in list(ordered.items())[:10]]
    more = [f"and {len(ordered) - 10:,} more"] if len(ordered) > 10 else []
    return ImportFailed(
        "\n  ".join([f"{path}: {len(ordered):,} bad line(s), nothing was imported", *shown, *more]),
        bad_lines=ordered,
        remedy="Correct the lines, or skip them: on_error='skip'.",
    )


def write_edits(edits: Iterable[Edit], target: str | Path | IO[str]) -> int:
    """Write ``edits`` as JSON lines; return how many. A path is replaced as a whole, or not at all.

    Raises:
        OSError: The file cannot be written; or it is a memory, or belongs to one.
    """
    if not isinstance(target, str | Path):
        return _dump(edits, target)
    refuse_database(Path(target), beside=BESIDE)
    with replacing(Path(target)) as file:
        text = io.TextIOWrapper(file, encoding="utf-8", newline="\n")
        count = _dump(edits, text)
        text.detach()  # flushes, and leaves closing to the block
    return count


def _dump(edits: Iterable[Edit], file: IO[str]) -> int:
    count = 0
    for edit in edits:
        file.write(json.dumps(edit.to_dict(), ensure_ascii=False) + "\n")
        count += 1
    return count


def _lines(path: Path) -> Iterator[tuple[int, int, bytes]]:
    """Yield number, offset in the file and bytes of each line."""
    offset = 0
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                start = offset
                offset += len(line)
                if number == 1 and line.startswith(_UTF16):
                    reason = "the file is UTF-16, not UTF-8"
                    raise ImportFailed(
                        f"{path}: {reason}",
                        bad_lines={1: reason},
                        remedy=f"iconv -f UTF-16 -t UTF-8 {path.name} > {path.stem}.utf8.jsonl",
                    )
                if number == 1 and line.startswith(codecs.BOM_UTF8):
                    line = line.removeprefix(codecs.BOM_UTF8)
                    start += len(codecs.BOM_UTF8)
                yield number, start, line
    except OSError as error:
        raise ImportFailed(
            f"{path} cannot be read: {error.strerror}", bad_lines={}, remedy="Check the path and its permissions."
        ) from error


def _parse(text: str) -> Any:
    return json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_unique)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {twice!r} stands twice in one object")
    return row
