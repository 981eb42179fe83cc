"""Real servers on free ports: a stub upstream that remembers bytes, and gateways in front of it."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import uvicorn


@contextlib.contextmanager
def serving(config: uvicorn.Config) -> Iterator[str]:
    """Run a server in a thread; yield its URL."""
    running = uvicorn.Server(config)
    thread = threading.Thread(target=running.run, daemon=True)
    thread.start()
    while not running.started:
        assert thread.is_alive(), "the server did not start"
        time.sleep(0.01)
    port = running.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        running.should_exit = True
        thread.join(10)


@dataclass
class Stub:
    """An upstream that keeps what it gets and says what it is told to.

    ``script`` names what happens to the next request, by path; see :meth:`_reply`.
    """

    url: str = ""
    seen: list[dict[str, Any]] = field(default_factory=list)
    status: int = 200
    headers: list[tuple[bytes, bytes]] = field(default_factory=lambda: [(b"content-type", b"application/json")])
    chunks: list[bytes] = field(default_factory=lambda: [b'{"choices":[{"message":{"content":"stub"}}]}'])
    pause: float = 0.0
    breaks: bool = False
    cancelled: threading.Event = field(default_factory=threading.Event)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})
            return
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        self.seen.append(
            {
                "method": scope["method"],
                "path": scope["raw_path"],
                "query": scope["query_string"],
                "headers": scope["headers"],
                "body": body,
            }
        )
        await send({"type": "http.response.start", "status": self.status, "headers": self.headers})
        for place, chunk in enumerate(self.chunks):
            if place and self.pause:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self.pause):
                        if (await receive())["type"] == "http.disconnect":
                            self.cancelled.set()
                            return
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        if not self.breaks:
            await send({"type": "http.response.body", "body": b""})

    @property
    def last(self) -> dict[str, Any]:
        return self.seen[-1]

    def json(self) -> Any:
        return json.loads(self.last["body"])


StartGateway = Callable[..., str]

# Time enough for a busy machine: what is waited for is not what these tests are about.
post = functools.partial(httpx.post, timeout=60)
get = functools.partial(httpx.get, timeout=60)
