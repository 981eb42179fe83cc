"""Hops: what is known of one thing in one respect, by the edits first, then by a source, then by the bare model.

A small model knows that Osaka is in Japan, but says so only when it is shown what kind of answer is wanted. So the
relation that a question means is looked up, and its examples stand before the question:

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
from corrigenda.edit import Edit
from corrigenda.lm.stopping import LINE
from corrigenda.memory.scope import Candidate, Consideration
from corrigenda.memory.texts import frame
from corrigenda.middleware.consult import Judge, Means, Need
from corrigenda.middleware.relations import Relation, Relations
from corrigenda.middleware.strategies.wording import one_line

LONGEST_ANSWER = 12
"""Most tokens of what the model is asked for; names are short."""
OPTIONS = {"max_new_tokens": LONGEST_ANSWER, "stop": LINE}
"""With what the model is asked."""
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
        edit: The edit that says so, if one does.
        derived: The derived edit that says so, found by the edit of the hop before. Neither: the model said it.
    """

    asked: str
    answer: str
    edit: Candidate | None = None
    derived: Edit | None = None

    @property
    def note(self) -> str:
        """The hop as one line of a trace."""
        edit = self.edit.edit if self.edit is not None else self.derived
        return f"{self.asked} {self.answer} ({'model' if edit is None else f'edit {edit.id}'})"


@dataclass(frozen=True, slots=True)
class Meant:
    """Needed: which relation each of ``frames`` means."""

    frames: tuple[str, ...]
    relations: Relations

    def fulfil(self, means: Means, /) -> list[Relation | None]:
        """Return one relation, or ``None``, per frame."""
        return self.relations.meant(self.frames, means.memory.encoder)


@dataclass(frozen=True, slots=True)
class Derived:
    """Needed: what was derived from each of the edits ``ids``."""

    ids: tuple[str, ...]

    def fulfil(self, means: Means, /) -> dict[str | None, tuple[Edit, ...]]:
        """Return the live derived edits by parent."""
        return {edit_id: means.memory.consequences(edit_id) for edit_id in self.ids}


@dataclass(frozen=True, slots=True)
class AskIfPossible:
    """Needed: what the bare model says; "" to everything where there is none to ask."""

    requests: tuple[Chat, ...]

    def fulfil(self, means: Means, /) -> list[str]:
        """Return one text per request."""
        return [""] * len(self.requests) if means.ask is None else means.ask(self.requests)


def judged(questions: Sequence[str], namespace: str) -> Generator[Need, Any, list[Consideration]]:
    """Find out which edits concern ``questions``, each asked once."""
    if not questions:
        return []
    once = tuple(dict.fromkeys(questions))
    found = dict(zip(once, (yield Judge(once, namespace)), strict=True))
    return [found[question] for question in questions]


@dataclass(frozen=True, slots=True)
class Question:
    """Something that no edit answers.

    Attributes:
        text: The question, or the beginning of a statement.
        name: Where in it the name stands of what it is about, (start, end).
        after: Id of the edit that led to that thing, if one did.
    """

    text: str
    name: tuple[int, int]
    after: str | None = None

    @property
    def thing(self) -> str:
        """The name."""
        return self.text[self.name[0] : self.name[1]]


def found_out(questions: Sequence[Question], relations: Relations) -> Generator[Need, Any, list[Hop]]:
    """Answer what no edit answers: by what was derived from the edit before, else by the bare model.

    Args:
        questions: Equal ones are asked once.
        relations: What is known about questions.
    """
    if not questions:
        return []
    once = tuple(dict.fromkeys(questions))
    meant = yield Meant(tuple(frame(item.text, [item.name]) for item in once), relations)
    onward = yield Derived(tuple(dict.fromkeys(item.after for item in once if item.after is not None)))
    found: dict[Question, Hop] = {}
    asked: dict[Question, str] = {}
    for item, relation in zip(once, meant, strict=True):
        if (edit := _follows(onward.get(item.after, ()), relation)) is not None:
            found[item] = Hop(item.text, edit.target, derived=edit)
        else:
            asked[item] = prompt(item.text, item.thing, relation, relations)
    said = (yield AskIfPossible(tuple(Chat.of(text, **OPTIONS) for text in asked.values()))) if asked else []
    found |= {item: Hop(item.text, clean(text)) for item, text in zip(asked, said, strict=True)}
    return [found[item] for item in questions]


def _follows(derived: Sequence[Edit], relation: Relation | None) -> Edit | None:
    """Return the one among ``derived`` edits, all about one thing, that goes on by ``relation``."""
    if relation is None:
        return None
    end = f" / {relation.name}"
    return next((edit for edit in derived if edit.relation is not None and edit.relation.endswith(end)), None)


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
