"""The wire format of OpenAI-compatible servers: where in a request body the question is, and how it is changed there.

Everything that is not text to be answered, unknown fields, tools and images among it, stays as the caller wrote it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from corrigenda.chat import MAX_QUERY, Chat, Message, Role

Endpoint = Literal["chat", "completions", "responses"]

_ROLES: Mapping[str, Role] = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
_TEXT_PARTS = ("text", "input_text", "output_text")
_OPTIONS = frozenset({"messages", "prompt", "input"})


@dataclass(frozen=True, slots=True)
class Asked:
    """One thing a request body asks.

    Attributes:
        chat: It, as this package sees a request; turns without text, and those of tools, are left out.
        places: For each message of ``chat``, its index in the body's list; empty where the body holds plain text.
        prompt: Index in the body's list of prompts; ``None`` when there is one prompt only.
    """

    chat: Chat
    places: tuple[int, ...] = ()
    prompt: int | None = None


def asked(endpoint: Endpoint, body: object) -> list[Asked]:
    """Return what ``body`` asks: one item, several for several prompts, none when it holds no text that can be judged.

    Malformed bodies ask nothing: the upstream knows best how to refuse them.
    """
    if not isinstance(body, dict):
        return []
    options = {key: value for key, value in body.items() if key not in _OPTIONS}
    if endpoint == "chat":
        return _conversation(body.get("messages"), options)
    if endpoint == "responses":
        given = body.get("input")
        if isinstance(given, str):
            return [Asked(Chat((Message("user", given),), options=options))] if _usable(given) else []
        return _conversation(given, options)
    prompt = body.get("prompt")
    if isinstance(prompt, str):
        return [_completion(prompt, options)] if _usable(prompt) else []
    if isinstance(prompt, list):
        return [
            _completion(text, options, place)
            for place, text in enumerate(prompt)
            if isinstance(text, str) and _usable(text)
        ]
    return []


def revised(endpoint: Endpoint, body: Mapping[str, Any], question: Asked, chat: Chat) -> dict[str, Any]:
    """Return a copy of ``body`` that asks ``chat`` where it asked ``question``; all else is shared with ``body``.

    A turn that ``chat`` changes keeps its other fields and its images; turns that it adds are added in their place.
    """
    if endpoint == "completions":
        text = chat.messages[-1].content
        if question.prompt is None:
            return {**body, "prompt": text}
        prompts = list(body["prompt"])
        prompts[question.prompt] = text
        return {**body, "prompt": prompts}
    key = "messages" if endpoint == "chat" else "input"
    if not question.places:
        if len(chat.messages) == 1:
            return {**body, key: chat.messages[0].content}
        return {**body, key: [_turn(message) for message in chat.messages]}
    return {**body, key: _spliced(list(body[key]), question, chat.messages)}


def text_of(content: object) -> str:
    """Return the text of a message's content: itself, or its text parts joined by newlines; empty for none."""
    if isinstance(content, str):
        return content
    return "\n".join(part["text"] for part in _text_parts(content))


_CONTROL = re.compile(
    r"<\|(?=[^<>|\n]{0,64}\|>)|\[(?=/?INST\])|<(?=/?s>|<?/?SYS>|(?:start|end)_of_turn>)", re.IGNORECASE
)


def harmless(text: str) -> str:
    """Return ``text`` on one line, with control tokens of chat templates broken up.

    Upstreams put messages into templates that we do not see; some of them read ``<|im_end|>`` inside a message as the
    end of the turn. An edit must not be able to begin another turn.
    """
    broken = _CONTROL.sub(lambda match: match.group() + " ", text)
    return " ".join(broken.split())


def _conversation(turns: object, options: Mapping[str, Any]) -> list[Asked]:
    if not isinstance(turns, list):
        return []
    messages: list[Message] = []
    places: list[int] = []
    for place, turn in enumerate(turns):
        if not isinstance(turn, dict):
            continue
        raw = turn.get("role")
        role = _ROLES.get(raw) if isinstance(raw, str) else None
        text = text_of(turn.get("content"))
        if role is not None and text.strip():
            messages.append(Message(role, text))
            places.append(place)
    last = next((message.content for message in reversed(messages) if message.role == "user"), "")
    return [Asked(Chat(tuple(messages), options=options), tuple(places))] if _usable(last) else []


def _completion(prompt: str, options: Mapping[str, Any], place: int | None = None) -> Asked:
    return Asked(Chat((Message("user", prompt),), completion=True, options=options), (), place)


def _usable(text: str) -> bool:
    """Tell whether the scope classifier takes ``text``; what it refuses goes on untouched."""
    if not text.strip() or len(text) > MAX_QUERY or "\x00" in text:
        return False
    return text.isascii() or not any("\ud800" <= char <= "\udfff" for char in text)


def _text_parts(content: object) -> Iterator[dict[str, Any]]:
    if isinstance(content, list):
        for part in content:
            if isinstance(part, dict) and part.get("type") in _TEXT_PARTS and isinstance(part.get("text"), str):
                yield part


def _spliced(turns: list[Any], question: Asked, messages: Sequence[Message]) -> list[Any]:
    """Put ``messages`` where ``question`` took its own from; what both share keeps the caller's object."""
    before = question.chat.messages
    head = 0
    while head < min(len(before), len(messages)) and before[head] == messages[head]:
        head += 1
    tail = 0
    while tail < min(len(before), len(messages)) - head and before[-1 - tail] == messages[-1 - tail]:
        tail += 1
    old = list(zip(question.places, before, strict=True))[head : len(before) - tail]
    new = list(messages[head : len(messages) - tail])
    anchor = question.places[head] if head < len(before) else len(turns)
    # From the end: the turn that is asked is the last one, and what a strategy adds stands before it.
    while new:
        message = new.pop()
        if old and old[-1][1].role == message.role:
            anchor, _ = old.pop()
            turns[anchor] = {**turns[anchor], "content": _content(turns[anchor]["content"], message.content)}
        else:
            turns.insert(anchor, _turn(message))
    for place, _ in reversed(old):
        del turns[place]
    return turns


def _content(old: Any, text: str) -> Any:
    """Return ``text`` as the content of a turn that had ``old``: parts that are not text stay, in their order."""
    if isinstance(old, str):
        return text
    texts = [part for part in old if any(part is known for known in _text_parts(old))]
    return [
        {**part, "text": text} if part is texts[0] else part
        for part in old
        if part is texts[0] or not any(part is known for known in texts)
    ]


def _turn(message: Message) -> dict[str, str]:
    return {"role": message.role, "content": message.content}
