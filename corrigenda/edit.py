"""Edit: the one noun that everything here passes around.

An edit says what a language model should answer (*target*) to a prompt or question, about whom (*subject*), in which
respect (*relation*), since when, and on whose word. It is a frozen value; its id is a hash of what it claims, so
adding the same claim twice is adding it once.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, NewType

from corrigenda.errors import InvalidEdit

EditId = NewType("EditId", str)
"""Content hash of an edit: ``e`` and 20 hexadecimal digits (80 bits: two of 10⁶ edits collide with odds of 4·10⁻¹³)."""

MAX_PROMPT = 4_000
"""Longest prompt, subject or paraphrase, in characters. An edit states one fact; a document belongs elsewhere."""
MAX_TARGET = 1_000
"""Longest target, in characters."""
MAX_LIST = 256
"""Most aliases, paraphrases or tags of one edit."""


@dataclass(frozen=True, slots=True)
class Validity:
    """When an edit holds: from ``start`` (inclusive) to ``end`` (exclusive), both in UTC; ``None`` is unbounded.

    Raises:
        InvalidEdit: ``start`` is not before ``end``, a time without a zone, or one that UTC cannot say.
    """

    start: datetime | None = None
    end: datetime | None = None

    def __post_init__(self) -> None:
        for name in ("start", "end"):
            moment = getattr(self, name)
            if moment is None:
                continue
            if not isinstance(moment, datetime) or moment.tzinfo is None:
                raise InvalidEdit(
                    f"valid {name} must be a datetime with a time zone, not {moment!r}",
                    remedy="Write it as 2026-01-31T00:00:00+00:00, or pass datetime(..., tzinfo=UTC).",
                )
            try:
                object.__setattr__(self, name, moment.astimezone(UTC))
            except OverflowError as error:
                unbounded = "valid_from out for no beginning" if name == "start" else "valid_to out for no end"
                raise InvalidEdit(
                    f"valid {name} {moment.isoformat()} is outside of the years 1 to 9999 in UTC",
                    remedy=f"Leave {unbounded}.",
                ) from error
        if self.start and self.end and self.start >= self.end:
            raise InvalidEdit(
                f"valid-from {self.start.isoformat()} is not before valid-to {self.end.isoformat()}",
                remedy="Swap them, or leave one out.",
            )

    def covers(self, moment: datetime) -> bool:
        """Tell whether the edit holds at ``moment``."""
        return (self.start is None or self.start <= moment) and (self.end is None or moment < self.end)


ALWAYS = Validity()


@dataclass(frozen=True)
class Edit:
    """A correction: what the model should say from now on.

    Attributes:
        prompt: A statement up to the object ("The capital of Kazakhstan is") or a question. 1…4,000 characters.
        target: The new answer ("Astana"). 1…1,000 characters.
        subject: What the edit is about ("Kazakhstan"). Scope and parameter editors work best when it is given and
            occurs in the prompt.
        relation: A name for the respect ("capital", "P36"); with the subject it makes the conflict key.
        old_answer: What the model says, or said, that is wrong.
        aliases: Other names of the subject.
        target_aliases: Other spellings of the target, right as well.
        paraphrases: Other wordings of the prompt.
        author, source: On whose word; free text.
        tags: Free labels.
        validity: When the edit holds.
        parent: Id of the edit that this one follows from: its inverse, a consequence of it. A derived edit is live
            only as long as its parent is.
        namespace: Edits of one namespace are never seen from another.

    Raises:
        InvalidEdit: A field is empty, too long, of the wrong type, holds NUL or a lone surrogate, or the target equals
            the old answer.
    """

    prompt: str
    target: str
    subject: str | None = None
    relation: str | None = None
    old_answer: str | None = None
    aliases: tuple[str, ...] = ()
    target_aliases: tuple[str, ...] = ()
    paraphrases: tuple[str, ...] = ()
    author: str | None = None
    source: str | None = None
    tags: tuple[str, ...] = ()
    validity: Validity = field(default=ALWAYS)
    namespace: str = "default"
    parent: str | None = None

    def __post_init__(self) -> None:
        for name, limit in _REQUIRED.items():
            object.__setattr__(self, name, clean_text(name, getattr(self, name), limit))
        for name, limit in _OPTIONAL.items():
            if getattr(self, name) is not None:
                object.__setattr__(self, name, clean_text(name, getattr(self, name), limit))
        for name, limit in _LISTS.items():
            object.__setattr__(self, name, _clean_list(name, getattr(self, name), limit))
        if not isinstance(self.validity, Validity):
            raise InvalidEdit(f"validity must be a Validity, not {type(self.validity).__name__}")
        if self.old_answer is not None and fold(self.old_answer) == fold(self.target):
            raise InvalidEdit(
                f"the target equals the old answer, {self.target!r}: nothing would change",
                remedy="Give the answer that should replace the old one as the target.",
            )

    @cached_property
    def id(self) -> EditId:
        """Content hash over what is claimed: namespace, prompt, target, subject, relation, validity.

        What a derived edit follows from is part of it: said by itself, the same claim is another edit, which stays.
        Who said so, tags, aliases and paraphrases describe the claim; they do not make another claim of it.
        """
        start, end = self.validity.start, self.validity.end
        claim = [
            self.namespace,
            self.prompt,
            self.target,
            self.subject,
            self.relation,
            start and start.isoformat(),
            end and end.isoformat(),
        ]
        if self.parent is not None:
            claim.append(self.parent)
        text = json.dumps(claim, ensure_ascii=False, separators=(",", ":"))
        return EditId("e" + hashlib.sha256(text.encode()).hexdigest()[:20])

    @cached_property
    def statement(self) -> str:
        """The edit as one sentence: prompt and target, ``Where was X born? Rome`` or ``X was born in Rome.``."""
        if self.is_question:
            return f"{self.prompt} {self.target}"
        return f"{self.prompt} {self.target}" + ("" if self.target.endswith((".", "!", "?")) else ".")

    @property
    def is_question(self) -> bool:
        """Whether the prompt is a question rather than the beginning of a statement."""
        return self.prompt.rstrip().endswith("?")

    @property
    def names(self) -> tuple[str, ...]:
        """The subject and its aliases; empty without a subject."""
        return (self.subject, *self.aliases) if self.subject is not None else self.aliases

    @property
    def conflict_key(self) -> tuple[str, str, str] | None:
        """(namespace, subject, relation), case-folded; ``None`` when subject or relation is missing."""
        if self.subject is None or self.relation is None:
            return None
        return (self.namespace, fold(self.subject), fold(self.relation))

    def replace(self, **changes: Any) -> Edit:
        """Return a copy with ``changes``; validated again."""
        return dataclasses.replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dict; unset fields are left out. :meth:`from_dict` is its inverse."""
        row: dict[str, Any] = {}
        for item in dataclasses.fields(self):
            value = getattr(self, item.name)
            if item.name == "validity":
                for key, moment in (("valid_from", value.start), ("valid_to", value.end)):
                    if moment is not None:
                        row[key] = moment.isoformat()
            elif value not in (None, ()):
                row[item.name] = list(value) if isinstance(value, tuple) else value
        return row

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> Edit:
        """Build an edit from a JSON object; ``id`` is accepted and ignored, other unknown keys are refused.

        Raises:
            InvalidEdit: Unknown or missing keys, or a value that :class:`Edit` refuses.
        """
        if not isinstance(row, Mapping):
            raise InvalidEdit(f"an edit must be a JSON object, not {type(row).__name__}")
        values = {key: value for key, value in row.items() if key != "id"}
        validity = Validity(_moment(values.pop("valid_from", None)), _moment(values.pop("valid_to", None)))
        known = {item.name for item in dataclasses.fields(cls)} - {"validity"}
        if unknown := sorted(set(values) - known):
            raise InvalidEdit(
                f"unknown field(s) {', '.join(map(repr, unknown))} in an edit",
                remedy=f"Allowed: {', '.join(sorted(known))}, valid_from, valid_to.",
            )
        if missing := sorted({"prompt", "target"} - set(values)):
            raise InvalidEdit(f"an edit needs {' and '.join(map(repr, missing))}")
        return cls(**values, validity=validity)


