"""From what a caller gives to an edit: a prompt and fields, or an edit and what is to be different about it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from corrigenda.edit import Edit, Validity, clean_text
from corrigenda.errors import InvalidEdit, InvalidRequest

_LONGEST_REMARK = 4_000


def draft(prompt: str | Edit, target: str | None, fields: Mapping[str, Any]) -> Edit:
    """Return the edit that :meth:`corrigenda.memory.memory.Memory.add` is asked for with these arguments.

    Raises:
        InvalidEdit: See :class:`Edit`.
        InvalidRequest: A whole edit and fields besides; or a ``ttl`` that is over at once, or no length of time.
    """
    given = dict(fields)
    ttl = given.pop("ttl", None)
    if not isinstance(prompt, Edit):
        return _lasting(_built({"prompt": prompt, "target": target}, given), ttl)
    edit = _lasting(prompt, ttl)
    if target is not None or given:
        raise InvalidRequest("an Edit was given, and more fields", remedy="Use edit.replace(...) for those.")
    return edit


def changed(edit: Edit, changes: Mapping[str, Any]) -> Edit:
    """Return ``edit`` with ``changes``: fields of :class:`Edit`, ``valid_from`` and ``valid_to`` among them.

    Raises:
        InvalidEdit: See :class:`Edit`.
    """
    return _built(edit.to_dict(), changes)


def remark(name: str, text: str | None) -> str | None:
    """Return ``text``, said about a change, as the history keeps it; ``None`` for nothing.

    Raises:
        InvalidRequest: Too long, or not text.
    """
    if text is None or text == "" or str(text).isspace():
        return None
    return clean_text(name, text, _LONGEST_REMARK, InvalidRequest)


def storable(changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``changes`` JSON-ready, so that :func:`changed` makes of them what it makes of ``changes`` themselves."""
    return {
        name: value.isoformat() if isinstance(value, datetime) else value for name, value in _split(changes).items()
    }


def _built(row: dict[str, Any], changes: Mapping[str, Any]) -> Edit:
    return Edit.from_dict(row | _split(changes))


def _split(changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``changes``, which may hold ``validity``, with its ends instead."""
    split = dict(changes)
    if "validity" in split:
        validity = split.pop("validity")
        if not isinstance(validity, Validity):
            raise InvalidEdit(
                f"validity must be a Validity, not {type(validity).__name__}",
                remedy="Pass Validity(start, end), or valid_from and valid_to.",
            )
        split |= {"valid_from": validity.start, "valid_to": validity.end}
    return split


def _lasting(edit: Edit, ttl: float | timedelta | None) -> Edit:
    if ttl is None:
        return edit
    try:
        length = ttl if isinstance(ttl, timedelta) else timedelta(seconds=ttl)
        end = datetime.now(UTC) + length
    except (OverflowError, TypeError, ValueError) as error:
        raise InvalidRequest(
            f"ttl={ttl!r} is no length of time", remedy="Give seconds or a timedelta; leave it out for no end."
        ) from error
    if length <= timedelta(0):
        raise InvalidRequest(f"ttl={ttl!r} is over at once", remedy="Give seconds above 0, or a timedelta.")
    return edit.replace(validity=Validity(edit.validity.start, end))
