"""Upkeep of a memory: check it against itself, move it, slim it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from corrigenda.errors import StoreError
from corrigenda.memory.conflicts import Plan
from corrigenda.memory.encoder import Encoder
from corrigenda.memory.ledger import Event, State, Store, replay
from corrigenda.memory.memory import Memory
from corrigenda.memory.redis_link import masked
from corrigenda.memory.snapshot import SnapshotUnusable, load, snapshot_path
from corrigenda.memory.state_file import StateUnusable, state_path
from corrigenda.memory.state_file import load as load_state
from corrigenda.memory.texts import frame_text, index_text
from corrigenda.memory.vectors import BATCH, encode_edits, recipe, text_hash
from corrigenda.paths import cache_dir

_PAGE = 2_000
Progress = Callable[[int], None]


def is_url(where: str) -> bool:
    """Tell whether ``where`` is the URL of a server rather than a path."""
    return "://" in where


def located(path: str | Path) -> str:
    """Return ``path`` as text; a URL that was taken for a path has its second slash back."""
    return re.sub(r"^(rediss?(?:\+\w+)?|unix):/(?!/)", r"\1://", str(path))


def server_and_ledger(where: str) -> tuple[str, str]:
    """Return the URL of the server and the name of the ledger that the URL ``where`` of a memory holds."""
    url, _, ledger = where.partition("#")
    return url, ledger or "default"


def replica_path(where: str) -> Path:
    """Return where this user keeps the index of the memory at the URL ``where``, unless told otherwise."""
    url, ledger = server_and_ledger(where)
    name = hashlib.sha256(f"{masked(url)}#{ledger}".encode()).hexdigest()[:16]
    return cache_dir() / "replicas" / f"{name}.index"


def open_store(where: str, *, readonly: bool = False) -> Store:
    """Open the ledger at a path, or at a URL whose fragment names it: ``redis://host/0#ledger``."""
    if is_url(where):
        from corrigenda.memory.redis import RedisStore

        url, ledger = server_and_ledger(where)
        return RedisStore.connect(url, ledger=ledger, readonly=readonly)
    from corrigenda.memory.sqlite import SQLiteStore

    return SQLiteStore.open(where, readonly=readonly)


def index_path(where: str) -> Path:
    """Return where the index of the memory at a path or URL is kept, unless told otherwise."""
    return replica_path(where) if is_url(where) else snapshot_path(Path(where))


def open_memory(
    where: str,
    *,
    encoder: Encoder | None = None,
    snapshot: Path | None = None,
    readonly: bool = False,
    follow: bool = False,
) -> Memory:
    """Open the memory at a path or URL, see :func:`open_store`.

    Args:
        where: A path or a URL.
        encoder: MiniLM by default.
        snapshot: Where the index of a server's memory is kept; :func:`replica_path` by default.
        readonly: Whether writing is refused.
        follow: Whether a thread follows a server; without it, each write looks for what is new.
    """
    if not is_url(where):
        return Memory.open(where, encoder=encoder, readonly=readonly)
    url, ledger = server_and_ledger(where)
    if snapshot is None:
        snapshot = replica_path(where)
        snapshot.parent.mkdir(parents=True, exist_ok=True)
    return Memory.connect(url, ledger=ledger, encoder=encoder, snapshot=snapshot, readonly=readonly, follow=follow)


def describe(store: Store, where: str) -> dict[str, Any]:
    """Return what there is to say about a memory, JSON-ready, without loading an encoder."""
    events = store.read()
    state = replay(events)
    index = index_path(where)
    row: dict[str, Any] = {
        "version": state.seq,
        "live": len(state.live),
        "namespaces": {name: len(state.namespace(name)) for name in state.namespaces()},
        "last_event": events[-1].when.isoformat() if events else None,
        "index": datetime.fromtimestamp(index.stat().st_mtime, UTC).isoformat() if index.exists() else None,
        "vectors": store.kept(),
    }
    condition = getattr(store, "condition", None)
    return row | ({"server": condition()} if condition is not None else {})


@dataclass
class Findings:
    """What :func:`verify` found.

    Attributes:
        events, live, namespaces: Counts.
        faults: What does not fit, in words; empty when all is well.
        snapshot: ``none``, ``whole``, or why it cannot serve.
        state: The same for the state that lies beside the snapshot of a big memory.
    """

    events: int = 0
    live: int = 0
    namespaces: int = 0
    faults: list[str] = field(default_factory=list)
    snapshot: str = "none"
    state: str = "none"


def verify(store: Store, snapshot: Path | None = None, encoder: Encoder | None = None) -> Findings:
    """Read the whole ledger and compare what follows from it with what else is kept.

    Args:
        store: Every event is decoded, its number and content hash checked.
        snapshot: Must hold exactly what was live at the event that it names; looked at only with an encoder.
        encoder: Its recipe must be the snapshot's.
    """
    findings = Findings()
    try:
        events = store.read()
    except StoreError as error:
        findings.faults.append(error.message)
        return findings
    state = replay(events)
    findings.events, findings.live, findings.namespaces = len(events), len(state.live), len(state.namespaces())
    if [event.seq for event in events] != list(range(1, len(events) + 1)):
        findings.faults.append("the events are not numbered 1, 2, 3…")
    if len({event.id for event in events}) != len(events):
        findings.faults.append("an event is there twice")
    if (live := getattr(store, "live", None)) is not None and live().keys() != _live_by_name(events):
        findings.faults.append("the server's table of live edits is not what follows from the events")
    if snapshot is not None:
        findings.state = _check_state(state_path(snapshot), store, events)
        if encoder is not None:
            findings.snapshot = _check_snapshot(snapshot, encoder, store, events)
    for name in ("snapshot", "state"):
        if (found := getattr(findings, name)) not in ("none", "whole"):
            findings.faults.append(f"{name}: {found}")
    return findings


