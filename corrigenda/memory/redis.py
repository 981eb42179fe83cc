"""RedisStore: the ledger on a Redis server, for many machines that share one memory.

A stream has the events, numbered 1, 2, 3…; hashes have what can be looked up: which events speak of an edit, which
edits are live, which event ids are there, and the vectors of texts. One script appends, atomically. Nobody holds a lock
on the server: what was decided on one state of the ledger is appended to that state or not at all.

How the events are read is in :mod:`corrigenda.memory.redis_stream`, what "acknowledged" means in
:mod:`corrigenda.memory.redis_promise`.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from corrigenda.errors import (
    InvalidRequest,
    LedgerMoved,
    StoreError,
    StoreNotWritable,
    StoreTooNew,
    StoreUnavailable,
)
from corrigenda.memory.ledger import DERIVED, Event, closed_on_error
from corrigenda.memory.records import encode_event
from corrigenda.memory.redis_link import Client, Link, Patience
from corrigenda.memory.redis_promise import Durability, Promise
from corrigenda.memory.redis_stream import BRIEFLY, EventStream, damaged

_FORMAT = 1
_CHUNK = 500  # vectors a round trip: below 1 MB
_NAME_LIMIT = 200
_ANYWHERE = (-1, "")  # after whatever is there


@dataclass
class _Transaction:
    """What a block has read and means to append."""

    base: tuple[int, str] | None = None
    events: list[Event] = field(default_factory=list)
    vectors: dict[bytes, bytes] = field(default_factory=dict)
    fingerprint: str = ""
    promised: bool = False  # whether somebody was told which numbers the events will have
    last: int = 0  # the number that the last of them has


class RedisStore:
    """A ledger on a Redis server. Build it with :meth:`connect`. Safe to share between threads, and across a fork.

    Args:
        link: To the server.
        ledger: Name of the ledger; all its keys hash to one slot of a cluster.
        readonly: Whether writing is refused.
        durability: What an acknowledgement promises.
        replicas: How many, with ``replicas``.
    """

    local = False

    def __init__(
        self, link: Link, ledger: str, *, readonly: bool = False, durability: Durability = "server", replicas: int = 1
    ) -> None:
        self.link = link
        self.ledger = ledger
        self.readonly = readonly
        self._promise = Promise(link, durability, replicas)
        self._prefix = f"corrigenda:{{{ledger}}}:"
        self._events = EventStream(link, ledger, events=self.key("events"), about=self.key("about"))
        self._open = threading.local()
        self._mark = (0, "")  # the last event read or written, number and id
        self._seen = (0, "")  # the newest event when that was last asked

    @classmethod
    def connect(
        cls,
        url: str,
        *,
        ledger: str = "default",
        readonly: bool = False,
        durability: Durability = "server",
        replicas: int = 1,
        patience: Patience | None = None,
        **options: Any,
    ) -> RedisStore:
        """Connect to the server at ``url``; see :class:`corrigenda.memory.redis_link.Link` for URLs and options.

        Raises:
            InvalidRequest: Not such a URL, name or durability; or a durability that this server cannot give.
            StoreUnavailable: The server does not answer.
            StoreTooNew: The ledger was written by a later version.
            StoreDamaged: Something else lies under the ledger's keys.
            MissingExtra: redis-py is not installed.
        """
        if not ledger or len(ledger) > _NAME_LIMIT or set(ledger) & set("{}\0\r\n"):
            raise InvalidRequest(f"{ledger!r} is no name for a ledger", remedy="1 to 200 characters without { and }.")
        store = cls(
            Link(url, patience=patience, **options),
            ledger,
            readonly=readonly,
            durability=durability,
            replicas=replicas,
        )
        with closed_on_error(store):
            store._adopt()
        return store

    # The protocol of a store

    def read(self, after: int = 0, *, until: int | None = None, about: Collection[str] | None = None) -> list[Event]:
        """Return the events with ``after < seq <= until``, in order; with ``about`` only those about these ids."""
        if about is not None:
            return self._events.read_about(after, until, about)
        events = self._events.read(after, until)
        if until is None:
            self._saw(events)
            if (transaction := self._transaction()) is not None:
                known = self._mark[1] if self._mark[0] == after else ""
                transaction.base = (events[-1].seq, events[-1].id) if events else (after, known)
        return events

    def append(self, events: Sequence[Event]) -> int:
        """Append ``events``, all or none, and return the last sequence number; theirs, if they are there already.

        They are there when the outermost :meth:`exclusive` block ends; outside one, when this returns.
        """
        inside = self._transaction() is not None
        with self.exclusive():
            transaction = self._transaction()
            assert transaction is not None
            if transaction.base is None:
                transaction.base = self.last() if inside else _ANYWHERE
            transaction.events += events
            transaction.promised = inside
            last = transaction.base[0] + len(transaction.events)
        return last if inside else transaction.last

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Collect what a block appends, and append it at its end: only if nobody did since the block read.

        Raises:
            LedgerMoved: Somebody did; nothing was written.
            StoreUnavailable: No answer. In rare cases the events are there all the same: appending them again,
                with the same ids, is safe.
            StoreNotWritable: Opened read-only, or the server refuses.
        """
        if self._transaction() is not None:
            yield
            return
        if self.readonly:
            raise StoreNotWritable("the ledger was opened read-only", remedy="Connect without readonly=True.")
        transaction = self._open.transaction = _Transaction()
        try:
            yield
        finally:
            self._open.transaction = None
        if transaction.events or transaction.vectors:
            self._commit(transaction)
        elif transaction.base is not None:
            self._confirm(transaction.base)

    def changed(self) -> bool:
        """Tell whether another process may have appended since this was last asked; not while the server is away."""
        if self.link.resting:
            return False
        try:
            newest = self._events.newest(total=BRIEFLY)
        except StoreUnavailable:
            return False
        before, self._seen = self._seen, newest
        return newest != before

    def mark_unread(self) -> None:
        """Let :meth:`changed` say so once more: what it told of, or was appended here, could not be taken in."""
        self._seen = _ANYWHERE

    def vectors(self, fingerprint: str, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        """Return what :meth:`keep_vectors` kept of ``keys``; nothing while the server is away."""
        found: dict[bytes, bytes] = {}
        if self.link.resting:
            return found
        name = self.key("vectors", fingerprint)
        try:
            for start in range(0, len(keys), _CHUNK):
                part = list(keys[start : start + _CHUNK])
                rows = self.link.call(partial(_values, key=name, fields=part), total=BRIEFLY)
                found.update((key, row) for key, row in zip(part, rows, strict=True) if row is not None)
        except StoreUnavailable:
            pass  # a cache: whoever asks can encode
        return found

    def keep_vectors(self, fingerprint: str, rows: Mapping[bytes, bytes]) -> None:
        """Keep encoded texts, with the surrounding :meth:`exclusive` block and its events, or by themselves."""
        if not rows and self._transaction() is None:
            return
        with self.exclusive():
            transaction = self._transaction()
            assert transaction is not None
            transaction.fingerprint = fingerprint
            transaction.vectors.update(rows)

    def kept(self) -> dict[str, int]:
        """Count the kept vectors of each encoder, by fingerprint."""
        meta = self.link.call(lambda db: db.hgetall(self.key("meta")))
        found = [name.decode().partition(":")[2] for name in meta if name.startswith(b"vectors:")]
        counts = self.link.call(lambda db: [db.hlen(self.key("vectors", fingerprint)) for fingerprint in found])
        return {name: int(count) for name, count in zip(found, counts, strict=True)}

    def encoder(self) -> str | None:
        """Return the fingerprint of the encoder that the ledger began with, or was moved to; ``None`` before that."""
        name = self.link.call(lambda db: db.hget(self.key("meta"), "encoder"))
        # Earlier versions took what was derived from edits for an encoder's.
        return name.decode() if name is not None and not name.startswith(DERIVED.encode()) else None

    def adopt_encoder(self, fingerprint: str) -> None:
        """Make ``fingerprint`` the encoder that whoever connects is expected to have."""
        if self.readonly:
            raise StoreNotWritable("the ledger was opened read-only", remedy="Connect without readonly=True.")
        self.link.call(lambda db: db.hset(self.key("meta"), "encoder", fingerprint))

    def condition(self) -> dict[str, Any]:
        """Return how the server is: version, role, replicas, memory in MB, and how it keeps what it is told."""
        info = self.link.call(lambda db: db.info())
        if self.link.clustered:
            return {"url": self.link.where, "nodes": len(info) if all(":" in name for name in info) else 1}
        return {
            "url": self.link.where,
            "version": str(info["redis_version"]),
            "role": str(info["role"]),
            "replicas": int(info.get("connected_slaves", 0)),
            "memory_mb": round(int(info["used_memory"]) / 1e6, 1),
            "aof": bool(info["aof_enabled"]),
            "encoder": self.encoder(),
        }

    def close(self) -> None:
        """Close the connections."""
        self.link.close()

    # What a server can, beyond a file

    def last(self) -> tuple[int, str]:
        """Return number and id of the newest event; (0, "") for an empty ledger."""
        return self._events.newest()

    def has(self, seq: int, event_id: str) -> bool:
        """Tell whether event ``seq`` is the one of that id: not so in a ledger that lost its end, or in another."""
        return seq == 0 or self._events.has(seq, event_id)

    def compact(self, fingerprint: str, keep: Collection[bytes]) -> int:
        """Drop the vectors of ``fingerprint`` but ``keep``, and return how many were dropped."""
        if self.readonly:
            raise StoreNotWritable("the ledger was opened read-only", remedy="Connect without readonly=True.")
        name, dropped, cursor = self.key("vectors", fingerprint), 0, 0
        while True:
            cursor, rows = self.link.call(partial(_scan, key=name, cursor=cursor))
            if doomed := [key for key in rows if key not in keep]:
                dropped += self.link.call(partial(_drop, key=name, fields=doomed))
            if not cursor:
                return dropped

    def knows(self, event_id: str) -> bool:
        """Tell whether an event of that id is in the ledger, as durably as if it were written now.

        Raises:
            StoreUnavailable: No answer, or it is there and cannot be confirmed.
        """
        while True:
            base = self.last()
            if not self.link.call(lambda db: db.hexists(self.key("ids"), event_id)):
                return False
            try:
                self._confirm(base)
            except LedgerMoved:
                continue
            return True

    def wait(self, after: int, seconds: float) -> list[Event]:
        """Return the events after ``after``, waiting up to ``seconds`` for one; no more than a page of them.

        It never waits for longer than half the time-out of the link, which would take the silence for a failure.
        """
        events = self._events.wait(after, min(seconds, self.link.patience.answer / 2))
        self._saw(events)
        return events

    def live(self) -> dict[str, int]:
        """Return which edits are live according to the server, with the events that made them so.

        The server does not know which edits were derived from which: they stay when their parent goes.
        """
        rows = self.link.call(lambda db: db.hgetall(self.key("live")))
        return {edit_id.decode(): int(seq) for edit_id, seq in rows.items()}

    # How it works

    def key(self, *parts: str) -> str:
        """Return the key of a part of the ledger."""
        return self._prefix + ":".join(parts)

    def _transaction(self) -> _Transaction | None:
        return getattr(self._open, "transaction", None)

    def _saw(self, events: Sequence[Event]) -> None:
        if events:
            self._mark = (events[-1].seq, events[-1].id)

    def _confirm(self, base: tuple[int, str]) -> None:
        """Make sure that the state ``base``, which was read, is there to stay: it may have been written in vain.

        A write that could not be confirmed is there all the same. Whoever repeats it finds it, and must not take that
        for an acknowledgement: by then, another server may answer that never had it.

        Raises:
            LedgerMoved: It is not the state any more.
            StoreUnavailable: It cannot be confirmed now.
        """
        if not self._promise.waits:
            return
        status, last = self._promise.run(self._keys(""), [*base, "", 0])
        if status == b"moved":
            raise LedgerMoved(f"the ledger is at {last} now, not at {base[0]}", remedy="Try again.")

    def _keys(self, fingerprint: str) -> list[str]:
        return [*map(self.key, ("events", "meta", "ids", "about", "live")), self.key("vectors", fingerprint)]

    def _commit(self, transaction: _Transaction) -> None:
        base = (transaction.base if transaction.events else None) or _ANYWHERE
        arguments: list[Any] = [base[0], base[1], transaction.fingerprint, len(transaction.events)]
        for event in transaction.events:
            live = "0" if event.kind in ("retracted", "consolidated") else "1"
            arguments += (event.id, encode_event(event), event.edit.id, event.replaces or "", live)
        for pair in transaction.vectors.items():
            arguments += pair
        status, last = self._promise.run(self._keys(transaction.fingerprint), arguments)
        if status == b"moved":
            raise LedgerMoved(f"another writer was faster: the ledger is at {last} now", remedy="Try again.")
        if transaction.events:
            transaction.last = last
            if transaction.promised and last != base[0] + len(transaction.events):
                raise StoreError(f"event {transaction.events[0].id} is in the ledger already, at another place")
            self._mark = (last, transaction.events[-1].id)
            if self._seen == base != _ANYWHERE:
                self._seen = self._mark  # nobody came between

    def _adopt(self) -> None:
        """Make sure that the ledger is ours and of a version we can use."""
        meta = self.key("meta")
        version = self.link.call(lambda db: db.hget(meta, "format"))
        if version is None and not self.readonly:
            self.link.call(lambda db: db.hsetnx(meta, "format", str(_FORMAT)))
        elif version is not None and not version.isdigit():
            raise damaged(self.link, self.ledger, f"its format is {version!r}")
        elif version is not None and int(version) > _FORMAT:
            raise StoreTooNew(
                f"the ledger {self.ledger!r} has format {int(version)}; this version knows {_FORMAT}",
                remedy="pip install --upgrade corrigenda",
            )
        if not self.readonly:
            self._promise.check()
        self._mark = self.last()
        self._seen = self._mark


def _values(db: Client, *, key: str, fields: list[bytes]) -> list[bytes | None]:
    rows: list[bytes | None] = db.hmget(key, fields)
    return rows


def _scan(db: Client, *, key: str, cursor: int) -> tuple[int, list[bytes]]:
    after, rows = db.hscan(key, cursor, count=_CHUNK)
    return int(after), list(rows)


def _drop(db: Client, *, key: str, fields: list[bytes]) -> int:
    return int(db.hdel(key, *fields))
