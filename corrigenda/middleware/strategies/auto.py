"""Auto: the answer to a plain question is made to begin with the edit's target; everything else is IKE.

A small model with the right fact before its eyes still says something else now and then. When an edit answers the query
and the query asks for nothing but its object, nothing is left to decide: the request stays the caller's own, the
answer begins with the target, and the model goes on from there. Two plain questions in one message get both targets.

A question that is to be continued as text is over with its answer: what a model writes after it is rarely about it.
"""

from __future__ import annotations

from collections.abc import Sequence

from corrigenda.chat import Chat
from corrigenda.lm.stopping import Stop
from corrigenda.memory.scope import Candidate
from corrigenda.middleware.strategies.base import UNLIMITED, Plan, Room, Strategy
from corrigenda.middleware.strategies.ike import IKE
from corrigenda.middleware.strategies.wording import one_line, plain_question, plain_questions

_ANSWER_ONLY = Stop(sentence=False, texts=(" ",))
"""What follows the answer is kept up to the first white space: at most a mark that closes it."""


class Auto:
    """Constrained answers for plain questions, another strategy for the rest.

    Args:
        constrain: Whether answers are constrained at all; ``False`` leaves everything to ``otherwise``.
        otherwise: What takes the rest; :class:`~corrigenda.middleware.strategies.ike.IKE` by default.
    """

    name = "auto"

    def __init__(self, *, constrain: bool = True, otherwise: Strategy | None = None) -> None:
        self.constrain = constrain
        self.otherwise: Strategy = otherwise or IKE()

    def plan(self, request: Chat, edits: Sequence[Candidate], *, room: Room = UNLIMITED) -> Plan:
        """See :class:`~corrigenda.middleware.strategies.base.Strategy`."""
        if self.constrain and (target := _answer(request, edits)):
            space = "" if not request.completion or request.query[-1:].isspace() else " "
            stop = _ANSWER_ONLY if request.completion and request.query.rstrip().endswith(("?", "？")) else None
            return Plan(request, prefix=space + target, stop=stop, strategy="auto/constrained")
        plan = self.otherwise.plan(request, edits, room=room)
        return Plan(plan.request, plan.prefix, plan.stop, f"auto/{plan.strategy}", plan.bare_line)


def _answer(request: Chat, edits: Sequence[Candidate]) -> str:
    """Return what the answer must begin with; empty when it is not for us to say."""
    plain = plain_question(request, edits)
    answers = [plain[0]] if plain is not None else list(plain_questions(request, edits))
    targets = [one_line(candidate.edit.target) for candidate in answers]
    return " and ".join(filter(None, [", ".join(targets[:-1]), *targets[-1:]]))
