"""More pairs out of few: typing errors, look-alike names, years past, negations, chat; and relations in our own words.

A classifier that has only seen twenty relations takes any unknown question for out of scope. So pairs are made of the
hundred relations in ``weights/wordings.json``, and the questions that only ever were negatives become edits themselves.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from corrigenda.memory.features import names_of
from corrigenda.memory.scope_pairs import LabelledPair
from corrigenda.memory.texts import PLACEHOLDER

FramePair = tuple[str, str, int]
"""Frame of an edit, frame of a query, class number."""

_WORDINGS = Path(__file__).parent / "weights" / "wordings.json"
_AFTER = ("II", "Extra", "Park", "Airport", "Museum", "County", "Records", "University", "Jr.", "Live", "3", "Junior")
_BEFORE = ("New", "North", "Mount", "Lake", "Port", "Old", "East", "Super", "Little")
_WHEN = ("In {}, ", "Back in {}, ", "Before {}, ", "Until {}, ")
_SINCE = (" in {}?", " back in {}?", " before {}?", " until {}?")
_NOW = ("Currently, ", "As of today, ", "These days, ", "Now, ", "Today, ")
_CHAT = (
    "Can you tell me ",
    "Quick question: ",
    "Hi! ",
    "Please tell me, ",
    "I was wondering, ",
    "So, ",
    "By the way, ",
    "Answer briefly: ",
    "hey ",
    "And ",
    "But ",
    "Also, ",
    "I want to know ",
)


def varied(pairs: Sequence[LabelledPair], rng: random.Random) -> Iterator[LabelledPair]:
    """Yield ``pairs`` and variations of those in scope whose subject stands in the query."""
    firsts = [name.split()[0] for name in (_subject(pair) for pair in pairs) if len(name.split()) == 2]
    for pair in pairs:
        yield pair
        text, match = pair.judged()
        if rng.random() < 0.05:
            yield LabelledPair(pair.edit, text.lower(), pair.label, f"{pair.kind}, lower case")
        if pair.label and match.exact:
            yield from _variations(pair, text, text[match.start : match.end], rng, firsts)


def _variations(
    pair: LabelledPair, text: str, name: str, rng: random.Random, firsts: Sequence[str]
) -> Iterator[LabelledPair]:
    draw = rng.random()
    query, label, kind = text, 0, ""
    words = name.split()
    longest = max(range(len(words)), key=lambda place: len(words[place]))
    if draw < 0.05 and len(words[longest]) >= 6 and words[longest].isalpha():
        words[longest] = misspelt(words[longest], rng)
        query, label, kind = text.replace(name, " ".join(words)), pair.label, "typo"
    elif draw < 0.12:
        longer = f"{name} {rng.choice(_AFTER)}" if rng.random() < 0.7 else f"{rng.choice(_BEFORE)} {name}"
        query, kind = text.replace(name, longer), "extended"
    elif draw < 0.17 and re.search(r"\d", name):
        other = re.sub(r"\d", lambda digit: str((int(digit[0]) + rng.randrange(1, 9)) % 10), name, count=1)
        query, kind = text.replace(name, other), "digits"
    elif draw < 0.20 and len(words) >= 2 and firsts and (first := rng.choice(firsts)) != words[0]:
        query, kind = text.replace(name, " ".join([first, *words[1:]])), "first name"
    elif draw < 0.26:
        query, kind = _in_the_past(text, name, rng), "past"
    elif draw < 0.29:
        query, label, kind = rng.choice(_NOW) + _lowered(text, name), pair.label, "now"
    elif draw < 0.36:
        query, kind = _negated(text), "negated"
    elif draw < 0.44:
        query, label, kind = rng.choice(_CHAT) + _lowered(text, name), pair.label, "chat"
    if query != text:
        yield LabelledPair(pair.edit, query, label, kind)


def misspelt(word: str, rng: random.Random) -> str:
    """Return ``word`` (3 letters and more) with one letter inside dropped, swapped, changed or doubled."""
    place, way = rng.randrange(1, len(word) - 1), rng.randrange(4)
    if way == 0:
        return word[:place] + word[place + 1 :]
    if way == 1:
        return word[:place] + word[place + 1] + word[place] + word[place + 2 :]
    if way == 2:
        return word[:place] + rng.choice("abcdefghijklmnopqrstuvwxyz") + word[place + 1 :]
    return word[:place] + word[place] + word[place:]


def _in_the_past(text: str, name: str, rng: random.Random) -> str:
    year = rng.choice([str(rng.randrange(1850, 2015)), f"the {rng.randrange(185, 201)}0s"])
    if text.endswith("?") and rng.random() < 0.6:
        return text[:-1] + rng.choice(_SINCE).format(year)
    return rng.choice(_WHEN).format(year) + _lowered(text, name)


def _negated(text: str) -> str:
    if re.search(r"\b(is|was|are|were)$", text):
        return f"{text} not"
    return re.sub(r"\b(is|was) (?=(located|born|owned|produced|made|developed|based|in)\b)", r"\1 not ", text, count=1)


def _lowered(text: str, name: str) -> str:
    return text if text.startswith(name) else text[:1].lower() + text[1:]


def _subject(pair: LabelledPair) -> str:
    return next(iter(names_of(pair.edit)), "")


def invented(pairs: Sequence[LabelledPair], rng: random.Random) -> list[FramePair]:
    """Return frame pairs of relations in our own words, among themselves and against the frames of ``pairs``."""
    relations = json.loads(_WORDINGS.read_text(encoding="utf-8"))
    framed = [(pair, frames) for pair in pairs if (frames := pair.frames()) is not None]
    return [
        *_own(relations, rng),
        *_across(relations, [frames for pair, frames in framed if pair.label == 1], rng),
        *_turned(framed, rng),
    ]


def _own(relations: Sequence[dict[str, Any]], rng: random.Random) -> Iterator[FramePair]:
    for relation in relations:
        alike = [other for other in relations if other["kind"] == relation["kind"] and other is not relation]
        for wording in relation["wordings"]:
            for other in relation["wordings"]:
                if other != wording or rng.random() < 0.5:
                    yield _fill(wording), _spoken(_fill(other), rng), 1
            for _ in range(5):
                stranger = rng.choice(alike if rng.random() < 0.75 else relations)
                if stranger is not relation:
                    yield _fill(wording), _spoken(_fill(rng.choice(stranger["wordings"])), rng), 0


def _across(
    relations: Sequence[dict[str, Any]], known: Sequence[tuple[str, str]], rng: random.Random
) -> Iterator[FramePair]:
    for edit, query in rng.sample(known, min(len(known), 2500)):
        wording = _fill(rng.choice(rng.choice(relations)["wordings"]))
        yield (edit, _spoken(wording, rng), 0) if rng.random() < 0.4 else (wording, _spoken(query, rng), 0)


def _turned(framed: Sequence[tuple[LabelledPair, tuple[str, str]]], rng: random.Random) -> Iterator[FramePair]:
    """Yield pairs with the roles of edit and query swapped; what only was a negative query becomes an edit."""
    for pair, (edit, query) in framed:
        if pair.label == 1 and rng.random() < 0.15:
            yield query, edit, 1
        elif pair.label == 0 and rng.random() < 0.6:
            yield query, _spoken(query, rng), 1
            yield query, edit, 0


def _fill(wording: str) -> str:
    return wording.replace("{}", PLACEHOLDER)


def _spoken(frame: str, rng: random.Random) -> str:
    return rng.choice(_CHAT) + _lowered(frame, PLACEHOLDER) if rng.random() < 0.12 else frame
