"""Strict access to the records of a dataset file: every error names file, record and field.

``Fields`` wraps one JSON object. Its methods return a value of the type asked for or raise
:class:`~corrigenda.errors.DatasetError`, so that a reader is a list of the fields it needs.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from corrigenda.edit import MAX_PROMPT, MAX_TARGET, clean_text
from corrigenda.errors import DatasetError, InvalidEdit
from corrigenda.paths import numbered_lines

MAX_BYTES = 1 << 30
"""Largest file that is read, in bytes (1 GiB); the largest published set has 45 MB."""


@dataclass(frozen=True, slots=True)
class Fields:
    """One JSON object of a file.

    Attributes:
        value: The object.
        where: File and record, for messages: ``counterfact.json, record 17 (line 18)``.
        path: Field names down to this object.
    """

    value: Mapping[str, Any]
    where: str
    path: str = ""

    def __contains__(self, key: str) -> bool:
        return self.value.get(key) is not None

    def fail(self, key: str, message: str, remedy: str = "") -> NoReturn:
        """Raise the error for the field ``key``."""
        raise DatasetError(f"{self.where}, field {self.path + key!r}: {message}", remedy=remedy or _REMEDY)

    def get(self, key: str, kind: type, name: str) -> Any:
        """Return the value of ``key``, which must be of type ``kind`` (called ``name`` in messages)."""
        if key not in self.value:
            here = ", ".join(map(repr, list(self.value)[:8])) or "none"
            self.fail(key, f"missing; the fields here are {here}")
        found = self.value[key]
        if not isinstance(found, kind) or isinstance(found, bool):
            self.fail(key, f"expected {name}, found {describe(found)}")
        return found

    def text(self, key: str, limit: int = MAX_PROMPT) -> str:
        """Return the text of ``key``, stripped, 1…``limit`` characters."""
        return self._clean(key, self.get(key, str, "text"), limit)

    def answer(self, key: str) -> str:
        """Return the text of ``key`` as an answer, 1…1,000 characters."""
        return self.text(key, MAX_TARGET)

    def texts(self, key: str, *, least: int = 0, limit: int = MAX_PROMPT) -> tuple[str, ...]:
        """Return the list of texts of ``key``, with at least ``least`` of them; repetitions are dropped."""
        items = self.get(key, list, "a list of texts")
        if len(items) < least:
            self.fail(key, f"needs at least {least} item(s), has {len(items)}")
        for place, item in enumerate(items):
            if not isinstance(item, str):
                self.fail(f"{key}[{place}]", f"expected text, found {describe(item)}")
        return tuple(dict.fromkeys(self._clean(f"{key}[{place}]", item, limit) for place, item in enumerate(items)))

    def within(self, key: str) -> Fields:
        """Return the object of ``key``."""
        return Fields(self.get(key, dict, "an object"), self.where, f"{self.path}{key}.")

    def each(self, key: str, *, least: int = 0) -> list[Fields]:
        """Return the objects of the list of ``key``, at least ``least`` of them."""
        items = self.get(key, list, "a list of objects")
        if len(items) < least:
            self.fail(key, f"needs at least {least} item(s), has {len(items)}")
        for place, item in enumerate(items):
            if not isinstance(item, dict):
                self.fail(f"{key}[{place}]", f"expected an object, found {describe(item)}")
        return [Fields(item, self.where, f"{self.path}{key}[{place}].") for place, item in enumerate(items)]

    @contextmanager
    def building_edit(self) -> Iterator[None]:
        """Turn an :class:`InvalidEdit` raised inside into a :class:`DatasetError` that names the record."""
        try:
            yield
        except InvalidEdit as error:
            place = f", field {self.path[:-1]!r}" if self.path else ""
            message = f"{self.where}{place}: no edit can be made of it: {error.message}"
            raise DatasetError(message, remedy=error.remedy or _REMEDY) from error

    def _clean(self, key: str, text: str, limit: int) -> str:
        def error(message: str, remedy: str = "") -> DatasetError:
            return DatasetError(f"{self.where}, field {self.path + key!r}: {message}", remedy=remedy or _REMEDY)

        return clean_text("the text", text, limit, error)


_REMEDY = "Correct the record, or take the file from its source again; --format names another format."


def describe(value: object) -> str:
    """Name a JSON value for a message: ``the number 3``, ``a list of 2``."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return f"the number {value}"
    if isinstance(value, str):
        return f"the text {value[:40]!r}"
    return f"a list of {len(value)}" if isinstance(value, list) else "an object"


