"""What is encoded of an edit and of a query: the whole text, and its frame.

The frame is the relation side of a text: "Kazakhstan's capital is" with the subject replaced by a placeholder. Two
texts with one subject and different frames ask for different things; the similarity of whole texts cannot tell.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache

from corrigenda.edit import Edit


def word_set(*lines: str) -> frozenset[str]:
    """Return the words of ``lines`` as a set: a list of words that reads as one."""
    return frozenset(" ".join(lines).split())


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
_WORD = re.compile(r"\w[\w'’.&/+-]*")
_LINKS = word_set("of the and de la le du des von van der den del di da el al in for on at to a & y e")
_OPENERS = word_set(
    "the a an what who whom whose which where when why how in on at of for from is are was were do does did to by",
    "it its this that these those he she they i you we name tell after with can could please hi hello",
)


def infer_subject(text: str) -> tuple[int, int] | None:
    """Guess where the subject of ``text`` stands: quoted text, or from the first to the last capitalised word.

    What lies between belongs to the name more often than not ("Le Matin du Sahara et du Maghreb"): a text that is to be
    continued by its target speaks of one thing.
    """
    if quoted := _QUOTED.search(text):
        return quoted.span(1)
    runs = capitalised_runs(text)
    return (runs[0][0], runs[-1][1]) if runs else None


@lru_cache(maxsize=1_024)  # a query is looked at once for each candidate
def capitalised_runs(text: str) -> tuple[tuple[int, int], ...]:
    """Return the runs of capitalised words or numbers in ``text``, linking words ("of", "von") inside included."""
    runs: list[tuple[int, int]] = []
    start, end, links = -1, -1, False
    for place, match in enumerate(_WORD.finditer(text)):
        word = bare_word(match.group())
        stop = match.start() + len(word)
        proper = bool(word) and (word[0].isdigit() or word != word.lower())
        if place == 0 and word.casefold() in _OPENERS:
            proper = False  # the first word of any sentence is capitalised
        gap = text[end : match.start()].strip()
        joined = links or gap in ("", "&", "/", ",") or (gap == "." and _is_initial(text, end))
        if proper and start >= 0 and joined:
            end = stop
        elif proper:
            if start >= 0:
                runs.append((start, end))
            start, end = match.start(), stop
        elif start >= 0 and word.casefold() in _LINKS and (links or not text[end : match.start()].strip()):
            links = True
            continue
        elif start >= 0:
            runs.append((start, end))
            start = -1
        links = False
    if start >= 0:
        runs.append((start, end))
    return tuple(runs)


def _is_initial(text: str, end: int) -> bool:
    """Tell whether the word of ``text`` that stops at ``end`` is one letter: the dot after it ends no sentence."""
    return end == 1 or (end > 1 and not text[end - 2].isalnum())


def bare_word(word: str) -> str:
    """Return ``word`` without the possessive and without punctuation at its end."""
    word = word.rstrip(".'’-/&+")
    return word[:-2] if word[-2:].casefold() in ("'s", "’s") else word


_BREAKS = word_set("is was are were as by in on of for from at to named performing the a an called than with")


def split_statement(text: str) -> tuple[str, str]:
    """Split an edit that was written as one text into (prompt, target).

    A question ends at its question mark ("Where was X born? Rome"). A statement's target is taken to be its end: the
    last run of capitalised words ("… is located in Rome."), or else what follows the last function word, four words
    at most. A guess; an :class:`~corrigenda.edit.Edit` says which is which.
    """
    if match := re.match(r"(.+\?(?:\s+(?:It|This|That|He|She) is\b)?)\s*(\S.*)$", text, re.DOTALL):
        return match[1], match[2].rstrip(" .")
    body = text.strip().rstrip(" .!")
    runs = capitalised_runs(body)
    if runs and runs[-1][1] == len(body) and runs[-1][0] > 0:
        start = runs[-1][0]
    else:
        words = list(re.finditer(r"\S+", body))
        named = runs[-1][1] if runs else 0  # the subject is no part of the target
        breaks = [
            place
            for place, word in enumerate(words)
            if word.group().casefold() in _BREAKS and word.start() >= named and place
        ]
        first = breaks[-1] + 1 if breaks else len(words) - 1
        first = max(first, len(words) - 4) if first < len(words) else len(words) - 1
        start = words[first].start() if words and first > 0 else 0
    if start == 0:
        return body, body
    prompt = body[:start].rstrip()
    for article in (" the", " a", " an"):
        prompt = prompt.removesuffix(article)
    return prompt, body[start:]


_ENGLISH = word_set(
    "the of is are were who whom whose what which where when how why does did has have to for by and with"
)
_OTHER_LANGUAGES = word_set(
    "quel quelle quels quelles qui est où quand comment pourquoi combien dans sont le la les du des un une",
    "cuál cuáles qué quién dónde cuándo cuánto cuántos cuántas cómo es el los las del una por para",
    "wer wo wann wie warum welche welcher welches ist der das dem und wurde heißt eine einen von",
    "chi cosa quale quali dove quando è il lo gli della dello di quanti quem qual onde são os da em quantos",
    "wat waar wanneer welke het een van hoeveel vem vad var när hur är och hvem hva hvor er",
)


def in_another_language(text: str) -> bool:
    """Tell whether ``text`` is clearly not English: two function words of another language, and none of English."""
    words = {word.casefold() for word in re.findall(r"\w+", text)}
    return len(words & _OTHER_LANGUAGES) >= 2 and not words & _ENGLISH
