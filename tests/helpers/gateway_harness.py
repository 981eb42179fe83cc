"""Real servers on free ports: a stub upstream that remembers bytes, and gateways in front of it."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx
import uvicorn
from waiting import until


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


class Printer:
    """A consolidator that prints nothing, and can be told to wait or to fail."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.go.set()
        self.fault: Exception | None = None
        self.done: list[dict[str, Any]] = []

    def consolidate(self, namespace: str, request: Mapping[str, Any], author: str, say: Callable[[str], None]) -> Any:
        say("loading")
        assert self.go.wait(30)
        say("printing")
        if self.fault is not None:
            raise self.fault
        row = {"id": f"run-{len(self.done)}", "state": "in force", "revertible": True, "edits": 1, "summary": "1 edit"}
        self.done.append({**row, "namespace": namespace, "author": author, "request": dict(request)})
        return row

    def runs(self, namespace: str) -> list[dict[str, Any]]:
        return [row for row in self.done if row["namespace"] == namespace]

    def roll_back(self, namespace: str, run: str, author: str) -> Any:
        self.done = [row for row in self.done if row["id"] != run]
        return {"rolled_back": run}


StartGateway = Callable[..., str]

# Time enough for a busy machine: what is waited for is not what these tests are about.
post = functools.partial(httpx.post, timeout=60)
get = functools.partial(httpx.get, timeout=60)

# A gateway counts and logs a request after the client has its last byte.
eventually = functools.partial(until, seconds=10)
