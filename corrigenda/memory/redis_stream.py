"""EventStream: the events of a ledger in a Redis stream, whose entries are numbered 1, 2, 3… without a gap."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import Any

from corrigenda.errors import StoreDamaged
from corrigenda.memory.ledger import Event
from corrigenda.memory.records import decode_event
from corrigenda.memory.redis_link import Client, Link

BRIEFLY = 0.05
"""Seconds to repeat for, where there are other means: enough for a connection that went stale."""

_PAGE = 2_000  # events a round trip


class EventStream:
    """The stream of one ledger, read in pages. Reading only: what appends is :file:`append.lua`.

    Args:
        link: To the server.
        ledger: Name of the ledger.
        events: Key of the stream.
        about: Key of the hash that has, for each edit, the numbers of the events that speak of it.
    """

    def __init__(self, link: Link, ledger: str, *, events: str, about: str) -> None:
        self._link = link
        self._ledger = ledger
        self._events = events
        self._about = about

    def newest(self, *, total: float | None = None) -> tuple[int, str]:
        """Return number and id of the newest event, (0, "") if there is none; ``total`` as for :meth:`Link.call`."""
        page = self._link.call(lambda db: db.xrevrange(self._events, count=1), total=total)
        return (_seq(page[0][0]), page[0][1][b"i"].decode()) if page else (0, "")

    def has(self, seq: int, event_id: str) -> bool:
        """Tell whether event ``seq`` is there and has that id."""
        page = self._link.call(lambda db: db.xrange(self._events, f"{seq}-0", f"{seq}-0"))
        return bool(page) and page[0][1].get(b"i") == event_id.encode()

    def read(self, after: int, until: int | None) -> list[Event]:
        """Return the events with ``after < seq <= until``, in order.

        Raises:
            StoreDamaged: One is missing, or cannot be read.
        """
        events: list[Event] = []
        last = "+" if until is None else f"{max(until, 0)}-0"
        while True:
            place = events[-1].seq if events else after
            if until is not None and place >= until:
                break
            page = self._link.call(partial(_range, key=self._events, first=f"{place + 1}-0", last=last))
            events += self._decoded(page, place)
            if len(page) < _PAGE:
                break
        return events

    def read_about(self, after: int, until: int | None, edit_ids: Collection[str]) -> list[Event]:
        """Return those of the same events that speak of one of ``edit_ids``, in order."""
        ids = list(edit_ids)
        if not ids:
            return []
        rows = self._link.call(lambda db: db.hmget(self._about, ids))
        seqs = sorted({int(seq) for row in rows if row is not None for seq in row.split(b",")})
        seqs = [seq for seq in seqs if seq > after and (until is None or seq <= until)]

        def fetch(db: Client) -> list[Any]:
            pipe = db.pipeline(transaction=False)
            for seq in seqs:
                pipe.xrange(self._events, f"{seq}-0", f"{seq}-0")
            pages: list[Any] = pipe.execute()
            return pages

        pages = self._link.call(fetch) if seqs else []
        return [event for seq, page in zip(seqs, pages, strict=True) for event in self._decoded(page, seq - 1)]

    def wait(self, after: int, seconds: float) -> list[Event]:
        """Return the events after ``after``, waiting up to ``seconds`` for one; no more than a page of them."""
        key, block = self._events, max(1, int(1000 * seconds))
        found = self._link.call(lambda db: db.xread({key: f"{after}-0"}, count=_PAGE, block=block), total=BRIEFLY)
        pages = list(found.values()) if isinstance(found, Mapping) else [page for _, page in found]
        return self._decoded(pages[0], after) if pages else []

    def _decoded(self, page: Sequence[Any], after: int) -> list[Event]:
        """Decode entries that must be numbered from ``after`` + 1 on, without a gap."""
        events = []
        for expected, (entry, fields) in enumerate(page, after + 1):
            seq = _seq(entry)
            if seq != expected:
                raise damaged(self._link, self._ledger, f"events {expected} to {seq - 1} are missing")
            try:
                events.append(decode_event(fields[b"e"], seq))
            except (ValueError, KeyError) as error:
                raise damaged(self._link, self._ledger, f"event {seq} cannot be read: {error}") from error
        return events


def damaged(link: Link, ledger: str, why: str) -> StoreDamaged:
    """Return the error that says what is wrong with a ledger on a server."""
    return StoreDamaged(f"the ledger {ledger!r} at {link.where}: {why}", remedy="Restore the server from a backup.")


def _seq(entry: bytes | str) -> int:
    text = entry.decode() if isinstance(entry, bytes) else entry
    return int(text.partition("-")[0])


def _range(db: Client, *, key: str, first: str, last: str) -> list[Any]:
    page: list[Any] = db.xrange(key, first, last, _PAGE)
    return page
