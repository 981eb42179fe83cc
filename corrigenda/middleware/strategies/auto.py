"""Auto: for each request the way that suits it, by the verdicts of the scope classifier and by what can be done here.

==============================  ===================================================================================
the request                     what happens
==============================  ===================================================================================
a plain question that an edit   the reply begins with the edit's target, and the model goes on from there
answers, reversed or not        (``constrain=False``: IKE)
two plain questions, two edits  the reply begins with both targets
a question of several steps,    a walk over the edits and what the model knows (:mod:`.graph`); the reply begins with
one of them along an edit       what it ends with (``walk=False``: IKE)
anything else that edits        IKE: the facts stand in front
concern: a poem, a comparison
no edit, but a user's feedback  MemPrompt, where it is installed
nothing of it                   the request goes on untouched
==============================  ===================================================================================

What can be done depends on where the model is. In this process (white box) all of it. Behind a chat interface that
takes messages and nothing else (black box) no reply can be begun for the model and no step asked for, so the facts
are put before it: :class:`~corrigenda.middleware.briefing.Briefing`.

A small model with the right fact before its eyes still says something else now and then. When an edit answers the query
and the query asks for nothing but its object, nothing is left to decide: that is why such a reply is constrained.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from corrigenda.chat import Chat
from corrigenda.memory.scope import Candidate, Consideration
from corrigenda.middleware.briefing import Briefing
from corrigenda.middleware.consult import Decision, Means, Need, decision, judged
from corrigenda.middleware.relations import Relations
from corrigenda.middleware.strategies.base import UNLIMITED, Guiding, Plan, Room, Strategy, available, create
from corrigenda.middleware.strategies.constrained import constrained
from corrigenda.middleware.strategies.graph import Walk, arrival, begin, look_ahead, stroll
from corrigenda.middleware.strategies.ike import IKE
from corrigenda.middleware.strategies.wording import one_line, plain_question, plain_questions

FEEDBACK = "memprompt"
"""Name of the strategy that knows what users said about requests no edit concerns."""


@dataclass(frozen=True, slots=True)
class WhiteBox:
    """Needed: whether the model is in this process, so that replies can be begun for it and steps asked for."""

    def fulfil(self, means: Means, /) -> bool:
        """Tell."""
        return means.lm is not None or means.ask is not None


class Auto:
    """The way that suits the request.

    Args:
        constrain: Whether a reply to a plain question is made to begin with the target.
        walk: Whether questions of several steps are walked. Only those are that an edit concerns, or whose first step
            one does; the model is asked for the other steps.
        otherwise: What takes the rest; :class:`~corrigenda.middleware.strategies.ike.IKE` by default.
        relations: What is known about the questions that the model has to answer on a walk.
        feedback: What is offered requests that no edit concerns; by default the strategy registered as
            :data:`FEEDBACK`, if there is one. ``None`` for nothing.
    """

    name = "auto"

    def __init__(
        self,
        *,
        constrain: bool = True,
        walk: bool = True,
        otherwise: Strategy | None = None,
        relations: Relations | None = None,
        feedback: Guiding | str | None = FEEDBACK,
    ) -> None:
        self.constrain = constrain
        self.walk = walk
        self.otherwise: Strategy = otherwise or IKE()
        self.relations = relations or Relations.built_in()
        self._feedback = feedback
        self._blind = Briefing()

    def plan(self, request: Chat, edits: Sequence[Candidate], *, room: Room = UNLIMITED) -> Plan:
        """Return the plan for a request of one step; see :class:`~corrigenda.middleware.strategies.base.Strategy`."""
        if self.constrain and (target := _answer(request, edits)):
            return constrained(request, target, "auto/constrained")
        plan = self.otherwise.plan(request, edits, room=room)
        return replace(plan, strategy=f"auto/{plan.strategy}")

    def consult(self, requests: Sequence[Chat], *, namespace: str, room: Room) -> Generator[Need, Any, list[Decision]]:
        """See :class:`~corrigenda.middleware.strategies.base.Guiding`."""
        version, found = yield from judged(requests, namespace)
        walks = (yield from self._near_edits(requests, found, namespace)) if self.walk else {}
        if (walks or any(item.in_scope for item in found.values())) and not (yield WhiteBox()):
            return [decision(item, found.get(place), self._blind, room, version) for place, item in enumerate(requests)]
        yield from stroll(list(walks.values()), namespace, self.relations)
        decisions = []
        for place, request in enumerate(requests):
            if (walk := walks.get(place)) is not None and walk.arrived:
                decisions.append(arrival(request, walk, "auto/graph", version))
            else:
                decisions.append(decision(request, found.get(place), self, room, version))
        return (yield from self._reminded(decisions, namespace, room))

    def _near_edits(
        self, requests: Sequence[Chat], found: Mapping[int, Consideration], namespace: str
    ) -> Generator[Need, Any, dict[int, Walk]]:
        """Return the questions of several steps that edits concern, by place."""
        walks = {place: walk for place, item in found.items() if (walk := begin(requests[place], item)) is not None}
        yield from look_ahead(list(walks.values()), namespace)
        return {place: walk for place, walk in walks.items() if _worth_it(walk, requests[place], found[place])}

    def _reminded(self, decisions: list[Decision], namespace: str, room: Room) -> Generator[Need, Any, list[Decision]]:
        """Offer what no edit concerns to the strategy that knows users' feedback."""
        untouched = [place for place, item in enumerate(decisions) if item.plan is None]
        if isinstance(self._feedback, str):
            self._feedback = _guiding(self._feedback)
        if self._feedback is None or not untouched:
            return decisions
        offered = [decisions[place].request for place in untouched]
        answers = yield from self._feedback.consult(offered, namespace=namespace, room=room)
        for place, answer in zip(untouched, answers, strict=True):
            if answer.plan is not None:
                decisions[place] = answer
        return decisions


def _guiding(name: str) -> Guiding | None:
    strategy = create(name) if name in available() else None
    return strategy if isinstance(strategy, Guiding) else None


def _worth_it(walk: Walk, request: Chat, considered: Consideration) -> bool:
    """Tell whether a question that looks as if it took several steps should be walked.

    Not if no edit is near. And not if an edit answers it as it stands: the grammar was mistaken then ("The law in
    Alaska declares the official language to be"). Where the same edit answers the first step, it was taken for an
    answer to the whole because of the words they share; where it was derived from the one that does, the walk ends with
    what it says, unless another edit has come in between.
    """
    first = walk.ahead.in_scope if walk.ahead is not None else ()
    plain = plain_question(request, considered.in_scope)
    if plain is None:
        return bool(considered.in_scope or first)
    edit = plain[0].edit
    return any(item.edit.id in (edit.id, edit.parent) for item in first)


def _answer(request: Chat, edits: Sequence[Candidate]) -> str:
    """Return what the answer must begin with; empty when it is not for us to say."""
    plain = plain_question(request, edits)
    answers = [plain[0]] if plain is not None else list(plain_questions(request, edits))
    targets = [one_line(candidate.edit.target) for candidate in answers]
    return " and ".join(filter(None, [", ".join(targets[:-1]), *targets[-1:]]))
