"""SharedMemory: a memory that many machines share through Redis, each with a replica that answers by itself.

Reading never talks to the server: a thread follows the ledger's end, and while the server is away answers come from
what is known, with a notice. Writing is refused then, or kept in an outbox on this machine's disk until it is back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

from corrigenda.edit import Edit
from corrigenda.errors import InvalidRequest, StoreUnavailable
from corrigenda.memory.conflicts import OnConflict
from corrigenda.memory.drafts import changed, remark, storable
from corrigenda.memory.encoder import Encoder
from corrigenda.memory.ledger import closed_on_error
from corrigenda.memory.live_index import OtherEncoder
from corrigenda.memory.memory import Memory
from corrigenda.memory.outbox import Intent, Outbox
from corrigenda.memory.redis import RedisStore
from corrigenda.memory.redis_link import Patience
from corrigenda.memory.redis_promise import Durability
from corrigenda.memory.redis_sets import VectorSets
from corrigenda.memory.tail import Tail

T = TypeVar("T")
Where = Literal["process", "server"]


class SharedMemory(Memory):
    """Edits that machines share. Build it with :meth:`connect`. Safe to share between threads, not across a fork.

    Args:
        store: The ledger.
        encoder: Turns texts into vectors; MiniLM, loaded when first needed, if ``None``.
        snapshot: Where this machine keeps the index between processes; ``None`` for nowhere.
        readonly: Whether writing is refused.
        outbox: Where writes wait while the server is away; ``None`` to refuse them.
        follow: Whether a thread takes in at once what others write; without it, :meth:`refresh` does.
        other_encoder: What to do about a ledger whose vectors another encoder made: ``encode`` its edits again, in
            the background, while what is done can be found; or ``refuse`` to search.
        search: Where vectors are compared: in this ``process``, which holds them all, or on the ``server`` (Redis 8:
            vector sets), for memories larger than a process. All that write to such a ledger should say the same.
    """

    def __init__(
        self,
        store: RedisStore,
        *,
        encoder: Encoder | None = None,
        snapshot: Path | None = None,
        readonly: bool = False,
        outbox: Path | None = None,
        follow: bool = True,
        other_encoder: OtherEncoder = "encode",
        search: Where = "process",
    ) -> None:
        if search not in get_args(Where):
            raise InvalidRequest(f"search={search!r} is none", remedy=f"Allowed: {', '.join(get_args(Where))}.")
        if search == "server" and not VectorSets(store, "").available():
            raise InvalidRequest(
                f"{store.link.where} has no vector sets", remedy="Use Redis 8 or later, or search='process'."
            )
        super().__init__(
            store,
            encoder=encoder,
            snapshot=snapshot,
            readonly=readonly,
            other_encoder=other_encoder,
            on_server=search == "server",
        )
        self._server = store
        self._refreshed = self.version
        self._outbox = Outbox(outbox) if outbox is not None else None
        self._tail = Tail(self._replica, store, self._deliver) if follow else None

    @classmethod
    def connect(
        cls,
        url: str,
        *,
        ledger: str = "default",
        encoder: Encoder | None = None,
        snapshot: str | Path | None = None,
        readonly: bool = False,
        outbox: str | Path | None = None,
        follow: bool = True,
        other_encoder: OtherEncoder = "encode",
        search: Where = "process",
        durability: Durability = "server",
        replicas: int = 1,
        patience: Patience | None = None,
        **options: Any,
    ) -> SharedMemory:
        """Connect to the memory ``ledger`` at ``url``.

        Args:
            url: ``redis://``, ``rediss://``, ``unix://``, ``redis+sentinel://host:port,…/service``,
                ``redis+cluster://host:port``.
            ledger: Name of the ledger on that server. A ledger holds any number of namespaces.
            encoder: See the class.
            snapshot: See the class.
            readonly: See the class.
            outbox: See the class.
            follow: See the class.
            other_encoder: See the class.
            search: See the class.
            durability: What an acknowledged write has reached, see :mod:`corrigenda.memory.redis_promise`.
            replicas: How many of them, with ``durability="replicas"``.
            patience: Time-outs.
            **options: For redis-py: ``username``, ``password``, ``ssl_ca_certs``…

        Raises:
            InvalidRequest: Not such a URL, or a durability that the server cannot give.
            StoreUnavailable: The server does not answer.
            StoreError: It answers, but not with a ledger that can be used; the subclass says why.
            MissingExtra: redis-py is not installed.
        """
        store = RedisStore.connect(
            url,
            ledger=ledger,
            readonly=readonly,
            durability=durability,
            replicas=replicas,
            patience=patience,
            **options,
        )
        with closed_on_error(store):
            return cls(
                store,
                encoder=encoder,
                snapshot=Path(snapshot) if snapshot is not None else None,
                readonly=readonly,
                outbox=Path(outbox) if outbox is not None else None,
                follow=follow,
                other_encoder=other_encoder,
                search=search,
            )

    @property
    def stale_for(self) -> float:
        """Seconds since this copy of the ledger is known to have been in step; 0.0 while nothing keeps it from that."""
        return self._tail.stale_for if self._tail is not None else self._server.link.down_for

    @property
    def notices(self) -> tuple[str, ...]:
        """What went otherwise than planned; first of all, that the server is away."""
        stale = self.stale_for
        if not stale:
            return super().notices
        return (f"the ledger has not answered for {stale:.1f} s: this is version {self.version}", *super().notices)

    @property
    def waiting(self) -> int:
        """Count the writes in the outbox, which are live nowhere yet."""
        return len(self._outbox) if self._outbox is not None else 0

    def requeue(self) -> int:
        """Let writes of the outbox that were put aside wait for the ledger once more; return how many."""
        return self._outbox.requeue() if self._outbox is not None else 0

    def refresh(self) -> bool:
        """Tell whether anything came from others since this was last asked; costs nothing while the tail is followed.

        Never raises for a server that is away: what is known stays.
        """
        try:
            if self._tail is None:
                return super().refresh()
        except StoreUnavailable:
            return False
        before, self._refreshed = self._refreshed, self.version
        return self._refreshed != before

    def add_many(self, edits: Iterable[Edit], *, on_conflict: OnConflict = "supersede") -> list[Edit]:
        """Add edits, all or none; see :meth:`Memory.add_many`. With an outbox they may be live only later."""
        edits = list(edits)
        intent = Intent("add", {"edits": [edit.to_dict() for edit in edits], "on_conflict": on_conflict})
        return self._do(intent, lambda: super(SharedMemory, self).add_many(edits, on_conflict=on_conflict), edits)

    def amend(
        self, edit_id: str, *, reason: str | None = None, on_conflict: OnConflict = "supersede", **changes: Any
    ) -> Edit:
        """Put a changed edit in the place of a live one; see :meth:`Memory.amend`. With an outbox perhaps later."""
        reason = remark("reason", reason)
        self._catch_up()
        old = self.get(edit_id)
        new = changed(old, changes)
        values = {"edit_id": old.id, "reason": reason, "on_conflict": on_conflict, "changes": storable(changes)}

        def amend() -> Edit:
            return super(SharedMemory, self).amend(old.id, reason=reason, on_conflict=on_conflict, **changes)

        return self._do(Intent("amend", values), amend, new)

    def retract(self, edit_id: str, *, reason: str | None = None, author: str | None = None) -> Edit:
        """Take a live edit back; see :meth:`Memory.retract`. With an outbox it may be live for a while yet."""
        reason, author = remark("reason", reason), remark("author", author)
        self._catch_up()
        edit = self.get(edit_id)
        values = {"edit_id": edit.id, "reason": reason, "author": author}

        def retract() -> Edit:
            return super(SharedMemory, self).retract(edit.id, reason=reason, author=author)

        return self._do(Intent("retract", values), retract, edit)

    def close(self) -> None:
        """Stop following, save the index, and let go of the server."""
        if self._tail is not None:
            self._tail.stop()
        if self._outbox is not None:
            self._outbox.close()
        super().close()

    def _catch_up(self) -> None:
        """Take in what the follower has not yet: what another machine added a moment ago can be amended, too."""
        with suppress(StoreUnavailable):
            self._replica.refresh()

    def _do(self, intent: Intent, write: Callable[[], T], later: T) -> T:
        """Write; if the server is away and there is an outbox, leave it there and return ``later``."""
        if self._outbox is None:
            return write()
        if len(self._outbox) == 0:
            try:
                with self._replica.intending(intent.id):
                    return write()
            except StoreUnavailable:
                pass
        self._outbox.put(intent)  # behind what waits already, or the order of this machine's writes would change
        return later

    def _deliver(self) -> None:
        """Carry out what waits in the outbox."""
        if self._outbox is None:
            return
        put_aside, before = len(self._outbox.refused()), self._outbox.obstacle
        done = self._outbox.deliver(self._carry_out)
        if (obstacle := self._outbox.obstacle) not in ("", before):
            self._replica.note(f"{len(self._outbox)} writes wait for the ledger: {obstacle}")
        if done:
            self._replica.note(f"{done} writes that waited for the ledger are in it now")
        for _, reason in self._outbox.refused()[put_aside:]:
            self._replica.note(f"a write that waited for the ledger was put aside: {reason}")

    def _carry_out(self, intent: Intent) -> None:
        if self._server.knows(f"{intent.id}-0"):
            return  # done before: only the answer, or the note that it was done, was lost
        values = dict(intent.values)
        changes = values.pop("changes", {})
        if "edit" in values:  # written by a version that kept the whole edit
            changes = dict.fromkeys(("valid_from", "valid_to")) | values.pop("edit")
        with self._replica.intending(intent.id):
            if intent.do == "add":
                edits = [Edit.from_dict(row) for row in values["edits"]]
                super().add_many(edits, on_conflict=values["on_conflict"])
            elif intent.do == "amend":
                super().amend(**values, **changes)
            else:
                super().retract(**values)