def trusted(row: dict[str, Any], edit_id: str) -> Edit | None:
    """Return the edit that :meth:`Edit.to_dict` wrote as ``row``, without checking its fields once more.

    Returns ``None`` unless its content hashes to ``edit_id``: then it is exactly what was checked when it was made.
    For ledgers, which read millions, and whose edits must be readable whatever is allowed by now.

    Raises:
        InvalidEdit: Its times are none.
    """
    edit = _plain(row)
    return edit if edit is not None and edit.id == edit_id else None


def restored(row: dict[str, Any], edit_id: str) -> Edit:
    """Return the edit that :meth:`Edit.to_dict` wrote as ``row``, believing that its id is ``edit_id``.

    For files that carry a checksum of their own.

    Raises:
        InvalidEdit: ``row`` has fields that an edit has not, or times that are none.
    """
    edit = _plain(row)
    if edit is None:
        return Edit.from_dict(row)
    edit.__dict__["id"] = EditId(edit_id)
    return edit


def _plain(row: dict[str, Any]) -> Edit | None:
    values = _PLAIN | row
    if _TIMES & row.keys():
        values["validity"] = Validity(*(_moment(values.pop(name, None)) for name in ("valid_from", "valid_to")))
    if values.keys() - _PLAIN.keys():
        return None  # none of ours: the long way
    edit = object.__new__(Edit)
    for name in _LISTS.keys() & row.keys():
        values[name] = tuple(row[name])
    edit.__dict__.update(values)
    return edit


