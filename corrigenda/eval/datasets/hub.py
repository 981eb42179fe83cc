"""Data sets by hub name, for those who have the ``datasets`` package: ``hub:owner/name``, ``hub:owner/name:split``."""

from __future__ import annotations

import json

from corrigenda.errors import DatasetError, MissingExtra
from corrigenda.eval.datasets.records import Fields

PREFIX = "hub:"


def read_hub(source: str) -> tuple[list[Fields], bytes]:
    """Read ``source``; returns the records and their canonical JSON (for its hash).

    The data set is downloaded unless it is in the cache of ``datasets``: asking for a hub name is asking for that.

    Raises:
        MissingExtra: ``datasets`` is not installed.
        DatasetError: No such data set or split, or it cannot be reached.
    """
    try:
        import datasets
    except ImportError as error:
        raise MissingExtra.named("hub", "datasets") from error
    name, split = _parts(source)
    try:
        rows = list(datasets.load_dataset(name, split=split))
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        raise DatasetError(
            f"{source} cannot be read: {error}",
            remedy="Check name and split, or download the file and give its path.",
        ) from error
    where = f"{name} ({split})"
    records = [Fields(row, f"{where}, record {number}") for number, row in enumerate(rows, start=1)]
    if not records:
        raise DatasetError(f"{where} holds no records", remedy="Give another split, as hub:owner/name:train.")
    raw = json.dumps([record.value for record in records], ensure_ascii=False, sort_keys=True, default=str).encode()
    return records, raw


def name_of(source: str) -> str:
    """Return the name that results files give the data set: with its split."""
    return ":".join(_parts(source))


def _parts(source: str) -> tuple[str, str]:
    name, _, split = source.removeprefix(PREFIX).partition(":")
    return name, split or "test"
