"""ELKEN: edits that are events.

Format: Peng et al. 2024, "Event-level Knowledge Editing".

===============================  ==============================================================================
field                            becomes
===============================  ==============================================================================
``event``                        the edit: a statement, its last word the target
``fact.qas``                     portability probes (``fact``): what is so since the event; "unknown" is an answer
``tendency.qas``                 portability probes (``tendency``): multiple choice, the letter or the choice is right
``fact.local_qas``,              locality probes (``fact``, ``tendency``)
``tendency.local_qas``
===============================  ==============================================================================

The statement is what counts; cutting off its last word only gives methods that complete statements something to write.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Literal

from corrigenda.edit import Edit
from corrigenda.eval.case import Case, Probe
from corrigenda.eval.datasets.records import Fields

NAME = "events"
KEYS = frozenset({"event", "fact", "tendency"})
_CHOICE = re.compile(r"\(([A-Z])\)\s*([^(]*)")
_ROLES: tuple[tuple[str, Literal["portability", "locality"]], ...] = (("qas", "portability"), ("local_qas", "locality"))


def read(record: Fields, number: int) -> Case:
    """Build the case of ``record``, the ``number``-th of its file (1-based).

    Raises:
        DatasetError: A field is missing or of the wrong type, or an answer is none of the choices.
    """
    event = record.text("event")
    prompt, _, last = event.rstrip(" .!").rpartition(" ")
    if not prompt:
        record.fail("event", f"needs at least two words: {event!r}")
    relation = record.text("event_type") if "event_type" in record else None
    with record.building_edit():
        edit = Edit(prompt, last, subject=_actor(record, prompt), relation=relation)
    probes = [Probe("reliability", edit.prompt, (last,), "event")]
    for kind in ("fact", "tendency"):
        group = record.within(kind)
        for key, role in _ROLES:
            probes += _probes(group, key, role, kind)
    return Case(str(number), (edit,), tuple(dict.fromkeys(probes)))


def _actor(record: Fields, prompt: str) -> str | None:
    """Return the first subject of a question of fact that the statement holds; ``None`` when there is none."""
    for query in record.within("fact").each("qas"):
        named = query.value.get("subject")
        for key in ("name", "ent2name"):
            name = named.get(key) if isinstance(named, dict) else None
            if isinstance(name, str) and name.strip() and name in prompt:
                return name
    return None


def _probes(group: Fields, key: str, role: Literal["portability", "locality"], kind: str) -> Iterator[Probe]:
    for query in group.each(key):
        question = query.text("question")
        if kind == "fact":
            answer = query.within("answer")
            spellings = answer.texts("alias") if "alias" in answer else ()
            yield Probe(role, question, tuple(dict.fromkeys((answer.answer("name"), *spellings))), kind)
        else:
            listed = query.text("candidate")
            choices = {letter: text.strip() for letter, text in _CHOICE.findall(listed)}
            letter = query.text("answer").strip("()")
            if letter not in choices:
                query.fail("answer", f"expected one of {', '.join(choices) or 'no choices'}, found {letter!r}")
            spelt = (f"({letter})", f"({letter}) {choices[letter]}", choices[letter] or letter)
            yield Probe(role, f"{question}\n{listed}\nAnswer:", tuple(dict.fromkeys(spelt)), kind)
