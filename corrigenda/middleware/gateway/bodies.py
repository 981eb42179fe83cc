"""Request bodies, read with a limit on their size and on the time they take."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from typing import TypeVar

from starlette.types import Receive, Scope

from corrigenda.middleware.gateway.replies import Refusal

Done = TypeVar("Done")


class ClientGone(Exception):
    """The client went away before its request was there, or answered."""


async def read_body(scope: Scope, receive: Receive, *, limit: int, seconds: float) -> bytes:
    """Return the whole body.

    Raises:
        Refusal: 413 beyond ``limit`` bytes, 408 when it takes longer than ``seconds``.
        ClientGone: The connection was closed first.
    """
    if declared_length(scope) > limit:
        raise _too_large(limit)
    first = await _message(receive, seconds)
    if not first[1]:
        if len(first[0]) > limit:
            raise _too_large(limit)
        return first[0]
    chunks, size = [first[0]], len(first[0])
    deadline = asyncio.get_running_loop().time() + seconds
    while True:
        chunk, more = await _message(receive, deadline - asyncio.get_running_loop().time())
        size += len(chunk)
        if size > limit:
            raise _too_large(limit)
        chunks.append(chunk)
        if not more:
            return b"".join(chunks)


class StreamedBody:
    """A body that is handed on while it arrives: an iterable of chunks. See :func:`read_body`.

    Args:
        scope: Of ASGI, as the next.
        receive: Nobody else may read from it until the body is ``over``.
        limit: Most bytes.
        seconds: Longest silence.

    Attributes:
        over: Set once nothing more of it is to be expected.
        failure: Why it did not arrive; ``None`` if nothing is wrong. Whoever sends the chunks on may hide the error.

    Raises:
        Refusal: 413 when it is declared to be longer than ``limit``.
    """

    def __init__(self, scope: Scope, receive: Receive, *, limit: int, seconds: float) -> None:
        if declared_length(scope) > limit:
            raise _too_large(limit)
        self._receive, self._limit, self._seconds = receive, limit, seconds
        self.over = asyncio.Event()
        self.failure: Refusal | ClientGone | None = None

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for chunk in self._chunks():
                yield chunk
        except (Refusal, ClientGone) as error:
            self.failure = error
            raise
        finally:
            self.over.set()

    async def _chunks(self) -> AsyncIterator[bytes]:
        size = 0
        while True:
            chunk, more = await _message(self._receive, self._seconds)
            size += len(chunk)
            if size > self._limit:
                raise _too_large(self._limit)
            if chunk:
                yield chunk
            if not more:
                return


def declared_length(scope: Scope) -> int:
    """Return the Content-Length; 0 where there is none."""
    for key, value in scope["headers"]:
        if key == b"content-length" and value.isdigit():
            return int(value)
    return 0


async def disconnected(receive: Receive) -> None:
    """Return when the client went away; for requests whose body was read."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def unless_gone(receive: Receive, work: Awaitable[Done]) -> Done:
    """Return what ``work`` comes to; for requests whose body was read.

    Raises:
        ClientGone: The client went away first; ``work`` was cancelled.
    """
    doing, gone = asyncio.ensure_future(work), asyncio.ensure_future(disconnected(receive))
    try:
        await asyncio.wait((doing, gone), return_when=asyncio.FIRST_COMPLETED)
        if not doing.done():
            raise ClientGone
        return doing.result()
    finally:
        gone.cancel()
        if not doing.done():
            doing.cancel()
            await asyncio.wait((doing,))


async def _message(receive: Receive, seconds: float) -> tuple[bytes, bool]:
    try:
        async with asyncio.timeout(seconds):
            message = await receive()
    except TimeoutError:
        raise Refusal(408, "slow_request", "the request did not arrive in time") from None
    if message["type"] == "http.disconnect":
        raise ClientGone
    return message.get("body", b""), message.get("more_body", False)


def _too_large(limit: int) -> Refusal:
    return Refusal(413, "too_large", f"the request body is longer than {limit:,} bytes")
