"""Names in text: whether an edit's subject is what the query speaks of, under this or a nearly equal name.

A name matches exactly, folded (case, accents, dots, possessives aside), with a typing error, or in part. Digits are
never forgiven: "Windows NT 3.5" and "Windows NT 3.51" are one keystroke and two products apart.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from corrigenda.memory.name_forms import same_word
from corrigenda.memory.texts import bare_word, word_set

_TOKEN = re.compile(r"\w(?:[\w.'’+&]*\w)?")
_LIGHT = word_set("of the and de la le du des von van der den del di da el al in for on at to a an jr sr st saint")
_LIGHT_WEIGHT = 0.25
_SAME_WORD = {"saint": "st", "doctor": "dr", "mount": "mt", "junior": "jr", "senior": "sr", "and": "&"}


@dataclass(frozen=True, slots=True)
class Token:
    """A word of a text: where it stands, and its folded form."""

    start: int
    end: int
    folded: str


@dataclass(frozen=True, slots=True)
class NameMatch:
    """How well a name was found in a text.

    Attributes:
        start, end: Where, in characters; (0, 0) when nowhere.
        score: Share of the name that was found, weighted by word length, 0…1. A word with a typing error counts 0.8.
        exact: The whole name stands there, but for case, accents, dots and possessives.
        typos: Words that were matched with a typing error.
        name: The name that was sought.
    """

    start: int
    end: int
    score: float
    exact: bool
    typos: int
    name: str

    @property
    def found(self) -> bool:
        """Whether anything of the name was found."""
        return self.end > self.start


NO_MATCH = NameMatch(0, 0, 0.0, False, 0, "")


@lru_cache(maxsize=1_024)  # a query is looked at once for each candidate
def tokens(text: str) -> tuple[Token, ...]:
    """Return the words of ``text`` with their folded forms: no case, accents, dots or possessives."""
    found = []
    for match in _TOKEN.finditer(text):
        word = bare_word(match.group())
        found.append(Token(match.start(), match.start() + len(word), fold_word(word)))
    return tuple(found)


@lru_cache(maxsize=65_536)
def fold_word(word: str) -> str:
    """Return ``word`` for comparison: ``F.C.`` becomes ``fc``, ``Côte`` becomes ``cote``, ``3.51`` stays."""
    plain = unicodedata.normalize("NFKD", word).casefold()
    plain = "".join(char for char in plain if not unicodedata.combining(char))
    if not any(char.isdigit() for char in plain):
        plain = re.sub(r"[.'’_]", "", plain)
    return _SAME_WORD.get(plain, plain)


@lru_cache(maxsize=65_536)
def name_words(name: str) -> tuple[str, ...]:
    """Return the folded words of ``name``."""
    return tuple(token.folded for token in tokens(name))


def best_match(names: Iterable[str], words: Sequence[Token]) -> NameMatch:
    """Return the best match of any of ``names`` among ``words``, the tokens of one text."""
    best = NO_MATCH
    for name in names:
        found = match_name(name, words)
        if (found.exact, found.score, found.end - found.start) > (best.exact, best.score, best.end - best.start):
            best = found
    return best


def match_name(name: str, words: Sequence[Token]) -> NameMatch:
    """Return how well ``name`` is found among ``words``; :data:`NO_MATCH` when not a single word of it is."""
    wanted = name_words(name)
    if not wanted or not words:
        return NO_MATCH
    for place in range(len(words) - len(wanted) + 1):
        if all(words[place + i].folded == word for i, word in enumerate(wanted)):
            last = words[place + len(wanted) - 1]
            return NameMatch(words[place].start, last.end, 1.0, True, 0, name)
    return _partial(name, wanted, words)


def _partial(name: str, wanted: Sequence[str], words: Sequence[Token]) -> NameMatch:
    """Return the densest stretch of ``words`` that holds words of the name, each word counted once."""
    hits: list[tuple[int, int, float]] = []  # place in words, place in the name, credit 0…1
    for place, token in enumerate(words):
        credits = [(alike(word, token.folded), i) for i, word in enumerate(wanted)]
        credit, i = max(credits)
        if credit > 0:
            hits.append((place, i, credit))
    weights = [_weight(word) for word in wanted]
    total = sum(weights)
    best, span, typos = 0.0, (0, 0), 0
    for first, (begin, _, _) in enumerate(hits):
        seen: dict[int, float] = {}
        last = begin
        for place, i, credit in hits[first:]:
            if place - last > 2 or place - begin >= len(wanted) + 2:
                break
            last = place
            seen[i] = max(seen.get(i, 0.0), credit)
            score = sum(weights[k] * share for k, share in seen.items()) / total
            if score > best + 1e-9:
                best, span = score, (begin, place)
                typos = sum(share < 1 for share in seen.values())
    if best <= 0:
        return NO_MATCH
    return NameMatch(words[span[0]].start, words[span[1]].end, best, False, typos, name)


def _weight(word: str) -> float:
    if word in _LIGHT or len(word) == 1:
        return _LIGHT_WEIGHT
    return float(min(len(word), 8)) / 4 + 0.5


@lru_cache(maxsize=262_144)
def alike(word: str, other: str) -> float:
    """Return 1 for equal words and short forms, 0.8 for a typing error, 0.7 for a shared long stem, else 0."""
    if word == other or same_word(word, other):
        return 1.0
    if word in _LIGHT or any(char.isdigit() for char in word + other) or min(len(word), len(other)) < 6:
        return 0.0  # of short words one letter makes another word: Dakar, Dakor
    limit = 1 if min(len(word), len(other)) < 8 else 2
    if abs(len(word) - len(other)) <= limit and edit_distance(word, other, limit) <= limit:
        return 0.8
    stem = min(len(word), len(other))
    return 0.7 if stem >= 6 and word[: stem - 1] == other[: stem - 1] else 0.0


def edit_distance(left: str, right: str, limit: int) -> int:
    """Return how many letters to insert, drop, change or swap with a neighbour; ``limit + 1`` when more."""
    before: list[int] = []
    row = list(range(len(right) + 1))
    for i, char in enumerate(left, 1):
        older, before, row = before, row, [i]
        for j, other in enumerate(right, 1):
            cost = min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (char != other))
            if i > 1 and j > 1 and char == right[j - 2] and left[i - 2] == other:
                cost = min(cost, older[j - 2] + 1)
            row.append(cost)
        if min(row) > limit:
            return limit + 1
    return min(row[-1], limit + 1)


def initials(name: str) -> tuple[str, ...]:
    """Return the first letters of the words of ``name``, with and without the light ones: TBBT, DRC."""
    words = name_words(name)
    return tuple(
        dict.fromkeys("".join(word[0] for word in part) for part in (words, [w for w in words if w not in _LIGHT]))
    )
