"""What the ledger says of printed edits: shadows, retired ones, and those that memory has taken back.

A **shadow** is live, and carries the tag ``printed:EDITION``: weights and memory both know it. A **retired** edit has
been ``consolidated``: the weights answer alone. Everything here is one transaction, and doing it twice changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from corrigenda.edit import Edit, EditId
from corrigenda.memory.conflicts import Plan
from corrigenda.memory.ledger import Event
from corrigenda.memory.printed import PRINTED, marks_of

if TYPE_CHECKING:
    from corrigenda.memory.ledger import State
    from corrigenda.memory.memory import Memory

AUTHOR = "corrigenda consolidate"


def editions_of(edit: Edit) -> list[str]:
    """Return the promotions that printed ``edit``, by its tags."""
    return [mark.removeprefix(PRINTED) for mark in marks_of(edit)]


def shadow(memory: Memory, edits: Iterable[Edit], promotion: str) -> int:
    """Mark live ``edits`` as printed by ``promotion``; return how many were not yet. Others are let be."""

    def decide(state: State) -> Plan:
        events = []
        for edit in edits:
            present = state.live.get(edit.id)
            if present is None or promotion in editions_of(present):
                continue
            marked = present.replace(tags=(*present.tags, PRINTED + promotion))
            reason = f"printed into the weights: {promotion}"
            events.append(Event("amended", marked, replaces=edit.id, author=AUTHOR, reason=reason))
        return Plan(events)

    return len(memory.replica.write(decide).events)


def retire(memory: Memory, ids: Iterable[EditId], promotion: str) -> list[EditId]:
    """Let shadows of ``promotion`` retire from memory: the weights answer alone from now on. Return which did."""

    def decide(state: State) -> Plan:
        shadows = [state.live[edit_id] for edit_id in ids if edit_id in state.live]
        reason = f"answers from the weights alone: {promotion}"
        return Plan(
            [
                Event("consolidated", edit, author=AUTHOR, reason=reason)
                for edit in shadows
                if promotion in editions_of(edit)
            ]
        )

    return [event.edit.id for event in memory.replica.write(decide).events]


def take_back(memory: Memory, promotion: str) -> int:
    """Let the memory answer again for all that ``promotion`` printed: shadows lose their mark, retired edits return.

    Retired edits that were retracted, or whose fact was told otherwise since, do not return.
    """

    def decide(state: State) -> Plan:
        reason = f"no longer in the weights: {promotion}"
        events = []
        for edit_id, edit in state.live.items():
            if promotion in editions_of(edit):
                event = Event("amended", without(edit, promotion), replaces=edit_id, author=AUTHOR, reason=reason)
                events.append(event)
        for edit in retired(memory, state, promotion):
            events.append(Event("restored", without(edit, promotion), author=AUTHOR, reason=reason))
        return Plan(events)

    return len(memory.replica.write(decide).events)


def back_on_probation(memory: Memory, promotion: str) -> int:
    """Let retired edits of ``promotion`` be shadows again, after weights changed around them; return how many."""

    def decide(state: State) -> Plan:
        reason = f"on probation again: the weights around {promotion} changed"
        edits = retired(memory, state, promotion)
        return Plan([Event("restored", edit, author=AUTHOR, reason=reason) for edit in edits])

    return len(memory.replica.write(decide).events)


def without(edit: Edit, promotion: str) -> Edit:
    """Return ``edit`` without the mark of ``promotion``."""
    return edit.replace(tags=tuple(tag for tag in edit.tags if tag != PRINTED + promotion))


def shadows(memory: Memory, promotion: str) -> list[Edit]:
    """Return the live edits that ``promotion`` printed."""
    memory.refresh()
    with memory.replica.lock:
        return [edit for edit in memory.replica.state.live.values() if promotion in editions_of(edit)]


def retired(memory: Memory, state: State, promotion: str) -> list[Edit]:
    """Return the edits that ``promotion`` printed and that retired, unless memory has since been told otherwise."""
    candidates = [edit for edit in state.known.values() if promotion in editions_of(edit) and edit.id not in state.live]
    if not candidates:
        return []
    last: dict[EditId, Event] = {}
    for event in memory.replica.store.read(about=[edit.id for edit in candidates]):
        if event.edit.id != event.replaces and event.replaces is not None:
            last[event.replaces] = event
        last[event.edit.id] = event
    return [
        edit
        for edit in candidates
        if (event := last[edit.id]).kind == "consolidated"
        and not _contradicted(state, edit)
        and event.edit.id == edit.id
    ]


def _contradicted(state: State, edit: Edit) -> bool:
    from corrigenda.memory.conflicts import Draft

    return bool(Draft(state).rivals(edit))
