"""History: the ledger event by event, live edits that contradict each other, and feedback."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

from corrigenda.edit import Edit
from corrigenda.memory.ledger import Event, claims
from corrigenda.middleware.gateway.admin.call import MAX_OFFSET, Call
from corrigenda.middleware.gateway.admin.rows import edit_row
from corrigenda.middleware.gateway.replies import Refusal

if TYPE_CHECKING:
    from corrigenda.middleware.gateway.app import Gateway

_WINDOW = 1_000
"""Events read at a time, from the end of the ledger backwards."""
_MOST_WINDOWS = 50
"""How far back one call looks: a page of a quiet namespace must not read a ledger of millions."""


class History:
    """The operations on what has happened; run in threads.

    Args:
        gateway: Whose memory they look at.
    """

    def __init__(self, gateway: Gateway) -> None:
        self.memory = gateway.memory

    def list_events(self, call: Call) -> dict[str, Any]:
        """List the events of a namespace, newest first, those only ``before`` a version; ``next`` goes on there."""
        namespace = call.namespace("reader")
        limit = call.number("limit", 50, 1, 500)
        end = min(call.number("before", MAX_OFFSET, 1, 1 << 62) - 1, self.memory.version)
        found: list[Event] = []
        for _ in range(_MOST_WINDOWS):
            if end <= 0 or len(found) >= limit:
                break
            events = self.memory.events(after=max(0, end - _WINDOW), until=end)
            found += [event for event in reversed(events) if event.edit.namespace == namespace]
            end -= _WINDOW
        page = found[:limit]
        following = page[-1].seq if len(found) > limit else max(end + 1, 1)
        return {
            "events": [event.to_dict() for event in page],
            "next": following if following > 1 else None,
            "version": self.memory.version,
        }

    def list_conflicts(self, call: Call) -> dict[str, Any]:
        """List groups of live edits that contradict each other at some common time."""
        claimants: dict[tuple[str, ...], list[Edit]] = defaultdict(list)
        for edit in self.memory.live(call.namespace("reader")):
            for claim in claims(edit):
                claimants[claim].append(edit)
        groups = {
            tuple(edit.id for edit in edits): edits
            for edits in claimants.values()
            if len(edits) > 1 and len({edit.target for edit in edits}) > 1
        }
        rows = [[edit_row(edit) for edit in edits] for edits in groups.values()]
        return {"conflicts": rows[:200], "total": len(rows), "version": self.memory.version}

    def feedback(self, call: Call) -> dict[str, Any]:
        """Keep how a query was meant, for queries like it."""
        namespace = call.namespace("editor")
        query, clarification = call.text("query", 20_000), call.text("clarification", 4_000)
        keep = getattr(self.memory, "feedback", None)
        if keep is None:
            raise Refusal(409, "no_feedback", "this memory keeps no feedback")
        edit = keep(query, clarification, namespace=namespace, author=call.key.name)
        return {"edit": edit_row(edit), "version": self.memory.version}
