"""IKE as published: no scope classifier, every request is asked in the light of the edit that is most like it.

Zheng et al. 2023, appendix. 32 demonstrations, copy : update : retain = 1 : 3 : 4, the nearest last, then the edit
itself as one more, of kind copy::

    New Fact: {prompt} {target}
    Prompt: {query} {answer}

It is here to be compared with: what no edit concerns is answered in the light of one all the same.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from corrigenda.chat import Chat, Fired, Message, Trace
from corrigenda.lm.stopping import LINE
from corrigenda.memory.memory import Hit
from corrigenda.middleware.consult import Decision, Means, Need, Refresh
from corrigenda.middleware.strategies.base import Plan, Room
from corrigenda.middleware.strategies.demonstrations import Demonstration, Nearest
from corrigenda.middleware.strategies.wording import one_line, statement

if TYPE_CHECKING:
    from corrigenda.edit import Edit
    from corrigenda.memory.encoder import Encoder

COUNT = 32
"""Demonstrations of the paper."""


@dataclass(frozen=True, slots=True)
class MostAlike:
    """Needed: for each of ``queries`` the live edit whose prompt is most like it, and an encoder."""

    queries: tuple[str, ...]
    namespace: str

    def fulfil(self, means: Means, /) -> tuple[list[Hit | None], Encoder]:
        """Return one edit per query, none without live edits."""
        memory = means.memory
        if not self.queries or not memory.live(self.namespace):
            return [None] * len(self.queries), memory.encoder
        rows = memory.search(memory.encoder.encode(self.queries), 1, self.namespace)
        return [row[0] if row else None for row in rows], memory.encoder


def unscoped(
    requests: Sequence[Chat], store: Sequence[Demonstration], count: int, *, namespace: str, room: Room
) -> Generator[Need, Any, list[Decision]]:
    """Decide about ``requests`` as the paper does; see :class:`~corrigenda.middleware.strategies.base.Guiding`."""
    version: int = yield Refresh()
    asking = [place for place, request in enumerate(requests) if any(m.role == "user" for m in request.messages)]
    hits, encoder = yield MostAlike(tuple(requests[place].query for place in asking), namespace)
    by_place = dict(zip(asking, hits, strict=True))
    choose = Nearest(store, encoder, mix=True) if any(hits) else None
    decisions = []
    for place, request in enumerate(requests):
        hit = by_place.get(place)
        if hit is None or choose is None:
            decisions.append(Decision(request, None, Trace(ledger_version=version)))
            continue
        plan = _plan(request, hit.edit, choose(request.query, count), room)
        # No probability was estimated: the edit is there because it is the nearest, at whatever distance.
        fired = Fired(hit.edit.id, max(0.0, min(1.0, hit.similarity)), 0.0, hit.edit.statement)
        decisions.append(Decision(request, plan, Trace((fired,), plan.strategy, version)))
    return decisions


def _plan(request: Chat, edit: Edit, shown: Sequence[Demonstration], room: Room) -> Plan:
    own = f"New Fact: {statement(edit)}\nPrompt: {statement(edit)}\n\n"
    asked = f"{own}New Fact: {statement(edit)}\nPrompt: {one_line(request.query)}"
    texts = [_text(item) for item in shown]
    while texts and not room.fits("".join(texts) + asked):
        texts.pop(0)  # the farthest goes first
    changed = Chat((Message("user", "".join(texts) + asked),), completion=True, options=request.options)
    return Plan(changed, stop=LINE, strategy="ike/unscoped", bare_line=not request.completion)


def _text(item: Demonstration) -> str:
    fact = f"{one_line(item.prompt)} {one_line(item.target)}"
    return f"New Fact: {fact}\nPrompt: {one_line(item.query)} {one_line(item.answer)}\n\n"
