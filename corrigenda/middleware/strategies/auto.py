"""Auto: the answer to a plain question is made to begin with the edit's target; everything else is IKE.

A small model with the right fact before its eyes still says something else now and then. When one edit answers
the query and the query asks for nothing but its object, nothing is left to decide: the request stays the caller's own,
the answer begins with the target, and the model goes on from there.
"""

from __future__ import annotations

from collections.abc import Sequence

from corrigenda.chat import Chat
from corrigenda.memory.scope import Candidate
from corrigenda.middleware.strategies.base import UNLIMITED, Plan, Room, Strategy
from corrigenda.middleware.strategies.ike import IKE
from corrigenda.middleware.strategies.wording import asked_part, asks_for_object, one_line


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
        if self.constrain and len(edits) == 1 and edits[0].verdict == "direct":
            asked = asked_part(request.query, edits[0])
            if asks_for_object(asked, completion=request.completion):
                target = one_line(edits[0].edit.target)
                space = "" if not request.completion or request.query[-1:].isspace() else " "
                return Plan(request, prefix=space + target, strategy="auto/constrained")
        plan = self.otherwise.plan(request, edits, room=room)
        return Plan(plan.request, plan.prefix, plan.stop, f"auto/{plan.strategy}", plan.bare_line)
