"""Features of a pair of edit and query that a network reading them together does not see well: names and cues.

Names are spelling: digits, capitals, words right beside a name. Cues are rare: a year, a negation, quotation marks.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from corrigenda.edit import Edit
from corrigenda.memory.names import NameMatch, Token, alike, best_match, initials, match_name, name_words, tokens
from corrigenda.memory.scope_aliases import other_names
from corrigenda.memory.texts import (
    PLACEHOLDER,
    bare_word,
    capitalised_runs,
    find_name,
    frame,
    infer_subject,
    subject_spans,
    word_set,
)

FEATURES = (
    "exact",
    "name",
    "typos",
    "digits",
    "missing",
    "surplus",
    "extended",
    "lowered",
    "initials",
    "similarity",
    "others",
    "past",
    "negated",
    "stated",
)
"""Names of the features, in order.

exact, name, typos: the subject stands there whole; the share of it that does; words of it with a typing error.
missing, surplus: capitalised words of the name that the text lacks; words in the text's name that it lacks; 0…3.
digits: numbers of the name and of the text differ, where the name was found in part only.
extended: a capitalised word or a number right beside the name, as in "Windows NT 3.5 *Server*".
lowered: a name with capitals stands there without any.
initials: the text has the initials of the name as a word.
similarity: cosine of the whole texts, 0 where unknown.
others: capitalised names in the query that are not in the edit, 0…3.
past, negated: a year or "former"; a "not" that the edit does not have.
stated: the text already holds the edit's target.
"""

FRAMED = 0.55
"""Share of the subject's name, 0…1, that a query must hold for the frames to be compared."""

_ARTICLE = re.compile(rf"\b[Tt]he {PLACEHOLDER}\b")
_YEAR = re.compile(r"\b(1[0-9]{3}|20[0-2][0-9])s?\b")
_PAST = re.compile(r"\b(former(ly)?|previous(ly)?|originally|used to|back then|at the time|until|before|ex)\b", re.I)
_NOT = re.compile(r"\b(not|never|no longer|isn't|wasn't|aren't|doesn't|didn't|hasn't|cannot|nobody)\b", re.IGNORECASE)
_OPENERS = word_set(
    "a about after also an and are as at be because by can could did do does explain find for from give has have how",
    "if in is it its let list may name no not of on or please say should so tell than that the their then there these",
    "they this those to under until was we were what when where whether which while who whom whose why will with you",
    "would back before hi hello hey quick",
)


def names_of(edit: Edit) -> tuple[str, ...]:
    """Return the names of ``edit``; without any, the name inferred from its prompt; else none."""
    if edit.names:
        return edit.names
    span = infer_subject(edit.prompt)
    return (edit.prompt[span[0] : span[1]],) if span else ()


def match_subject(edit: Edit, query: str, words: Sequence[Token] | None = None) -> NameMatch:
    """Return where the subject of ``edit``, under any name or something like it, stands in ``query``.

    Args:
        edit: Its names count first, then the other names that are common knowledge.
        query: The text.
        words: The tokens of ``query``, where known.
    """
    words = tokens(query) if words is None else words
    names = names_of(edit)
    best = best_match(names, words)
    if best.exact:
        return best
    for other in (other for name in names for other in other_names(name)):
        found = match_name(other, words)
        # Of an acronym the capitals count: US is no "us".
        if found.exact and (not other.isupper() or query[found.start : found.end].isupper()):
            return found
    return best


def name_span(edit: Edit, query: str, match: NameMatch) -> tuple[int, int] | None:
    """Return where ``query`` names what it asks about, when that could be the subject of ``edit``.

    That is where the match is, with the capitalised words around it unless it is exact; else its initials; else a
    name that is not in the edit, which could be another name of the subject.
    """
    if match.exact:
        return match.start, match.end
    if match.score < FRAMED and (short := initials_span(edit, query)):
        return short
    runs = capitalised_runs(query)
    around = [run for run in runs if run[0] < match.end and match.start < run[1]]
    if match.found:
        return min([match.start, *(run[0] for run in around)]), max([match.end, *(run[1] for run in around)])
    others = _other_names(edit.statement, query, (0, 0))
    return max(others, key=lambda run: run[1] - run[0], default=None)


def name_pair(edit: Edit, query: str, match: NameMatch) -> tuple[str, str] | None:
    """Return the subject's name and what ``query`` has in its place, unless they are the same: :func:`name_span`."""
    span, names = name_span(edit, query, match), names_of(edit)
    if span is None or not names or span == initials_span(edit, query):
        return None
    if match.exact:
        runs = [run for run in capitalised_runs(query) if run[0] <= span[0] and span[1] <= run[1]]
        span = runs[0] if runs and extended(query, *span) else span
        if span == (match.start, match.end):
            return None
    return (match.name or names[0]), query[span[0] : span[1]]


