"""The admin API as an ASGI app: finds the operation, checks the key, reads the body, and answers in JSON."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, unquote

from starlette.types import Receive, Scope, Send

from corrigenda.errors import CorrigendaError
from corrigenda.middleware.gateway.admin.call import Call, json_object
from corrigenda.middleware.gateway.admin.groups import handlers
from corrigenda.middleware.gateway.admin.openapi import document
from corrigenda.middleware.gateway.admin.table import OPERATIONS, Operation
from corrigenda.middleware.gateway.bodies import ClientGone, read_body
from corrigenda.middleware.gateway.logs import FIELDS
from corrigenda.middleware.gateway.replies import Refusal, problem, send_json, send_problem

if TYPE_CHECKING:
    from corrigenda.middleware.gateway.app import Gateway

log = logging.getLogger("corrigenda.gateway.admin")
PREFIX = "/admin/v1"
_THREADS = 8
_ASKING = ("ask", "preview")
_MOST_ASKING = 4
"""Calls at once that may wait for a model; the other threads are left to calls that do not."""
_NO_STORE = (b"cache-control", b"no-store")


class AdminApi:
    """An ASGI app for ``/admin/v1/...``.

    Args:
        gateway: Whose API it is.
    """

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway
        self._handlers = handlers(gateway)
        self._document = document()
        # Threads of its own: in those of the event loop its callers would be in the way of the data plane.
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="admin")
        self._asking = asyncio.Semaphore(_MOST_ASKING)

    def close(self) -> None:
        """Wait for the calls under way."""
        self._pool.shutdown(cancel_futures=True)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        name, status = "unknown", 200
        try:
            path = scope["path"].removeprefix(PREFIX)
            if path == "/openapi.json" and scope["method"] == "GET":
                await send_json(send, 200, self._document)
                return
            key = self.gateway.access.admin(scope)
            operation, parts = _find(scope["method"], scope["raw_path"].decode("latin-1"))
            name = operation.name
            call = await self._read(operation, parts, Call(key, self.gateway.settings.namespace), scope, receive)
            result = await self._done(name, call)
            status = operation.status
            # Who did what, for the log; what was said is in the ledger.
            log.info("%s", name, extra={FIELDS: {"operation": name, "key": key.id, "status": status}})
            await _answer(send, operation, result)
        except ClientGone:
            status = 499
        except (Refusal, CorrigendaError) as error:
            status = problem(error)[0]
            if status >= 500:
                log.error("%s failed: %s", name, type(error).__name__)
            await send_problem(send, error)
        self.gateway.metrics.admin.labels(name, f"{status // 100}xx").inc()

    async def _done(self, name: str, call: Call) -> Any:
        async with self._asking if name in _ASKING else contextlib.nullcontext():
            return await asyncio.get_running_loop().run_in_executor(self._pool, self._handlers[name], call)

    async def _read(
        self, operation: Operation, parts: Mapping[str, str], call: Call, scope: Scope, receive: Receive
    ) -> Call:
        settings = self.gateway.settings
        data = await read_body(scope, receive, limit=settings.max_admin_body, seconds=settings.body_seconds)
        body: Mapping[str, Any] = {}
        if operation.body is not None:
            body = json_object(data, operation.body)
        elif data and operation.lines != "in":
            raise Refusal(400, "unexpected_body", "this takes no body")
        return Call(call.key, call.default_namespace, parts, _query(scope, operation), body, data)


def _query(scope: Scope, operation: Operation) -> dict[str, str]:
    try:
        pairs = parse_qsl(
            scope["query_string"].decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=50
        )
    except ValueError:
        raise Refusal(400, "not_readable", "the query string cannot be read") from None
    row = dict(pairs)
    if len(row) < len(pairs):
        raise Refusal(400, "not_readable", "a parameter is given twice")
    if unknown := sorted(set(row) - set(operation.query)):
        raise Refusal(400, "unknown_parameter", f"there is no parameter {unknown[0][:40]!r} here")
    return row


def _find(method: str, raw_path: str) -> tuple[Operation, dict[str, str]]:
    """Return the operation at the path, and the values of its parts in braces."""
    given = raw_path.removeprefix(PREFIX).split("/")
    allowed = False
    for operation in OPERATIONS:
        wanted = operation.path.split("/")
        if len(wanted) != len(given) or not all(
            want == have or (want.startswith("{") and have) for want, have in zip(wanted, given, strict=True)
        ):
            continue
        if operation.method == method:
            pairs = zip(wanted, given, strict=True)
            return operation, {want[1:-1]: unquote(have) for want, have in pairs if want.startswith("{")}
        allowed = True
    if allowed:
        raise Refusal(405, "method_not_allowed", f"{method} is not possible here")
    raise Refusal(404, "not_found", "there is nothing at this path")


async def _answer(send: Send, operation: Operation, result: Any) -> None:
    if operation.lines != "out":
        await send_json(send, operation.status, result, (_NO_STORE,))
        return
    data = str(result).encode()
    headers = [
        (b"content-type", b"application/jsonl"),
        (b"content-length", b"%d" % len(data)),
        (b"content-disposition", b'attachment; filename="edits.jsonl"'),
        _NO_STORE,
    ]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": data})
