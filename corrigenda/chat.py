"""The contract of a model call: Message, Chat, Reply, Generate, and the Trace a reply carries.

A middleware takes a :class:`Generate` and is one, so wraps compose.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeAlias

from corrigenda.edit import EditId, clean_text
from corrigenda.errors import InvalidRequest

Role: TypeAlias = Literal["system", "user", "assistant"]
MAX_QUERY = 200_000
"""Longest prompt or message, in characters; about the context length of the largest models in use."""


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: Role
    content: str


@dataclass(frozen=True, slots=True)
class Chat:
    """A request: the turns of a conversation, or a bare completion prompt as a single user turn.

    Attributes:
        messages: At least one turn.
        completion: Whether the model should continue the text as it stands rather than answer a chat turn.
        options: Sampling arguments, handed on untouched.
    """

    messages: tuple[Message, ...]
    completion: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, prompt: Prompt, **options: Any) -> Chat:
        """Build a request from a prompt (text: completion) or from messages (chat turns).

        Raises:
            InvalidRequest: Empty, over-long, not text, NUL or lone surrogates, or an unknown role.
        """
        if isinstance(prompt, str):
            check_query(prompt)
            return cls((Message("user", prompt),), completion=True, options=options)
        if isinstance(prompt, Mapping) or not isinstance(prompt, Iterable):
            raise InvalidRequest(
                f"a prompt must be text or a list of messages, not {type(prompt).__name__}",
                remedy="Pass a str, or [{'role': 'user', 'content': '...'}].",
            )
        messages = tuple(_message(turn) for turn in prompt)
        if not messages:
            raise InvalidRequest("a conversation needs at least one message")
        return cls(messages, options=options)

    @property
    def query(self) -> str:
        """The text that is to be answered: the last user turn."""
        return next((m.content for m in reversed(self.messages) if m.role == "user"), self.messages[-1].content)


Prompt: TypeAlias = str | Sequence[Message | Mapping[str, str]]
"""What callers may pass: completion text, or chat messages."""


@dataclass(frozen=True, slots=True)
class Fired:
    """One edit that was found to concern the query.

    Attributes:
        edit_id: Which.
        probability: That the edit concerns the query, 0…1.
        margin: ``probability`` minus the threshold in force; never negative for an edit that fired.
        statement: The edit as a sentence.
    """

    edit_id: EditId
    probability: float
    margin: float
    statement: str


@dataclass(frozen=True, slots=True)
class Trace:
    """How a reply came about.

    Attributes:
        fired: Edits in scope, most probable first; empty means that the request went on untouched.
        strategy: Which strategy answered; ``None`` when untouched.
        ledger_version: Sequence number of the last ledger event that was visible.
        milliseconds: Wall time per stage: ``encode``, ``search``, ``judge``, ``plan``, ``generate``.
        notes: Anything else worth knowing, e.g. why an index was rebuilt.
    """

    fired: tuple[Fired, ...] = ()
    strategy: str | None = None
    ledger_version: int = 0
    milliseconds: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def untouched(self) -> bool:
        """Whether the request went on as the caller made it."""
        return not self.fired

    def to_dict(self) -> dict[str, Any]:
        """Return the trace as a JSON-ready dict."""
        return {
            "fired": [
                {
                    "edit": hit.edit_id,
                    "statement": hit.statement,
                    "probability": round(hit.probability, 6),
                    "margin": round(hit.margin, 6),
                }
                for hit in self.fired
            ],
            "strategy": self.strategy,
            "ledger_version": self.ledger_version,
            "milliseconds": {stage: round(ms, 3) for stage, ms in self.milliseconds.items()},
            "notes": list(self.notes),
        }


@dataclass(frozen=True, slots=True)
class Reply:
    """What the model said, and how it came about."""

    text: str
    trace: Trace = field(default_factory=Trace)

    def __str__(self) -> str:
        return self.text


class Generate(Protocol):
    """A model call: a request in, a reply out."""

    def __call__(self, chat: Chat, /) -> Reply:
        """Answer ``chat``."""
        ...


def check_query(text: object) -> str:
    """Return ``text`` as it is when it can be a query.

    Raises:
        InvalidRequest: Not text, empty, longer than :data:`MAX_QUERY`, NUL, or a lone surrogate.
    """
    clean_text("the prompt", text, MAX_QUERY, InvalidRequest)
    assert isinstance(text, str)  # clean_text has refused anything else
    return text


def _message(turn: Message | Mapping[str, str]) -> Message:
    if isinstance(turn, Mapping):
        if not {"role", "content"} <= set(turn):
            raise InvalidRequest(f"a message needs 'role' and 'content', not {sorted(turn)}")
        turn = Message(turn["role"], turn["content"])  # type: ignore[arg-type]
    if not isinstance(turn, Message):
        raise InvalidRequest(f"a message must be a dict or a Message, not {type(turn).__name__}")
    if turn.role not in ("system", "user", "assistant"):
        raise InvalidRequest(f"unknown role {turn.role!r}", remedy="Allowed: system, user, assistant.")
    if turn.role == "system" or turn.role == "assistant":
        if not isinstance(turn.content, str):
            raise InvalidRequest(f"message content must be text, not {type(turn.content).__name__}")
        return turn
    check_query(turn.content)
    return turn
