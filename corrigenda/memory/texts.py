"""What is encoded of an edit and of a query: the whole text, and its frame.

The frame is the relation side of a text: "Kazakhstan's capital is" with the subject replaced by a placeholder. Two
texts with one subject and different frames ask for different things; the similarity of whole texts cannot tell.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from corrigenda.edit import Edit

PLACEHOLDER = "X"
"""Stands where the subject was, the same in edits and queries."""


def index_text(edit: Edit) -> str:
    """Return the text whose vector finds ``edit``: its prompt. No query holds the target, so it is left out."""
    return edit.prompt


def frame_text(edit: Edit) -> str:
    """Return the prompt of ``edit`` with its subject (or else an alias) replaced by :data:`PLACEHOLDER`.

    Without a subject that occurs in the prompt, the subject is inferred from the prompt's capitalised words.
    """
    return frame(edit.prompt, subject_spans(edit))


def subject_spans(edit: Edit) -> tuple[tuple[int, int], ...]:
    """Return where the subject stands in the prompt of ``edit``: (start, end) pairs, in order."""
    for name in sorted(edit.names, key=len, reverse=True):
        if spans := find_name(edit.prompt, name):
            return spans
    inferred = infer_subject(edit.prompt)
    return (inferred,) if inferred else ()


def frame(text: str, spans: Iterable[tuple[int, int]]) -> str:
    """Return ``text`` with each of ``spans`` replaced by the placeholder."""
    parts, end = [], 0
    for start, stop in sorted(spans):
        if start < end:
            continue
        parts += [text[end:start], PLACEHOLDER]
        end = stop
    return "".join([*parts, text[end:]])


def find_name(text: str, name: str) -> tuple[tuple[int, int], ...]:
    """Return where ``name`` stands in ``text`` as a whole, whatever the case: (start, end) pairs in order."""
    pattern = r"\s+".join(re.escape(word) for word in name.split())
    return tuple(match.span() for match in re.finditer(rf"(?<!\w){pattern}(?!\w)", text, re.IGNORECASE))


_QUOTED = re.compile(r"[\"“”«»]([^\"“”«»]{2,80})[\"“”«»]")
_WORD = re.compile(r"[\w][\w'’.&/-]*", re.UNICODE)
_LINKS = frozenset(
    {
        *[
            "of",
            "the",
            "and",
            "de",
            "la",
            "le",
            "du",
            "des",
            "von",
            "van",
            "der",
            "den",
            "del",
            "di",
            "da",
            "el",
            "al",
        ],
        *["in", "for", "on", "at", "to", "a", "&", "y", "e"],
    }
)
_OPENERS = frozenset(
    {
        *[
            "the",
            "a",
            "an",
            "what",
            "who",
            "whom",
            "whose",
            "which",
            "where",
            "when",
            "why",
            "how",
            "in",
            "on",
            "at",
            "of",
            "for",
            "from",
            "is",
            "are",
            "was",
            "were",
        ],
        *[
            "do",
            "does",
            "did",
            "to",
            "by",
            "it",
            "its",
            "this",
            "that",
            "these",
            "those",
            "he",
            "she",
            "they",
            "i",
            "you",
            "we",
            "name",
            "tell",
        ],
    }
)


def infer_subject(text: str) -> tuple[int, int] | None:
    """Guess where the subject of ``text`` stands: quoted text, or the longest run of capitalised words."""
    if quoted := _QUOTED.search(text):
        return quoted.span(1)
    best: tuple[int, int] | None = None
    for start, stop in _runs(text):
        if best is None or stop - start > best[1] - best[0]:
            best = (start, stop)
    return best


def _runs(text: str) -> Sequence[tuple[int, int]]:
    """Return the runs of capitalised words or numbers, small linking words inside a run included."""
    runs: list[tuple[int, int]] = []
    start, end, links = -1, -1, False
    for place, match in enumerate(_WORD.finditer(text)):
        word = match.group().rstrip(".'’")
        stop = match.start() + len(word)
        proper = bool(word) and (word[0].isupper() or word[0].isdigit())
        if place == 0 and word.casefold() in _OPENERS:
            proper = False  # the first word of any sentence is capitalised
        joined = links or text[end : match.start()].strip() in ("", ",", ":")
        if proper and start >= 0 and joined:
            end = stop
        elif proper:
            if start >= 0:
                runs.append((start, end))
            start, end = match.start(), stop
        elif start >= 0 and word.casefold() in _LINKS:
            links = True
            continue
        elif start >= 0:
            runs.append((start, end))
            start = -1
        links = False
    if start >= 0:
        runs.append((start, end))
    return runs
