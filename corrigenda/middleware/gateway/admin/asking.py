"""Asking the model behind the gateway, without edits and with them, for the admin page."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from corrigenda.chat import Chat, Trace
from corrigenda.memory.memory import Memory
from corrigenda.memory.scope import Scope
from corrigenda.middleware.gateway.replies import Refusal
from corrigenda.middleware.wire import Endpoint, asked, revised, text_of

if TYPE_CHECKING:
    from corrigenda.middleware.gateway.app import Gateway
    from corrigenda.middleware.gateway.upstream import Upstream

_PATHS: Mapping[Endpoint, str] = {"chat": "/v1/chat/completions", "completions": "/v1/completions"}


class Asker:
    """Asks; in threads, never on the event loop.

    Args:
        gateway: Whose model or upstream is asked.
    """

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway

    def ask(
        self,
        chat: Chat,
        namespace: str,
        options: Mapping[str, Any],
        model: str | None = None,
        *,
        memory: Memory | None = None,
        scope: Scope | None = None,
    ) -> tuple[str, str, Trace]:
        """Return what the model says to ``chat`` without edits, what it says with them, and the trace of that.

        Args:
            chat: The question.
            namespace: Whose edits.
            options: ``max_new_tokens``.
            model: Of the upstream's models; the first, by default.
            memory: The edits; those of the gateway by default.
            scope: What decides which of them fire.

        Raises:
            Refusal: The upstream does not answer as it should.
        """
        memory = memory if memory is not None else self.gateway.memory
        scope = scope if scope is not None else self.gateway.consulting.scope
        local = self.gateway.model
        if local is not None:
            edited = local.for_namespace(namespace, memory=memory, scope=scope)
            before, after = (local.ask_now(edited, chat, options, bare=bare) for bare in (True, False))
            return before.text, after.text, after.trace
        assert self.gateway.upstream is not None
        return self._ask_upstream(self.gateway.upstream, chat, namespace, options, model, memory, scope)

    def _ask_upstream(
        self,
        upstream: Upstream,
        chat: Chat,
        namespace: str,
        options: Mapping[str, Any],
        model: str | None,
        memory: Memory,
        scope: Scope,
    ) -> tuple[str, str, Trace]:
        endpoint: Endpoint = "completions" if chat.completion else "chat"
        body: dict[str, Any] = {"model": model or self._first_model(upstream), "max_tokens": options["max_new_tokens"]}
        body["temperature"] = 0
        if chat.completion:
            body["prompt"] = chat.query
        else:
            body["messages"] = [{"role": "user", "content": chat.query}]
        before = self._said(upstream, endpoint, body)
        (question,) = asked(endpoint, body)
        (decision,) = self.gateway.consulting.decide_now([question.chat], namespace, memory=memory, scope=scope)
        if decision.plan is None:
            return before, before, decision.trace
        if decision.plan.answer is not None:
            return before, decision.plan.answer, decision.trace
        after = self._said(upstream, endpoint, revised(endpoint, body, question, decision.plan.request))
        return before, after, decision.trace

    def _first_model(self, upstream: Upstream) -> str:
        rows = self._upstream(upstream, "/v1/models", None)
        try:
            return str(rows["data"][0]["id"])
        except (KeyError, IndexError, TypeError):
            raise Refusal(409, "which_model", "the upstream lists no models; name one") from None

    def _said(self, upstream: Upstream, endpoint: Endpoint, body: Mapping[str, Any]) -> str:
        row = self._upstream(upstream, _PATHS[endpoint], body)
        try:
            choice = row["choices"][0]
            return str(choice["text"]) if endpoint == "completions" else text_of(choice["message"]["content"])
        except (KeyError, IndexError, TypeError):
            raise Refusal(502, "upstream_refused", "the upstream's answer holds no text") from None

    def _upstream(self, upstream: Upstream, path: str, body: Mapping[str, Any] | None) -> Any:
        assert self.gateway.loop is not None
        return asyncio.run_coroutine_threadsafe(upstream.ask(path, body), self.gateway.loop).result()