def pair_frames(edit: Edit, query: str, match: NameMatch) -> tuple[str, str] | None:
    """Return the frames of ``edit`` and of ``query``, or ``None`` when nothing in the query can be the subject.

    Both have the placeholder in the subject's place, so that what was learnt of one subject holds for all.
    """
    span = name_span(edit, query, match)
    if span is None:
        return None
    # The longest name in the prompt is what it is about: "William Parr" stands inside "William Parr, 1st Marquess".
    spans = subject_spans(edit) or (find_name(edit.prompt, match.name) if match.name else ())
    again = [other for other in find_name(query, query[span[0] : span[1]]) if other[0] != span[0]]
    return _bare(frame(edit.prompt, spans)), _bare(frame(query, [span, *again]))


def _bare(text: str) -> str:
    """Drop the article before the placeholder: the subject has it in one spelling and not in the other."""
    return _ARTICLE.sub(PLACEHOLDER, text)


def features(edit: Edit, query: str, match: NameMatch, similarity: float) -> NDArray[np.float64]:
    """Return the features, (len(FEATURES),), in the order of :data:`FEATURES`."""
    span = (match.start, match.end)
    rest = query[: span[0]] + " " + query[span[1] :] if match.found else query
    statement = edit.statement
    missing, surplus = (0, 0) if match.exact else _unshared(match, query)
    new_year = bool(_YEAR.search(rest)) and not _YEAR.search(statement)
    return np.array(
        [
            match.exact,
            match.score,
            min(match.typos, 2),
            not match.exact and _digits_differ(match, query),
            missing,
            surplus,
            match.exact and extended(query, *span),
            match.found and _lowered(match, query),
            not match.exact and initials_span(edit, query) is not None,
            similarity,
            min(len(_other_names(statement, query, span)), 3),
            new_year or (bool(_PAST.search(rest)) and not _PAST.search(statement)),
            bool(_NOT.search(rest)) and not _NOT.search(statement),
            bool(find_name(rest, edit.target)),
        ],
        dtype=np.float64,
    )


def extended(text: str, start: int, end: int) -> bool:
    """Tell whether a capitalised word or a number stands right beside ``text[start:end]``."""
    after = re.match(r"[ \-–/&]{1,3}(\w[\w.'’]*)", text[end:])
    if after and _name_like(after[1]):
        return True
    before = re.search(r"(?:^|(?<=[\s(\"“]))(\w[\w.'’]*?)[ \-–/&]{1,3}$", text[:start])
    if not before:
        return False
    opens = not text[: before.start(1)].strip()
    word = bare_word(before[1])
    return word == before[1] and _name_like(word) and not (opens and word.casefold() in _OPENERS)


def _name_like(word: str) -> bool:
    return word[:1].isdigit() or (word[:1].isupper() and word.casefold() not in _OPENERS)


def _digits_differ(match: NameMatch, query: str) -> bool:
    numbers = {word for word in name_words(match.name) if any(char.isdigit() for char in word)}
    there = {token.folded for token in tokens(query) if any(char.isdigit() for char in token.folded)}
    return bool(numbers - there) or (match.found and bool(there - numbers))


def _unshared(match: NameMatch, query: str) -> tuple[int, int]:
    """Count the weighty words of the name that are missing, and those around the match that the name does not have.

    "Charles FitzGerald" lacks words of "Charles FitzGerald, 1st Baron Lecale"; "Red Mitchell" replaces one of
    "Joni Mitchell", and is another person.
    """
    if not match.found:
        return 0, 0
    name = [word for word in name_words(match.name) if word not in _OPENERS and len(word) > 1]
    start, end = match.start, match.end
    for first, last in capitalised_runs(query):
        if first < match.end and match.start < last:
            start, end = min(start, first), max(end, last)
    there = [token.folded for token in tokens(query[start:end]) if token.folded not in _OPENERS]
    missing = sum(not any(alike(word, other) for other in there) for word in name)
    surplus = sum(not any(alike(word, other) for word in name) for other in there if len(other) > 1)
    return min(missing, 3), min(surplus, 3)


def _lowered(match: NameMatch, query: str) -> bool:
    return query[match.start : match.end].islower() and not match.name.islower()


def initials_span(edit: Edit, query: str) -> tuple[int, int] | None:
    """Return where ``query`` has the initials of a name of ``edit``: "DRC" for Democratic Republic of the Congo."""
    short = {letters for name in names_of(edit) for letters in initials(name) if len(letters) >= 3}
    for token in tokens(query):
        if token.folded in short and query[token.start : token.end].isupper():
            return token.start, token.end
    return None


def _other_names(statement: str, query: str, span: tuple[int, int]) -> list[tuple[int, int]]:
    known = {token.folded for token in tokens(statement)}
    found = []
    for start, end in capitalised_runs(query):
        if start < span[1] and span[0] < end:
            continue
        words = [token.folded for token in tokens(query[start:end])]
        if any(word not in known and word not in _OPENERS for word in words):
            found.append((start, end))
    return found
