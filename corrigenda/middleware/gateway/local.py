"""The data plane in front of a local model: the same endpoints, answered here."""

from __future__ import annotations

import asyncio
import json
import secrets
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from starlette.types import Receive, Scope, Send

from corrigenda.chat import Chat, Trace
from corrigenda.errors import CorrigendaError, InvalidRequest
from corrigenda.lm.rendering import render
from corrigenda.lm.tokens import token_ids
from corrigenda.middleware.gateway.access import Access
from corrigenda.middleware.gateway.bodies import ClientGone, disconnected, read_body, unless_gone
from corrigenda.middleware.gateway.formats import FORMATS, Said, send_events, usage_wanted
from corrigenda.middleware.gateway.proxy import ENDPOINTS
from corrigenda.middleware.gateway.replies import Refusal, problem, send_json, send_problem, trace_header
from corrigenda.middleware.gateway.settings import Settings
from corrigenda.middleware.gateway.shadowing import Shadowing
from corrigenda.middleware.gateway.watching import Seen, Watch
from corrigenda.middleware.wire import Endpoint, asked

if TYPE_CHECKING:
    from corrigenda.memory.memory import Memory
    from corrigenda.memory.scope import Scope as ScopeClassifier
    from corrigenda.middleware.generate import EditedModel

_MOST_TOKENS = 4096
_DEFAULT_TOKENS = 256
_DONE = object()


class LocalModel:
    """A model of this process. It answers one request at a time: two would share the same cores.

    Args:
        edited: The model and its edits.
    """

    def __init__(self, edited: EditedModel) -> None:
        self.edited = edited
        self.name = edited.lm.name
        self.created = int(time.time())
        self.pool = ThreadPoolExecutor(1, thread_name_prefix="model")

    def for_namespace(
        self, namespace: str, *, memory: Memory | None = None, scope: ScopeClassifier | None = None
    ) -> EditedModel:
        """Return the model in the light of the edits of ``namespace``; of another memory, if one is given."""
        edited = self.edited
        if memory is None and namespace == edited.namespace:
            return edited
        from corrigenda.middleware.generate import EditedModel

        return EditedModel(
            edited.lm,
            memory if memory is not None else edited.memory,
            strategy=edited.strategy,
            scope=scope if scope is not None else edited.scope,
            namespace=namespace,
        )

    def count(self, text: str) -> int:
        """Return how many tokens ``text`` has."""
        return len(self.edited.lm.tokenizer(text, add_special_tokens=False).input_ids) if text else 0

    async def answer(self, chat: Chat, namespace: str, options: Mapping[str, Any]) -> Said:
        """Return the whole answer."""
        loop = asyncio.get_running_loop()
        edited = self.for_namespace(namespace)
        return await loop.run_in_executor(self.pool, self._answer, edited, chat, dict(options), False)

    def ask_now(self, edited: EditedModel, chat: Chat, options: Mapping[str, Any], *, bare: bool) -> Said:
        """Return the whole answer of ``edited``, waiting for it in this thread; ``bare`` leaves the edits out."""
        return self.pool.submit(self._answer, edited, chat, dict(options), bare).result()

    async def alone(self, chat: Chat, tokens: int) -> str:
        """Return what the weights say without the edits, greedily."""
        loop = asyncio.get_running_loop()
        said = await loop.run_in_executor(self.pool, self._answer, self.edited, chat, {"max_new_tokens": tokens}, True)
        return said.text

    def _answer(self, edited: EditedModel, chat: Chat, options: dict[str, Any], bare: bool) -> Said:
        if bare:
            with edited.without_edits():
                (reply,) = edited.reply([chat], **options)
        else:
            (reply,) = edited.reply([chat], **options)
        return self.said(chat, reply.text, reply.trace, options)

    def said(self, chat: Chat, text: str, trace: Trace, options: Mapping[str, Any]) -> Said:
        """Return the answer with its numbers of tokens."""
        asked_tokens = sum(self.count(turn.content) for turn in chat.messages)
        tokens = self.count(text)
        return Said(text, trace, asked_tokens, tokens, tokens >= self._room(chat, asked_tokens, options))

    def _room(self, chat: Chat, asked: int, options: Mapping[str, Any]) -> int:
        """Return how many tokens the answer could have: as many as were allowed, or as the context had left."""
        lm, most = self.edited.lm, int(options["max_new_tokens"])
        if lm.is_encoder_decoder or 2 * asked + most < lm.context_length:  # templates add less than that
            return most
        return min(most, lm.context_length - len(token_ids(lm, render(lm, chat))))

    async def stream(self, chat: Chat, namespace: str, options: Mapping[str, Any]) -> AsyncGenerator[str | Trace]:
        """Yield the trace so far, the pieces, and the whole trace."""
        loop = asyncio.get_running_loop()
        pieces: asyncio.Queue[Any] = asyncio.Queue()
        stopped = threading.Event()

        def work() -> None:
            last: object = _DONE
            try:
                for item in self._stream(chat, namespace, dict(options), stopped):
                    loop.call_soon_threadsafe(pieces.put_nowait, item)
            except BaseException as error:  # whatever it is, who waits for the next piece must not wait for ever
                last = error
            loop.call_soon_threadsafe(pieces.put_nowait, last)

        task = loop.run_in_executor(self.pool, work)
        try:
            while (item := await pieces.get()) is not _DONE:
                if isinstance(item, BaseException):
                    raise item
                yield item
            await task
        finally:
            stopped.set()
            task.cancel()  # it may not have begun

    def _stream(
        self, chat: Chat, namespace: str, options: dict[str, Any], stopped: threading.Event
    ) -> Iterator[str | Trace]:
        if stopped.is_set():
            return
        prompt = chat.messages[-1].content if chat.completion else chat.messages
        with self.for_namespace(namespace).stream(prompt, **options) as stream:
            yield stream.trace
            for piece in stream:
                if stopped.is_set():
                    return
                yield piece
        yield stream.trace

    def close(self) -> None:
        """Wait for the answer in progress."""
        self.pool.shutdown(cancel_futures=True)


