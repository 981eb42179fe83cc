"""Putting a memory back to an earlier state, by new events: nothing is lost."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from corrigenda.edit import Edit, EditId, normal_form
from corrigenda.errors import InvalidRequest
from corrigenda.memory.conflicts import Plan
from corrigenda.memory.ledger import Event, State, replay
from corrigenda.memory.memory import Memory
from corrigenda.memory.printed import marked, marks_of


def restore(memory: Memory, *, version: int | None = None, at: datetime | None = None) -> int:
    """Make live again what was live at an earlier version, or time, and nothing else; return the events it took.

    The history keeps what was undone.

    Raises:
        InvalidRequest: Not one of version and time, or a version that never was.
        StoreError: Nothing was written; the subclass says why.
    """
    if (version is None) == (at is None):
        raise InvalidRequest("give a version or a time", remedy="One of the two.")
    events = memory.replica.store.read()  # the ledger itself, which may be ahead of this copy
    if version is None:
        # The last one that is not later: the clocks of writers differ, so that the times need not be in order.
        version = max((event.seq for event in events if at is not None and event.when <= at), default=0)
    if not 0 <= version <= len(events):
        raise InvalidRequest(f"there is no version {version}", remedy=f"Versions: 0 to {len(events)}.")
    return len(roll_back(memory, replay(events[:version]), reason=f"restored to version {version}"))


def roll_back(
    memory: Memory, then: State, *, reason: str, author: str | None = None, namespace: str | None = None
) -> list[Event]:
    """Make live again what was live in the state ``then``, and nothing else; return the events it took, in one write.

    Args:
        memory: The memory.
        then: An earlier state of its ledger.
        reason: For the history.
        author: Who does it, likewise.
        namespace: Whose edits; all, by default.

    Raises:
        StoreError: Nothing was written; the subclass says why.
    """

    def concerned(state: State) -> Mapping[EditId, Edit]:
        return state.live if namespace is None else state.namespace(normal_form(namespace))

    def decide(now: State) -> Plan:
        current = concerned(now)
        # The marks of what is in the weights stay as they are.
        wanted = {
            edit_id: marked(edit, marks_of(now.known.get(edit_id, edit))) for edit_id, edit in concerned(then).items()
        }
        # What changed and kept its id is only restored: a retraction would take along what was derived from it.
        gone = [edit for edit_id, edit in current.items() if edit_id not in wanted]
        along = {child for edit in gone for child in now.descendants(edit.id)}
        back = [edit for edit_id, edit in wanted.items() if current.get(edit_id) != edit or edit_id in along]
        undone = [Event("retracted", edit, author=author, reason=reason) for edit in gone]
        return Plan([*undone, *(Event("restored", edit, author=author, reason=reason) for edit in back)])

    return memory.replica.write(decide).events
