"""Relations: respects in which things are asked about, known by example.

A relation has wordings ("the city in which {} was born"), a question that a small model understands best, a few
examples that show it what kind of answer is wanted, and, where each thing has one at most the other way round, the
name of its inverse. The package brings some; a file of JSON lines adds others.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from corrigenda.edit import fold
from corrigenda.errors import DatasetError
from corrigenda.memory.encoder import Encoder
from corrigenda.memory.texts import PLACEHOLDER
from corrigenda.paths import numbered_lines, read_text

Vectors = NDArray[np.float32]

SURE = 0.8
"""Cosine from which a wording is taken for one of a relation, −1…1; higher recognises fewer."""


@dataclass(frozen=True)
class Relation:
    """A respect in which things are asked about.

    Attributes:
        name: "capital".
        question: "What is the capital of {}?".
        statement: "The capital of {} is": a prompt that ends where the object begins.
        phrases: Other wordings, noun phrases ("the capital city of {}") first.
        examples: Pairs (thing, answer), true ones.
        of, object: What kinds of thing it is asked of, and what kinds answer: "country", "city".
        inverse: Name of the relation the other way round, if that has one answer; empty where it has many, or none.
        many: Whether one thing may have several answers at once (occupations, genres): then nothing follows from one.
    """

    name: str
    question: str
    statement: str
    phrases: tuple[str, ...]
    examples: tuple[tuple[str, str], ...] = ()
    of: tuple[str, ...] = ()
    object: tuple[str, ...] = ()
    inverse: str = ""
    many: bool = False

    @property
    def phrase(self) -> str:
        """The noun phrase: "the capital of {}"."""
        return self.phrases[0]

    @property
    def wordings(self) -> tuple[str, ...]:
        """All wordings, the question and the statement among them."""
        return (self.question, self.statement, *self.phrases)

    @property
    def prompts(self) -> tuple[str, ...]:
        """The wordings as prompts behind which the object stands: the statement and the question first."""
        return tuple(dict.fromkeys((self.statement, self.question, *map(_prompt, self.phrases))))


def _prompt(phrase: str) -> str:
    """Return a wording as a question or as a statement up to its object: "The capital city of {} is"."""
    if phrase.endswith("?"):
        return phrase
    if phrase.startswith("the "):
        return f"{phrase[0].upper()}{phrase[1:]} is"
    if phrase.startswith("{}'s ") and not phrase.endswith(" is"):
        return f"{phrase} is"
    return phrase


@dataclass
class Relations:
    """A table of relations, which finds the one that a wording means.

    Attributes:
        table: By name.
    """

    table: Mapping[str, Relation]
    _vectors: dict[str, Vectors] = field(default_factory=dict, repr=False)

    @classmethod
    def read(cls, path: Path, *, built_in: bool = True) -> Relations:
        """Read relations from a file of JSON lines; they come before the package's own unless those are left out.

        Raises:
            DatasetError: Not readable, or a line that is no relation; names the line.
        """
        own = _parse(read_text(path), str(path))
        return cls({**_built_in(), **own} if built_in else own)

    @classmethod
    def built_in(cls) -> Relations:
        """Return the relations that come with the package."""
        return cls(_built_in())

    def named(self, name: str | None) -> Relation | None:
        """Return the relation of that name, whatever the case; ``None`` for none."""
        return None if name is None else self.table.get(fold(name))

    def meant(self, frames: Sequence[str], encoder: Encoder, *, sure: float = SURE) -> list[Relation | None]:
        """Return for each of ``frames`` (a wording, the thing's name replaced by the placeholder) what it means.

        Args:
            frames: "What is the capital of X?".
            encoder: Measures how alike wordings are.
            sure: See :data:`SURE`.
        """
        if not frames:
            return []
        owners = [relation for relation in self.table.values() for _ in relation.wordings]
        if not owners:
            return [None] * len(frames)
        texts = [wording.format(PLACEHOLDER) for relation in self.table.values() for wording in relation.wordings]
        if encoder.fingerprint not in self._vectors:
            self._vectors[encoder.fingerprint] = encoder.encode(texts)
        cosines = encoder.encode(list(frames)) @ self._vectors[encoder.fingerprint].T  # (frames, wordings)
        best = cosines.argmax(1)
        return [
            owners[place] if row[place] >= sure else None for row, place in zip(cosines, best.tolist(), strict=True)
        ]


@cache
def _built_in() -> dict[str, Relation]:
    data = files("corrigenda.middleware") / "data" / "relations.jsonl"
    return _parse(data.read_text(encoding="utf-8"), "relations.jsonl")


def _parse(text: str, source: str) -> dict[str, Relation]:
    found: dict[str, Relation] = {}
    for number, line in numbered_lines(text):
        relation = _relation(line, f"{source}, line {number}")
        found[fold(relation.name)] = relation
    return found


def _relation(line: str, where: str) -> Relation:
    try:
        row: Any = json.loads(line)
    except json.JSONDecodeError as error:
        raise DatasetError(f"{where}: not JSON: {error}") from error
    if not isinstance(row, Mapping):
        raise DatasetError(f"{where}: a relation is a JSON object")
    try:
        phrases = [row["question"], row["statement"], *row["phrases"]]
        examples = tuple((str(thing), str(answer)) for thing, answer in row.get("examples", ()))
        kinds: dict[str, Any] = {key: tuple(map(str, row.get(key, ()))) for key in ("of", "object")}
        kinds |= {"inverse": str(row.get("inverse", "")), "many": bool(row.get("many", False))}
        if not row["phrases"] or any(not isinstance(text, str) or text.count("{}") != 1 for text in phrases):
            raise DatasetError(f"{where}: question, statement and phrases are texts with one {{}} each")
        return Relation(str(row["relation"]), phrases[0], phrases[1], tuple(phrases[2:]), examples, **kinds)
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, DatasetError):
            raise
        raise DatasetError(
            f"{where}: not a relation: {error!r}",
            remedy="Give relation, question, statement, phrases; examples, of, object, inverse, many if you like.",
        ) from error
