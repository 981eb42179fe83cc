"""The answers of a local model in OpenAI's formats: whole, and as server-sent events."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from starlette.types import Send

from corrigenda.chat import Trace
from corrigenda.middleware.wire import Endpoint


@dataclass(frozen=True, slots=True)
class Said:
    """An answer.

    Attributes:
        text: It.
        trace: How it came about.
        prompt_tokens, tokens: Lengths of question and answer.
        cut: Whether it ended because it was as long as it may be.
    """

    text: str
    trace: Trace
    prompt_tokens: int
    tokens: int
    cut: bool

    @property
    def finish(self) -> str:
        """OpenAI's word for why the answer ended."""
        return "length" if self.cut else "stop"


class Format(Protocol):
    """One endpoint's way of putting an answer."""

    def whole(self, said: Said) -> dict[str, Any]:
        """Return the body of the answer."""
        ...

    def opening(self) -> list[str]:
        """Return the events before the first piece."""
        ...

    def piece(self, text: str) -> list[str]:
        """Return the events for a piece."""
        ...

    def closing(self, said: Said, usage: bool) -> list[str]:
        """Return the last events; with the numbers of tokens if ``usage``."""
        ...


@dataclass
class ChatFormat:
    """``/v1/chat/completions``."""

    id: str
    created: int
    model: str

    def whole(self, said: Said) -> dict[str, Any]:
        """See :class:`Format`."""
        message = {"role": "assistant", "content": said.text, "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": said.finish}
        return self._row("chat.completion", [choice]) | {"usage": _usage(said)}

    def opening(self) -> list[str]:
        """See :class:`Format`."""
        return [self._event({"role": "assistant", "content": ""}, None)]

    def piece(self, text: str) -> list[str]:
        """See :class:`Format`."""
        return [self._event({"content": text}, None)]

    def closing(self, said: Said, usage: bool) -> list[str]:
        """See :class:`Format`."""
        events = [self._event({}, said.finish)]
        if usage:
            events.append(_event(self._row("chat.completion.chunk", []) | {"usage": _usage(said)}))
        return [*events, "data: [DONE]\n\n"]

    def _event(self, delta: Mapping[str, Any], finish: str | None) -> str:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return _event(self._row("chat.completion.chunk", [choice]))

    def _row(self, kind: str, choices: list[Any]) -> dict[str, Any]:
        row = {"id": f"chatcmpl-{self.id}", "object": kind, "created": self.created, "model": self.model}
        return row | {"choices": choices}


@dataclass
class CompletionFormat:
    """``/v1/completions``."""

    id: str
    created: int
    model: str

    def whole(self, said: Said) -> dict[str, Any]:
        """See :class:`Format`."""
        return self._row(said.text, said.finish) | {"usage": _usage(said)}

    def opening(self) -> list[str]:
        """See :class:`Format`."""
        return []

    def piece(self, text: str) -> list[str]:
        """See :class:`Format`."""
        return [_event(self._row(text, None))]

    def closing(self, said: Said, usage: bool) -> list[str]:
        """See :class:`Format`."""
        events = [_event(self._row("", said.finish))]
        if usage:
            events.append(_event(self._row("", said.finish) | {"choices": [], "usage": _usage(said)}))
        return [*events, "data: [DONE]\n\n"]

    def _row(self, text: str, finish: str | None) -> dict[str, Any]:
        choice = {"index": 0, "text": text, "logprobs": None, "finish_reason": finish}
        row = {"id": f"cmpl-{self.id}", "object": "text_completion", "created": self.created, "model": self.model}
        return row | {"choices": [choice]}


class ResponseFormat:
    """``/v1/responses``."""

    def __init__(self, id: str, created: int, model: str) -> None:
        self.id, self.created, self.model = id, created, model
        self._number = 0

    def whole(self, said: Said) -> dict[str, Any]:
        """See :class:`Format`."""
        return self._row("completed", [self._item("completed", said.text)], said)

    def opening(self) -> list[str]:
        """See :class:`Format`."""
        part = {"type": "output_text", "text": "", "annotations": []}
        row = self._row("in_progress", [], None)
        return [
            self._event("response.created", response=row),
            self._event("response.in_progress", response=row),
            self._event("response.output_item.added", output_index=0, item=self._item("in_progress", None)),
            self._event("response.content_part.added", **self._place, part=part),
        ]

    def piece(self, text: str) -> list[str]:
        """See :class:`Format`."""
        return [self._event("response.output_text.delta", **self._place, delta=text, logprobs=[])]

    def closing(self, said: Said, usage: bool) -> list[str]:
        """See :class:`Format`."""
        part = {"type": "output_text", "text": said.text, "annotations": []}
        item = self._item("completed", said.text)
        return [
            self._event("response.output_text.done", **self._place, text=said.text, logprobs=[]),
            self._event("response.content_part.done", **self._place, part=part),
            self._event("response.output_item.done", output_index=0, item=item),
            self._event("response.completed", response=self._row("completed", [item], said)),
        ]

    @property
    def _place(self) -> dict[str, Any]:
        return {"item_id": f"msg_{self.id}", "output_index": 0, "content_index": 0}

    def _event(self, kind: str, **fields: Any) -> str:
        row = {"type": kind, "sequence_number": self._number, **fields}
        self._number += 1
        return f"event: {kind}\n{_event(row)}"

    def _item(self, status: str, text: str | None) -> dict[str, Any]:
        content = [] if text is None else [{"type": "output_text", "text": text, "annotations": []}]
        return {
            "id": f"msg_{self.id}",
            "type": "message",
            "status": status,
            "role": "assistant",
            "content": content,
        }

    def _row(self, status: str, output: list[Any], said: Said | None) -> dict[str, Any]:
        usage = None
        if said is not None:
            usage = {
                "input_tokens": said.prompt_tokens,
                "input_tokens_details": {"cached_tokens": 0},
                "output_tokens": said.tokens,
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": said.prompt_tokens + said.tokens,
            }
        return {
            "id": f"resp_{self.id}",
            "object": "response",
            "created_at": self.created,
            "status": status,
            "error": None,
            "incomplete_details": None,
            "instructions": None,
            "metadata": {},
            "model": self.model,
            "output": output,
            "parallel_tool_calls": False,
            "temperature": None,
            "tool_choice": "auto",
            "tools": [],
            "top_p": None,
            "usage": usage,
        }


FORMATS: Mapping[Endpoint, Callable[[str, int, str], Format]] = {
    "chat": ChatFormat,
    "completions": CompletionFormat,
    "responses": ResponseFormat,
}


async def send_events(send: Send, events: list[str]) -> None:
    """Send server-sent events as a part of the answer."""
    if events:
        await send({"type": "http.response.body", "body": "".join(events).encode(), "more_body": True})


def usage_wanted(body: Mapping[str, Any]) -> bool:
    """Tell whether a request wants the numbers of tokens at the end of a stream."""
    options = body.get("stream_options")
    return isinstance(options, dict) and bool(options.get("include_usage"))


def _event(row: Mapping[str, Any]) -> str:
    return f"data: {json.dumps(row, separators=(',', ':'))}\n\n"


def _usage(said: Said) -> dict[str, int]:
    total = said.prompt_tokens + said.tokens
    return {"prompt_tokens": said.prompt_tokens, "completion_tokens": said.tokens, "total_tokens": total}
