"""Simulated users who ask in words that a model misreads, and say what they meant: MemPrompt's evaluation.

Madaan et al. 2022, §4. Tasks about words (synonym, antonym, definition, ...) are asked in ways that leave the task
open. A reply shows which task the model took it for by how it begins ("the synonym for ..."), and counts as understood
when it begins as the right one does; whether the word that follows is right is another matter. After a misunderstanding
the user says what was meant with probability ``tells``. What is measured is how understanding grows.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from corrigenda.edit import fold
from corrigenda.errors import DatasetError
from corrigenda.paths import numbered_lines, read_text

TEMPLATES = "templates.json"
_ANSWERS = ("word2", "definition", "sentence")


@dataclass(frozen=True, slots=True)
class Task:
    """One thing that a user asks.

    Attributes:
        kind: The task meant ("syn").
        query: How it is asked.
        clarification: What the user says when misunderstood.
        opening: How a reply that understood begins.
        answer: The whole reply wanted.
    """

    kind: str
    query: str
    clarification: str
    opening: str
    answer: str


class Understands(Protocol):
    """A model with a memory of feedback."""

    def answer(self, queries: Sequence[str]) -> list[str]:
        """Reply to queries, in the light of the feedback so far."""
        ...

    def tell(self, query: str, clarification: str) -> None:
        """Take feedback."""
        ...


@dataclass
class Growth:
    """What came of a stream of tasks.

    Attributes:
        understood: Whether each reply was that of the task meant, in order.
        told: How often a user gave feedback.
    """

    understood: list[bool] = field(default_factory=list)
    told: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Return rates, 0…1, as a JSON-ready dict: over all, and by quarter of the stream."""
        count = len(self.understood)
        quarter = -(-count // 4) if count else 1
        parts = [self.understood[start : start + quarter] for start in range(0, count, quarter)]
        return {
            "n": count,
            "understood": sum(self.understood) / count if count else None,
            "by_quarter": [sum(part) / len(part) for part in parts],
            "told": self.told,
        }


def load(path: Path) -> list[Task]:
    """Read tasks (``meta``, ``type``, ``template_id`` a line); ``templates.json`` beside them has their wordings.

    Raises:
        DatasetError: Not readable, or a record that is none; names the line.
    """
    wordings = _wordings(path)
    found = []
    for number, line in numbered_lines(read_text(path)):
        try:
            row = json.loads(line)
            wording = wordings[row["template_id"]]
            found.append(_task(row["type"], row["meta"], wording))
        except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
            raise DatasetError(f"{path}, line {number}: no task: {error!r}") from error
    if not found:
        raise DatasetError(f"{path} holds no task")
    return found


def _task(kind: str, meta: Mapping[str, str], wording: Mapping[str, str]) -> Task:
    form = wording["answer"]
    opening = form[: min(place for name in _ANSWERS if (place := form.find(f"{{{name}}}")) >= 0)]
    filled = [text.format(**meta) for text in (wording["question"], wording["clarification"], opening, form)]
    return Task(kind, *filled)


def _wordings(path: Path) -> dict[str, Mapping[str, str]]:
    text = read_text(path.with_name(TEMPLATES))
    try:
        groups = json.loads(text)
        group = next(name for name in sorted(groups, key=len, reverse=True) if path.name.startswith(name))
        return {row["template_id"]: row for row in groups[group]}
    except (ValueError, StopIteration, AttributeError, KeyError, TypeError) as error:
        raise DatasetError(
            f"{path.with_name(TEMPLATES)} has no wordings for {path.name}",
            remedy="Name the file by its group: linguistic_1000.jsonl.",
        ) from error


def simulate(
    tasks: Sequence[Task],
    model: Understands,
    *,
    tells: float = 0.5,
    seed: int = 0,
    batch: int = 8,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Growth:
    """Ask ``tasks`` in order, ``batch`` at a time; feedback of a batch helps from the next one on.

    Args:
        tasks: The stream.
        model: Who is asked and told.
        tells: Probability that a user who was misunderstood says what was meant, 0…1; 0 is the baseline.
        seed: Decides who does.
        batch: Tasks asked at a time, ≥ 1.
        progress: Told (done, total).
    """
    rng = random.Random(seed)
    growth = Growth()
    for start in range(0, len(tasks), batch):
        part = tasks[start : start + batch]
        for task, reply in zip(part, model.answer([task.query for task in part]), strict=True):
            right = fold(reply).startswith(fold(task.opening))
            growth.understood.append(right)
            if not right and rng.random() < tells:
                model.tell(task.query, task.clarification)
                growth.told += 1
        progress(len(growth.understood), len(tasks))
    return growth


def examples(tasks: Sequence[Task], each: int = 1) -> list[Task]:
    """Return the first ``each`` tasks of every kind: what a few-shot prompt shows. Do not ask them as well."""
    seen: dict[str, int] = {}
    chosen = []
    for task in tasks:
        if seen.get(task.kind, 0) < each:
            seen[task.kind] = seen.get(task.kind, 0) + 1
            chosen.append(task)
    return chosen
