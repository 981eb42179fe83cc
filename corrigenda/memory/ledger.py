"""The ledger: what happened to the edits, in order, and the live state that follows from it.

Nothing is ever changed or removed in a ledger. What is live is a pure fold over its events, so that every earlier
version can be had again, and two processes that read the same events see the same memory.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal, Protocol, get_args

from corrigenda.edit import Edit, EditId, fold

EventKind = Literal["added", "amended", "retracted", "consolidated", "restored"]
EVENT_KINDS: tuple[EventKind, ...] = get_args(EventKind)

Key = tuple[str, ...]

DERIVED = "derived/"
"""How the marks begin under which a store keeps what was computed from edits, in the place of an encoder's."""


@dataclass(frozen=True, slots=True)
class Event:
    """One entry of the ledger.

    Attributes:
        kind: ``added``; ``amended`` (``edit`` takes the place of ``replaces``); ``retracted``; ``consolidated`` (the
            weights answer now, the edit is no longer live in memory); ``restored`` (live once more).
        edit: The edit as it was then; for ``amended`` the new one.
        replaces: Id of the edit that went, for ``amended``.
        author, reason: Who did it and why, free text.
        when: UTC.
        id: Unique among all events of all ledgers.
        seq: Place in the ledger, 1, 2, 3…; 0 until it is appended.
    """

    kind: EventKind
    edit: Edit
    replaces: EditId | None = None
    author: str | None = None
    reason: str | None = None
    when: datetime = field(default_factory=lambda: datetime.now(UTC))
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    seq: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dict; unset fields are left out."""
        row: dict[str, Any] = {
            "seq": self.seq,
            "kind": self.kind,
            "edit_id": self.edit.id,
            "when": self.when.isoformat(),
            "edit": self.edit.to_dict(),
        }
        optional = {"replaces": self.replaces, "author": self.author, "reason": self.reason}
        return row | {key: value for key, value in optional.items() if value is not None}


class Store(Protocol):
    """Where a ledger lives. It keeps events in one order for all processes, and knows nothing of what they mean.

    Attributes:
        local: Whether it answers at once, from this machine. Nobody's reading waits for one that is not.
    """

    local: bool

    def read(self, after: int = 0, *, until: int | None = None, about: Collection[str] | None = None) -> list[Event]:
        """Return the events with ``after < seq <= until``, in order; with ``about`` only those about these ids."""
        ...

    def append(self, events: Sequence[Event]) -> int:
        """Append ``events``, all or none, and return the last sequence number.

        They are durable when the outermost :meth:`exclusive` block ends; outside one, when this returns.
        """
        ...

    def exclusive(self) -> AbstractContextManager[None]:
        """Let no other writer, in this process or others, come between what a block reads and what it appends.

        Either they are kept out (and wait), or the block ends in :class:`LedgerMoved` when one was faster: nothing
        was written then, and the block is to be run again.
        """
        ...

    def changed(self) -> bool:
        """Tell whether another process may have appended since this was last asked; cheap when nothing has."""
        ...

    def mark_unread(self) -> None:
        """Let :meth:`changed` say so once more: what it told of, or was appended here, could not be taken in."""
        ...

    def vectors(self, fingerprint: str, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        """Return what :meth:`keep_vectors` kept of ``keys`` for the encoder ``fingerprint``."""
        ...

    def keep_vectors(self, fingerprint: str, rows: Mapping[bytes, bytes]) -> None:
        """Keep encoded texts. A cache: losing it costs time, not facts."""
        ...

    def compact(self, fingerprint: str, keep: Collection[bytes]) -> int:
        """Drop vectors other than ``keep`` of the encoder ``fingerprint``; return how many. No event is touched."""
        ...

    def kept(self) -> dict[str, int]:
        """Count the kept vectors of each encoder, by fingerprint."""
        ...

    def has(self, seq: int, event_id: str) -> bool:
        """Tell whether event ``seq`` is the one of that id; ``True`` for 0, where nothing is yet."""
        ...

    def close(self) -> None:
        """Let go of the storage; further calls fail."""
        ...


@contextmanager
def closed_on_error(store: Store) -> Iterator[None]:
    """Close ``store`` if the block raises: whoever was to get it never will."""
    try:
        yield
    except BaseException:
        store.close()
        raise


def claims(edit: Edit) -> tuple[Key, ...]:
    """Return what ``edit`` lays claim to; two edits that share a claim and a time contradict each other.

    The conflict key (subject and relation) where there is one, and the prompt together with the subject: asked the
    same words about the same thing, a memory cannot give two answers.
    """
    subject = fold(edit.subject) if edit.subject is not None else ""
    worded: Key = ("prompt", edit.namespace, fold(edit.prompt), subject)
    if edit.subject is None or edit.relation is None:
        return (worded,)
    return (("relation", edit.namespace, subject, fold(edit.relation)), worded)  # its conflict key


class State:
    """What is live after some prefix of a ledger. Grows by :meth:`apply`, one event after the other.

    Attributes:
        seq: Sequence number of the last event applied, 0 before the first.
        event: Its id, "" before the first.
        live: The live edits of all namespaces by id, in the order in which they became live.
        known: The last wording of every edit ever named, live or not.
        links: For every edit that was amended or came from an amendment: the ids before and after it.
    """

    def __init__(self) -> None:
        self.seq = 0
        self.event = ""
        self.live: dict[EditId, Edit] = {}
        self.known: dict[EditId, Edit] = {}
        self.links: dict[EditId, set[EditId]] = {}
        self._namespaces: dict[str, dict[EditId, Edit]] = {}
        self._claims: dict[Key, dict[EditId, Edit]] = {}
        self._derived: dict[str, dict[EditId, Edit]] = {}

    @classmethod
    def restore(
        cls, live: Iterable[Edit], past: Iterable[Edit], links: dict[EditId, set[EditId]], *, seq: int, event: str
    ) -> State:
        """Build the state at event ``seq`` from what is live then, in order, what was, and the links."""
        state = cls()
        for edit in live:
            state.known[edit.id] = edit
            state._insert(edit)
        for edit in past:
            state.known[edit.id] = edit
        state.links, state.seq, state.event = links, seq, event
        return state

    def apply(self, event: Event) -> tuple[list[Edit], Edit | None]:
        """Apply ``event``; return the edits that ceased to be live by it, and the one that became live.

        Edits derived from one that was retracted or replaced go with it. Those of a consolidated one stay: it holds.
        """
        edit = event.edit
        gone = {edit.id: None}
        if event.replaces is not None:
            gone[event.replaces] = None
            if event.replaces != edit.id:
                self.links.setdefault(event.replaces, set()).add(edit.id)
                self.links.setdefault(edit.id, set()).add(event.replaces)
        if event.kind != "consolidated":
            for edit_id in tuple(gone):
                if event.kind == "retracted" or edit_id != edit.id:
                    gone.update(dict.fromkeys(self.descendants(edit_id)))
        removed = [self._remove(edit_id) for edit_id in gone if edit_id in self.live]
        self.known[edit.id] = edit
        self.seq, self.event = event.seq, event.id
        if event.kind in ("retracted", "consolidated"):
            return removed, None
        self._insert(edit)
        return removed, edit

    def namespace(self, name: str) -> Mapping[EditId, Edit]:
        """Return the live edits of one namespace; empty for one that nobody wrote to."""
        return self._namespaces.get(name, {})

    def namespaces(self) -> tuple[str, ...]:
        """Return the names of the namespaces that have live edits, sorted."""
        return tuple(sorted(name for name, edits in self._namespaces.items() if edits))

    def claimants(self, key: Key) -> Mapping[EditId, Edit]:
        """Return the live edits that lay claim to ``key``, see :func:`claims`."""
        return self._claims.get(key, {})

    def derived(self, edit_id: str) -> tuple[Edit, ...]:
        """Return the live edits that were derived from ``edit_id`` directly, in the order in which they became live."""
        return tuple(self._derived.get(edit_id, {}).values())

    def descendants(self, edit_id: str) -> list[EditId]:
        """Return the live edits that were derived from ``edit_id``, from those in turn, and so on."""
        found: list[EditId] = []
        todo = [edit_id]
        while todo:
            children = [child for child in self._derived.get(todo.pop(), {}) if child not in found]
            found += children
            todo += children
        return found

    def lineage(self, edit_id: EditId) -> set[EditId]:
        """Return ``edit_id`` and every edit before and after it, across amendments."""
        seen, todo = {edit_id}, [edit_id]
        while todo:
            fresh = self.links.get(todo.pop(), set()) - seen
            seen |= fresh
            todo.extend(fresh)
        return seen

    def _insert(self, edit: Edit) -> None:
        self.live[edit.id] = edit
        self._namespaces.setdefault(edit.namespace, {})[edit.id] = edit
        for key in claims(edit):
            self._claims.setdefault(key, {})[edit.id] = edit
        if edit.parent is not None:
            self._derived.setdefault(edit.parent, {})[edit.id] = edit

    def _remove(self, edit_id: EditId) -> Edit:
        edit = self.live.pop(edit_id)
        del self._namespaces[edit.namespace][edit_id]
        if edit.parent is not None:
            siblings = self._derived[edit.parent]
            del siblings[edit_id]
            if not siblings:
                del self._derived[edit.parent]
        for key in claims(edit):
            left = self._claims[key]
            del left[edit_id]
            if not left:
                del self._claims[key]
        return edit


def replay(events: Iterable[Event]) -> State:
    """Fold ``events`` into the state that follows from them."""
    state = State()
    for event in events:
        state.apply(event)
    return state