class LocalPlane:
    """An ASGI app for ``/v1/...``.

    Args:
        model: Who answers.
        access: Who may ask, and about which namespace.
        watch: Who is told what became of each request.
        settings: Limits.
        shadowing: Told what shadows have answered; nobody, by default.
    """

    def __init__(
        self,
        model: LocalModel,
        access: Access,
        watch: Watch,
        settings: Settings,
        shadowing: Shadowing | None = None,
    ) -> None:
        self.model, self.access, self.watch, self.settings = model, access, watch, settings
        self.shadowing = shadowing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        with self.watch.request(scope) as seen:
            try:
                seen.namespace = self.access.namespace(scope)
                seen.outcome = "local"
                endpoint = ENDPOINTS.get(scope["path"])
                if endpoint is None:
                    await self._models(scope, send)
                elif scope["method"] != "POST":
                    raise Refusal(405, "method_not_allowed", "this takes POST only")
                else:
                    await self._ask(endpoint, scope, receive, send, seen)
                seen.status = 200
            except ClientGone:
                pass
            except Refusal as error:
                seen.outcome, seen.status = "refused", error.status
                await send_problem(send, error)
            except InvalidRequest as error:  # clients of OpenAI know 400 for what 422 is elsewhere
                seen.outcome, seen.status = "refused", 400
                await send_json(send, seen.status, problem(error)[1])
            except CorrigendaError as error:
                seen.status = problem(error)[0]
                await send_problem(send, error)

    async def _models(self, scope: Scope, send: Send) -> None:
        card = {"id": self.model.name, "object": "model", "created": self.model.created, "owned_by": "corrigenda"}
        if scope["path"] == "/v1/models":
            await send_json(send, 200, {"object": "list", "data": [card]})
        elif scope["path"] == f"/v1/models/{self.model.name}":
            await send_json(send, 200, card)
        else:
            raise Refusal(404, "not_found", f"there is nothing at {scope['path']}")

    async def _ask(self, endpoint: Endpoint, scope: Scope, receive: Receive, send: Send, seen: Seen) -> None:
        data = await read_body(scope, receive, limit=self.settings.max_body, seconds=self.settings.body_seconds)
        body = _object(data)
        questions = asked(endpoint, body)
        if len(questions) != 1:
            raise Refusal(400, "unreadable", "one prompt, or messages with a user turn in text, are needed")
        if body.get("n") not in (None, 1):
            raise Refusal(400, "unsupported", "only n=1 is supported by a local model")
        chat, options = questions[0].chat, _options(body)
        if endpoint == "responses" and isinstance(body.get("instructions"), str):
            chat = Chat.of([{"role": "system", "content": body["instructions"]}, *_rows(chat)])
        form = FORMATS[endpoint](f"{secrets.token_hex(12)}", int(time.time()), self.model.name)
        if not body.get("stream"):
            with self.watch.spans.part("model"):
                said = await unless_gone(receive, self.model.answer(chat, seen.namespace, options))
            seen.trace = None if said.trace.untouched else said.trace
            row = form.whole(said)
            if self.settings.trace_body and not said.trace.untouched:
                row["corrigenda"] = said.trace.to_dict()
            await send_json(send, 200, row, () if said.trace.untouched else (trace_header(said.trace),))
            self._shadow(endpoint, data, seen)
            return
        usage = usage_wanted(body)
        with self.watch.spans.part("model"):
            async with aclosing(self.model.stream(chat, seen.namespace, options)) as pieces:
                await self._stream(form, chat, options, usage, pieces, seen, receive, send)
        self._shadow(endpoint, data, seen)

    def _shadow(self, endpoint: Endpoint, data: bytes, seen: Seen) -> None:
        if self.shadowing is not None:
            self.shadowing.note(endpoint, data, seen.trace)

    async def _stream(
        self,
        form: Any,
        chat: Chat,
        options: Mapping[str, Any],
        usage: bool,
        pieces: AsyncIterator[str | Trace],
        seen: Seen,
        receive: Receive,
        send: Send,
    ) -> None:
        first = await unless_gone(receive, anext(pieces))
        assert isinstance(first, Trace)
        seen.trace = None if first.untouched else first
        headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]
        if not first.untouched:
            headers.append(trace_header(first))
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        gone = asyncio.ensure_future(disconnected(receive))
        text, trace = "", first
        try:
            await send_events(send, form.opening())
            async for item in pieces:
                if gone.done():
                    return
                if isinstance(item, Trace):
                    trace = item
                    continue
                text += item
                await send_events(send, form.piece(item))
            await send_events(send, form.closing(self.model.said(chat, text, trace, options), usage))
            await send({"type": "http.response.body", "body": b""})
        finally:
            gone.cancel()


