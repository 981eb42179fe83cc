"""Demonstrations: worked examples that show a model what to do with a new fact.

Three kinds, as in Zheng et al. 2023, "Can We Edit Factual Knowledge by In-Context Learning?": ``copy`` (the fact's own
wording), ``update`` (another wording, same answer) and ``retain`` (something else, whose answer stays).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np

from corrigenda.errors import DatasetError
from corrigenda.memory.encoder import Encoder
from corrigenda.middleware.strategies.wording import one_line
from corrigenda.paths import numbered_lines, read_text

Kind: TypeAlias = Literal["copy", "update", "retain"]
KINDS: tuple[Kind, ...] = ("copy", "update", "retain")


@dataclass(frozen=True, slots=True)
class Demonstration:
    """A new fact, a query, and the right answer to it in the light of the fact.

    Attributes:
        kind: What it shows.
        prompt, target: The new fact.
        query: What is asked.
        answer: The target, or for ``retain`` what it was anyway.
    """

    kind: Kind
    prompt: str
    target: str
    query: str
    answer: str

    @property
    def text(self) -> str:
        """The demonstration as it stands in a prompt, an empty line at its end."""
        return f"{record(self.query, self.prompt, self.target)} {one_line(self.answer)}\n\n"


def record(query: str, prompt: str, target: str) -> str:
    """Return query and new fact as a record that lacks its answer, every part on its line.

    The fact comes last: next to the answer a small model copies the target rather than recites what it knew. The dash
    shows where the target begins, else now and then the whole fact is said again. Figures in
    :mod:`corrigenda.middleware.strategies.ike`.
    """
    return f"Prompt: {one_line(query)}\nNew Fact: {one_line(prompt)} - {one_line(target)}\nAnswer:"


def read(path: Path) -> tuple[Demonstration, ...]:
    """Read demonstrations from a file of JSON lines.

    Raises:
        DatasetError: Not readable, or a line that is no demonstration; names the line.
    """
    return _parse(read_text(path), str(path))


@cache
def built_in() -> tuple[Demonstration, ...]:
    """Return the demonstrations that come with the package; the facts are invented."""
    data = files("corrigenda.middleware") / "data" / "demonstrations.jsonl"
    return _parse(data.read_text(encoding="utf-8"), "demonstrations.jsonl")


def _parse(text: str, source: str) -> tuple[Demonstration, ...]:
    return tuple(_demonstration(line, f"{source}, line {number}") for number, line in numbered_lines(text))


def _demonstration(line: str, where: str) -> Demonstration:
    names = {item.name for item in fields(Demonstration)}
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise DatasetError(f"{where}: not JSON: {error}") from error
    if not isinstance(row, Mapping) or set(row) != names or not all(isinstance(row[name], str) for name in names):
        raise DatasetError(f"{where}: a demonstration has the text fields {', '.join(sorted(names))}, and no others")
    if row["kind"] not in KINDS:
        raise DatasetError(f"{where}: unknown kind {row['kind']!r}", remedy=f"Allowed: {', '.join(KINDS)}.")
    values: dict[str, Any] = dict(row)
    return Demonstration(**values)


Chooser: TypeAlias = Callable[[str, int], Sequence[Demonstration]]
"""Chooses demonstrations: (query, how many) → demonstrations, the most useful last, next to the query."""


class Fixed:
    """Always the first of the store. Their keys and values are computed once for a whole batch of requests."""

    def __init__(self, store: Sequence[Demonstration]) -> None:
        self.store = tuple(store)

    def __call__(self, query: str, count: int) -> Sequence[Demonstration]:
        """See :data:`Chooser`."""
        return self.store[:count]


SHARES: Mapping[Kind, int] = {"copy": 1, "update": 3, "retain": 4}
"""How many of each kind, in proportion: the paper's 4 : 12 : 16 of 32."""


def mixed(store: Sequence[Demonstration], count: int) -> tuple[Demonstration, ...]:
    """Return the first ``count`` of ``store``, in its order, that keep to :data:`SHARES`.

    A kind that runs short leaves its places empty: a store without facts to retain makes no others of them.
    """
    whole = sum(SHARES.values())
    room = {kind: round(count * share / whole) for kind, share in SHARES.items()}
    chosen = []
    for item in store:
        if room[item.kind]:
            room[item.kind] -= 1
            chosen.append(item)
    return tuple(chosen)


class Nearest:
    """Those whose query is most similar to the query, the nearest last, as in the paper.

    Args:
        store: Where to choose from; encoded now.
        encoder: Measures similarity; the memory's own will do.
        mix: Whether the kinds are kept to :data:`SHARES`, the nearest of each.
    """

    def __init__(self, store: Sequence[Demonstration], encoder: Encoder, *, mix: bool = False) -> None:
        self.store = tuple(store)
        self.encoder = encoder
        self.mix = mix
        self._vectors = encoder.encode([item.query for item in self.store])  # (n, d)

    def __call__(self, query: str, count: int) -> Sequence[Demonstration]:
        """See :data:`Chooser`."""
        similarity = self._vectors @ self.encoder.encode([query])[0]  # (n,)
        order = np.argsort(-similarity, kind="stable")
        ranked = [self.store[place] for place in order]
        return list(reversed(mixed(ranked, count) if self.mix else ranked[:count]))
