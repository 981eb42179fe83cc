"""The data plane: ``/v1/...`` in front of an upstream. What edits do not concern goes through untouched."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping
from typing import Any

from starlette.types import Receive, Scope, Send

from corrigenda.chat import Trace
from corrigenda.errors import CorrigendaError
from corrigenda.middleware.desk import joined
from corrigenda.middleware.gateway.access import Access
from corrigenda.middleware.gateway.bodies import ClientGone, read_body, stream_body
from corrigenda.middleware.gateway.consulting import Consulting
from corrigenda.middleware.gateway.metrics import Metrics, Outcome
from corrigenda.middleware.gateway.replies import Refusal, send_problem, trace_header
from corrigenda.middleware.gateway.settings import Settings
from corrigenda.middleware.gateway.upstream import Upstream
from corrigenda.middleware.wire import Endpoint, asked, revised

log = logging.getLogger("corrigenda.gateway")

ENDPOINTS: Mapping[str, Endpoint] = {
    "/v1/chat/completions": "chat",
    "/v1/completions": "completions",
    "/v1/responses": "responses",
}
"""Paths whose bodies are looked at; everything else under /v1 passes through as a stream."""


class Proxy:
    """An ASGI app.

    Args:
        upstream: Who answers.
        consulting: Who decides; ``None`` passes everything through (for comparison).
        access: Who may ask, and about which namespace.
        metrics: Where to count.
        settings: Limits.
    """

    def __init__(
        self,
        upstream: Upstream,
        consulting: Consulting | None,
        access: Access,
        metrics: Metrics,
        settings: Settings,
    ) -> None:
        self.upstream, self.consulting, self.access = upstream, consulting, access
        self.metrics, self.settings = metrics, settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        began = time.perf_counter()
        try:
            namespace = self.access.namespace(scope)
            endpoint = ENDPOINTS.get(scope["path"]) if scope["method"] == "POST" else None
            limit, seconds = self.settings.max_body, self.settings.body_seconds
            if endpoint is None:
                stream = stream_body(scope, receive, limit=limit, seconds=seconds)
                body: Any = stream if scope["method"] in ("POST", "PUT", "PATCH") else b""
                self.metrics.count("passed", await self.upstream.forward(scope, receive, send, body))
                return
            data = await read_body(scope, receive, limit=limit, seconds=seconds)
            outcome, data, trace = await self._decided(endpoint, data, namespace)
        except ClientGone:
            return
        except (Refusal, CorrigendaError) as error:
            self.metrics.count("refused", error.status if isinstance(error, Refusal) else 400)
            await send_problem(send, error)
            return
        self.metrics.overhead.labels(outcome).observe(time.perf_counter() - began)
        extra = () if trace is None else (trace_header(trace),)
        self.metrics.count(outcome, await self.upstream.forward(scope, receive, send, data, extra=extra))

    async def _decided(self, endpoint: Endpoint, data: bytes, namespace: str) -> tuple[Outcome, bytes, Trace | None]:
        """Return what became of the request, what the upstream gets, and how that came about."""
        if self.consulting is None:
            return "passed", data, None
        try:
            body = json.loads(data)
        except (ValueError, RecursionError):
            return "passed", data, None  # the upstream says what is wrong with it
        questions = asked(endpoint, body)
        if not questions:
            return "passed", data, None
        chats = [question.chat for question in questions]
        if not self.consulting.concerns(chats, namespace):
            return "early_exit", data, None
        try:
            decisions = await self.consulting.decide(chats, namespace)
        except CorrigendaError as error:
            self.metrics.failures.inc()
            log.error("judging failed: %s", type(error).__name__)
            if self.settings.on_failure == "pass":
                return "passed", data, None
            raise Refusal(503, "judging_failed", "the edits could not be consulted", retry_after=1) from error
        trace = None
        for question, decision in zip(questions, decisions, strict=True):
            if decision.plan is not None:
                body = revised(endpoint, body, question, decision.plan.request)
                self.metrics.fired.inc(len(decision.trace.fired))
                trace = decision.trace if trace is None else joined(trace, decision.trace)
        if trace is None:
            return "out_of_scope", data, None
        return "edited", json.dumps(body, separators=(",", ":")).encode(), trace
