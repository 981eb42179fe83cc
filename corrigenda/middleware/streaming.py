"""An answer that arrives piece by piece."""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from corrigenda.chat import Trace
from corrigenda.middleware.answering import Job, Options, arguments, at_work, finished

if TYPE_CHECKING:
    from corrigenda.lm.loading import LanguageModel

_END = object()


class Stream(Iterator[str]):
    """The pieces of one answer. The model works in a thread of its own from the first piece on.

    Attributes:
        trace: How the answer comes about; complete once the last piece has been taken.

    An error in the model is raised by the next piece. :meth:`close` (or the end of a ``with`` block) stops the model
    after the token it is at.
    """

    def __init__(self, lm: LanguageModel, job: Job, options: Options, trace: Trace) -> None:
        self.trace = trace
        self._lm, self._job, self._options = job.model(lm), job, options
        self._queue: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._abandoned = threading.Event()
        self._pieces = self._work()

    def __iter__(self) -> Stream:
        return self

    def __next__(self) -> str:
        return next(self._pieces)

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop; what has not been taken is lost."""
        self.abandon()
        self._pieces.close()

    def abandon(self) -> None:
        """Let the model stop after the token it is at, without waiting for it; from any thread, at any time."""
        self._abandoned.set()

    def _work(self) -> Generator[str]:
        if self._job.answer is not None:
            if self._job.answer:
                yield self._job.answer
            self.trace = replace(self.trace, milliseconds={**self.trace.milliseconds, "generate": 0.0})
            return
        began = time.perf_counter()
        thread = threading.Thread(target=self._generate, name="corrigenda-stream", daemon=True)
        thread.start()
        tokens: list[int] = []
        said = self._finished([]) if self._job.forced else ""
        try:
            if said:  # it is known already: no need to wait for the model
                yield said
            while (item := self._queue.get()) is not _END:
                if isinstance(item, BaseException):
                    raise item
                tokens += item
                text = self._finished(tokens)
                if text.startswith(said) and (piece := _settled(text, self._job.stop.texts)[len(said) :]):
                    said += piece
                    yield piece
            if rest := self._finished(tokens)[len(said) :]:
                yield rest
        finally:
            self._abandoned.set()
            thread.join()
            times = {**self.trace.milliseconds, "generate": (time.perf_counter() - began) * 1e3}
            self.trace = replace(self.trace, milliseconds=times)

    def _finished(self, tokens: list[int]) -> str:
        return finished(self._lm, self._job, tokens, self._options)

    @torch.inference_mode()
    def _generate(self) -> None:
        try:
            inputs, _, passed = arguments(self._lm, [self._job], self._options)
            if passed["max_new_tokens"] >= 1:
                own = list(passed.pop("stopping_criteria", ()))
                passed["stopping_criteria"] = [*own, self._give_up]
                columns = inputs["input_ids"].shape[1]
                with self._options.seeded(), at_work(self._lm, [self._job], columns):
                    self._lm.model.generate(**inputs, **passed, streamer=_Tokens(self._queue))
        except BaseException as error:  # raised again where the pieces are taken
            self._queue.put(error)
        self._queue.put(_END)

    def _give_up(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        return torch.full((len(input_ids),), self._abandoned.is_set(), device=input_ids.device)


class AsyncStream(AsyncIterator[str]):
    """The pieces of one answer, for ``async for``. Deciding and waiting for the model happen in threads.

    Args:
        begin: Decides about the request; awaited when the first piece is asked for.

    :meth:`aclose` (or the end of an ``async with`` block) stops the model after the token it is at, and so does
    cancelling the task that waits for a piece.
    """

    def __init__(self, begin: Callable[[], Awaitable[Stream]]) -> None:
        self._begin = begin
        self._stream: Stream | None = None
        self._closed = False

    @property
    def trace(self) -> Trace:
        """How the answer comes about: empty before the first piece, complete once the last has been taken."""
        return Trace() if self._stream is None else self._stream.trace

    def __aiter__(self) -> AsyncStream:
        return self

    async def __anext__(self) -> str:
        if self._closed:
            raise StopAsyncIteration
        try:
            if self._stream is None:
                self._stream = await self._begin()
            piece = await asyncio.to_thread(next, self._stream, None)
        except asyncio.CancelledError:
            self._closed = True
            if self._stream is not None:
                self._stream.abandon()
            raise
        if piece is None:
            raise StopAsyncIteration
        return piece

    async def __aenter__(self) -> AsyncStream:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Stop; what has not been taken is lost."""
        if self._stream is not None and not self._closed:
            await asyncio.to_thread(self._stream.close)
        self._closed = True


def _settled(text: str, marks: Sequence[str]) -> str:
    """Return ``text`` without its end as far as the next token may change it.

    That is half a character, the beginning of one of the ``marks`` that would end the answer, and white space.
    """
    text = text.rstrip("�")
    begun = max((size for mark in marks for size in range(1, len(mark)) if text.endswith(mark[:size])), default=0)
    return text[: len(text) - begun].rstrip()


class _Tokens:
    """A streamer of transformers: hands on tokens as they come, the prompt's left out."""

    def __init__(self, tokens: queue.SimpleQueue[Any]) -> None:
        self.tokens = tokens
        self.prompt_seen = False

    def put(self, value: torch.Tensor) -> None:
        if self.prompt_seen:
            self.tokens.put(value.reshape(-1).tolist())
        self.prompt_seen = True

    def end(self) -> None:
        """Do nothing: the thread says when it is over."""
