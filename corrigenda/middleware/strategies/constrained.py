"""Constrained answers: a reply made to begin with what is known, which goes on from there in the model's words."""

from __future__ import annotations

from corrigenda.chat import Chat
from corrigenda.lm.stopping import Stop
from corrigenda.middleware.strategies.base import Plan
from corrigenda.middleware.strategies.wording import one_line

_ANSWER_ONLY = Stop(sentence=False, texts=(" ",))
"""What follows the answer is kept up to the first white space: at most a mark that closes it."""


def constrained(request: Chat, answer: str, strategy: str) -> Plan:
    """Return the plan of a reply to ``request``, which stays the caller's own, that begins with ``answer``.

    A question that is to be continued as text is over with its answer: what a model writes after it is rarely about it.
    """
    space = "" if not request.completion or request.query[-1:].isspace() else " "
    stop = _ANSWER_ONLY if request.completion and request.query.rstrip().endswith(("?", "？")) else None
    return Plan(request, prefix=space + one_line(answer), stop=stop, strategy=strategy)
