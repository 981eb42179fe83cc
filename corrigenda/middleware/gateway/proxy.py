"""The data plane: ``/v1/...`` in front of an upstream. What edits do not concern goes through untouched."""

from __future__ import annotations

import json
import logging
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from starlette.types import Receive, Scope, Send

from corrigenda.chat import Trace
from corrigenda.errors import CorrigendaError
from corrigenda.middleware.desk import joined
from corrigenda.middleware.gateway.access import Access
from corrigenda.middleware.gateway.bodies import ClientGone, StreamedBody, read_body
from corrigenda.middleware.gateway.consulting import Consulting
from corrigenda.middleware.gateway.formats import FORMATS, Said, send_events, usage_wanted
from corrigenda.middleware.gateway.metrics import Outcome
from corrigenda.middleware.gateway.replies import Refusal, problem, send_json, send_problem, trace_header
from corrigenda.middleware.gateway.settings import Settings
from corrigenda.middleware.gateway.shadowing import Shadowing
from corrigenda.middleware.gateway.upstream import Upstream
from corrigenda.middleware.gateway.watching import Seen, Watch
from corrigenda.middleware.wire import Endpoint, asked, revised

log = logging.getLogger("corrigenda.gateway")

ENDPOINTS: Mapping[str, Endpoint] = {
    "/v1/chat/completions": "chat",
    "/v1/completions": "completions",
    "/v1/responses": "responses",
}
"""Paths whose bodies are looked at; everything else under /v1 passes through as a stream."""
_MORE = ("tools", "functions", "logprobs", "top_logprobs", "echo", "audio", "suffix")
"""Fields that ask for more than a text, or for another one."""


@dataclass(frozen=True, slots=True)
class _Verdict:
    """What becomes of a request.

    Attributes:
        outcome: In one word.
        data: What the upstream gets.
        trace: Which edits fired; ``None`` for none.
        answer: The reply, where a strategy knows it already; the upstream is not asked then.
        body: The request, where ``answer`` is given.
    """

    outcome: Outcome
    data: bytes
    trace: Trace | None = None
    answer: str | None = None
    body: Mapping[str, Any] | None = None


