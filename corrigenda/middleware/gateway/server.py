"""The HTTP server: uvicorn, told to add nothing of its own, and to wait for no one forever."""

from __future__ import annotations

import asyncio
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from corrigenda.middleware.gateway.settings import Settings

MAX_HEADER = 128 << 10
"""Longest header of a request, bytes; the parser has no limit of its own."""


def config(
    app: ASGIApp, settings: Settings, *, host: str = "127.0.0.1", port: int = 8080, **more: Any
) -> uvicorn.Config:
    """Return the configuration of a server for ``app``.

    Args:
        app: The gateway.
        settings: Its settings.
        host: Where to listen.
        port: On which port; 0 is any that is free.
        **more: For uvicorn.
    """
    options: dict[str, Any] = {
        "http": guarded(settings.header_seconds),
        "ws": "none",
        "lifespan": "on",
        # Date and Server come from the upstream, and only from there.
        "server_header": False,
        "date_header": False,
        "access_log": False,
        "proxy_headers": False,
        "timeout_keep_alive": 65,
        "log_level": "warning",
    }
    return uvicorn.Config(app, host=host, port=port, **(options | more))


def guarded(seconds: float) -> type[asyncio.Protocol]:
    """Return a protocol that hangs up on clients whose request header takes longer than ``seconds``."""

    class Guarded(HttpToolsProtocol):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            self._guard: asyncio.TimerHandle | None = None
            self._in_request = False
            self._header_bytes = 0

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._watch()

        def data_received(self, data: bytes) -> None:
            if not self._in_request and self._guard is None:
                self._watch()
            if not self._in_request:
                self._header_bytes += len(data)
            super().data_received(data)
            if not self._in_request and self._header_bytes > MAX_HEADER:
                self.transport.close()

        def on_headers_complete(self) -> None:
            self._in_request = True
            self._header_bytes = 0
            self._unwatch()
            super().on_headers_complete()

        def on_message_complete(self) -> None:
            self._in_request = False
            super().on_message_complete()

        def connection_lost(self, exc: Exception | None) -> None:
            self._unwatch()
            super().connection_lost(exc)

        def _watch(self) -> None:
            self._guard = self.loop.call_later(seconds, self.transport.close)

        def _unwatch(self) -> None:
            if self._guard is not None:
                self._guard.cancel()
                self._guard = None

    return Guarded
