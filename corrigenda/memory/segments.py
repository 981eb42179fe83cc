"""Segments: the sentences of a query, each judged by itself.

"The mill has five floors. Microsoft TechNet's owner is" asks about TechNet only; encoded whole, the mill drowns it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from corrigenda.memory.texts import word_set

MAX_SEGMENTS = 24
"""Most segments that are looked at; of a longer text, those that ask, and the last ones."""
MAX_CHARACTERS = 600
"""Longest segment; a longer stretch without an end of sentence is cut."""

_END = re.compile(r"(?<=[.!?…])[\"”»)\]]*\s+(?=[\"“«(\[]*[^\W_])|\s*\n+\s*|(?<=[。！？])")
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
    for match in _END.finditer(query):
        inside_line = "\n" not in match.group()
        if inside_line and (_abbreviated(query[start : match.start()]) or _goes_on(query, start, match)):
            continue
        if any(first < match.start() < last or first < match.end() < last for first, last in whole):
            continue
        spans.append((start, match.start()))
        start = match.end()
    return [*spans, (start, len(query))]


def _goes_on(query: str, start: int, end: re.Match[str]) -> bool:
    """Tell whether what seems the end of a sentence is none.

    A small letter goes on, as in "Emergency! was aired on"; so does a question that would end with "!", as in "Who owns
    Yahoo! News?"; and the beginning of an answer belongs to its question: "Where is Omni based? It is based in".
    """
    said, rest = query[start : end.start()], query[end.end() :]
    if said.endswith("!") and _QUESTION.match(said):
        return True
    if said.endswith("?") and _GOES_ON.fullmatch(rest.rstrip()):
        return True
    return rest[:1].islower() and _LOWER_START.match(rest) is None


def _abbreviated(sentence: str) -> bool:
    """Tell whether the dot at the end of ``sentence`` belongs to an abbreviation or an initial."""
    words = sentence[:-1].split() if sentence.endswith(".") else []
    word = words[-1].lstrip('("“«[') if words else ""
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
