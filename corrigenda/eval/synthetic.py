"""Made-up edits in any number, for measuring speed: names from syllables, facts from a few dozen templates.

They say nothing about quality. Names are pronounceable and of one to three words, as names of people, places and
companies are, so that texts have a realistic length for encoders and for the search for names.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from corrigenda.edit import Edit

RELATIONS: tuple[tuple[str, str], ...] = (
    ("capital", "The capital of {} is"),
    ("birthplace", "{} was born in the city of"),
    ("employer", "{} works for"),
    ("occupation", "The occupation of {} is"),
    ("language", "The native language of {} is"),
    ("headquarters", "The headquarters of {} are in"),
    ("founder", "{} was founded by"),
    ("owner", "{} is owned by"),
    ("chair", "The chair of {} is"),
    ("country", "{} is located in the country of"),
    ("instrument", "The instrument that {} plays is the"),
    ("author", "The author of {} is"),
    ("spouse", "{} is married to"),
    ("twin", "The twin city of {} is"),
    ("genre", "The genre of {} is"),
    ("river", "The longest river of {} is"),
    ("currency", "The currency of {} is the"),
    ("director", "{} was directed by"),
    ("phone", "The telephone number of {} begins with"),
    ("team", "{} plays for"),
)
"""Relation and template of a prompt, ``{}`` for the subject."""

_GENERAL = (
    "Write a short poem about {}.",
    "Translate into French: the {} is on the table.",
    "How do I boil an egg without a {}?",
    "What is the difference between a {} and a violin?",
    "Summarise the plot of a film about a lost {}.",
    "Which {} should a beginner buy?",
    "Explain photosynthesis to a child who likes the {}.",
    "def sort_{}(items): return",
)
_THINGS = (
    "kettle",
    "bicycle",
    "lantern",
    "umbrella",
    "hammer",
    "piano",
    "sofa",
    "compass",
    "teapot",
    "ladder",
    "mirror",
    "saddle",
    "anchor",
    "candle",
)
_ONSETS = (
    "b",
    "br",
    "d",
    "dr",
    "f",
    "fl",
    "g",
    "gr",
    "h",
    "j",
    "k",
    "kl",
    "l",
    "m",
    "n",
    "p",
    "pr",
    "r",
    "s",
    "sh",
    "sk",
    "st",
    "t",
    "tr",
    "v",
    "w",
    "z",
)
_VOWELS = ("a", "e", "i", "o", "u", "ai", "ea", "ou")
_CODAS = ("", "", "", "l", "n", "r", "s", "t", "nd", "rk", "m")


def edits(count: int, *, seed: int = 0) -> list[Edit]:
    """Return ``count`` edits about as many subjects; the first of a larger number are those of a smaller one."""
    chance = random.Random(f"edits {seed}")
    result = []
    for subject in names(count, chance):
        relation, template = RELATIONS[chance.randrange(len(RELATIONS))]
        target = name(chance)
        result.append(Edit(template.format(subject), target, subject=subject, relation=relation))
    return result


def foreign_queries(count: int, taken: Sequence[Edit], *, seed: int = 0) -> list[str]:
    """Return ``count`` queries that none of the edits ``taken`` concerns.

    Half have the wording of an edit about a name that no edit has (the hard ones), half are about everyday things.
    """
    chance = random.Random(f"queries {seed}")
    known = {edit.subject for edit in taken}
    fresh = (subject for subject in names(len(known) + count, chance) if subject not in known)
    result = []
    for number in range(count):
        if number % 2:
            result.append(_GENERAL[chance.randrange(len(_GENERAL))].format(chance.choice(_THINGS)))
        else:
            result.append(RELATIONS[chance.randrange(len(RELATIONS))][1].format(next(fresh)))
    return result


def names(count: int, chance: random.Random) -> list[str]:
    """Return ``count`` different made-up names."""
    found: dict[str, None] = {}
    while len(found) < count:
        found[name(chance)] = None
    return list(found)


def name(chance: random.Random) -> str:
    """Return a made-up name of one to three words."""
    return " ".join(_word(chance) for _ in range(chance.choice((1, 2, 2, 2, 3))))


def _word(chance: random.Random) -> str:
    syllables = chance.choice((2, 2, 3))
    word = "".join(chance.choice(_ONSETS) + chance.choice(_VOWELS) for _ in range(syllables)) + chance.choice(_CODAS)
    return word.capitalize()
