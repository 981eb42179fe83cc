"""Graph: questions of several steps, walked over the live edits and what the model knows; for models of any size.

MeLLo (Zhong et al. 2023) lets the model take a question apart, which takes a strong model. Here grammar does: the
innermost phrase of "What is the capital of the country where X was born?" is asked for by itself. Where an edit answers
it, its target is the answer; otherwise the bare model's own word is. With the answer in the phrase's place the
next step follows, four at most. So the live edits are a graph (things joined by relations), and the model fills in what
they leave open.

The walk counts when at least one step went along an edit; else the request is not for us. What it ends with is what
the reply begins with.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import Any

from corrigenda.chat import Chat, Trace
from corrigenda.edit import fold
from corrigenda.memory.scope import Candidate, Consideration
from corrigenda.memory.segments import segments
from corrigenda.memory.texts import infer_subject
from corrigenda.middleware.consult import Decision, Need, decision, fired_by, judged
from corrigenda.middleware.relations import Relations
from corrigenda.middleware.strategies import hops
from corrigenda.middleware.strategies.base import UNLIMITED, Plan, Room, Strategy
from corrigenda.middleware.strategies.constrained import constrained
from corrigenda.middleware.strategies.hops import Hop
from corrigenda.middleware.strategies.ike import IKE
from corrigenda.middleware.strategies.nested import Step, is_nested, peel, put
from corrigenda.middleware.strategies.wording import asks_for_one_thing

MAX_HOPS = 4
"""Most steps of a walk."""


class Graph:
    """Walks over the edits.

    Args:
        otherwise: What takes requests of one step, and those of which the walk makes nothing; IKE by default.
        relations: What is known about questions that the model has to answer.
    """

    name = "graph"

    def __init__(self, *, otherwise: Strategy | None = None, relations: Relations | None = None) -> None:
        self.otherwise: Strategy = otherwise or IKE()
        self.relations = relations or Relations.built_in()

    def plan(self, request: Chat, edits: Sequence[Candidate], *, room: Room = UNLIMITED) -> Plan:
        """Return the plan for a request of one step; see :class:`~corrigenda.middleware.strategies.base.Strategy`."""
        return self.otherwise.plan(request, edits, room=room)

    def consult(self, requests: Sequence[Chat], *, namespace: str, room: Room) -> Generator[Need, Any, list[Decision]]:
        """See :class:`~corrigenda.middleware.strategies.base.Guiding`."""
        version, found = yield from judged(requests, namespace)
        walks = {place: walk for place in found if (walk := begin(requests[place], found[place])) is not None}
        yield from stroll(list(walks.values()), namespace, self.relations)
        decisions = []
        for place, request in enumerate(requests):
            walk = walks.get(place)
            if walk is not None and walk.arrived:
                decisions.append(arrival(request, walk, f"{self.name}/{len(walk.hops)} hops", version))
            else:
                decisions.append(decision(request, found.get(place), self, room, version))
        return decisions


@dataclass(slots=True)
class Walk:
    """One question on its way.

    Attributes:
        text: What is still asked.
        name: Where in it the thing stands that is known, (start, end).
        hops: The steps taken.
        over: Whether there is nowhere to go on.
        ahead: Which edits concern the next step, where that has been found out already.
    """

    text: str
    name: tuple[int, int]
    hops: list[Hop] = field(default_factory=list)
    over: bool = False
    ahead: Consideration | None = None

    @property
    def arrived(self) -> bool:
        """Whether the question was answered, and some edit had a part in it."""
        return self.over and bool(self.hops) and bool(self.hops[-1].answer) and any(hop.edit for hop in self.hops)

    @property
    def along(self) -> str | None:
        """Id of the edit that the last step went along, if it did."""
        return self.hops[-1].edit.edit.id if self.hops and self.hops[-1].edit is not None else None

    @property
    def edit_ahead(self) -> Candidate | None:
        """The edit that answers the next step.

        Whether it is called direct does not matter: the step is one. What the walk itself has named must be the edit's
        own name, or a firm called BBC would take the edits of BBC Radio for its own.
        """
        if self.ahead is None:
            return None
        named = fold(self.text[self.name[0] : self.name[1]])
        return next(
            (item for item in self.ahead.in_scope if not self.hops or named in map(fold, item.edit.names)), None
        )

    def step(self) -> Step:
        """Return what has to be known next."""
        if len(self.hops) < MAX_HOPS - 1:
            return peel(self.text, self.name)
        return Step(self.text, self.name, 0, len(self.text), True)

    def take(self, step: Step, hop: Hop) -> None:
        """Go where ``hop`` leads."""
        self.hops.append(hop)
        self.ahead = None
        if step.last or not hop.answer:
            self.over = True
        else:
            self.text, self.name = put(self.text, step, hop.answer)


def begin(request: Chat, considered: Consideration) -> Walk | None:
    """Return the walk for the question at the end of ``request``.

    ``None`` when it takes one step only, and when no single thing is asked for: a poem about somebody's birthplace.
    """
    asking = [part for part in segments(request.query) if part.asked]
    text = asking[-1].text if asking else request.query
    name = _name(text, considered)
    if name is None or not is_nested(text, name):
        return None
    plain = asks_for_one_thing(text, [text[name[0] : name[1]]], completion=request.completion)
    return Walk(text, name) if plain else None


def _name(text: str, considered: Consideration) -> tuple[int, int] | None:
    """Return where the thing that ``text`` starts from stands: a subject of edits, or what looks like a name."""
    spans = [
        (place, place + len(item.mention.name))
        for item in considered.candidates
        if item.mention is not None and (place := text.find(item.mention.name)) >= 0
    ]
    return max(spans, key=lambda span: span[1] - span[0], default=None) or infer_subject(text)


def stroll(walks: Sequence[Walk], namespace: str, relations: Relations) -> Generator[Need, Any, None]:
    """Take all ``walks`` to their ends, step by step together, so that what they ask is asked in batches."""
    while going := [walk for walk in walks if not walk.over]:
        steps = [walk.step() for walk in going]
        yield from look_ahead(going, namespace)
        edits = [walk.edit_ahead for walk in going]
        unknown = [place for place, edit in enumerate(edits) if edit is None]
        questions = [hops.Question(steps[place].asked, steps[place].name, going[place].along) for place in unknown]
        said = dict(zip(unknown, (yield from hops.found_out(questions, relations)), strict=True))
        for place, (walk, step, edit) in enumerate(zip(going, steps, edits, strict=True)):
            walk.take(step, said[place] if edit is None else Hop(step.asked, edit.edit.target, edit))


def look_ahead(walks: Sequence[Walk], namespace: str) -> Generator[Need, Any, None]:
    """Find out which edits concern the next steps of ``walks``, where that is not known yet."""
    blind = [walk for walk in walks if walk.ahead is None]
    considered = yield from hops.judged([walk.step().asked for walk in blind], namespace)
    for walk, item in zip(blind, considered, strict=True):
        walk.ahead = item


def arrival(request: Chat, walk: Walk, strategy: str, version: int) -> Decision:
    """Return the decision about a request whose walk has arrived."""
    fired = tuple(fired_by(hop.edit) for hop in walk.hops if hop.edit is not None)
    notes = tuple(hop.note for hop in walk.hops)
    plan = constrained(request, walk.hops[-1].answer, strategy)
    return Decision(request, plan, Trace(fired, strategy, version, notes=notes))
