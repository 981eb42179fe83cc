"""Feedback about intent: what users meant by a way of asking, remembered for the next who asks that way.

Madaan et al. 2022, "Memory-assisted prompt editing to improve GPT-3 after deployment" (MemPrompt). Feedback corrects
how a question is read, not what is true. It is kept as an edit in a namespace of its own beside the one it is for:
durable, shared, exported and withdrawn like every edit, and never taken for a fact.

A way of asking is a *pattern*: the words of the query, its arguments left out. Arguments are what stands in angle
brackets, or what the user names as argument. A query fits if its words are the pattern's, in order, one typing error in
a long word allowed, and each gap is filled.

Similarity of vectors is no ground to go by here: with MiniLM "what is unlike …" is as near to "what is similar to …"
(0.58) as ways of asking the same are to one another (0.35 to 0.71), and two different tasks reach 0.94.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

from corrigenda.edit import Edit, fold, normal_form
from corrigenda.errors import InvalidEdit

GAP = "<>"
"""What stands for an argument in a pattern."""
TAG = "feedback"
MAX_GAP = 6
"""Most words that fill a gap where the query does not mark its arguments."""

_MARKED = re.compile(r"<[^<>]*>")
_WORD = re.compile(r"<>|[\w'’-]+")
_LONG = 5

Words: TypeAlias = tuple[str, ...]


def namespace_of(namespace: str) -> str:
    """Return the namespace that holds the feedback for ``namespace``."""
    return f"{normal_form(namespace)}/{TAG}"


def feedback_edit(query: str, clarification: str, *, argument: str | None, namespace: str, author: str | None) -> Edit:
    """Return feedback as an edit: the pattern of ``query`` is its prompt, ``clarification`` its target.

    Raises:
        InvalidEdit: Empty or too long, no word besides arguments, or an argument that is not in the query.
    """
    if argument is not None:
        if not (start := fold(query).find(fold(argument))) + 1 or not argument.strip():
            raise InvalidEdit(f"{argument!r} does not occur in {query!r}", remedy="Give words of the query.")
        query = fold(query)[:start] + GAP + fold(query)[start + len(fold(argument)) :]
    edit = Edit(_MARKED.sub(GAP, query), clarification, tags=(TAG,), author=author, namespace=namespace_of(namespace))
    if not set(words(edit.prompt)) - {GAP}:
        raise InvalidEdit(f"{query!r} has no words besides its arguments", remedy="Give the whole question.")
    return edit


def words(text: str) -> Words:
    """Return the words of ``text``, folded, marked arguments as :data:`GAP`."""
    return tuple(_WORD.findall(fold(_MARKED.sub(GAP, text))))


_pattern = lru_cache(maxsize=4096)(words)
"""The same of feedback, which is compared again and again. Queries are not kept: they are long, and somebody's."""


@dataclass(frozen=True, slots=True)
class Recalled:
    """Feedback that fits a query.

    Attributes:
        edit: The feedback; its target is the clarification.
        typos: Words of the query that are spelt another way.
    """

    edit: Edit
    typos: int

    @property
    def clarification(self) -> str:
        """What the user meant."""
        return self.edit.target


def recall(query: str, feedback: Sequence[Edit]) -> Recalled | None:
    """Return the feedback that fits ``query``, the most specific, then the newest; ``None`` when none does.

    Args:
        query: What is asked.
        feedback: Oldest first.
    """
    if not feedback:
        return None
    asked = words(query)
    best: tuple[tuple[int, int, int], Recalled] | None = None
    for place, edit in enumerate(feedback):
        pattern = _pattern(edit.prompt)
        typos = _typos(pattern, asked)
        if typos is not None:
            said = sum(word != GAP for word in pattern)
            rank = (said, -typos, place)
            if best is None or rank > best[0]:
                best = rank, Recalled(edit, typos)
    return None if best is None else best[1]


def _typos(pattern: Words, asked: Words) -> int | None:
    """Return how many words of ``asked`` are misspelt if it fits ``pattern``; ``None`` if it does not."""
    reached: dict[int, int] = {0: 0}  # words of ``asked`` used up → typing errors so far
    for word in pattern:
        onward: dict[int, int] = {}
        for used, errors in reached.items():
            for more, cost in _steps(word, asked, used):
                if onward.get(used + more, errors + cost + 1) > errors + cost:
                    onward[used + more] = errors + cost
        reached = onward
    return reached.get(len(asked))


def _steps(word: str, asked: Words, used: int) -> list[tuple[int, int]]:
    """Return (words taken, typing errors) for each way in which ``word`` of a pattern can be met from ``used`` on."""
    if used >= len(asked):
        return []
    if word != GAP:
        near = asked[used] == word or _nearly(word, asked[used])
        return [(1, int(asked[used] != word))] if near else []
    if GAP in asked:  # the query marks its arguments: then only those are arguments
        return [(1, 0)] if asked[used] == GAP else []
    return [(taken, 0) for taken in range(1, min(MAX_GAP, len(asked) - used) + 1)]


def _nearly(one: str, other: str) -> bool:
    """Tell whether two long words differ by one letter added, left out, changed, or two swapped."""
    if min(len(one), len(other)) < _LONG or abs(len(one) - len(other)) > 1 or GAP in (one, other):
        return False
    start = next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    a, b = one[start:], other[start:]
    return a[1:] == b[1:] or a[1:] == b or a == b[1:] or (a[:2] == b[:2][::-1] and a[2:] == b[2:])