class Proxy:
    """An ASGI app.

    Args:
        upstream: Who answers.
        consulting: Who decides.
        access: Who may ask, and about which namespace.
        watch: Who is told what became of each request.
        settings: Limits.
        switch: Names the model that the upstream is asked for; as the client did, by default.
        shadowing: Told what shadows have answered; nobody, by default.
    """

    def __init__(
        self,
        upstream: Upstream,
        consulting: Consulting,
        access: Access,
        watch: Watch,
        settings: Settings,
        switch: Callable[[bytes], bytes] | None = None,
        shadowing: Shadowing | None = None,
    ) -> None:
        self.upstream, self.consulting, self.access = upstream, consulting, access
        self.watch, self.settings = watch, settings
        self.switch = switch or (lambda data: data)
        self.shadowing = shadowing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        with self.watch.request(scope) as seen:
            try:
                seen.namespace = self.access.namespace(scope)
                endpoint = ENDPOINTS.get(scope["path"]) if scope["method"] == "POST" else None
                if endpoint is None:
                    await self._pass(scope, receive, send, seen)
                    return
                limit, seconds = self.settings.max_body, self.settings.body_seconds
                data = await read_body(scope, receive, limit=limit, seconds=seconds)
                verdict = await self._decided(endpoint, data, seen.namespace)
            except ClientGone:
                return
            except (Refusal, CorrigendaError) as error:
                seen.status = problem(error)[0]
                await send_problem(send, error)
                return
            seen.outcome, seen.trace = verdict.outcome, verdict.trace
            seen.leave()
            if verdict.answer is not None:
                seen.status = await self._say(endpoint, verdict, send)
                return
            extra = () if verdict.trace is None else (trace_header(verdict.trace),)
            amend = self._with_trace(verdict.trace) if self.settings.trace_body and verdict.trace is not None else None
            with self.watch.spans.part("upstream"):
                sent = self.switch(verdict.data)
                seen.status = await self.upstream.forward(scope, receive, send, sent, extra=extra, amend=amend)
            if self.shadowing is not None and seen.status == 200:
                self.shadowing.note(endpoint, data, verdict.trace)

    async def _pass(self, scope: Scope, receive: Receive, send: Send, seen: Seen) -> None:
        seen.outcome = "passed"
        body: bytes | StreamedBody = b""
        try:
            if scope["method"] in ("POST", "PUT", "PATCH"):
                body = StreamedBody(scope, receive, limit=self.settings.max_body, seconds=self.settings.body_seconds)
            seen.status = await self.upstream.forward(scope, receive, send, body)
        except Refusal:
            seen.outcome = "refused"
            raise

    async def _decided(self, endpoint: Endpoint, data: bytes, namespace: str) -> _Verdict:
        try:
            body = json.loads(data)
        except (ValueError, RecursionError):
            return _Verdict("passed", data)  # the upstream says what is wrong with it
        questions = asked(endpoint, body)
        if not questions:
            return _Verdict("passed", data)
        chats = [question.chat for question in questions]
        if not self.consulting.concerns(chats, namespace):
            return _Verdict("early_exit", data)
        try:
            with self.watch.spans.part("judge"):
                decisions = await self.consulting.decide(chats, namespace, own=_plain(endpoint, body))
        except CorrigendaError as error:
            self.watch.metrics.failures.inc()
            log.error("judging failed: %s", type(error).__name__)
            if self.settings.on_failure == "pass":
                return _Verdict("passed", data)
            raise Refusal(503, "judging_failed", "the edits could not be consulted", retry_after=1) from error
        trace = None
        answers = [decision.plan.answer if decision.plan is not None else None for decision in decisions]
        for question, decision in zip(questions, decisions, strict=True):
            if decision.plan is not None:
                body = revised(endpoint, body, question, decision.plan.request)
                trace = decision.trace if trace is None else joined(trace, decision.trace)
        if trace is None:
            return _Verdict("out_of_scope", data)
        if len(answers) == 1 and answers[0] is not None:
            return _Verdict("edited", data, trace, answers[0], body)
        return _Verdict("edited", json.dumps(body, separators=(",", ":")).encode(), trace)

    async def _say(self, endpoint: Endpoint, verdict: _Verdict, send: Send) -> int:
        """Give the reply that is known already, in the endpoint's own format."""
        assert verdict.body is not None
        assert verdict.answer is not None
        assert verdict.trace is not None
        # Nobody counted tokens: the model was not asked.
        said = Said(verdict.answer, verdict.trace, 0, 0, cut=False)
        form = FORMATS[endpoint](secrets.token_hex(12), int(time.time()), str(verdict.body.get("model", "")))
        traced = trace_header(verdict.trace)
        if not verdict.body.get("stream"):
            row = form.whole(said)
            if self.settings.trace_body:
                row["corrigenda"] = verdict.trace.to_dict()
            await send_json(send, 200, row, (traced,))
            return 200
        headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache"), traced]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        events = [*form.opening(), *form.piece(said.text), *form.closing(said, usage_wanted(verdict.body))]
        await send_events(send, events)
        await send({"type": "http.response.body", "body": b""})
        return 200

    @staticmethod
    def _with_trace(trace: Trace) -> Callable[[bytes], bytes]:
        """Return a function that puts ``trace`` into an answer that is a JSON object; others stay as they are."""

        def amend(data: bytes) -> bytes:
            try:
                row = json.loads(data)
            except (ValueError, RecursionError):
                return data
            return json.dumps({**row, "corrigenda": trace.to_dict()}).encode() if isinstance(row, dict) else data

        return amend


def _plain(endpoint: Endpoint, body: Mapping[str, Any]) -> bool:
    """Tell whether one text is all that ``body`` asks for, so that it may be a strategy's own.

    Not so: several prompts or choices, tools to be called, a form to be kept to, an answer to be looked up later.
    """
    if any(body.get(name) not in (None, 1) for name in ("n", "best_of")) or any(_given(body, name) for name in _MORE):
        return False
    if endpoint == "completions":
        return isinstance(body["prompt"], str) or len(body["prompt"]) == 1
    if endpoint == "chat":
        form = body.get("response_format")
    else:
        text = body.get("text")
        form = text.get("format") if isinstance(text, dict) else None
    unkept = (None, False) if endpoint == "chat" else (False,)  # each by its default
    return form in (None, {"type": "text"}) and body.get("store") in unkept


def _given(body: Mapping[str, Any], name: str) -> bool:
    value = body.get(name)
    return value is not None and value is not False and value != []  # logprobs=0 asks for some
