"""When a generated answer counts as right, and when as unchanged.

Answers are generated greedily and stop naturally (:mod:`corrigenda.lm.stopping`: end of text, end of the line, or end
of the first sentence). Then:

**Right**: the normalised answer begins with one of the accepted answers, normalised, and a word ends there.
"The city of Rome" does not match "Rome"; "Rome, Italy" does; "Romeo" does not.

**Right in a conversation**: the same, but the accepted answer may stand anywhere in the answer, as whole words and
numbers: a model that is asked a question answers in a sentence ("The capital of France is Lyon."). This is more
lenient: an answer that mentions the target to deny it counts as right.

**Unchanged**: the normalised answers before and after the edit are equal, over their whole length.

**Begun alike**: their first words are. A small model's answer is a guess whose later words any change moves; the first
is what an answer to a factual prompt consists of. Articles do not count as first words.

**Normalised**: Unicode form NFKC, case-folded, white space collapsed; leading quotes, punctuation and one run of
articles (*a*, *an*, *the*) taken off; trailing punctuation taken off. Accents and inner punctuation stay: "Cote
d'Ivoire" does not match "Côte d'Ivoire"; an alias can allow it.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

from corrigenda.edit import fold

_ARTICLES = re.compile(r"(?:(?:a|an|the)\s+)+")
_KEEPS_WORD = "+#&_"
"""Marks that go on a name: "C" is not the answer "C++"."""


def normalise(text: str) -> str:
    """Return ``text`` in the form in which answers are compared; see the module's docstring."""
    folded = fold(text)
    bare = _strip_right(_strip_left(folded))
    without = _strip_left(_ARTICLES.sub("", bare, count=1)) if _ARTICLES.match(bare) else bare
    # An answer that is nothing but punctuation or an article is compared as it is.
    return without or bare or folded


def matches(answer: str, accepted: Iterable[str]) -> bool:
    """Tell whether ``answer`` begins with one of the ``accepted`` answers, at the end of a word.

    An empty answer matches nothing.
    """
    given = normalise(answer)
    return any(_begins(given, normalise(wanted)) for wanted in accepted)


def mentions(answer: str, accepted: Iterable[str]) -> bool:
    """Tell whether ``answer`` holds one of the ``accepted`` answers anywhere, as whole words."""
    given = normalise(answer)
    starts = [place for place in range(len(given)) if _may_begin(given, place)]
    wanted = [normalise(text) for text in accepted]
    return any(_begins(given[start:], text) for start in starts for text in wanted)


def unchanged(before: str, after: str) -> bool:
    """Tell whether two answers are the same once normalised; two empty answers are."""
    return normalise(before) == normalise(after)


def begun_alike(before: str, after: str) -> bool:
    """Tell whether two answers begin with the same word once normalised; two empty answers do."""
    return normalise(before).split()[:1] == normalise(after).split()[:1]


_THREE_DIGITS = re.compile(r"\d{3}(?!\d)")


def _may_begin(given: str, place: int) -> bool:
    """Tell whether a word or a number begins at ``place``: 5 does not in 1.5, 1,500 or -5."""
    if place == 0:
        return True
    last, before = given[place - 1], given[place - 2 : place - 1]
    if given[place].isdigit() and (_inside_number(given, place) or (last in "-−" and not before.isalnum())):
        return False
    return not _in_word(last)


def _inside_number(given: str, place: int) -> bool:
    """Tell whether a point or a comma before ``place`` is part of a number: of 1.5 and 1,500, not of a date."""
    if given[place - 1] == ",":
        return given[place - 2 : place - 1].isdigit() and _THREE_DIGITS.match(given, place) is not None
    start = place - 1
    while given[place - 1] == "." and start > 0 and given[start - 1].isdigit():
        start -= 1
    return start < place - 1 and given[start - 1 : start] != "."


def _begins(given: str, wanted: str) -> bool:
    if not wanted or not given.startswith(wanted):
        return False
    rest = given[len(wanted) :]
    if not rest or _spaceless(wanted[-1]):
        return True
    if rest[0] in ".," and rest[1:2].isdigit() and wanted[-1].isdigit():
        return False  # 1 is not 1.5
    return not _in_word(rest[0]) and rest[0] not in _KEEPS_WORD


def _in_word(char: str) -> bool:
    """Tell whether ``char`` is a letter, a digit, or a mark upon one; the vowel signs of Indic scripts are marks."""
    # Where words stand without spaces between them, a mark does not tell that its word goes on.
    if char in "\ufe0e\ufe0f":  # these say how the sign before them is drawn
        return False
    return char.isalnum() or (unicodedata.category(char).startswith("M") and not _spaceless(char))


def _spaceless(char: str) -> bool:
    """Tell whether ``char`` belongs to a script that writes words without spaces between them."""
    name = unicodedata.name(char, "")
    return name.startswith(("CJK ", "HIRAGANA", "KATAKANA", "THAI", "LAO ", "KHMER", "MYANMAR"))


def _strip_left(text: str) -> str:
    start = 0
    while start < len(text) and (text[start] == " " or _is_mark(text[start])):
        if text[start] == "-" and text[start + 1 : start + 2].isdigit():
            break  # a sign, not a dash
        start += 1
    return text[start:]


def _strip_right(text: str) -> str:
    end = len(text)
    while end and (text[end - 1] == " " or _is_mark(text[end - 1])):
        end -= 1
    return text[:end]


def _is_mark(char: str) -> bool:
    """Punctuation that does not belong to a name; "#" and "&" do ("#1", "C#"), and "+" is no punctuation at all."""
    return unicodedata.category(char).startswith("P") and char not in _KEEPS_WORD
