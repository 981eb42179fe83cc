"""Putting a gate's questions to a model in pieces, each answered once whatever happens to the process."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict

import torch

from corrigenda.param_editors.consolidation.engine import Engine, pieces_of
from corrigenda.param_editors.consolidation.notebook import Notebook, content_key
from corrigenda.param_editors.consolidation.questions import Answer, Question, answer_task

TOGETHER = 64
"""Questions of one piece of work."""


class Asking:
    """Asks the model that a job works on.

    Args:
        questions: All that the gate may ask; the others speak of them by their places.
        engine: Where the model is run.
        changed: Returns the weights by which that model differs from the base now.
        say: Told (stage, done, total).
    """

    def __init__(
        self,
        questions: Sequence[Question],
        engine: Engine,
        changed: Callable[[], Mapping[str, torch.Tensor]],
        say: Callable[[str, int, int], None],
    ) -> None:
        self.questions, self.engine, self.changed, self.say = questions, engine, changed, say

    def unprinted(self, model: object, notes: Notebook) -> list[Answer]:
        """Return the answers to all questions before anything is printed, in order.

        What is said then does not depend on the plan: another one with the same questions finds it.

        Args:
            model: JSON-ready; names the weights.
            notes: What is known of that model.
        """

        def name(number: int, places: Sequence[int]) -> str:
            return content_key(model, [asdict(self.questions[place]) for place in places])

        every = range(len(self.questions))
        found = self._asked("before", every, notes, name)
        return [found[place] for place in every]

    def printed(self, stage: str, key: str, places: Sequence[int], notes: Notebook) -> dict[int, Answer]:
        """Return the answers to the questions at ``places``, by place.

        Args:
            stage: What is told of the work.
            key: Names the weights, and what is asked, within ``notes``.
            places: Which questions.
            notes: What is known already.
        """
        return self._asked(stage, places, notes, lambda number, _: f"{key}-{number}")

    def _asked(
        self, stage: str, places: Sequence[int], notes: Notebook, name: Callable[[int, Sequence[int]], str]
    ) -> dict[int, Answer]:
        order = sorted(places, key=lambda place: len(self.questions[place].prompt))
        parts = pieces_of(order, TOGETHER)
        names = [name(number, part) for number, part in enumerate(parts)]
        missing = [n for n in range(len(parts)) if not notes.has(names[n])]
        pieces = [[self.questions[place] for place in parts[n]] for n in missing]
        for count, (n, answers) in enumerate(self.engine.run(answer_task, pieces, self.changed()), 1):
            notes.value(names[missing[n]], lambda answers=answers: answers)  # type: ignore[misc]
            self.say(f"{stage} questions", len(parts) - len(missing) + count, len(parts))
        found: dict[int, Answer] = {}
        for part, noted in zip(parts, names, strict=True):
            found |= dict(zip(part, notes.value(noted, list), strict=True))
        return found
