"""The upstream: requests go there and answers come back, byte for byte.

Nothing is decoded, followed, retried or stored. What one hop of HTTP adds or removes (connection headers) is all that
differs; header names arrive in lower case, as ASGI has them.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import aiohttp
from multidict import CIMultiDict
from starlette.types import Receive, Scope, Send
from yarl import URL

from corrigenda.middleware.gateway.bodies import ClientGone, StreamedBody, disconnected
from corrigenda.middleware.gateway.replies import Refusal, send_problem
from corrigenda.middleware.gateway.settings import Settings, upstream_base

log = logging.getLogger("corrigenda.gateway")

_HOP = frozenset(
    (
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    )
)
_NOT_SENT = _HOP | {b"host", b"expect", b"content-length"}
_OURS = b"x-corrigenda-"
_AUTOMATIC = ("User-Agent", "Accept", "Accept-Encoding", "Content-Type", "Accept-Language")

_OWN = aiohttp.ClientTimeout(total=60)

Header = tuple[bytes, bytes]
Amend = Callable[[bytes], bytes]


class Upstream:
    """An OpenAI-compatible server behind HTTP.

    Args:
        url: ``http://host:port``, with or without ``/v1``.
        settings: Time-outs.

    Raises:
        InvalidRequest: A URL that cannot be an upstream.
    """

    def __init__(self, url: str, settings: Settings) -> None:
        self.base = upstream_base(url)
        self._timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=settings.connect_seconds, sock_read=settings.read_seconds
        )
        self._key = settings.upstream_key
        self._session: aiohttp.ClientSession | None = None

    async def start(self) -> None:
        """Open the pool of connections; nothing is sent yet."""
        self._session = aiohttp.ClientSession(
            # Servers close idle connections after five seconds or more; a shorter life here avoids the race.
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=4.0),
            timeout=self._timeout,
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=_AUTOMATIC,
            max_line_size=64 << 10,
            max_field_size=64 << 10,
        )

    async def close(self) -> None:
        """Close all connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def ready(self) -> bool:
        """Tell whether something answers there at all."""
        assert self._session is not None
        try:
            async with self._session.get(
                URL(self.base + "/v1/models", encoded=True), timeout=aiohttp.ClientTimeout(total=2)
            ) as response:
                return response.status < 500
        except (aiohttp.ClientError, TimeoutError, OSError):
            return False

    async def ask(self, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """Ask something on the gateway's own account, with ``settings.upstream_key``; return the answer, read.

        Args:
            path: Below the upstream's base, for instance ``/v1/models``.
            body: Sent as JSON by POST; without, GET.

        Raises:
            Refusal: The upstream cannot be reached, refuses, or answers something other than JSON.
        """
        assert self._session is not None
        headers = {"content-type": "application/json"}
        if self._key is not None:
            headers["authorization"] = f"Bearer {self._key}"
        data = None if body is None else json.dumps(body).encode()
        url = URL(self.base + path, encoded=True)
        try:
            async with self._session.request(
                "GET" if body is None else "POST", url, data=data, headers=headers, timeout=_OWN
            ) as response:
                if response.status != 200:
                    raise Refusal(502, "upstream_refused", f"the upstream answered {response.status}")
                return json.loads(await response.read())
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise _unreachable(error) from error
        except (ValueError, RecursionError):
            raise Refusal(502, "upstream_refused", "the upstream answered something other than JSON") from None

    async def forward(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        body: bytes | StreamedBody,
        *,
        extra: Sequence[Header] = (),
        amend: Amend | None = None,
    ) -> int:
        """Send the request of ``scope`` with ``body`` to the upstream, and its answer to the client.

        Args:
            scope: Of ASGI, as the next two.
            receive: The body has been read from it, unless ``body`` reads it.
            send: Where the answer goes.
            body: What the upstream gets.
            extra: Headers added to the answer.
            amend: Changes the body of an answer in JSON; such an answer is handed on when it is whole.

        Returns:
            The status that the client saw; 499 for a client that went away first.

        Raises:
            Refusal: The body is too long, or too slow.
            ClientGone: The client went away before its body was there.
        """
        work = asyncio.ensure_future(self._exchange(scope, send, body, extra, amend))
        gone = asyncio.ensure_future(_left(body, receive))
        try:
            await asyncio.wait((work, gone), return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                work.cancel()  # closes the connection: the upstream stops generating, as it would without us
                await asyncio.wait((work,))
                return 499
            return work.result()
        finally:
            gone.cancel()
            if not work.done():
                work.cancel()

    async def _exchange(
        self,
        scope: Scope,
        send: Send,
        body: bytes | StreamedBody,
        extra: Sequence[Header],
        amend: Amend | None,
    ) -> int:
        assert self._session is not None
        path = scope["raw_path"].decode("latin-1")
        query = scope["query_string"].decode("latin-1")
        url = URL(f"{self.base}{path}?{query}" if query else self.base + path, encoded=True)
        data = None if body == b"" and scope["method"] in ("GET", "HEAD", "OPTIONS") else body
        started = False
        try:
            async with self._session.request(
                scope["method"], url, data=data, headers=_sent(scope["headers"], body), allow_redirects=False
            ) as response:
                headers = [*_returned(response.raw_headers), *extra]
                whole: bytes | None = None
                if amend is not None and _plain_json(headers):
                    whole = amend(await response.read())
                    headers = [pair for pair in headers if pair[0] != b"content-length"]
                    headers.append((b"content-length", b"%d" % len(whole)))
                await send({"type": "http.response.start", "status": response.status, "headers": headers})
                started = True
                if whole is not None:
                    await send({"type": "http.response.body", "body": whole})
                    return response.status
                async for chunk in response.content.iter_any():
                    await send({"type": "http.response.body", "body": chunk, "more_body": True})
                await send({"type": "http.response.body", "body": b""})
                return response.status
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            failure = None if isinstance(body, bytes) else body.failure
            if isinstance(failure, ClientGone) or (failure is not None and not started):
                raise failure from None  # it is not the upstream's
            if started:
                # An answer that broke off must not look whole: the server closes the connection without an end.
                log.warning("upstream broke off after the answer had begun: %s", type(error).__name__)
                return 502
            refusal = _unreachable(error)
            log.warning("upstream failed: %s", type(error).__name__)
            await send_problem(send, refusal)
            return refusal.status


async def _left(body: bytes | StreamedBody, receive: Receive) -> None:
    """Return when the client went away, its request being complete; while it is not, its body is told."""
    if not isinstance(body, bytes):
        await body.over.wait()
    await disconnected(receive)


def _sent(headers: Iterable[Header], body: bytes | StreamedBody) -> CIMultiDict[str]:
    pairs = list(headers)
    # A body that was read has the length it has; one that is passed on while it arrives keeps the caller's word.
    dropped = (
        _NOT_SENT | _named(pairs) if isinstance(body, bytes) else (_NOT_SENT | _named(pairs)) - {b"content-length"}
    )
    kept: CIMultiDict[str] = CIMultiDict()
    for key, value in pairs:
        if key not in dropped and not key.startswith(_OURS):
            kept.add(key.decode("latin-1"), _text(value))
    return kept


def _text(value: bytes) -> str:
    """Return a header's value as text; the client library writes text as UTF-8, so UTF-8 comes through unchanged."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")


def _named(headers: Iterable[Header]) -> frozenset[bytes]:
    """Return the headers that the Connection header declares to be of this hop only."""
    names = (name.strip() for key, value in headers if key == b"connection" for name in value.lower().split(b","))
    return frozenset(names)


def _returned(headers: Iterable[Header]) -> list[Header]:
    pairs = [(key.lower(), value) for key, value in headers]
    dropped = _HOP | _named(pairs)
    return [(key, value) for key, value in pairs if key not in dropped]


def _plain_json(headers: Iterable[Header]) -> bool:
    """Tell whether an answer with these headers is JSON that can be read as it is."""
    named = dict(headers)
    return b"content-encoding" not in named and named.get(b"content-type", b"").startswith(b"application/json")


def _unreachable(error: Exception) -> Refusal:
    if isinstance(error, aiohttp.ClientConnectorError):
        return Refusal(502, "upstream_unreachable", "the upstream cannot be reached", retry_after=1)
    if isinstance(error, TimeoutError):
        return Refusal(504, "upstream_timeout", "the upstream did not answer in time", retry_after=1)
    return Refusal(502, "upstream_failed", "the upstream closed the connection before it answered", retry_after=1)
