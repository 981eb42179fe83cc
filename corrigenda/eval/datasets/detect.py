"""Load a dataset: find out its format from the records, then read each strictly.

A format is told by the keys of the first record. Formats with more telling keys are tried first, so that a
record of KnowEdit, which also has a ``prompt``, is not taken for a plain edit.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple, TypeAlias

from corrigenda.errors import DatasetError, UnknownName
from corrigenda.eval.case import Case
from corrigenda.eval.datasets import (
    convsent,
    counterfact,
    edits,
    events,
    facts,
    hub,
    knowedit,
    memprompt,
    mquake,
    ripple,
    sanitation,
    zsre,
)
from corrigenda.eval.datasets.records import Fields, read_object, read_records

BUILTIN = "builtin"
"""Name of the set that ships with the package."""


Reader: TypeAlias = Callable[[Fields, int], Case]


class Format(NamedTuple):
    """A format: the sets of keys that tell it (any of them), and how a file's records are read."""

    keys: tuple[frozenset[str], ...]
    reader: Callable[[Path], Reader]

    def fits(self, record: Fields) -> bool:
        """Tell whether ``record`` has the keys."""
        return any(keys <= set(record.value) for keys in self.keys)


def _always(read: Reader) -> Callable[[Path], Reader]:
    return lambda path: read


FORMATS: Mapping[str, Format] = MappingProxyType(
    {
        **{
            module.NAME: Format((module.KEYS,), _always(module.read))
            for module in (counterfact, mquake, zsre, ripple, events)
        },
        memprompt.NAME: Format((memprompt.KEYS,), memprompt.reader),
        convsent.NAME: Format((convsent.KEYS,), _always(convsent.read)),
        knowedit.NAME: Format((knowedit.KEYS, knowedit.WIKIBIO_KEYS), _always(knowedit.read)),
        **{module.NAME: Format((module.KEYS,), _always(module.read)) for module in (facts, edits)},
    }
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
    """Read ``source`` in the given ``format`` or the one its first record shows.

    Args:
        source: A path, ``"builtin"``, or ``"hub:owner/name"`` with ``:split`` behind it (``test`` by default).
        format: One of :data:`FORMATS`, or ``sanitation``.

    Raises:
        MissingExtra: A hub name, and the ``datasets`` package is not installed.
        DatasetError: The file is missing, damaged, of no known format, or a record breaks the format.
        UnknownName: No format is called ``format``.
    """
    known = [*FORMATS, sanitation.NAME]
    if format is not None and format not in known:
        raise UnknownName.among("dataset format", format, known)
    shipped = source == BUILTIN and not Path(source).exists()
    path = Path(__file__).with_name("builtin.jsonl") if shipped else Path(source)
    if format == sanitation.NAME or (format is None and _is_sanitation(path)):
        return _sanitation(path)
    name = path.name
    if str(source).startswith(hub.PREFIX):
        name = hub.name_of(str(source))
        records, raw = hub.read_hub(str(source))
    else:
        records, raw = read_records(path)
    chosen = format or detect(records[0])
    read = FORMATS[chosen].reader(path)
    cases = tuple(read(record, number) for number, record in enumerate(records, start=1))
    _check_unique(cases, records)
    return Dataset(name, chosen, hashlib.sha256(raw).hexdigest(), cases)


def _is_sanitation(path: Path) -> bool:
    """Tell whether the file is one object with the two lists, without reading all of it."""
    try:
        with path.open("rb") as file:
            start = file.read(200)
    except (OSError, ValueError):
        return False  # the reader of records says what is wrong
    return re.match(rb'\s*(\xef\xbb\xbf)?\s*\{\s*"K_[FR]"\s*:', start) is not None


def _sanitation(path: Path) -> Dataset:
    whole = read_object(path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return Dataset(path.name, sanitation.NAME, digest, sanitation.read_all(whole))


def detect(record: Fields) -> str:
    """Return the name of the format whose keys ``record`` has.

    Raises:
        DatasetError: None fits; the message lists what each needs.
    """
    for name, known in FORMATS.items():
        if known.fits(record):
            return name
    needs = "; ".join(
        f"{name}: {' or '.join(', '.join(sorted(keys)) for keys in known.keys)}" for name, known in FORMATS.items()
    )
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
