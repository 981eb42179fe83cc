"""Load a dataset: find out its format from the records, then read each strictly.

A format is told by the keys of the first record. Formats with more telling keys are tried first, so that a
record of KnowEdit, which also has a ``prompt``, is not taken for a plain edit.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from corrigenda.errors import DatasetError, UnknownName
from corrigenda.eval.case import Case
from corrigenda.eval.datasets import counterfact, edits, facts, knowedit, mquake, zsre
from corrigenda.eval.datasets.records import Fields, read_records

BUILTIN = "builtin"
"""Name of the set that ships with the package."""


class Format(NamedTuple):
    """A format: the keys that tell it, and the function that reads one record."""

    keys: frozenset[str]
    read: Callable[[Fields, int], Case]


FORMATS: Mapping[str, Format] = MappingProxyType(
    {module.NAME: Format(module.KEYS, module.read) for module in (counterfact, mquake, zsre, knowedit, facts, edits)}
)
"""Every readable format by name, the most telling first."""


@dataclass(frozen=True, slots=True)
class Dataset:
    """The cases of one file.

    Attributes:
        name: The file's name without its folder.
        format: One of :data:`FORMATS`.
        sha256: Of the file's bytes.
        cases: At least one, ids unique.
    """

    name: str
    format: str
    sha256: str
    cases: tuple[Case, ...]


def load(source: str | Path, format: str | None = None) -> Dataset:
    """Read ``source``, a path or ``"builtin"``, in the given ``format`` or the one its first record shows.

    Raises:
        DatasetError: The file is missing, damaged, of no known format, or a record breaks the format.
        UnknownName: No format is called ``format``.
    """
    if format is not None and format not in FORMATS:
        raise UnknownName.among("dataset format", format, list(FORMATS))
    shipped = source == BUILTIN and not Path(source).exists()
    path = Path(__file__).with_name("builtin.jsonl") if shipped else Path(source)
    records, raw = read_records(path)
    chosen = format or detect(records[0])
    read = FORMATS[chosen].read
    cases = tuple(read(record, number) for number, record in enumerate(records, start=1))
    _check_unique(cases, records)
    return Dataset(path.name, chosen, hashlib.sha256(raw).hexdigest(), cases)


def detect(record: Fields) -> str:
    """Return the name of the format whose keys ``record`` has.

    Raises:
        DatasetError: None fits; the message lists what each needs.
    """
    for name, known in FORMATS.items():
        if known.keys <= set(record.value):
            return name
    needs = "; ".join(f"{name}: {', '.join(sorted(known.keys))}" for name, known in FORMATS.items())
    found = ", ".join(map(repr, list(record.value)[:12])) or "none"
    raise DatasetError(
        f"{record.where}: no known format has the fields {found}",
        remedy=f"Name the format with --format, or give the fields it needs ({needs}).",
    )


def _check_unique(cases: tuple[Case, ...], records: list[Fields]) -> None:
    seen: dict[str, str] = {}
    for case, record in zip(cases, records, strict=True):
        if case.id in seen:
            raise DatasetError(
                f"{record.where}: the id {case.id!r} is taken by {seen[case.id]}",
                remedy="Give every record an id of its own.",
            )
        seen[case.id] = record.where
