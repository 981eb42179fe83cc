"""LiveIndex: keeps the vector index in step with the ledger, lazily, and never trusts what it finds on disk.

Edits that became live wait in ``pending`` until a search needs them; their vectors come from the store's cache, or from
the encoder. So reading a ledger loads no encoder, and a failing encoder loses nothing.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from corrigenda.edit import Edit, EditId
from corrigenda.errors import CorrigendaError, EncoderMismatch, StoreError, StoreUnavailable, brief
from corrigenda.memory.encoder import Encoder
from corrigenda.memory.index import VectorIndex
from corrigenda.memory.ledger import State, Store
from corrigenda.memory.server_index import ServerIndex
from corrigenda.memory.snapshot import SnapshotUnusable, load, pack, write
from corrigenda.memory.state_file import Copy, state_path
from corrigenda.memory.state_file import save as save_state
from corrigenda.memory.vectors import Encoded, encode_edits, recipe

if TYPE_CHECKING:
    from corrigenda.memory.redis import RedisStore

log = logging.getLogger(__name__)

_CHUNK = 256  # edits encoded, cached and indexed at a time
_SAVE_EVERY = 1_000  # changes between two snapshots, or a tenth of the edits if that is more
OtherEncoder = Literal["encode", "refuse"]
_BIG = 20_000
"""Live edits from which on the state is kept beside the index, and both are written while others go on working."""


class LiveIndex:
    """The vectors of what is live. Used under the lock of its memory.

    Args:
        store: The ledger, and its cache of vectors.
        encoder: Returns the encoder, loading it on the first call.
        snapshot: Where the index is kept between processes; ``None`` for nowhere.
        lock: Of its memory.
        writable: Whether cache and snapshot may be written.
        other_encoder: What to do when the ledger on a server is kept with another encoder. Vectors of two are never
            mixed: ``encode`` makes those of this one in the background, and what is done so far can be found;
            ``refuse`` raises :class:`EncoderMismatch` when a search is due.
        on_server: Whether the server searches, see :class:`ServerIndex`; nothing is kept between processes then.
    """

    def __init__(
        self,
        store: Store,
        encoder: Callable[[], Encoder],
        snapshot: Path | None,
        lock: AbstractContextManager[object],
        *,
        writable: bool,
        other_encoder: OtherEncoder = "encode",
        on_server: bool = False,
    ) -> None:
        self.notices: list[str] = []
        self._on_server = on_server
        self._lock = lock
        self._other_encoder = other_encoder
        self._aside: threading.Thread | None = None  # encodes what is pending
        self._store = store
        self._encoder = encoder
        self._snapshot = snapshot
        self._writable = writable
        self._index: VectorIndex | None = None
        self._pending: dict[EditId, Edit] = {}
        self._changes = 0
        self._expected = False
        self._writing: threading.Thread | None = None

    @property
    def built(self) -> bool:
        """Whether the index is there, and new edits go into it at once."""
        return self._index is not None

    def wait(self) -> None:
        """Wait until nothing is being encoded in the background; not under the lock."""
        while (thread := self._aside) is not None:
            thread.join()

    def forget(self) -> None:
        """Drop the index; it is built anew, from snapshot and cache, when next needed."""
        self._index, self._pending = None, {}

    def opened(self, state: State) -> None:
        """Begin with what a ledger held when it was opened; if anything, a local one's index should be on disk."""
        self._expected = self._store.local and bool(state.live)
        self._changes = 0

    def change(self, removed: Iterable[Edit], added: Iterable[Edit], encoded: Encoded | None = None) -> None:
        """Follow the ledger: ``removed`` ceased to be live, ``added`` became so.

        Args:
            removed: Before ``added``, where an edit is in both.
            added: What became live.
            encoded: The vectors of ``added``, row by row, where they are at hand.
        """
        self._changes += 1
        if self._index is None or self._on_server:
            return  # all that is live is pending when the index is first needed
        for edit in removed:
            self._pending.pop(edit.id, None)
            self._index.remove(edit.namespace, [edit.id])
        for place, edit in enumerate(added):
            if encoded is None:
                self._pending[edit.id] = edit
            else:
                row = slice(place, place + 1)
                self._index.add(edit.namespace, [edit.id], encoded.index[row], encoded.frames[row])

    def ready(self, state: State, needed: Iterable[str] = ()) -> VectorIndex:
        """Return the index, holding every edit live in ``state``.

        While those of a ledger with another encoder are being encoded, it holds those of ``needed`` at least.

        Raises:
            EncoderMismatch: There is another encoder, and that is refused.
        """
        if self._index is None and self._on_server:
            self._mismatch()
            self._index = ServerIndex(cast("RedisStore", self._store), self._encoder(), state)
            self.sync()
        if self._index is None:
            mismatch = self._mismatch()
            self._index = self._restore(state)
            present = {edit_id for part in self._index.partitions.values() for edit_id in part.slots}
            self._pending = {edit_id: edit for edit_id, edit in state.live.items() if edit_id not in present}
            if mismatch and len(self._pending) > _CHUNK:
                self._begin_aside(mismatch)
        while self._pending:
            if self._aside is None:
                part = list(islice(self._pending.values(), _CHUNK))
            elif not (part := [self._pending[one] for edit_id in needed if (one := EditId(edit_id)) in self._pending]):
                break
            self._take_pending(part, self._encode(part))
        return self._index

    def sync(self) -> None:
        """See to it that the server's sets hold what is live; a server that is away is asked another time."""
        if isinstance(self._index, ServerIndex):
            with suppress(StoreUnavailable):
                self._index.sync(self._store.read)

    def announce(self, edits: Sequence[Edit], known: Mapping[EditId, tuple[Edit, Encoded]]) -> None:
        """Make ``edits``, which are going to be live, findable where others search, too.

        Args:
            edits: All of them.
            known: One row of vectors for those that were encoded, and the edit as it was then.
        """
        if not (self._on_server and edits):
            return
        index = self._index
        if not isinstance(index, ServerIndex):
            index = ServerIndex(cast("RedisStore", self._store), self._encoder(), State())
        others = []
        for edit in edits:
            before, encoded = known.get(edit.id, (None, None))
            if encoded is not None and before == edit:
                index.announce([edit], encoded)
            else:
                others.append(edit)
        index.announce(others, None)

    def _mismatch(self) -> str:
        """Return what is wrong with the ledger's encoder; empty for nothing."""
        known = getattr(self._store, "encoder", None)
        try:
            theirs = known() if known is not None else None
        except StoreUnavailable:
            return ""
        ours = self._encoder().fingerprint
        if theirs is None or theirs == ours:
            return ""
        text = f"the ledger is kept with the encoder {theirs}, this process has {ours}"
        if self._other_encoder == "refuse":
            raise EncoderMismatch(
                text, remedy="Use that encoder, or move the ledger to yours: corrigenda memory reencode."
            )
        return text

    def _begin_aside(self, why: str) -> None:
        self.note(f"{why}: {len(self._pending):,} edits are being encoded, and cannot be found until they are")
        self._aside = threading.Thread(
            target=self._work_aside, args=(self._index,), name="corrigenda-encode", daemon=True
        )
        self._aside.start()

    def _work_aside(self, index: VectorIndex) -> None:
        """Encode what is pending, piece by piece, the lock held only to put it into ``index``."""
        try:
            while True:
                with self._lock:
                    part = list(islice(self._pending.values(), _CHUNK))
                    if not part or self._index is not index:
                        break
                encoded = self._encode(part)
                with self._lock:
                    if self._index is index:
                        self._take_pending(part, encoded)
            self.note("all edits can be found again")
        except Exception as error:  # encoders may raise anything
            self.note(f"encoding the ledger again has stopped: {brief(error)}")
        finally:
            self._aside = None

    def save_if_due(self, state: State) -> None:
        """Write a snapshot when enough has changed since the last; a big one in a thread of its own."""
        if self._index is None or self._changes < max(_SAVE_EVERY, len(state.live) // 10):
            return
        if len(state.live) < _BIG:
            self.save(state)
        elif (self._writing is None or not self._writing.is_alive()) and (job := self._prepared(state)) is not None:
            self._writing = threading.Thread(target=job, name="corrigenda-snapshot", daemon=True)
            self._writing.start()

    def save(self, state: State) -> None:
        """Write a snapshot if anything changed; a refusing disk is a notice, not an error: the ledger has it all."""
        if self._writing is not None:
            self._writing.join()
        if (job := self._prepared(state)) is not None:
            job()

    def _prepared(self, state: State) -> Callable[[], None] | None:
        """Copy what a snapshot holds; return what writes it, if one is wanted."""
        if not (self._writable and self._snapshot is not None and self._changes and state.live):
            return None
        if self._on_server:
            return partial(self._write, self._snapshot, None, Copy.of(state)) if len(state.live) >= _BIG else None
        if self._index is None and self._snapshot.exists():
            return None  # the next reader catches up from the ledger's tail, which is cheaper than rewriting it all
        try:
            arrays = pack(self.ready(state), recipe=recipe(self._encoder()), seq=state.seq, event=state.event)
        except CorrigendaError as error:
            self.note(f"the index was not saved: {error}")
            return None
        self._changes = 0
        return partial(self._write, self._snapshot, arrays, Copy.of(state) if len(state.live) >= _BIG else None)

    def _write(self, path: Path, arrays: dict[str, Any] | None, copy: Copy | None) -> None:
        try:
            if arrays is not None:
                write(path, arrays)
            if copy is not None:
                save_state(state_path(path), copy)
        except OSError as error:
            self._changes += 1
            self.note(f"the index was not saved: {error}")

    def save_now(self, state: State) -> None:
        """Write a snapshot of everything that is live, changed or not."""
        self.ready(state)
        self._changes += 1
        self.save(state)

    def note(self, text: str) -> None:
        """Keep ``text`` for the traces and log it."""
        log.warning("%s", text)
        self.notices = [*self.notices, text][-20:]

    def _restore(self, state: State) -> VectorIndex:
        """Return what the snapshot holds of the live edits; an empty index where it cannot serve."""
        encoder = self._encoder()
        empty = VectorIndex(encoder.dimension)
        if self._snapshot is None or not state.live:
            return empty
        try:
            index, seq, mark = load(self._snapshot, recipe=recipe(encoder), dimension=encoder.dimension)
            last = self._store.read(seq - 1, until=seq)
            if [event.id for event in last] != [mark]:
                raise SnapshotUnusable("it belongs to another state of the ledger")
            # An amendment may keep the id and change the names: whatever was touched since is encoded again.
            touched = {event.edit.id for event in self._store.read(seq, until=state.seq)}
        except FileNotFoundError:
            if self._expected:
                self._rebuilt("it was missing", state)
            return empty
        except (SnapshotUnusable, StoreUnavailable) as error:
            self._rebuilt(error.message, state)
            return empty
        for namespace, partition in index.partitions.items():
            live = state.namespace(namespace)
            partition.remove([edit_id for edit_id in partition.slots if edit_id in touched or edit_id not in live])
        return index

    def _rebuilt(self, why: str, state: State) -> None:
        self._changes += 1
        self.note(f"the index was rebuilt from the ledger ({len(state.live):,} live edits): {why}")

    def _encode(self, edits: Sequence[Edit]) -> Encoded:
        encoder = self._encoder()
        encoded = encode_edits(edits, encoder, self._store)
        if encoded.fresh and self._writable:
            try:
                self._store.keep_vectors(encoder.fingerprint, encoded.fresh)
            except StoreError as error:
                self.note(f"vectors were not cached: {error.message}")
        return encoded

    def _take_pending(self, edits: Sequence[Edit], encoded: Encoded) -> None:
        """Put those of ``edits`` that are pending still into the index."""
        assert self._index is not None
        spaces: dict[str, list[int]] = {}
        for place, edit in enumerate(edits):
            if self._pending.get(edit.id) is edit:
                del self._pending[edit.id]
                spaces.setdefault(edit.namespace, []).append(place)
        for namespace, places in spaces.items():
            ids = [edits[place].id for place in places]
            self._index.add(namespace, ids, encoded.index[places], encoded.frames[places])
