"""Briefing: IKE for models that are reached by messages only, and follow instructions.

An upstream behind HTTP takes a conversation and gives an answer; its answer cannot be made to begin with a word, and
its prompt template is not ours. So the facts stand in front of the last user turn, which keeps its own words.

A plain question is asked as one to be answered from a context, which all instruction-tuned models have seen often.
On 40 rephrased questions of the zsRE training split, asked of SmolLM2-135M-Instruct, that brings the new answer 32
times; the facts alone in front, said to be newer than the model's own, bring it 19 times.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from corrigenda.chat import Chat
from corrigenda.memory.scope import Candidate
from corrigenda.middleware.strategies.base import UNLIMITED, Plan, Room
from corrigenda.middleware.strategies.wording import one_line
from corrigenda.middleware.wire import harmless

if TYPE_CHECKING:
    from corrigenda.middleware.consult import Decision

MAX_FACTS = 8
"""Most facts of one request, the most probable ones."""
_LONGEST_QUESTION = 400
"""Characters from which a turn is more than a plain question."""


class Briefing:
    """Facts in front of the question.

    Args:
        opening: What stands before the facts, on a line of its own, where the turn is no plain question.
    """

    name = "ike/briefing"

    def __init__(
        self,
        *,
        opening: str = "Verified facts, newer than your training data. Where you remember otherwise, go by these:",
    ) -> None:
        self.opening = opening

    def plan(self, request: Chat, edits: Sequence[Candidate], *, room: Room = UNLIMITED) -> Plan:
        """See :class:`~corrigenda.middleware.strategies.base.Strategy`."""
        return self.brief(request, [candidate.edit.statement for candidate in edits], room)

    def brief(self, request: Chat, statements: Sequence[str], room: Room = UNLIMITED) -> Plan:
        """Return the plan that puts ``statements``, most probable first, in front of the question of ``request``."""
        facts = [harmless(one_line(statement)) for statement in statements[:MAX_FACTS]]
        while len(facts) > 1 and not room.fits("\n".join([*facts, request.query])):
            facts.pop()  # the least probable goes first
        if request.completion:
            return Plan(_in_front(request, "".join(f"{fact}\n" for fact in facts) + "\n"), strategy=self.name)
        if _plain_question(request.query):
            text = f"Context: {' '.join(facts)}\n\nQuestion: "
            return Plan(_around(request, text, "\nAnswer from the context:"), strategy=self.name)
        lines = [self.opening, *(f"- {fact}" for fact in facts)]
        return Plan(_in_front(request, "\n".join(lines) + "\n\n"), strategy=self.name)


def briefed(decision: Decision) -> Decision:
    """Return ``decision`` with the facts that fired put in front of the question, whatever its plan was."""
    plan = Briefing().brief(decision.request, [hit.statement for hit in decision.trace.fired])
    return replace(decision, plan=plan, trace=replace(decision.trace, strategy=plan.strategy))


def in_turns(decision: Decision) -> Decision:
    """Return ``decision`` as one that changes nothing but a conversation's own turns.

    A strategy may turn a conversation into a text to be continued, a record of IKE's for one. Over the wire it would
    take the place of the system turn, of everything said before, and of calls whose tools have answered.
    """
    plan = decision.plan
    if plan is None or decision.request.completion or not plan.request.completion:
        return decision
    return briefed(decision)


def _plain_question(query: str) -> bool:
    text = query.strip()
    return text.endswith(("?", "？")) and "\n" not in text and len(text) <= _LONGEST_QUESTION


def _in_front(request: Chat, text: str) -> Chat:
    return _around(request, text, "")


def _around(request: Chat, before: str, after: str) -> Chat:
    turns = list(request.messages)
    last = max(place for place, turn in enumerate(turns) if turn.role == "user")
    turns[last] = replace(turns[last], content=before + turns[last].content + after)
    return replace(request, messages=tuple(turns))
