"""One call of the admin API, read and checked: whose it is, and what it says."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from corrigenda.edit import clean_text
from corrigenda.errors import CorrigendaError, InvalidRequest
from corrigenda.middleware.gateway.access import Access
from corrigenda.middleware.gateway.keys import Key, Role
from corrigenda.middleware.gateway.replies import Refusal

MAX_OFFSET = 10_000_000


@dataclass(frozen=True)
class Call:
    """What an operation gets.

    Attributes:
        key: Whose call it is.
        default_namespace: Where the call is about no other.
        path: Values of the parts of the path in braces.
        query: Parameters after the question mark.
        body: The JSON object that was sent; empty for none.
        raw: The bytes that were sent.
    """

    key: Key
    default_namespace: str
    path: Mapping[str, str] = field(default_factory=dict)
    query: Mapping[str, str] = field(default_factory=dict)
    body: Mapping[str, Any] = field(default_factory=dict)
    raw: bytes = b""

    def namespace(self, role: Role) -> str:
        """Return the namespace that the call is about.

        Raises:
            Refusal: 403 when the key has less than ``role`` there.
        """
        name = clean_text("namespace", self._given("namespace", self.default_namespace), 200, InvalidRequest)
        Access.require(self.key, role, name)
        return name

    def text(self, name: str, limit: int, default: str | None = None) -> str:
        """Return the text ``name`` of the body. Raises :class:`InvalidRequest`."""
        return clean_text(name, self.body.get(name, default), limit, InvalidRequest)

    def optional(self, name: str, limit: int) -> str | None:
        """Return the text ``name`` of body or query, ``None`` when it is not there. Raises :class:`InvalidRequest`."""
        value = self._given(name, None)
        return None if value is None else clean_text(name, value, limit, InvalidRequest)

    def choice(self, name: str, choices: tuple[str, ...]) -> Any:
        """Return which of ``choices`` body or query name; the first by default. Raises :class:`InvalidRequest`."""
        value = self._given(name, choices[0])
        if value not in choices:
            raise InvalidRequest(f"{name}={value!r:.80} is not allowed", remedy=f"Allowed: {', '.join(choices)}.")
        return value

    def number(self, name: str, default: int, low: int, high: int) -> int:
        """Return the whole number ``name`` of body or query. Raises :class:`InvalidRequest`."""
        value = self._given(name, default)
        if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 10:
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise InvalidRequest(f"{name} must be a whole number from {low} to {high}, not {value!r:.80}")
        return value

    def flag(self, name: str) -> bool:
        """Return whether ``name`` of the body is true; ``False`` by default. Raises :class:`InvalidRequest`."""
        value = self.body.get(name, False)
        if not isinstance(value, bool):
            raise InvalidRequest(f"{name} must be true or false, not {value!r:.80}")
        return value

    def texts(self, name: str, most: int, limit: int) -> list[str]:
        """Return the list of texts ``name`` of the body. Raises :class:`InvalidRequest`."""
        values = self.body.get(name)
        if not isinstance(values, list) or not 0 < len(values) <= most:
            raise InvalidRequest(f"{name} must be a list of 1 to {most} texts")
        return [clean_text(f"{name}[{place}]", value, limit, InvalidRequest) for place, value in enumerate(values)]

    def _given(self, name: str, default: Any) -> Any:
        return self.body[name] if name in self.body else self.query.get(name, default)


def json_object(data: bytes, allowed: Mapping[str, Any]) -> dict[str, Any]:
    """Return the object in ``data``, whose fields must be among ``allowed``.

    Raises:
        Refusal: 400 when it is not strict JSON in UTF-8, or not an object.
        InvalidRequest: Unknown fields.
    """
    try:
        row = json.loads(data.decode(), parse_constant=_refuse)
    except (ValueError, RecursionError):
        raise Refusal(400, "not_json", "the body is not JSON in UTF-8") from None
    if not isinstance(row, dict):
        raise Refusal(400, "not_json", "the body is not a JSON object")
    if unknown := sorted(set(row) - set(allowed)):
        raise InvalidRequest(
            f"unknown field(s) {', '.join(repr(name[:40]) for name in unknown[:5])}",
            remedy=f"Allowed: {', '.join(sorted(allowed)) or 'none'}.",
        )
    return row


def _refuse(name: str) -> Any:
    raise ValueError(name)


Handler = Callable[[Call], Any]
"""Does what a call asks, in a thread, and returns what is to be sent as JSON. Raises :class:`CorrigendaError`."""

Problems = CorrigendaError | Refusal