def _object(data: bytes) -> dict[str, Any]:
    try:
        body = json.loads(data)
    except (ValueError, RecursionError):
        raise Refusal(400, "not_json", "the body is not JSON") from None
    if not isinstance(body, dict):
        raise Refusal(400, "not_json", "the body is not a JSON object")
    return body


def _rows(chat: Chat) -> list[dict[str, str]]:
    return [{"role": turn.role, "content": turn.content} for turn in chat.messages]


def _options(body: Mapping[str, Any]) -> dict[str, Any]:
    """Translate OpenAI's arguments to those of :meth:`EditedModel.ask`."""
    limits = [body.get(name) for name in ("max_completion_tokens", "max_output_tokens", "max_tokens")]
    longest = next((limit for limit in limits if limit is not None), _DEFAULT_TOKENS)
    if not isinstance(longest, int) or isinstance(longest, bool) or longest < 1:
        raise Refusal(400, "invalid_value", f"max_tokens must be a whole number of 1 and more, not {longest!r:.50}")
    options: dict[str, Any] = {"max_new_tokens": min(longest, _MOST_TOKENS), "temperature": 0.0}
    for name, low, high in (("temperature", 0.0, 2.0), ("top_p", 0.0, 1.0)):
        value = body.get(name)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            raise Refusal(400, "invalid_value", f"{name} must be a number from {low} to {high}")
        options[name] = float(value)
    if isinstance(body.get("seed"), int):
        options["seed"] = body["seed"]
    stop = body.get("stop")
    if isinstance(stop, str):
        stop = [stop]
    if stop:
        if not isinstance(stop, list) or not all(isinstance(text, str) for text in stop) or len(stop) > 16:
            raise Refusal(400, "invalid_value", "stop must be a text, or a list of up to 16 texts")
        options["stop"] = tuple(stop)
    return options