def _live_by_name(events: Sequence[Event]) -> set[str]:
    """Return what the events made live and no later one names as gone: all that a server knows, see its script."""
    live: set[str] = set()
    for event in events:
        live -= {event.edit.id, event.replaces}
        if event.kind not in ("retracted", "consolidated"):
            live.add(event.edit.id)
    return live


def _events_until(seq: int, store: Store, events: Sequence[Event]) -> Sequence[Event]:
    """Return ``events``, which were read a while ago, and those that came since, for what was saved meanwhile."""
    return events if seq <= len(events) else [*events, *store.read(len(events), until=seq)]


def _check_snapshot(path: Path, encoder: Encoder, store: Store, events: Sequence[Event]) -> str:
    try:
        index, seq, mark = load(path, recipe=recipe(encoder), dimension=encoder.dimension)
    except FileNotFoundError:
        return "none"
    except SnapshotUnusable as error:
        return error.message
    events = _events_until(seq, store, events)
    if not 0 < seq <= len(events) or events[seq - 1].id != mark:
        return "it belongs to another state of the ledger"
    state = replay(events[:seq])
    for namespace in {*index.partitions, *state.namespaces()}:
        partition = index.partitions.get(namespace)
        if (partition.slots.keys() if partition is not None else set()) != state.namespace(namespace).keys():
            return f"it does not hold what was live in {namespace!r} at event {seq}"
    return "whole"


def _check_state(path: Path, store: Store, events: Sequence[Event]) -> str:
    try:
        state = load_state(path)
    except FileNotFoundError:
        return "none"
    except StateUnusable as error:
        return error.message
    events = _events_until(state.seq, store, events)
    if not 0 < state.seq <= len(events) or events[state.seq - 1].id != state.event:
        return "it belongs to another state of the ledger"
    then = replay(events[: state.seq])
    if list(state.live.items()) != list(then.live.items()) or state.known != then.known or state.links != then.links:
        return f"it does not hold what was live at event {state.seq}"
    return "whole"


def reencode(memory: Memory, *, progress: Progress = lambda done: None) -> int:
    """Encode all live edits with the memory's encoder and keep the vectors; return how many edits there are.

    What is encoded already is not encoded again, so that this can be stopped and run again. A ledger on a server then
    expects this encoder of whoever connects.
    """
    store, encoder = memory.replica.store, memory.encoder
    edits = list(memory.replica.state.live.values())
    for start in range(0, len(edits), BATCH):
        part = encode_edits(edits[start : start + BATCH], encoder, store)
        store.keep_vectors(encoder.fingerprint, part.fresh)
        progress(min(start + BATCH, len(edits)))
    if (adopt := getattr(store, "adopt_encoder", None)) is not None:
        adopt(encoder.fingerprint)
    return len(edits)


def expire(memory: Memory, *, before: datetime | None = None) -> int:
    """Retract the live edits that ended ``before`` that time, now by default; return how many.

    Raises:
        StoreError: Nothing was written; the subclass says why.
    """
    moment = before or datetime.now(UTC)

    def decide(state: State) -> Plan:
        over = [edit for edit in state.live.values() if edit.validity.end is not None and edit.validity.end <= moment]
        return Plan([Event("retracted", edit, reason="its time is over") for edit in over])

    return len(memory.replica.write(decide).events)


def migrate(
    source: Store, target: Store, *, fingerprint: str | None = None, progress: Progress = lambda done: None
) -> int:
    """Copy the ledger of ``source`` to ``target``, event by event with ids and times; return how many were copied.

    A ``target`` that holds the beginning already is continued, so a migration that was stopped is run again.

    Args:
        source: Left as it is.
        target: Empty, or the beginning of ``source``.
        fingerprint: Of the encoder whose vectors of live edits come along; none by default.
        progress: Told the number of events that are there.

    Raises:
        StoreError: ``target`` holds something else; nothing was written to it.
    """
    present = target.read()
    events = source.read()
    if [event.id for event in present] != [event.id for event in events[: len(present)]]:
        raise StoreError("the target holds another ledger", remedy="Choose an empty one.")
    for start in range(len(present), len(events), _PAGE):
        with target.exclusive():
            if target.read(start):
                raise StoreError("somebody else writes to the target", remedy="Stop them, and run this again.")
            target.append(events[start : start + _PAGE])
        progress(min(start + _PAGE, len(events)))
    if fingerprint is not None:
        keys = list(wanted_keys(replay(events)))
        for start in range(0, len(keys), _PAGE):
            target.keep_vectors(fingerprint, source.vectors(fingerprint, keys[start : start + _PAGE]))
    return len(events) - len(present)


def wanted_keys(state: State) -> set[bytes]:
    """Return the keys of the vectors that the live edits need."""
    return {text_hash(text(edit)) for edit in state.live.values() for text in (index_text, frame_text)}