def read_records(path: Path) -> tuple[list[Fields], bytes]:
    """Read a JSON array or JSON Lines file of objects.

    Returns:
        The records, at least one, and the raw bytes of the file (for its hash).

    Raises:
        DatasetError: No such file, not UTF-8, not JSON, cut off, no records, or a record that is not an
        object.
    """
    raw = _read_bytes(path)
    text = _text(path, raw)
    records = _array(path.name, text) if text.lstrip()[:1] == "[" else _lines(path.name, text)
    if not records:
        raise DatasetError(f"{path.name} holds no records", remedy="Give a file with at least one record.")
    return records, raw


def _text(path: Path, raw: bytes) -> str:
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise DatasetError(
            f"{path.name}, line {line}: byte {error.start:,} is not UTF-8 ({error.reason})",
            remedy="Convert the file to UTF-8, for instance with iconv -f latin1 -t utf-8.",
        ) from error


def read_object(path: Path) -> Fields:
    """Read a JSON file that holds one object.

    Raises:
        DatasetError: No such file, not UTF-8, not JSON, cut off, or not an object.
    """
    text = _text(path, _read_bytes(path))
    start = _skip(text, 0)
    record, end = _decode(path.name, 1, text, start, 1)
    if rest := text[end:].strip():
        raise DatasetError(f"{path.name}, after the object: found {rest[:20]!r}", remedy=_REMEDY)
    return Fields(record.value, path.name)


def _read_bytes(path: Path) -> bytes:
    try:
        if path.stat().st_size <= MAX_BYTES:
            return path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a name that holds a null character
        reason = getattr(error, "strerror", None) or str(error)
        raise DatasetError(f"{path} cannot be read: {reason}", remedy="Give the path of a dataset file.") from error
    raise DatasetError(f"{path.name} has more than {MAX_BYTES:,} bytes", remedy="Split the file.")


_decoder = json.JSONDecoder()


def _decode(name: str, number: int, text: str, start: int, line: int) -> tuple[Fields, int]:
    """Decode the object at ``start``; return it with the position behind it."""
    where = f"{name}, record {number} (line {line})"
    try:
        value, end = _decoder.raw_decode(text, start)
    except json.JSONDecodeError as error:
        if not text[error.pos :].strip() or error.msg.startswith("Unterminated string"):
            message, remedy = "the record is cut off", "The file may be incomplete: fetch it again."
        else:
            message, remedy = f"not JSON at column {error.colno}: {error.msg}", _REMEDY
        raise DatasetError(f"{where}: {message}", remedy=remedy) from error
    except RecursionError as error:
        raise DatasetError(f"{where}: nested too deeply", remedy=_REMEDY) from error
    except ValueError as error:  # Python reads no number of more than some thousand digits
        raise DatasetError(f"{where}: a number has too many digits", remedy=_REMEDY) from error
    if not isinstance(value, dict):
        raise DatasetError(f"{where}: expected an object, found {describe(value)}", remedy=_REMEDY)
    return Fields(value, where), end


def _array(name: str, text: str) -> list[Fields]:
    """Read a JSON array element by element, so that damage is reported with the number of the record."""
    records: list[Fields] = []
    here, line, counted = _skip(text, text.index("[") + 1), 1, 0
    if text[here : here + 1] == "]":
        return records
    while True:
        line, counted = line + text.count("\n", counted, here), here
        record, here = _decode(name, len(records) + 1, text, here, line)
        records.append(record)
        here = _skip(text, here)
        mark = text[here : here + 1]
        if mark == "]":
            break
        if mark != ",":
            found = f"found {mark!r} where a comma or ] belongs" if mark else "the file ends within the array"
            raise DatasetError(
                f"{name}, after record {len(records)}: {found}",
                remedy=_REMEDY if mark else "The file is cut off: fetch it again.",
            )
        here = _skip(text, here + 1)
    if rest := text[here + 1 :].strip():
        raise DatasetError(f"{name}, after the array: found {rest[:20]!r}", remedy=_REMEDY)
    return records


def _skip(text: str, start: int) -> int:
    while text[start : start + 1] in (" ", "\n", "\r", "\t"):
        start += 1
    return start


def _lines(name: str, text: str) -> list[Fields]:
    records: list[Fields] = []
    for number, line in numbered_lines(text):
        start = _skip(line, 0)
        record, end = _decode(name, len(records) + 1, line, start, number)
        if rest := line[end:].strip():
            raise DatasetError(f"{record.where}: more than one value in the line: {rest[:20]!r}", remedy=_REMEDY)
        records.append(record)
    return records
