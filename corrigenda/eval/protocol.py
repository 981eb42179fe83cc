"""How edits are made and scored: one at a time, or all of them live at once.

``single``      make a case's edits, ask its probes, undo, check that the undo left no trace; next case.
``sequential``  make the edits of all cases one after the other, then ask every probe; at the end undo all, check.

Both first ask the unedited model the locality probes. Cases are scored in batches and each batch is in the journal
before the next one begins. An error of the method in a case (a subject that is not in the prompt, say) leaves the case
unscored; it is never a wrong answer.

With all edits live, two things cannot be asked: the target of an edit that a later one contradicts, and the old answer
to a prompt that another edit claims. Those probes stay unscored and say so.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from corrigenda.errors import CorrigendaError, EvaluationError
from corrigenda.eval.case import Case, Claims, superseded
from corrigenda.eval.editable import Answers, Editable, Undo
from corrigenda.eval.journal import Journal, Row
from corrigenda.eval.scoring import Asked, Budget, Failure, ask_after, ask_before, row_of

Name: TypeAlias = Literal["single", "sequential"]
Progress: TypeAlias = Callable[[str, int, int], None]
"""Called with (stage, done, total); stages are ``before``, ``edit``, ``score``."""
VERIFIED = 8
"""Cases whose answers are compared before the first edit and after the last undo of a sequential run."""


def _silent(stage: str, done: int, total: int) -> None:
    """Report nothing."""


@dataclass(frozen=True)
class Run:
    """An evaluation: what is scored, and how.

    Attributes:
        editable: The method under test.
        unedited: The model without edits, for the answers from before. Deterministic; usually
            :class:`~corrigenda.eval.cache.Cached`.
        budget: Token limits of answers.
        protocol: ``single`` or ``sequential``.
        forced: Whether to score teacher-forced as well.
        batch: Cases a batch, ≥ 1: what a kill loses at most.
        journal: Where rows go.
        collecting: For methods that only change prompts: a context in which ``unedited`` notes what it is asked and
            answers it in one large batch at its end (:meth:`Cached.collecting`). Each batch of a single run then goes
            through twice, the second time with all answers at hand. Editors of weights must leave it out.
        progress: Told how far the run is.
    """

    editable: Editable
    unedited: Answers
    budget: Budget
    protocol: Name = "single"
    forced: bool = True
    batch: int = 16
    journal: Journal = field(default_factory=Journal)
    collecting: Callable[[], AbstractContextManager[None]] | None = None
    progress: Progress = _silent

    def __post_init__(self) -> None:
        if self.protocol not in ("single", "sequential"):
            raise EvaluationError(f"unknown protocol {self.protocol!r}", remedy="Known: single, sequential.")
        if self.batch < 1:
            raise EvaluationError(f"a batch needs at least one case, not {self.batch}")

    def __call__(self, cases: Sequence[Case]) -> list[Row]:
        """Score ``cases`` and return one journal row a case, in their order.

        Cases that the journal already holds are not scored again.

        Raises:
            EvaluationError: An undo left traces, or the method breaks the contract of ``Editable``.
        """
        done = {row["case"] for row in self.journal.rows}
        todo = [case for case in cases if case.id not in done]
        if todo:
            rows = self._single(todo) if self.protocol == "single" else self._sequential(cases, todo)
            scored = len(cases) - len(todo)
            started = time.perf_counter()
            for batch in rows:
                seconds = (time.perf_counter() - started) / len(batch)
                self.journal.append({**row, "seconds": round(seconds, 4)} for row in batch)
                scored += len(batch)
                self.progress("score", scored, len(cases))
                started = time.perf_counter()
        self.journal.finish()
        place = {case.id: number for number, case in enumerate(cases)}
        return sorted(self.journal.rows, key=lambda row: place[row["case"]])

    def _single(self, cases: Sequence[Case]) -> Iterator[list[Row]]:
        for batch in self._batches(cases):
            asked = [[Asked(probe) for probe in case.probes] for case in batch]
            self._before([item for items in asked for item in items])
            if self.collecting is not None:
                with self.collecting():
                    for case, items in zip(batch, asked, strict=True):
                        self._one(case, [Asked(item.probe, item.before) for item in items])
            yield [self._one(case, items) for case, items in zip(batch, asked, strict=True)]

    def _one(self, case: Case, asked: list[Asked]) -> Row:
        """Make the edits of ``case``, ask, undo, check the undo."""
        check = Trace.of(self.editable, [case], self.budget)
        undo = _edit(self.editable, case)
        if isinstance(undo, Failure):
            return row_of(case, asked, forced=self.forced, failure=undo)
        try:
            ask_after(self.editable, asked, self.budget, forced=self.forced)
        finally:
            undo.revert()
        check.compare(self.editable)
        return row_of(case, asked, forced=self.forced)

    def _sequential(self, cases: Sequence[Case], todo: Sequence[Case]) -> Iterator[list[Row]]:
        """Make the edits of all ``cases``, then ask the probes of those ``todo``."""
        asked = self._exclude(cases)
        for number, batch in enumerate(self._batches(todo)):
            self._before([item for case in batch for item in asked[case.id]])
            self.progress("before", min((number + 1) * self.batch, len(todo)), len(todo))
        check = Trace.of(self.editable, cases[:VERIFIED], self.budget)
        undos: list[Undo] = []
        failures: dict[str, Failure] = {}
        try:
            for number, case in enumerate(cases, start=1):
                done = _edit(self.editable, case)
                if isinstance(done, Failure):
                    failures[case.id] = done
                else:
                    undos.append(done)
                self.progress("edit", number, len(cases))
            for batch in self._batches(todo):
                fine = [item for case in batch if case.id not in failures for item in asked[case.id]]
                ask_after(self.editable, fine, self.budget, forced=self.forced)
                yield [
                    row_of(case, asked[case.id], forced=self.forced, failure=failures.get(case.id)) for case in batch
                ]
        finally:
            for undo in reversed(undos):
                undo.revert()
        check.compare(self.editable)

    def _before(self, asked: Sequence[Asked]) -> None:
        ask_before(self.unedited, asked, self.budget, forced=self.forced)

    def _exclude(self, cases: Sequence[Case]) -> dict[str, list[Asked]]:
        """Return the probes by case, those that cannot be asked with all edits live marked as such."""
        claims, later = Claims(cases), superseded(cases)
        table: dict[str, list[Asked]] = {}
        for case in cases:
            items = table[case.id] = [Asked(probe) for probe in case.probes]
            for item in items:
                if item.probe.role != "locality":
                    if case.id in later:
                        item.excluded = f"contradicted by a later case: {later[case.id]}"
                elif (owner := claims.owner(case, item.probe)) is not None:
                    item.excluded = f"in the scope of another case: {owner}"
        return table

    def _batches(self, cases: Sequence[Case]) -> Iterator[Sequence[Case]]:
        for start in range(0, len(cases), self.batch):
            yield cases[start : start + self.batch]


def _edit(editable: Editable, case: Case) -> Undo | Failure:
    try:
        return editable.edit(case.edits)
    except EvaluationError:
        raise
    except CorrigendaError as error:
        return Failure.of(error)


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
