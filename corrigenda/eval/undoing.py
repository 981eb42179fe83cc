"""Making edits and taking them back, checked: what the protocols share."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from corrigenda.errors import CorrigendaError, EvaluationError
from corrigenda.eval.asking import Budget, Failure
from corrigenda.eval.case import Case
from corrigenda.eval.editable import Editable, Undo

VERIFIED = 8
"""Cases whose answers are compared before the first edit and after the last undo where many edits are live."""


@dataclass(slots=True)
class Made:
    """Edits that were made together.

    Attributes:
        undo: Takes them back; ``None`` when none could be made.
        seconds: Wall time of the method's ``edit``.
        failures: Cases that could not be edited, and why.
    """

    undo: Undo | None
    seconds: float = 0.0
    failures: dict[str, Failure] = field(default_factory=dict)


def make(editable: Editable, cases: Sequence[Case]) -> Made:
    """Make the edits of ``cases`` in one call.

    When the method refuses and its error says which edit is to blame, that case is left out and the others are tried
    again; when it does not, all of them have failed. Errors of the suite's own contract are passed on.
    """
    made = Made(None)
    left = list(cases)
    while left:
        began = time.perf_counter()
        try:
            made.undo = editable.edit([edit for case in left for edit in case.edits])
        except EvaluationError:
            raise
        except CorrigendaError as error:
            blamed = getattr(error.edit, "id", None)
            guilty = [case for case in left if any(edit.id == blamed for edit in case.edits)] or left
            made.failures.update({case.id: Failure.of(error) for case in guilty})
            left = [case for case in left if case.id not in made.failures]
        else:
            break
        finally:
            made.seconds += time.perf_counter() - began
    return made


class Stack:
    """Edits that are live, each case's with its own undo, in the order in which they were made."""

    def __init__(self, editable: Editable) -> None:
        self.editable = editable
        self.seconds: dict[str, float] = {}
        self.failures: dict[str, Failure] = {}
        self._live: list[tuple[Case, Undo]] = []

    def push(self, case: Case) -> None:
        """Make the edits of ``case``."""
        made = make(self.editable, [case])
        self.seconds[case.id] = self.seconds.get(case.id, 0.0) + made.seconds
        self.failures.update(made.failures)
        if made.undo is not None:
            self._live.append((case, made.undo))

    def retract(self, case: Case) -> None:
        """Take the edits of ``case`` back, whatever was made after it.

        A method that can only take back its last edit (weights are put back bit for bit) takes back the later ones as
        well and makes them again: that is what a retraction costs there.
        """
        place = next((place for place, (live, _) in enumerate(self._live) if live.id == case.id), None)
        if place is None:
            return
        began, counted = time.perf_counter(), sum(self.seconds.values())
        try:
            self._live[place][1].revert()
            del self._live[place]
        except EvaluationError:
            raise
        except CorrigendaError:
            later = [live for live, _ in self._live[place + 1 :]]
            self.clear(down_to=place)
            for again in later:
                self.push(again)
        counted = sum(self.seconds.values()) - counted  # making the later ones again is on their own account
        self.seconds[case.id] = self.seconds.get(case.id, 0.0) + time.perf_counter() - began - counted

    def clear(self, down_to: int = 0) -> None:
        """Take back all edits from the ``down_to``-th on, the last ones first."""
        while len(self._live) > down_to:
            self._live.pop()[1].revert()


@dataclass(frozen=True, slots=True)
class Trace:
    """What a method answers before any edit, to be compared once all has been undone.

    The same prompts are asked in the same batch both times, so that equal weights give equal texts bit for bit.
    """

    cases: tuple[str, ...]
    prompts: tuple[str, ...]
    texts: tuple[str, ...] | None
    limit: int

    @classmethod
    def of(cls, editable: Editable, cases: Sequence[Case], budget: Budget) -> Trace:
        """Ask ``editable`` the first prompt of each of ``cases``."""
        prompts = tuple(case.edits[0].prompt for case in cases)
        names = tuple(case.id for case in cases)
        return cls(names, prompts, _texts(editable, prompts, budget.least), budget.least)

    def compare(self, editable: Editable) -> None:
        """Ask again.

        Raises:
            EvaluationError: An answer differs: an undo left something behind, and later scores cannot be trusted.
        """
        again = _texts(editable, self.prompts, self.limit)
        if again == self.texts:
            return
        pairs: Any = zip(self.cases, self.texts or (), again or (), strict=False)
        name, was, now = next((row for row in pairs if row[1] != row[2]), (self.cases[0], None, None))
        raise EvaluationError(
            f"the undo left traces: the prompt of case {name} was answered {was!r} before the edits, "
            f"and {now!r} after they were undone",
            remedy="This is a fault of the method's revert(); scores of later cases would be wrong.",
        )


def _texts(editable: Editable, prompts: tuple[str, ...], limit: int) -> tuple[str, ...] | None:
    """Return the answers, or ``None`` when the method refuses these prompts with or without edits."""
    try:
        return tuple(editable.generate(list(prompts), max_new_tokens=limit))
    except EvaluationError:
        raise
    except CorrigendaError:
        return None
