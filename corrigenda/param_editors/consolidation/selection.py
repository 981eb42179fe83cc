"""Which live edits are ripe for printing, and why the others are not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from corrigenda.edit import ALWAYS, Edit, EditId
from corrigenda.errors import CorrigendaError, InvalidRequest
from corrigenda.memory.ledger import claims
from corrigenda.param_editors.consolidation.marks import editions_of

if TYPE_CHECKING:
    from corrigenda.lm.loading import LanguageModel
    from corrigenda.memory.ledger import Event
    from corrigenda.memory.memory import Memory


ROOM = 32
"""Tokens that contexts in front of a prompt, and answers that are longer than the target, may take."""


@dataclass(frozen=True)
class Selection:
    """What a plan asks of an edit; everything that is given must hold.

    Attributes:
        namespace: Edits of this namespace. There is one only: everybody who asks the model hears what is printed.
        ids: These edits (ids, or unique beginnings of them); all by default.
        tags: Edits with all of these tags.
        min_age_days: Live for so long, 0 and more.
        min_hits: Fired so often, 0 and more.
        limit: No more than this; those with the most hits, then the oldest.
        printed_too: Whether edits that another model has in its weights are taken as well.
    """

    namespace: str = "default"
    ids: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    min_age_days: float = 0.0
    min_hits: int = 0
    limit: int | None = None
    printed_too: bool = False

    def __post_init__(self) -> None:
        for name, least in (("min_age_days", 0), ("min_hits", 0), ("limit", 1)):
            value = getattr(self, name)
            if value is not None and not value >= least:
                raise InvalidRequest(f"{name}={value!r} is below {least}")

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dict."""
        return asdict(self) | {"ids": list(self.ids), "tags": list(self.tags)}


@dataclass(frozen=True)
class Chosen:
    """Edits to print, and for those that were asked for but cannot be, why.

    Attributes:
        edits: Oldest first.
        left_out: The reasons, by id. Edits that simply are not asked for are not among them.
    """

    edits: tuple[Edit, ...]
    left_out: dict[EditId, str]


def choose(
    memory: Memory, selection: Selection, *, hits: Mapping[str, int] | None = None, now: datetime | None = None
) -> Chosen:
    """Choose among the live edits of ``memory``.

    Args:
        memory: Whose edits.
        selection: What is asked of them.
        hits: How often each fired, by id; see :func:`corrigenda.memory.hits.read_hits`.
        now: To count ages from.

    Raises:
        UnknownEdit: An id that nobody knows.
        InvalidRequest: Hits are asked for and not given.
    """
    if selection.min_hits and hits is None:
        raise InvalidRequest(
            "the selection asks for hits, and none were counted",
            remedy="'corrigenda serve' counts them beside the memory; or give a file: --hits FILE.",
        )
    moment = now or datetime.now(UTC)
    fired = Counter(hits or {})
    live_since = _live_since(memory.replica.store.read())
    wanted = {memory.get(name).id for name in selection.ids}
    asked = [
        edit
        for edit in memory.live(selection.namespace, at=moment)
        if (not wanted or edit.id in wanted)
        and set(selection.tags) <= set(edit.tags)
        and moment - live_since.get(edit.id, moment) >= timedelta(days=selection.min_age_days)
        and fired[edit.id] >= selection.min_hits
    ]
    left_out = dict.fromkeys(sorted(wanted - {edit.id for edit in asked}), "not live in this namespace")
    left_out |= _unfit(asked, printed_too=selection.printed_too)
    fit = [edit for edit in asked if edit.id not in left_out]
    if selection.limit is not None and len(fit) > selection.limit:
        best = sorted(fit, key=lambda edit: -fired[edit.id])[: selection.limit]  # stable: the older first
        kept = {edit.id for edit in best}
        fit = [edit for edit in fit if edit.id in kept]
    return Chosen(tuple(fit), left_out)


def printable(lm: LanguageModel, edits: Sequence[Edit], *, located: bool) -> Chosen:
    """Part ``edits`` into those that an editor can work on and, with the reason, those that it cannot.

    Args:
        lm: The model; all wordings of an edit have to fit into its context, with :data:`ROOM` to spare.
        edits: Which.
        located: Whether the editor looks for the subject in the prompt.
    """
    from corrigenda.lm.tokens import check_length
    from corrigenda.param_editors.rows import check_edits, target_ids

    good, left_out = [], {}
    for edit in edits:
        try:
            if located:
                check_edits(lm, [edit])
            for wording in (edit.prompt, *edit.paraphrases):
                source, answer = target_ids(lm, wording, edit.target)
                check_length(lm, [*source, *answer], room=ROOM)
            good.append(edit)
        except CorrigendaError as error:
            left_out[edit.id] = error.message
    return Chosen(tuple(good), left_out)


def _live_since(events: Iterable[Event]) -> dict[EditId, datetime]:
    """Return since when each edit has been live without a break; a change of its tags is none."""
    since: dict[EditId, datetime] = {}
    for event in events:
        if event.kind in ("retracted", "consolidated"):
            since.pop(event.edit.id, None)
        else:
            since.setdefault(event.edit.id, event.when)
        if event.replaces is not None and event.replaces != event.edit.id:
            since.pop(event.replaces, None)
    return since


def _unfit(edits: Sequence[Edit], *, printed_too: bool) -> dict[EditId, str]:
    """Return why edits cannot be printed, whatever the editor."""
    owners: dict[tuple[str, ...], set[EditId]] = {}
    for edit in edits:
        for key in claims(edit):
            owners.setdefault(key, set()).add(edit.id)
    reasons: dict[EditId, str] = {}
    for edit in edits:
        rivals = {other for key in claims(edit) for other in owners[key]} - {edit.id}
        if (printed := editions_of(edit)) and not printed_too:
            reasons[edit.id] = f"printed already, in {printed[-1]}"
        elif edit.validity != ALWAYS:
            reasons[edit.id] = "it holds for a time only; weights know no dates"
        elif rivals:
            reasons[edit.id] = f"contradicts {', '.join(sorted(rivals))}"
    return reasons