_REQUIRED = {"prompt": MAX_PROMPT, "target": MAX_TARGET, "namespace": 200}
_OPTIONAL = {
    "subject": MAX_PROMPT,
    "relation": 500,
    "old_answer": MAX_TARGET,
    "author": 1_000,
    "source": 4_000,
    "parent": 64,
}
_LISTS = {"aliases": MAX_PROMPT, "target_aliases": MAX_TARGET, "paraphrases": MAX_PROMPT, "tags": 200}

_TIMES = {"valid_from", "valid_to"}
_PLAIN: dict[str, Any] = {
    item.name: None if item.default is dataclasses.MISSING else item.default for item in dataclasses.fields(Edit)
}


def fold(text: str) -> str:
    """Return ``text`` case-folded, in form NFKC, white space collapsed: for comparing, not for showing."""
    if text.isascii():  # has one normal form
        return " ".join(text.lower().split())
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def normal_form(text: str) -> str:
    """Return ``text`` stripped and in form NFC, as edits hold all their texts: for looking something up by one."""
    return unicodedata.normalize("NFC", text).strip()


def clean_text(name: str, value: object, limit: int, error: type[InvalidEdit] | Any = InvalidEdit) -> str:
    """Return ``value`` stripped and in form NFC, or raise ``error`` naming the field ``name`` and the ``limit``."""
    if not isinstance(value, str):
        raise error(f"{name} must be text, not {type(value).__name__}")
    _check_length(name, value, limit, error)
    if "\x00" in value:
        raise error(f"{name} holds a NUL character", remedy="Remove it; it is never part of text.")
    if not value.isascii() and any("\ud800" <= char <= "\udfff" for char in value):
        raise error(
            f"{name} holds a lone surrogate and is not valid Unicode",
            remedy="Decode the bytes with the right encoding (usually UTF-8) before passing the text on.",
        )
    text = normal_form(value)
    if not text:
        raise error(f"{name} is empty", remedy=f"Give the {name} as text.")
    _check_length(name, text, limit, error)  # once more: some characters are several in form NFC
    return text


def _check_length(name: str, text: str, limit: int, error: type[InvalidEdit] | Any) -> None:
    if len(text) > limit:
        raise error(
            f"{name} has {len(text):,} characters; at most {limit:,} are allowed",
            remedy=f"Shorten the {name}; long documents belong into retrieval, not into an edit or a query.",
        )


def _clean_list(name: str, value: object, limit: int) -> tuple[str, ...]:
    if isinstance(value, str) or not isinstance(value, list | tuple):
        raise InvalidEdit(f"{name} must be a list of texts, not {type(value).__name__}")
    if len(value) > MAX_LIST:
        raise InvalidEdit(f"{name} has {len(value):,} items; at most {MAX_LIST} are allowed")
    items = (clean_text(f"{name}[{place}]", item, limit) for place, item in enumerate(value))
    return tuple(dict.fromkeys(items))


def _moment(value: object) -> datetime | None:
    if value is None or isinstance(value, datetime):
        return value
    if isinstance(value, str):
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            moment = None
        if moment is not None:
            return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    raise InvalidEdit(
        f"{value!r} is not a time", remedy="Write it in ISO 8601: 2026-01-31 or 2026-01-31T12:00:00+01:00."
    )
