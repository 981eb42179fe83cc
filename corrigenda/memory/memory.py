"""Memory: the edits of a ledger, live and durable. What everything above talks to.

What it can be asked is in :mod:`corrigenda.memory.readable`; here is how it is opened, changed, filled and emptied.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any

from corrigenda.edit import Edit
from corrigenda.errors import InvalidEdit, InvalidRequest, StoreNotWritable, about
from corrigenda.memory import jsonl
from corrigenda.memory.conflicts import OnConflict, Plan, check_rule, plan_additions, plan_amendment
from corrigenda.memory.drafts import changed, draft, remark
from corrigenda.memory.encoder import Encoder
from corrigenda.memory.feedback import Recalled, feedback_edit, namespace_of, recall
from corrigenda.memory.ledger import Event, State, Store, closed_on_error
from corrigenda.memory.live_index import OtherEncoder
from corrigenda.memory.readable import Hit as Hit  # its home for callers; found by ReadableMemory.search
from corrigenda.memory.readable import ReadableMemory
from corrigenda.memory.replica import Replica
from corrigenda.memory.snapshot import snapshot_path
from corrigenda.memory.sqlite import SQLiteStore

if TYPE_CHECKING:
    from corrigenda.memory.shared import SharedMemory


class Memory(ReadableMemory):
    """Edits, durable and live. Safe to share between threads; any number of processes may open one file.

    Args:
        store: Where the ledger lives.
        encoder: Turns texts into vectors; MiniLM, loaded when first needed, if ``None``.
        snapshot: Where the index is kept between processes; ``None`` for nowhere.
        readonly: Whether writing is refused.
        other_encoder, on_server: See :class:`corrigenda.memory.live_index.LiveIndex`; concern ledgers on servers.

    Usually built with :meth:`open`.
    """

    def __init__(
        self,
        store: Store,
        *,
        encoder: Encoder | None = None,
        snapshot: Path | None = None,
        readonly: bool = False,
        other_encoder: OtherEncoder = "encode",
        on_server: bool = False,
    ) -> None:
        replica = Replica(
            store,
            encoder=encoder,
            snapshot=snapshot,
            writable=not readonly,
            other_encoder=other_encoder,
            on_server=on_server,
        )
        super().__init__(replica)
        self.readonly = readonly
        self.path: Path | None = None  # of the file, when it is one

    @classmethod
    def open(cls, path: str | Path, *, encoder: Encoder | None = None, readonly: bool = False) -> Memory:
        """Open the memory in the file ``path``, creating it unless ``readonly``. The index lies in ``<path>.index``.

        Raises:
            StoreDamaged: Not a ledger, or cut off.
            StoreTooNew: Written by a later version.
            StoreNotWritable: Read-only file or folder, missing folder, full disk.
            StoreBusy: Another process holds the write lock.
        """
        store = SQLiteStore.open(path, readonly=readonly)
        with closed_on_error(store):
            memory = cls(store, encoder=encoder, snapshot=snapshot_path(Path(path)), readonly=readonly)
        memory.path = Path(path)
        return memory

    @classmethod
    def connect(cls, url: str, **options: Any) -> SharedMemory:
        """Connect to a memory that machines share through Redis; see :meth:`SharedMemory.connect` for the options."""
        from corrigenda.memory.shared import SharedMemory

        return SharedMemory.connect(url, **options)

    # Changing it

    def add(
        self, prompt: str | Edit, target: str | None = None, *, on_conflict: OnConflict = "supersede", **fields: Any
    ) -> Edit:
        """Add an edit: durable and searchable when this returns. Adding what is live already changes nothing.

        Args:
            prompt: The prompt, or a whole edit.
            target: The new answer.
            on_conflict: When a live edit contradicts it (same subject and relation, or same prompt and subject, at
                some common time): ``supersede`` it, ``coexist``, or ``refuse``.
            **fields: Further fields of :class:`Edit`; ``valid_from`` and ``valid_to`` as well, or ``ttl``, the
                seconds (or timedelta) after which it ends.

        Returns:
            The edit that is live now.

        Raises:
            InvalidEdit: See :class:`Edit`.
            ConflictingEdit: By rule; nothing was written.
            StoreError: Nothing was written; the subclass says why. Only after :class:`StoreUnavailable` may it be there
                all the same; adding it again is safe.
        """
        return self.add_many([draft(prompt, target, fields)], on_conflict=on_conflict)[0]

    def add_many(self, edits: Iterable[Edit], *, on_conflict: OnConflict = "supersede") -> list[Edit]:
        """Add edits in one transaction, all or none; see :meth:`add`. Returns the edits live now, in order."""
        plan = self._add(list(edits), on_conflict, _refuse)
        return [edit for edit in plan.edits if edit is not None]

    def add_unrefused(self, edits: Iterable[Edit], *, on_conflict: OnConflict = "refuse") -> Plan:
        """Add edits in one transaction, but for those that the rule refuses; see :meth:`add`. Returns what was done.

        Raises:
            StoreError: Nothing was written; the subclass says why.
        """
        return self._add(list(edits), on_conflict)

    def add_consequences(self, edits: Iterable[Edit]) -> list[Edit]:
        """Add edits that follow from live ones (:attr:`Edit.parent`), in one transaction; return those live now.

        What somebody said outweighs what was concluded: those that contradict a live edit are left out. They cease to
        be live when their parent is retracted or replaced.

        Raises:
            InvalidEdit: One without a parent.
            UnknownEdit: A parent is not live; nothing was written.
            StoreError: Nothing was written; the subclass says why.
        """
        parents: list[str] = []
        new = list(edits)
        for edit in new:
            if edit.parent is None:
                raise InvalidEdit(f"{edit.statement!r} has no parent", remedy="Add it with add().")
            parents.append(edit.parent)

        def judge(_: Plan) -> None:
            for parent in parents:
                self._replica.require_live(parent)

        plan = self._add(new, "refuse", judge)
        return [edit for edit in plan.edits if edit is not None]

    def amend(
        self, edit_id: str, *, reason: str | None = None, on_conflict: OnConflict = "supersede", **changes: Any
    ) -> Edit:
        """Put a changed edit in the place of the live ``edit_id``; return it. Its history goes on.

        Args:
            edit_id: Id, or a unique beginning of one.
            reason: Why; kept in the history.
            on_conflict: See :meth:`add`.
            **changes: Fields of :class:`Edit`; ``valid_from`` and ``valid_to`` as well.

        Raises:
            UnknownEdit: No such edit, or it is no longer live.
            InvalidEdit: See :class:`Edit`.
            InvalidRequest: A reason that is not text, or too long.
            ConflictingEdit: By rule; nothing was written.
            StoreError: Nothing was written; the subclass says why.
        """
        reason = remark("reason", reason)
        self._start_writing(on_conflict)
        old = self.get(edit_id)
        new = changed(old, changes)
        encoded = self._replica.encode([new])

        def decide(state: State) -> Plan:
            self._replica.require_live(old.id)
            present = state.live[old.id]  # another process may have changed its aliases meanwhile: they are kept
            latest = changed(present, changes)
            if latest == present:
                return Plan(edits=[present], unchanged=1)
            event = partial(Event, author=latest.author, reason=reason)
            plan = plan_amendment(state, present, latest, on_conflict, event=event)
            _refuse(plan)
            return plan

        with about(old):
            self._replica.write(decide, [new], encoded)
        return self.get(new.id)

    def retract(self, edit_id: str, *, reason: str | None = None, author: str | None = None) -> Edit:
        """Take the live edit ``edit_id`` back; return it. Adding it again restores it.

        Raises:
            UnknownEdit: No such edit, or it is no longer live.
            InvalidRequest: A reason or an author that is not text, or too long.
            StoreError: Nothing was written; the subclass says why.
        """
        reason, author = remark("reason", reason), remark("author", author)
        self._start_writing()
        edit = self.get(edit_id)

        def decide(state: State) -> Plan:
            self._replica.require_live(edit.id)
            return Plan([Event("retracted", state.live[edit.id], reason=reason, author=author)])

        with about(edit):
            self._replica.write(decide)
        return edit

    # What users mean

    def feedback(
        self,
        query: str,
        clarification: str,
        *,
        argument: str | None = None,
        namespace: str = "default",
        author: str | None = None,
    ) -> Edit:
        """Remember what a user meant by ``query``; durable when this returns. Of equal queries the latest word counts.

        Args:
            query: What was asked. What stands in angle brackets is an argument, and may differ the next time.
            clarification: What was meant: "when I ask for akin to, I want a synonym".
            argument: Words of the query that are an argument, where no brackets mark it.
            namespace: Whose feedback.
            author: Who gave it.

        Returns:
            The feedback, as an edit of a namespace of its own; :meth:`retract` takes it back.

        Raises:
            InvalidEdit: See :func:`corrigenda.memory.feedback.feedback_edit`.
            StoreError: Nothing was written; the subclass says why.
        """
        return self.add(feedback_edit(query, clarification, argument=argument, namespace=namespace, author=author))

    def recall(self, queries: Sequence[str], namespace: str = "default") -> list[Recalled | None]:
        """Return for each of ``queries`` the feedback of ``namespace`` that fits it."""
        known = self.live(namespace_of(namespace))
        return [recall(query, known) for query in queries]

    # What others derive from the edits

    def derived(self, mark: str, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        """Return what :meth:`keep_derived` kept of ``keys`` under ``mark``."""
        return self._replica.store.vectors(mark, keys)

    def keep_derived(self, mark: str, rows: Mapping[bytes, bytes]) -> None:
        """Keep what was computed from edits, in the store and beside the ledger, unless this memory is read-only.

        To lose it costs time, not facts. What is there under a key stays.

        Args:
            mark: Tells recipes apart; begins with :data:`corrigenda.memory.ledger.DERIVED`.
            rows: Key to bytes.
        """
        if not self.readonly:
            self._replica.store.keep_vectors(mark, rows)

    # In and out

    def import_jsonl(
        self, path: str | Path, on_error: jsonl.OnError = "stop", *, on_conflict: OnConflict = "supersede"
    ) -> jsonl.ImportReport:
        """Add the edits of a file of JSON lines in one transaction.

        Args:
            path: UTF-8, one edit a line, see :meth:`Edit.to_dict`.
            on_error: ``stop`` keeps nothing of a file with a bad line; ``skip`` leaves the bad lines out.
            on_conflict: See :meth:`add`; a refused edit makes its line a bad one.

        Raises:
            ImportFailed: Bad lines and ``stop``; or the file cannot be read. Nothing was written.
            StoreError: Nothing was written; the subclass says why.
        """
        if on_error not in ("stop", "skip"):
            raise InvalidRequest(f"on_error={on_error!r} is not a rule", remedy="Allowed: stop, skip.")
        edits, bad = jsonl.read_edits(path)
        if bad and on_error == "stop":
            raise jsonl.failed(path, bad)
        numbers = list(edits)

        def judge(plan: Plan) -> None:
            if plan.refused and on_error == "stop":
                raise jsonl.failed(path, plan.refusals(numbers))

        plan = self._add(list(edits.values()), on_conflict, judge)
        added = len(edits) - plan.unchanged - len(plan.refused)
        bad |= plan.refusals(numbers)  # of the attempt that succeeded: earlier ones may have met other live edits
        return jsonl.ImportReport(added, plan.unchanged, plan.superseded, dict(sorted(bad.items())))

    def export_jsonl(self, target: str | Path | IO[str], *, namespace: str | None = None) -> int:
        """Write the live edits as JSON lines, whenever they hold; return how many.

        :meth:`import_jsonl` brings all of them back with ``on_conflict="coexist"``.

        Args:
            target: An open text file, or a path, which is replaced as a whole or not at all.
            namespace: All, by default.

        Raises:
            OSError: The file cannot be written; or it is a memory, or belongs to one.
        """
        return jsonl.write_edits(self.live_whenever(namespace), target)

    def close(self) -> None:
        """Save the index and let go of the store. The edits were safe before."""
        with self._replica.lock:
            self._replica.close()

    def __enter__(self) -> Memory:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _add(self, edits: list[Edit], rule: OnConflict, judge: Callable[[Plan], None] = lambda plan: None) -> Plan:
        self._start_writing(rule)
        new = list({edit.id: edit for edit in edits if edit.id not in self._replica.state.live}.values())
        encoded = self._replica.encode(new)

        def decide(state: State) -> Plan:
            plan = plan_additions(state, edits, rule, event=_authored)
            judge(plan)
            return plan

        return self._replica.write(decide, new, encoded)

    def _start_writing(self, rule: OnConflict = "supersede") -> None:
        check_rule(rule)
        if self.readonly:
            raise StoreNotWritable("the memory was opened read-only", remedy="Open it without readonly=True.")
        self.refresh()  # what another process added a moment ago can be amended, too


def _refuse(plan: Plan) -> None:
    if plan.refused:
        raise next(iter(plan.refused.values()))


def _authored(kind: Any, edit: Edit, **fields: Any) -> Event:
    return Event(kind, edit, author=edit.author, **fields)
