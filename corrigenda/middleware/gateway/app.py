"""The gateway as one ASGI app: data plane, admin API, admin page, health and metrics."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.routing import BaseRoute, Mount, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from corrigenda.errors import CorrigendaError, InvalidRequest
from corrigenda.memory.hits import Hits
from corrigenda.memory.memory import Memory
from corrigenda.memory.scope import Scope as ScopeClassifier
from corrigenda.middleware.briefing import Briefing
from corrigenda.middleware.gateway.access import Access
from corrigenda.middleware.gateway.admin import page
from corrigenda.middleware.gateway.admin.api import AdminApi
from corrigenda.middleware.gateway.admin.jobs import Consolidator, Jobs
from corrigenda.middleware.gateway.consulting import Consulting
from corrigenda.middleware.gateway.keys import Keys
from corrigenda.middleware.gateway.local import LocalModel, LocalPlane
from corrigenda.middleware.gateway.metrics import CONTENT_TYPE, Metrics
from corrigenda.middleware.gateway.proxy import Proxy
from corrigenda.middleware.gateway.replies import send_json
from corrigenda.middleware.gateway.settings import Settings
from corrigenda.middleware.gateway.shadowing import Alone, Shadowing, asking_here, asking_upstream
from corrigenda.middleware.gateway.spans import Spans
from corrigenda.middleware.gateway.switching import ModelSwitch
from corrigenda.middleware.gateway.upstream import Upstream
from corrigenda.middleware.gateway.watching import Watch
from corrigenda.middleware.strategies.base import Strategy

if TYPE_CHECKING:
    from corrigenda.middleware.generate import EditedModel

log = logging.getLogger("corrigenda.gateway")

HITS_SECONDS = 10.0
"""How often counts of answers are written to their file."""


class Gateway:
    """Everything one gateway consists of; :attr:`app` is what a server runs.

    Args:
        memory: The edits; closed by whoever opened it.
        upstream: URL of an OpenAI-compatible server; or
        model: a local model. Exactly one of the two.
        keys: API keys; without, the admin API refuses everyone.
        settings: See :class:`Settings`.
        strategy: What is done with requests to an upstream that edits concern.
        scope: Judges; by default the scope classifier of ``memory``.
        consolidator: Prints edits into weights; without, the gateway offers no consolidation.
        spans: Where OpenTelemetry's spans go; nowhere, by default.
        switch: Names the model that the upstream is asked for, see
            :class:`~corrigenda.middleware.gateway.switching.ModelSwitch`.
        hits: Where to count how often each edit answers; nowhere, by default.
        shadowing: Looks at what edited weights say alone; nobody, by default.

    Raises:
        InvalidRequest: Neither or both of upstream and model, no URL, or a strategy that is not for upstreams.
    """

    def __init__(
        self,
        memory: Memory,
        *,
        upstream: str | None = None,
        model: EditedModel | None = None,
        keys: Keys | None = None,
        settings: Settings | None = None,
        strategy: Strategy | None = None,
        scope: ScopeClassifier | None = None,
        consolidator: Consolidator | None = None,
        spans: Spans | None = None,
        switch: Callable[[bytes], bytes] | None = None,
        hits: Hits | None = None,
        shadowing: Shadowing | None = None,
    ) -> None:
        if (upstream is None) == (model is None):
            raise InvalidRequest("a gateway needs an upstream or a model, one of them")
        if upstream is not None and strategy is not None and getattr(strategy, "asks_model", False):
            raise InvalidRequest(
                f"the strategy {strategy.name!r} asks the model itself, which nobody pays for behind an upstream",
                remedy="Serve a local model (--model), or choose another strategy: auto, graph or ike.",
            )
        self.memory = memory
        self.settings = settings or Settings()
        self.keys = keys
        self.metrics = Metrics()
        self.watch = Watch(self.metrics, spans, hits)
        self.jobs = Jobs()
        self.consolidator = consolidator
        self.switch, self.hits, self.shadowing = switch, hits, shadowing
        self.loop: asyncio.AbstractEventLoop | None = None
        self.access = Access(keys, self.settings)
        self.consulting = Consulting(
            memory,
            strategy or Briefing(),
            scope=scope if scope is not None or model is None else model.scope,
            early_exit=self.settings.early_exit,
            threads=self.settings.threads,
        )
        self.upstream = Upstream(upstream, self.settings) if upstream is not None else None
        self.model = LocalModel(model) if model is not None else None
        if shadowing is not None:
            shadowing.alone = self._alone(shadowing)
        self.admin = AdminApi(self)
        self.warm = False
        self.app = Starlette(routes=self._routes(), lifespan=self._lifespan)

    def _alone(self, shadowing: Shadowing) -> Alone | None:
        """Return how the edited weights are asked alone; ``None`` where nobody knows which those are."""
        if self.model is not None:
            return asking_here(self.model, shadowing.editions)
        assert self.upstream is not None
        return asking_upstream(self.upstream, self.switch.target) if isinstance(self.switch, ModelSwitch) else None

    def _routes(self) -> list[BaseRoute]:
        plane: ASGIApp
        if self.upstream is not None:
            given = (self.upstream, self.consulting, self.access, self.watch, self.settings)
            plane = Proxy(*given, self.switch, self.shadowing)
        else:
            assert self.model is not None
            plane = LocalPlane(self.model, self.access, self.watch, self.settings, self.shadowing)
        return [
            _mount("/v1", plane),
            _mount("/admin/v1", self.admin),
            *page.routes(),
            Route("/healthz", _Asgi(self._healthz), methods=["GET"]),
            Route("/readyz", _Asgi(self._readyz), methods=["GET"]),
            Route("/metrics", _Asgi(self._metrics), methods=["GET"]),
        ]

    @contextlib.asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[None]:
        self.loop = asyncio.get_running_loop()
        if self.upstream is not None:
            await self.upstream.start()
        self.consulting.start(self.settings.refresh_seconds)
        counting = asyncio.create_task(self._write_hits())
        try:
            await self.consulting.warm()
            self.warm = True
        except CorrigendaError as error:
            log.error("the scope classifier is not ready: %s", error.message)
        try:
            yield
        finally:
            counting.cancel()
            if self.shadowing is not None:
                await self.shadowing.close()
            if self.hits is not None:
                await asyncio.to_thread(self.hits.flush)
            await asyncio.to_thread(self.admin.close)
            await asyncio.to_thread(self.jobs.close)
            await self.consulting.close()
            if self.upstream is not None:
                await self.upstream.close()
            if self.model is not None:
                self.model.close()

    async def _write_hits(self) -> None:
        while self.hits is not None:
            await asyncio.sleep(HITS_SECONDS)
            await asyncio.to_thread(self.hits.flush)

    async def _healthz(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send_json(send, 200, {"status": "ok"})

    async def _readyz(self, scope: Scope, receive: Receive, send: Send) -> None:
        checks = {"judging": self.warm, "upstream": self.upstream is None or await self.upstream.ready()}
        ready = all(checks.values())
        await send_json(send, 200 if ready else 503, {"status": "ready" if ready else "not ready", "checks": checks})

    async def _metrics(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.metrics.edits.set(len(self.memory))
        self.metrics.version.set(self.memory.version)
        self.metrics.stale.set(self.memory.stale_for)
        body = self.metrics.text()
        headers = [(b"content-type", CONTENT_TYPE), (b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})


class _Asgi:
    """A bound method as an ASGI app: Starlette takes functions for endpoints of another kind."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app(scope, receive, send)


class _Whole(_Asgi):
    """An app that sees the whole path, not the part below where it is mounted."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self.app(scope, receive, send)


def _mount(path: str, app: ASGIApp) -> Mount:
    """Mount ``app``; Starlette's own pattern stops at a line break, which %0A in an address becomes."""
    mounted = Mount(path, app=_Whole(app))
    mounted.path_regex = re.compile(mounted.path_regex.pattern, re.DOTALL)
    return mounted
