"""What adding an edit does to the edits that contradict it: supersede them, coexist with them, or refuse."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

from corrigenda.edit import Edit, EditId, Validity
from corrigenda.errors import ConflictingEdit, InvalidRequest
from corrigenda.memory.ledger import Event, Key, State, claims

OnConflict = Literal["supersede", "coexist", "refuse"]


@dataclass
class Plan:
    """What to append, decided without touching anything.

    Attributes:
        events: In order.
        edits: One per edit asked for: the one that is live afterwards; ``None`` where it was refused.
        refused: The reasons, by place among the edits asked for.
        unchanged: How many of the edits were live already.
        superseded: How many live edits others take the place of.
    """

    events: list[Event] = field(default_factory=list)
    edits: list[Edit | None] = field(default_factory=list)
    refused: dict[int, ConflictingEdit] = field(default_factory=dict)
    unchanged: int = 0
    superseded: int = 0

    def refusals(self, lines: Sequence[int]) -> dict[int, str]:
        """Return what was refused, in words, by line; ``lines`` are those of the edits asked for, in order."""
        return {lines[place]: error.message for place, error in self.refused.items()}


def check_rule(rule: str) -> None:
    """Raise :class:`InvalidRequest` unless ``rule`` is one of supersede, coexist, refuse."""
    if rule not in get_args(OnConflict):
        raise InvalidRequest(
            f"on_conflict={rule!r} is not a rule", remedy=f"Allowed: {', '.join(get_args(OnConflict))}."
        )


def overlap(one: Validity, other: Validity) -> bool:
    """Tell whether there is a moment at which both hold."""
    starts_before = one.start is None or other.end is None or one.start < other.end
    ends_after = one.end is None or other.start is None or other.start < one.end
    return starts_before and ends_after


class Draft:
    """A state with planned events laid over it; the state itself stays as it is."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._removed: set[EditId] = set()
        self._added: dict[EditId, Edit] = {}
        self._claims: dict[Key, dict[EditId, Edit]] = {}
        self._derived: dict[str, list[Edit]] = {}

    def get(self, edit_id: EditId) -> Edit | None:
        """Return the edit if it is live in the draft."""
        if edit_id in self._added:
            return self._added[edit_id]
        return None if edit_id in self._removed else self._state.live.get(edit_id)

    def known(self, edit_id: EditId) -> bool:
        """Tell whether the edit was ever live."""
        return edit_id in self._state.known or edit_id in self._removed

    def add(self, edit: Edit) -> None:
        """Make ``edit`` live."""
        self._added[edit.id] = edit
        for key in claims(edit):
            self._claims.setdefault(key, {})[edit.id] = edit
        if edit.parent is not None:
            self._derived.setdefault(edit.parent, []).append(edit)

    def remove(self, edit: Edit) -> None:
        """Make ``edit`` not live, and with it what was derived from it, as :meth:`State.apply` does."""
        todo = [edit]
        while todo:
            gone = todo.pop()
            self._removed.add(gone.id)
            if self._added.pop(gone.id, None) is not None:
                for key in claims(gone):
                    self._claims[key].pop(gone.id, None)
            derived = (*self._state.derived(gone.id), *self._derived.get(gone.id, ()))
            todo += [child for child in derived if self.get(child.id) is not None]

    def rivals(self, edit: Edit) -> list[Edit]:
        """Return the live edits that contradict ``edit`` at some moment, oldest first."""
        found: dict[EditId, Edit] = {}
        for key in claims(edit):
            for other in (*self._state.claimants(key).values(), *self._claims.get(key, {}).values()):
                if other.id != edit.id and self.get(other.id) is not None:
                    found[other.id] = other
        return [other for other in found.values() if overlap(edit.validity, other.validity)]


def plan_additions(
    state: State, edits: Iterable[Edit], rule: OnConflict, *, event: Callable[..., Event] = Event
) -> Plan:
    """Decide what adding ``edits``, one after the other, means for ``state``.

    Args:
        state: What is live now; not changed.
        edits: The edits to add; one that is live already changes nothing.
        rule: What to do with live edits that contradict one.
        event: Builds an event; :class:`Event` with author and reason filled in, for instance.
    """
    plan, draft = Plan(), Draft(state)
    for place, edit in enumerate(edits):
        if (present := draft.get(edit.id)) is not None:
            plan.unchanged += 1
            plan.edits.append(present)
            continue
        rivals = draft.rivals(edit) if rule != "coexist" else []
        if rivals and rule == "refuse":
            plan.refused[place] = conflict(edit, rivals[0])
            plan.edits.append(None)
            continue
        plan.superseded += len(rivals)
        _settle(plan, draft, edit, [rival.id for rival in rivals], event)
        for rival in rivals:
            draft.remove(rival)
        draft.add(edit)
    return plan


def plan_amendment(
    state: State, old: Edit, new: Edit, rule: OnConflict, *, event: Callable[..., Event] = Event
) -> Plan:
    """Decide what putting ``new`` in the place of the live edit ``old`` means for ``state``."""
    plan, draft = Plan(), Draft(state)
    if new.id != old.id:  # or what was derived from it would go
        draft.remove(old)
    rivals = draft.rivals(new) if rule != "coexist" else []
    if rivals and rule == "refuse":
        plan.refused[0] = conflict(new, rivals[0])
        return plan
    plan.superseded = len(rivals)
    _settle(plan, draft, new, [old.id, *(rival.id for rival in rivals)], event)
    return plan


def _settle(plan: Plan, draft: Draft, edit: Edit, replaced: list[EditId], event: Callable[..., Event]) -> None:
    """Write down that ``edit`` becomes live in the place of those ``replaced``."""
    for old in replaced:
        plan.events.append(event("amended", edit, replaces=old))
    if not replaced:
        plan.events.append(event("restored" if draft.known(edit.id) else "added", edit))
    plan.edits.append(edit)


def conflict(edit: Edit, other: Edit) -> ConflictingEdit:
    """Build the error that says that ``edit`` contradicts the live edit ``other``."""
    error = ConflictingEdit(
        f"{edit.statement!r} contradicts the live edit {other.id}, {other.statement!r}",
        remedy=f"Amend or retract {other.id}, or pass on_conflict='supersede' or 'coexist'.",
    )
    error.edit = edit
    return error
