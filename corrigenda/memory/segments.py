"""Segments: the sentences of a query, each judged by itself.

"The mill has five floors. Microsoft TechNet's owner is" asks about TechNet only; encoded whole, the mill drowns it.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

from corrigenda.memory.texts import word_set

MAX_SEGMENTS = 24
"""Most segments that are looked at; of a longer text, those that ask, and the last ones."""
MAX_CHARACTERS = 600
"""Longest segment; a longer stretch without an end of sentence is cut."""

_END = re.compile(r"(?<=[.!?…])[\"”»)\]]*\s+(?=[\"“«(\[]*[^\W_])|(?<!\s)\s*\n\s*|(?<=[。！？])")
# A break of line is looked for from where white space begins and nowhere within it: else a query of spaces costs the
# square of their number.
_LOWER_START = re.compile(r"(who|what|which|where|when|why|how|whose|can|could|tell|please|do|does|did|i|thanks)\b")
_ABBREVIATIONS = word_set(
    "mr mrs ms dr st jr sr prof gen col lt rev hon no vs etc inc ltd co corp bros mt ft e.g i.e u.s u.k"
)
_GOES_ON = re.compile(r"(it|this|that|he|she|they) (is|was|are|were)\b[^.?!]{0,60}", re.IGNORECASE)
_QUESTION = re.compile(r"((in|on|at|of|by|to|for|from|after) )?(who|what|which|where|when|whose|whom|how)\b", re.I)
_RELATIVE = re.compile(r"(?<=[^\W_]),\s+(?:who|which|whose|whom|where|when)\b(?=.*\.$)", re.IGNORECASE | re.DOTALL)
"""Opens a clause that tells more about a thing: "Ada, who is an actor." asks nothing."""
_REQUEST = re.compile(
    r"\b(tell me|wonder\w*|want to know|like to know|need to know|curious|remind me|let me know|name the|give me|"
    r"look up|find out|complete|fill in|answer|who|what|which|where|whose|whom|when|how)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Segment:
    """A sentence of a query: ``text`` is ``query[start:end]``.

    Attributes:
        asked: Whether it asks for something, or is the text that is to be continued; else it only tells.
    """

    text: str
    start: int
    end: int
    asked: bool


def segments(query: str, whole: Sequence[tuple[int, int]] = ()) -> list[Segment]:
    """Cut ``query`` into sentences and lines; at most :data:`MAX_SEGMENTS`, in order, never none for real text.

    Args:
        query: Any text.
        whole: Stretches (start, end) that are names and hold no end of a sentence: "Yahoo! Tech".
    """
    spans = [piece for span in _spans(query, whole) for piece in _cut(query, *span)]
    spans = [(start, end) for start, end in spans if any(char.isalnum() for char in query[start:end])]
    if not spans:
        return [Segment(query, 0, len(query), True)]
    last = next((place for place in reversed(range(len(spans))) if not _courtesy(query, spans[place])), len(spans) - 1)
    found = [
        Segment(query[start:end], start, end, place >= last or _asks(query[start:end]))
        for place, (start, end) in enumerate(spans)
    ]
    if len(found) <= MAX_SEGMENTS:
        return found
    ranked = sorted(range(len(found)), key=lambda place: (not found[place].asked, -place))
    return [found[place] for place in sorted(ranked[:MAX_SEGMENTS])]


def _spans(query: str, whole: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    spans, start = [], 0
    names, stop = _merged(whole), len(query.rstrip())
    for match in _END.finditer(query):
        inside_line = "\n" not in match.group()
        last_words = query[max(start, match.start() - MAX_CHARACTERS) : match.start()]
        if inside_line and (_abbreviated(last_words) or _goes_on(query, start, match, stop)):
            continue
        if _within(match.start(), names) or _within(match.end(), names):
            continue
        spans.append((start, match.start()))
        start = match.end()
    return [*spans, (start, len(query))]


def _merged(stretches: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return ``stretches`` in order, those that share a character as one."""
    merged: list[tuple[int, int]] = []
    for first, last in sorted(stretches):
        if merged and first < merged[-1][1]:
            merged[-1] = (merged[-1][0], max(last, merged[-1][1]))
        else:
            merged.append((first, last))
    return merged


def _within(place: int, stretches: Sequence[tuple[int, int]]) -> bool:
    """Tell whether ``place`` lies inside one of ``stretches``, which come in order and apart, and not at its edge."""
    before = bisect_left(stretches, (place,)) - 1
    return before >= 0 and place < stretches[before][1]


def _goes_on(query: str, start: int, end: re.Match[str], stop: int) -> bool:
    """Tell whether what seems the end of a sentence, in ``query[start:stop]``, is none.

    A small letter goes on, as in "Emergency! was aired on"; so does a question that would end with "!", as in "Who owns
    Yahoo! News?"; and the beginning of an answer belongs to its question: "Where is Omni based? It is based in".
    """
    # Looked at in place: copies of what comes before and after would cost the square of the query's length.
    if query.endswith("!", start, end.start()) and _QUESTION.match(query, start, end.start()):
        return True
    if query.endswith("?", start, end.start()) and _GOES_ON.fullmatch(query, end.end(), stop):
        return True
    return query[end.end() : end.end() + 1].islower() and _LOWER_START.match(query, end.end()) is None


def _abbreviated(words: str) -> bool:
    """Tell whether the dot at the end of ``words``, the last of a sentence, is an abbreviation's or an initial's."""
    last = words[:-1].rsplit(maxsplit=1)[-1:] if words.endswith(".") else []
    word = last[0].lstrip('("“«[') if last else ""
    return (len(word) == 1 and word.isalpha()) or "." in word.rstrip(".") or word.casefold() in _ABBREVIATIONS


def _cut(query: str, start: int, end: int) -> list[tuple[int, int]]:
    """Strip the span, and cut it between words where it is too long."""
    while start < end and query[start].isspace():
        start += 1
    while end > start and query[end - 1].isspace():
        end -= 1
    pieces = []
    while end - start > MAX_CHARACTERS:
        space = query.rfind(" ", start + 1, start + MAX_CHARACTERS)
        stop = space if space > 0 else start + MAX_CHARACTERS
        pieces.append((start, stop))
        start = stop
    return [*pieces, (start, end)] if end > start else pieces


def _asks(text: str) -> bool:
    if text.rstrip('"”») ').endswith(("?", ":", "？")):
        return True
    return _REQUEST.search(_RELATIVE.sub("", text)) is not None


def _courtesy(query: str, span: tuple[int, int]) -> bool:
    """Tell whether the segment is a closing word such as "Thanks!" rather than what is to be answered."""
    text = query[span[0] : span[1]]
    return len(text.split()) <= 5 and text.endswith((".", "!")) and not _asks(text)
