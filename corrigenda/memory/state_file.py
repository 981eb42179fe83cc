"""The live state as a file beside the index, so that opening a big ledger means reading its end, not all of it.

Reading a million events takes half a minute, what follows from them a third of that. Like the index, the file is a
copy and never the source of truth: a checksum, and the id of the event that it stands at, decide whether it serves.

Its lines are JSON: a header, pages of edits (those that are live in order, then those that were), a checksum.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from math import ceil
from pathlib import Path
from typing import Any

from corrigenda.atomic import replacing
from corrigenda.edit import Edit, EditId, restored
from corrigenda.errors import CorrigendaError
from corrigenda.memory.ledger import State

_FORMAT = 1
_PAGE = 1_000


class StateUnusable(CorrigendaError):
    """The file cannot serve; the message says why. Never reaches a caller: the ledger is read instead."""


@dataclass(frozen=True)
class Copy:
    """What :func:`save` writes, taken from a state in an instant.

    Attributes:
        seq, event: Number and id of the last event.
        live: Edits, in the order in which they became live.
        past: Those that are not live any more.
        links: See :class:`State`.
    """

    seq: int
    event: str
    live: Sequence[Edit]
    past: Sequence[Edit]
    links: dict[EditId, list[EditId]]

    @classmethod
    def of(cls, state: State) -> Copy:
        """Copy ``state``, whose lock is held."""
        past = [edit for edit_id, edit in state.known.items() if edit_id not in state.live]
        links = {edit_id: sorted(others) for edit_id, others in state.links.items()}
        return cls(state.seq, state.event, list(state.live.values()), past, links)


def state_path(snapshot: Path) -> Path:
    """Return where the state lies whose index is ``snapshot``."""
    return snapshot.with_name(snapshot.name.removesuffix(".index") + ".state")


def save(path: Path, copy: Copy) -> None:
    """Write ``copy`` atomically. Made for a thread of its own: it leaves others room to work.

    Raises:
        OSError: The folder or the disk refuses. The old file is as it was.
    """
    header = {"format": _FORMAT, "seq": copy.seq, "event": copy.event, "live": len(copy.live), "past": len(copy.past)}
    seal = hashlib.blake2b(digest_size=16)
    with replacing(path) as file:
        for row in chain([header], _pages(copy.live), _pages(copy.past), [copy.links]):
            line = json.dumps(row, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
            seal.update(line)
            file.write(line)
            time.sleep(0)
        file.write(json.dumps(seal.hexdigest()).encode())


def load(path: Path) -> State:
    """Read the state that :func:`save` wrote.

    Raises:
        FileNotFoundError: There is none.
        StateUnusable: Damaged, or of another format.
    """
    seal = hashlib.blake2b(digest_size=16)
    try:
        with path.open("rb") as file:
            lines = _sealed(file, seal)
            header = json.loads(next(lines))
            if header["format"] != _FORMAT:
                raise StateUnusable("it has another format")
            live = list(_edits(lines, int(header["live"])))
            past = list(_edits(lines, int(header["past"])))
            links = {EditId(one): set(others) for one, others in json.loads(next(lines)).items()}
            if json.loads(file.readline()) != seal.hexdigest():
                raise StateUnusable("it is damaged (checksum)")
            return State.restore(live, past, links, seq=int(header["seq"]), event=str(header["event"]))
    except (FileNotFoundError, StateUnusable):
        raise
    except Exception as error:  # whatever damaged bytes make of a reader
        raise StateUnusable(f"it is damaged ({str(error) or 'cut off'})") from error


def _pages(edits: Iterable[Edit]) -> Iterator[list[list[Any]]]:
    rest = iter(edits)
    while page := list(islice(rest, _PAGE)):
        yield [[edit.id, edit.to_dict()] for edit in page]


def _edits(lines: Iterator[bytes], count: int) -> Iterator[Edit]:
    for line in islice(lines, ceil(count / _PAGE)):
        for edit_id, row in json.loads(line):
            yield restored(row, edit_id)


def _sealed(lines: Iterable[bytes], seal: Any) -> Iterator[bytes]:
    for line in lines:
        seal.update(line)
        yield line
