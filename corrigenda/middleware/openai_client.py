"""``corrigenda.wrap(client)``: a client of the ``openai`` package whose questions are asked in the light of the edits.

>>> client = corrigenda.wrap(openai.OpenAI(), Memory.open("facts.db"))
>>> client.chat.completions.create(model="gpt-5", messages=[{"role": "user", "content": "Nigeria's capital?"}])
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from corrigenda.chat import Trace
from corrigenda.errors import InvalidRequest
from corrigenda.memory.memory import Memory
from corrigenda.middleware.desk import Desk
from corrigenda.middleware.wire import Endpoint

Client = TypeVar("Client")
OnTrace = Callable[[Trace], None]

_ENDPOINTS: Mapping[str, Endpoint] = {
    "/chat/completions": "chat",
    "/completions": "completions",
    "/responses": "responses",
}


def wrap(client: Client, memory: Memory, *, on_trace: OnTrace | None = None, **settings: Any) -> Client:
    """Return a client like ``client``, sync or async, in which the edits of ``memory`` hold; ``client`` stays bare.

    Chat completions, completions and responses are covered, parsed, streamed and raw ones too, and clients made from
    the new one with ``with_options``. A request that no edit concerns is sent as it would have been.

    Args:
        client: ``openai.OpenAI``, ``AsyncOpenAI``, or one of their subclasses.
        memory: The edits.
        on_trace: Called with the trace of every request that was looked at, before it is sent.
        **settings: ``strategy``, ``scope``, ``namespace``; see :class:`~corrigenda.middleware.desk.Desk`.

    Raises:
        InvalidRequest: Not such a client.
    """
    kind = type(client)
    if not callable(getattr(client, "copy", None)) or not hasattr(kind, "_prepare_options"):
        raise InvalidRequest(
            f"{kind.__name__} is no client of the openai package", remedy="Pass openai.OpenAI() or AsyncOpenAI()."
        )
    desk = Desk(memory, **settings)
    made: Any = client.copy()  # type: ignore[attr-defined]
    # A subclass, so that what copies itself (``with_options``) keeps the edits.
    made.__class__ = _edited(kind, desk, on_trace or _ignore)
    return made  # type: ignore[no-any-return]


def _edited(kind: Any, desk: Desk, on_trace: OnTrace) -> type:
    import openai

    if issubclass(kind, openai.AsyncOpenAI):

        class AsyncEdited(kind):  # type: ignore[misc]
            async def _prepare_options(self, options: Any) -> Any:
                options = await super()._prepare_options(options)
                endpoint = _endpoint(options)
                if endpoint is None:
                    return options
                body, trace = await desk.arevise(endpoint, options.json_data)
                on_trace(trace)
                return _with_body(options, body)

        return AsyncEdited

    class Edited(kind):  # type: ignore[misc]
        def _prepare_options(self, options: Any) -> Any:
            options = super()._prepare_options(options)
            endpoint = _endpoint(options)
            if endpoint is None:
                return options
            body, trace = desk.revise(endpoint, options.json_data)
            on_trace(trace)
            return _with_body(options, body)

    return Edited


def _endpoint(options: Any) -> Endpoint | None:
    if options.method.lower() != "post" or not isinstance(options.json_data, dict):
        return None
    return _ENDPOINTS.get(options.url)


def _with_body(options: Any, body: Mapping[str, Any]) -> Any:
    # The options are the client's own copy for this attempt: a retry begins with the caller's body again.
    options.json_data = body
    return options


def _ignore(trace: Trace) -> None:
    pass
