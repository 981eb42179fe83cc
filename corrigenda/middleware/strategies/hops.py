"""Hops: what is known of one thing in one respect, by the edits first, then by a source, then by the bare model.

A small model knows that Osaka is in Japan, but says so only when it is shown what kind of answer is wanted. The relation
that a question means is looked up, and its examples stand before the question:

    Question: In which country is Lyon?
    Answer: France

    Question: In which country is Osaka?
    Answer:

On 293 facts about cities, countries, languages and companies that occur as objects in the CounterFact training file,
SmolLM2-135M-Instruct is right with the bare beginning of a statement .20, with eight mixed examples .68, with examples
of the relation .70 (country of a city .87, capital .82, official language .87, continent .82, language family .51,
headquarters .19).
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any

from corrigenda.chat import Chat
from corrigenda.lm.stopping import LINE
from corrigenda.memory.scope import Candidate, Consideration
from corrigenda.memory.texts import frame
from corrigenda.middleware.consult import Ask, Judge, Means, Need
from corrigenda.middleware.relations import Relation, Relations
from corrigenda.middleware.strategies.wording import one_line

LONGEST_ANSWER = 12
"""Most tokens of what the model is asked for; names are short."""
_MIXED = (
    ("capital", 2),
    ("country", 1),
    ("language family", 1),
    ("continent", 2),
    ("headquarters", 0),
    ("official language", 1),
    ("country of origin", 1),
    ("manufacturer", 0),
)
"""What is shown before a question that means no known relation: (relation, number of the example)."""


@dataclass(frozen=True, slots=True)
class Hop:
    """One step taken.

    Attributes:
        asked: What had to be known.
        answer: What it is; empty when nobody knew.
        edit: The edit that says so, ``None`` when the model did.
    """

    asked: str
    answer: str
    edit: Candidate | None = None

    @property
    def note(self) -> str:
        """The hop as one line of a trace."""
        return f"{self.asked} {self.answer} ({f'edit {self.edit.edit.id}' if self.edit else 'model'})"


@dataclass(frozen=True, slots=True)
class Meant:
    """Needed: which relation each of ``frames`` means."""

    frames: tuple[str, ...]
    relations: Relations

    def fulfil(self, means: Means, /) -> list[Relation | None]:
        """Return one relation, or ``None``, per frame."""
        return self.relations.meant(self.frames, means.memory.encoder)


def answering(considered: Consideration | None) -> Candidate | None:
    """Return the edit that answers a question of one step; whether it is called direct does not matter then."""
    return considered.in_scope[0] if considered is not None and considered.in_scope else None


def judged(questions: Sequence[str], namespace: str) -> Generator[Need, Any, list[Consideration]]:
    """Find out which edits concern ``questions``, each asked once."""
    if not questions:
        return []
    once = tuple(dict.fromkeys(questions))
    found = dict(zip(once, (yield Judge(once, namespace)), strict=True))
    return [found[question] for question in questions]


def asked_model(
    questions: Sequence[tuple[str, tuple[int, int]]], relations: Relations
) -> Generator[Need, Any, list[str]]:
    """Ask the bare model, each question once; return what it says, "" where it says nothing.

    Args:
        questions: Pairs of a question and where the name stands in it.
        relations: What is known about questions.
    """
    if not questions:
        return []
    once = tuple(dict.fromkeys(questions))
    meant = yield Meant(tuple(frame(text, [name]) for text, name in once), relations)
    texts = [
        prompt(text, text[name[0] : name[1]], relation, relations)
        for (text, name), relation in zip(once, meant, strict=True)
    ]
    options = {"max_new_tokens": LONGEST_ANSWER, "stop": LINE}
    said = yield Ask(tuple(Chat.of(text, **options) for text in texts))
    found = dict(zip(once, map(clean, said), strict=True))
    return [found[question] for question in questions]


def prompt(question: str, name: str, relation: Relation | None, relations: Relations) -> str:
    """Return the text whose continuation answers ``question``, which is about ``name`` and means ``relation``."""
    if relation is not None:
        shown = [(relation.question.format(thing), answer) for thing, answer in relation.examples if thing != name]
        asked = relation.question.format(one_line(name))
    else:
        shown, asked = _mixed(relations), _as_question(one_line(question))
    lines = [f"Question: {text}\nAnswer: {answer}\n\n" for text, answer in shown]
    return f"{''.join(lines)}Question: {asked}\nAnswer:"


def clean(said: str) -> str:
    """Return the bare answer: one line, no full stop, nothing that explains it."""
    line = one_line(said).strip().rstrip(".").strip()
    return line.split(". ")[0]


def _mixed(relations: Relations) -> list[tuple[str, str]]:
    found = []
    for name, number in _MIXED:
        relation = relations.named(name)
        if relation is not None and number < len(relation.examples):
            thing, answer = relation.examples[number]
            found.append((relation.question.format(thing), answer))
    return found


def _as_question(text: str) -> str:
    """Return the beginning of a statement as it stands between question and answer: with what it lacks marked."""
    return text if text.endswith("?") else f"{text} …?"
