"""Replica: one process's copy of a ledger, kept in step: live state, names and vectors."""

from __future__ import annotations

import gc
import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from itertools import count
from pathlib import Path

from corrigenda.edit import Edit, EditId
from corrigenda.errors import LedgerMoved, UnknownEdit, brief
from corrigenda.memory.conflicts import Plan
from corrigenda.memory.encoder import Encoder, MiniLM
from corrigenda.memory.index import VectorIndex
from corrigenda.memory.ledger import Event, State, Store
from corrigenda.memory.live_index import LiveIndex, OtherEncoder
from corrigenda.memory.mentions import Names
from corrigenda.memory.state_file import StateUnusable, state_path
from corrigenda.memory.state_file import load as load_state
from corrigenda.memory.vectors import BATCH, Encoded, encode_edits

_SHORTEST_PREFIX = 4
_BUSY_SECONDS = 30.0
_BUSY_ATTEMPTS = 100
"""How long, and how often at least, a writer tries again when others are faster: a process may have been suspended."""


class Replica:
    """A copy of the ledger in ``store``. What reads or changes it holds ``lock``, and never waits for a network then.

    A search holds ``searching``: the lock, or nothing where the server searches.

    Args:
        store: Where the ledger lives.
        encoder: Turns texts into vectors; MiniLM, loaded when first needed, if ``None``.
        snapshot: Where the index is kept between processes; ``None`` for nowhere.
        writable: Whether the store, and the snapshot, may be written.
        other_encoder: What to do about a ledger that is kept with another encoder, see :class:`LiveIndex`.
        on_server: Whether the server searches.
    """

    def __init__(
        self,
        store: Store,
        *,
        encoder: Encoder | None,
        snapshot: Path | None,
        writable: bool,
        other_encoder: OtherEncoder = "encode",
        on_server: bool = False,
    ) -> None:
        self.store = store
        self.lock = threading.RLock()
        self.searching: AbstractContextManager[object] = nullcontext() if on_server else self.lock
        self.state = State()
        self.names: dict[str, Names] = {}
        self._writing = threading.RLock()  # taken before ``lock``
        self._intent = threading.local()
        self._encoder = encoder
        self._closed = False
        self._loading = threading.Lock()
        self._index = LiveIndex(
            store,
            lambda: self.encoder,
            snapshot,
            self.lock,
            writable=writable,
            other_encoder=other_encoder,
            on_server=on_server,
        )
        with _collector_paused():
            if snapshot is not None:
                self._resume(state_path(snapshot))
            self.follow(store.read(self.state.seq))
        self._index.opened(self.state)

    def _resume(self, path: Path) -> None:
        """Begin where the state on disk stands, if there is one and the ledger still has that place."""
        try:
            state = load_state(path)
            if not self.store.has(state.seq, state.event):
                raise StateUnusable("it belongs to another state of the ledger")
        except FileNotFoundError:
            return
        except StateUnusable as error:
            self.note(f"the ledger was read from its beginning: {path.name}: {error.message}")
            return
        self.state = state
        for edit in state.live.values():
            self.names.setdefault(edit.namespace, Names()).add(edit.id, edit.names)

    @property
    def encoder(self) -> Encoder:
        """The encoder; loaded now if it was not. Takes a lock of its own, never ``lock``."""
        with self._loading:
            if self._encoder is None:
                self._encoder = MiniLM.load()
            return self._encoder

    @property
    def notices(self) -> Sequence[str]:
        """What went otherwise than planned."""
        return self._index.notices

    def index(self, needed: Sequence[str] = ()) -> VectorIndex:
        """Return the index, holding all that is live; of a ledger that is being encoded anew, ``needed`` at least."""
        return self._index.ready(self.state, needed)

    @property
    def place(self) -> tuple[int, str]:
        """Number and id of the last event that is in this copy; (0, "") before the first."""
        with self.lock:
            return self.state.seq, self.state.event

    def refresh(self) -> bool:
        """Take in what other processes appended; return whether there was anything."""
        with self._guard(), self._unread_on_error():
            if not self.store.changed():
                return False
            before = self.place
            if events := self.store.read(self.state.seq):
                self.take(events)
            else:
                self.confirm()
            return self.place != before

    def take(self, events: Sequence[Event]) -> bool:
        """Follow those of ``events``, which come in order, that are not in this copy yet; tell whether there were any.

        Vectors of the new edits are fetched, or encoded, before anybody has to wait for it.
        """
        seq = self.state.seq
        fresh = [event for event in events if event.seq > seq]
        if fresh and fresh[0].seq > seq + 1:
            fresh = self.store.read(seq)
        edits: list[Edit] = []
        encoded = None
        if fresh:
            self.confirm()  # by their numbers, they may fit behind events that the ledger has lost
        if fresh and not self.store.local and self._index.built:
            edits = list({event.edit.id: event.edit for event in fresh}.values())
            encoded = self._encoded(edits)
        return self._take(fresh, edits, encoded)

    def _encoded(self, edits: Sequence[Edit]) -> Encoded | None:
        """Return the vectors of what others wrote; ``None`` where that fails: a search encodes what it lacks."""
        try:
            return encode_edits(edits, self.encoder, self.store)
        except Exception as error:  # an encoder may raise anything, and must not keep this copy from following
            self.note(f"{len(edits)} edits of others are not encoded yet: {brief(error)}")
            return None

    def _take(self, events: Sequence[Event], edits: Sequence[Edit], encoded: Encoded | None) -> bool:
        with self.lock:
            # Another thread may have been faster, with some of them or by beginning anew: never apply with a gap.
            fresh = [event for event in events if event.seq > self.state.seq]
            if not fresh or fresh[0].seq != self.state.seq + 1:
                return False
            return self.follow(fresh, edits, encoded)

    def confirm(self) -> None:
        """Make sure that the ledger still has the last event that is here; begin anew from what it has if not.

        A server that crashed, or was replaced by another, may have lost the end of what it acknowledged.
        """
        seq, event = self.place
        if self.store.has(seq, event):
            return
        events = self.store.read()
        with self.lock:
            if self.place != (seq, event):
                return  # another thread saw to it
            self.state, self.names = State(), {}
            self._index.forget()
            self.follow(events)
            self.note(f"the ledger lost what came after some event before {seq}; it is at {self.state.seq} now")

    def note(self, text: str) -> None:
        """Keep ``text`` among the notices, and log it."""
        self._index.note(text)

    def get(self, edit_id: str) -> Edit:
        """Return the edit, live or not, of that id or unique beginning of one. Raises :class:`UnknownEdit`."""
        known = self.state.known
        if (edit := known.get(EditId(edit_id))) is not None:
            return edit
        matches = [full for full in known if full.startswith(edit_id)]
        if len(matches) == 1 and len(edit_id) >= _SHORTEST_PREFIX:
            return known[matches[0]]
        raise _unknown(edit_id, matches, known)

    def require_live(self, edit_id: str) -> None:
        """Raise :class:`UnknownEdit`, saying what became of it, unless ``edit_id`` (in full) is live."""
        if edit_id in self.state.live:
            return
        edit = self.get(edit_id)
        last = self.store.read(about=[edit.id])[-1]
        how = f"amended into {last.edit.id}" if last.replaces == edit.id else last.kind
        raise UnknownEdit(
            f"{edit.id} is not live: it was {how} on {last.when:%Y-%m-%d %H:%M} UTC",
            remedy="Amend what took its place, or add it again.",
        )

    def encode(self, edits: Sequence[Edit]) -> Encoded | None:
        """Encode before taking the write lock. Many edits go to the cache piece by piece, and are picked up there."""
        if len(edits) <= BATCH:
            return encode_edits(edits, self.encoder, self.store)
        for start in range(0, len(edits), BATCH):
            part = encode_edits(edits[start : start + BATCH], self.encoder, self.store)
            self.store.keep_vectors(self.encoder.fingerprint, part.fresh)
        return None

    def write(
        self, decide: Callable[[State], Plan], edits: Sequence[Edit] = (), encoded: Encoded | None = None
    ) -> Plan:
        """Decide under the write lock, on the latest state, and append what was decided; then follow it.

        Args:
            decide: Plans without touching anything; what it raises leaves everything as it was.
            edits: Those that may become live.
            encoded: Their vectors, row by row, where they are at hand.
        """
        with self._writing, self._guard(), self._unread_on_error():
            deadline = time.monotonic() + _BUSY_SECONDS
            for attempt in count(1):
                try:
                    plan = self._attempt(decide, edits, encoded)
                    break
                except LedgerMoved:
                    if time.monotonic() > deadline and attempt >= _BUSY_ATTEMPTS:
                        raise
                    if attempt % 4 == 0:
                        self.confirm()
                    time.sleep(random.uniform(0, 0.005))  # or two writers keep getting in each other's way
            with self.lock:
                self._index.save_if_due(self.state)
            return plan

    def _attempt(self, decide: Callable[[State], Plan], edits: Sequence[Edit], encoded: Encoded | None) -> Plan:
        with self.store.exclusive():
            self.take(self.store.read(self.state.seq))
            with self.lock:
                plan = decide(self.state)
            if (intent := getattr(self._intent, "name", None)) is not None:
                plan.events = [replace(event, id=f"{intent}-{place}") for place, event in enumerate(plan.events)]
            if plan.events:
                coming = [event.edit for event in plan.events if event.kind not in ("retracted", "consolidated")]
                known = {edit.id: (edit, encoded.rows(n, n + 1)) for n, edit in enumerate(edits)} if encoded else {}
                self._index.announce(coming, known)
                last = self.store.append(plan.events)
                if edits:
                    self.store.keep_vectors(self.encoder.fingerprint, encoded.fresh if encoded is not None else {})
        if plan.events:
            first = last - len(plan.events) + 1
            events = [replace(event, seq=seq) for seq, event in enumerate(plan.events, first)]
            self._take(events, edits, encoded)
        return plan

    @contextmanager
    def intending(self, name: str) -> Iterator[None]:
        """Name the events that this thread writes in a block after ``name``: repeated, they are the same events."""
        self._intent.name = name
        try:
            yield
        finally:
            self._intent.name = None

    @contextmanager
    def _unread_on_error(self) -> Iterator[None]:
        """Let the next :meth:`refresh` look again, whatever ended a block: it may have read or written in vain."""
        try:
            yield
        except BaseException:
            self.store.mark_unread()
            raise

    def _guard(self) -> AbstractContextManager[object]:
        # A local store has a lock of its own, to be taken inside of ours; a distant one is not worth waiting for.
        return self.lock if self.store.local else nullcontext()

    def follow(self, events: Sequence[Event], edits: Sequence[Edit] = (), encoded: Encoded | None = None) -> bool:
        """Apply ``events`` to state, names and index; ``encoded`` has the vectors of ``edits``."""
        rows = {edit.id: place for place, edit in enumerate(edits)} if encoded is not None else {}
        for event in events:
            removed, added = self.state.apply(event)
            for edit in removed:
                self.names[edit.namespace].remove(edit.id, edit.names)
            vectors = None
            if added is not None:
                self.names.setdefault(added.namespace, Names()).add(added.id, added.names)
                place = rows.get(added.id)
                if encoded is not None and place is not None and edits[place] == added:
                    vectors = encoded.rows(place, place + 1)
            self._index.change(removed, [added] if added is not None else [], vectors)
        return bool(events)

    def sync(self) -> None:
        """See to it that what others search in is complete."""
        with self.lock:
            self._index.sync()

    def snapshot(self) -> None:
        """Write the index where it is kept between processes; what goes wrong is a notice."""
        with self.lock:
            self._index.save_now(self.state)

    def close(self) -> None:
        """Save the index and let go of the store; once."""
        if self._closed:
            return
        self._closed = True
        try:
            self._index.save(self.state)
        finally:
            self.store.close()


@contextmanager
def _collector_paused() -> Iterator[None]:
    """Make millions of lasting objects without Python looking through all of them for rubbish again and again."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _unknown(edit_id: str, matches: Sequence[str], known: Iterable[str]) -> UnknownEdit:
    if len(edit_id) < _SHORTEST_PREFIX:
        return UnknownEdit(f"{edit_id!r} is too short for an edit id", remedy="Give 4 characters of it at least.")
    if matches:
        shown = ", ".join(matches[:5]) + (", …" if len(matches) > 5 else "")
        return UnknownEdit(f"{edit_id!r} begins {len(matches)} ids: {shown}", remedy="Give more of the id.")
    near: list[str] = []
    for length in range(len(edit_id) - 1, 2, -1):
        if near := [full for full in known if full.startswith(edit_id[:length])]:
            break
    hint = f"Near it: {', '.join(near[:3])}." if near else "List the live edits to see their ids."
    return UnknownEdit(f"there is no edit {edit_id!r} in this memory", remedy=hint)
