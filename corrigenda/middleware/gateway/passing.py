"""A bare proxy of the same stack: what the gateway is compared with."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.types import ASGIApp, Receive, Scope, Send

from corrigenda.middleware.gateway.bodies import read_body
from corrigenda.middleware.gateway.settings import Settings
from corrigenda.middleware.gateway.upstream import Upstream


def bare_app(upstream: str, settings: Settings) -> ASGIApp:
    """Return an app that reads each request and sends it to ``upstream``, and nothing else."""
    target = Upstream(upstream, settings)

    async def plane(scope: Scope, receive: Receive, send: Send) -> None:
        body = await read_body(scope, receive, limit=settings.max_body, seconds=settings.body_seconds)
        await target.forward(scope, receive, send, body)

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        await target.start()
        yield
        await target.close()

    return Starlette(routes=[Mount("/v1", app=plane)], lifespan=lifespan)
