"""Nested questions: one that asks about something which is itself only described, peeled from the inside out.

"What is the capital of the country where X was born?" holds the phrase "the country where X was born". What that is has
to be known first; its name put in its place, the question that is left asks for less.

This is English grammar by rule, not understanding: a phrase begins with an article and holds a name; relative clauses
end where the next finite verb begins. Where no phrase is found, a question counts as not nested.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_FINITE = re.compile(
    r"(?:is|was|are|were|has|had|have|lies|stands|belongs|speaks?|does|did|can|could|would|will|should|uses?|hosts?)",
    re.IGNORECASE,
)
_OPEN_END = re.compile(
    r"[\s,]+(?:is|was|are|were)(?:\s+(?:in|of|by|on|at|the|called|named|located in|situated in))?\s*$", re.IGNORECASE
)
"""The end of a sentence that lacks what it is about to say."""
_LEAD = re.compile(
    r"(?:please\s+)?(?:(?:what|which|who|where)(?:\s+\w+){0,2}?\s+(?:is|was|are|were|serves as|acts as)"
    r"|what['’]s|who['’]s|tell me|name|give|the)",
    re.IGNORECASE,
)
"""What may stand before the outermost phrase."""
_TRAIL = re.compile(r"(?:located|situated|based)?\s*(?:in|of|at|on|by|as|to)?", re.IGNORECASE)
"""What may stand after it."""
_ARTICLE = re.compile(r"\b(?:[Tt]he|[Aa]n?)\s")
_RELATIVE = re.compile(r"\b(?:that|which|who|whom|whose|where|when)\b")
_SENTENCE_END = re.compile(r"[.!?]\s+\S*$|[.!?]\s+[A-Z]")
_HANGS_ON = re.compile(r"\b(?:of|for|with|by|in|to|from|at|on|after)\s*$")
_POSSESSED = re.compile(
    r"['’](?:s\s+)?((?:(?!(?:is|was|are|were|has|had|have|lies?|does|did|in|on|at|from|to|that|which|who|where)\b)"
    r"[\w-]+\s*)+)"
)
_SAME_THING = re.compile(
    r"\b(?:the|a)\s+\w+(?:\s+\w+)?\s+(?:(?:that|which|who)\s+(?:is|was|hosts|houses)|with)\s+$", re.IGNORECASE
)
"""Words before a phrase that say what kind of thing it is, and ask nothing further: "the city that is …"."""


@dataclass(frozen=True, slots=True)
class Step:
    """One step towards the answer.

    Attributes:
        asked: What has to be known, as a question or the beginning of a statement.
        name: Where in ``asked`` the name stands, (start, end).
        start, end: What is to be replaced by the answer, in the text that was peeled; all of it for the last step.
        last: Whether the answer to ``asked`` is the answer to the whole.
    """

    asked: str
    name: tuple[int, int]
    start: int
    end: int
    last: bool


def peel(text: str, name: tuple[int, int]) -> Step:
    """Return the first step towards answering ``text``, which is about what stands at ``name``, (start, end)."""
    body = _body(text)
    phrase = _phrase(body, name) if name[1] <= len(body) else None
    if phrase is not None and not _is_whole(body, *phrase):
        start, end = phrase
        words = body[start:end]
        lead = "What is "
        asked = f"{lead}{words[:1].lower() + words[1:] if start < name[0] else words}?"
        return Step(asked, (name[0] - start + len(lead), name[1] - start + len(lead)), start, end, False)
    return Step(text, name, 0, len(text), True)


def is_nested(text: str, name: tuple[int, int]) -> bool:
    """Tell whether answering ``text`` takes more than one step."""
    return not peel(text, name).last


def put(text: str, step: Step, answer: str) -> tuple[str, tuple[int, int]]:
    """Return ``text`` with the answer to ``step`` in its place, and where that stands, (start, end)."""
    return text[: step.start] + answer + text[step.end :], (step.start, step.start + len(answer))


def _body(text: str) -> str:
    """Return ``text`` without its question mark, or without the verb that waits for an object."""
    bare = text.rstrip()
    return bare.rstrip(" ?？") if bare.endswith(("?", "？")) else _OPEN_END.sub("", bare)


def _is_whole(body: str, start: int, end: int) -> bool:
    """Tell whether the phrase is all that is asked for: nothing of weight before it or after it."""
    before, after = body[:start].strip(), body[end:].strip(" ,")
    return (not before or _LEAD.fullmatch(before) is not None) and _TRAIL.fullmatch(after) is not None


def _phrase(body: str, name: tuple[int, int]) -> tuple[int, int] | None:
    """Return where the smallest phrase around the name stands, (start, end)."""
    if (owned := _POSSESSED.match(body, name[1])) is not None:
        return name[0], name[1] + len(owned.group().rstrip())
    left = re.sub(r"\b[Tt]he\s+$", "", body[: name[0]])  # "the Duchy of Athens": this article is the name's
    articles = list(_ARTICLE.finditer(left.rstrip() + " "))
    if not articles:
        return None
    start = articles[-1].start()
    between = left[articles[-1].end() :]
    if _SENTENCE_END.search(between):
        return None
    relatives = list(_RELATIVE.finditer(between))
    if not relatives and _HANGS_ON.search(between):
        end = name[1]
    else:
        # "the city where X was born": the clause has its verb still to come. "the firm that made X": it has had it.
        verb_to_come = not relatives or not re.sub(r"^\s*the\b", "", between[relatives[-1].end() :]).strip()
        end = name[1] + _clause_end(body[name[1] :], verb_to_come=verb_to_come)
    if (kind := _SAME_THING.search(body[:start])) is not None:
        start = kind.start()
    return start, end


def _clause_end(rest: str, *, verb_to_come: bool) -> int:
    """Return how much of ``rest`` belongs to the clause: up to the finite verb that is not its own."""
    end, first = 0, True
    for word in re.finditer(r"\S+", rest):
        finite = _FINITE.fullmatch(word.group().strip(",.;")) is not None
        if finite and not (verb_to_come and first):
            break
        first = False
        end = word.end()
        if word.group()[-1] in ",;":
            return end - 1
    return end
