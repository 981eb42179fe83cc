"""The edits in front of an agent's model: middleware for ``create_agent`` of the ``langchain`` package.

>>> agent = create_agent(model, tools, middleware=[EditAgentMiddleware(memory)])
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from corrigenda.errors import MissingExtra
from corrigenda.memory.memory import Memory
from corrigenda.middleware.langchain_messages import Reviser

try:
    from langchain.agents.middleware import AgentMiddleware
except ImportError as error:
    raise MissingExtra("this needs 'langchain', which is not installed", remedy="pip install langchain") from error


class EditAgentMiddleware(AgentMiddleware[Any, Any, Any]):
    """Puts the edits in front of every call of an agent's model; what the agent remembers stays as it is.

    Args:
        memory: The edits.
        **settings: ``strategy``, ``scope``, ``namespace``; see :class:`~corrigenda.middleware.desk.Desk`.
    """

    def __init__(self, memory: Memory, **settings: Any) -> None:
        super().__init__()
        self._reviser = Reviser(memory, **settings)

    def wrap_model_call(self, request: Any, handler: Callable[[Any], Any]) -> Any:
        """Ask with the facts, if any edit concerns the request; with the very same request otherwise."""
        revised, trace = self._reviser.messages(request.messages)
        return handler(request if trace.untouched else request.override(messages=revised))

    async def awrap_model_call(self, request: Any, handler: Callable[[Any], Awaitable[Any]]) -> Any:
        """Do what :meth:`wrap_model_call` does; judging happens in a thread."""
        revised, trace = await self._reviser.amessages(request.messages)
        return await handler(request if trace.untouched else request.override(messages=revised))
