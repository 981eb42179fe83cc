"""How edits are made and scored: one at a time, several at once, or all of them live.

``single``      make a case's edits, ask its probes, undo, check that the undo left no trace; next case.
``batch``       the same with the edits of N cases made in one call and live together.
``sequential``  make the edits of all cases one after the other, then ask every probe; at the end undo all, check. The
                edit's own prompt is also asked right after the edit, and a sample again at checkpoints.
``stream``      sequential, but some edits are taken back on the way: those must leave no trace, the others must hold.

The unedited model is asked first what must stay. Cases are scored in batches and each batch is in the journal before
the next one begins. An error of the method in a case (a subject that is not in the prompt, say) leaves the case
unscored; it is never a wrong answer.

With several edits live, two things cannot be asked: the target of an edit that a later one contradicts, and the old
answer to a prompt that another edit claims. Those probes stay unscored and say so.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeAlias

from corrigenda.errors import EvaluationError
from corrigenda.eval.asking import Asked, Budget, Columns, ask_after, ask_before
from corrigenda.eval.case import Case, Claims, superseded
from corrigenda.eval.datasets.tasks import Task
from corrigenda.eval.editable import Answers, Editable
from corrigenda.eval.extras import Extra
from corrigenda.eval.journal import Journal, Row
from corrigenda.eval.scoring import row_of
from corrigenda.eval.undoing import VERIFIED, Trace, make

if TYPE_CHECKING:
    from corrigenda.eval.tasks import TaskScore

Name: TypeAlias = Literal["single", "batch", "sequential", "stream"]
NAMES: tuple[Name, ...] = ("single", "batch", "sequential", "stream")
Progress: TypeAlias = Callable[[str, int, int], None]
"""Called with (stage, done, total); stages are ``before``, ``edit``, ``task``, ``score``."""


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
        protocol: One of :data:`NAMES`.
        columns: Which columns are scored besides the generated ones.
        batch: Cases a batch of scoring, ≥ 1: what a kill loses at most.
        together: ``batch``: cases whose edits are made in one call and are live together, ≥ 1.
        at_edit: ``sequential``, ``stream``: how many cases are asked right after their edit, evenly spaced; 0 for none.
        checkpoints: ``sequential``, ``stream``: numbers of edits after which a sample of those made is asked again.
        retracted: ``stream``: share of edits that are taken back, 0…1.
        seed: ``stream``: of which are taken back, and when.
        shard: (i, n): score the i-th of n equal parts only, 1 ≤ i ≤ n. What is live does not depend on it.
        tasks: Other tasks, scored before the edits and with all of them live; not for ``single``.
        extras: Scores of cases beyond their probes: written text, a judge model.
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
    columns: Columns = field(default_factory=Columns)
    batch: int = 16
    together: int = 10
    at_edit: int = 0
    checkpoints: tuple[int, ...] = ()
    retracted: float = 0.0
    seed: int = 0
    shard: tuple[int, int] = (1, 1)
    tasks: tuple[Task, ...] = ()
    extras: tuple[Extra, ...] = ()
    journal: Journal = field(default_factory=Journal)
    collecting: Callable[[], AbstractContextManager[None]] | None = None
    progress: Progress = _silent

    def __post_init__(self) -> None:
        if self.protocol not in NAMES:
            raise EvaluationError(f"unknown protocol {self.protocol!r}", remedy=f"Known: {', '.join(NAMES)}.")
        if self.batch < 1 or self.together < 1:
            raise EvaluationError(f"a batch needs at least one case, not {min(self.batch, self.together)}")
        if not 1 <= self.shard[0] <= self.shard[1]:
            raise EvaluationError(
                f"there is no shard {self.shard[0]} of {self.shard[1]}", remedy="Write 1/4, 2/4, 3/4, 4/4."
            )
        if not 0 <= self.retracted < 1 or (self.protocol != "stream" and self.retracted):
            raise EvaluationError(
                f"{self.retracted} of the edits of a {self.protocol} run cannot be taken back",
                remedy="Give --protocol stream a share of at least 0 and below 1.",
            )
        if self.tasks and self.protocol == "single":
            raise EvaluationError(
                "other tasks are scored with all edits live, and a single run has one at a time",
                remedy="Use --protocol sequential or batch.",
            )

    def __call__(self, cases: Sequence[Case]) -> list[Row]:
        """Score ``cases`` and return one journal row a case of the shard, in their order.

        Cases that the journal already holds are not scored again. The journal stays unfinished: whoever keeps the
        results calls its ``finish`` once they are safe, and a run that comes to grief in between goes on here.

        Raises:
            EvaluationError: An undo left traces, or the method breaks the contract of ``Editable``.
        """
        mine = self.mine(cases)
        done = {row["case"] for row in self.journal.rows}
        todo = [case for case in mine if case.id not in done]
        if todo:
            by_id = {case.id: case for case in todo}
            scored = len(mine) - len(todo)
            started = time.perf_counter()
            # Closed also when something fails in here (a full disk): the edits are taken back at once.
            with closing(self._rows(cases, todo)) as batches:
                for batch in batches:
                    for extra in self.extras:
                        extra.add(batch, by_id)
                    seconds = (time.perf_counter() - started) / len(batch)
                    self.journal.append({**row, "seconds": round(seconds, 4)} for row in batch)
                    scored += len(batch)
                    self.progress("score", scored, len(mine))
                    started = time.perf_counter()
        place = {case.id: number for number, case in enumerate(cases)}
        return sorted(self.journal.rows, key=lambda row: place[row["case"]])

    def mine(self, cases: Sequence[Case]) -> list[Case]:
        """Return the cases of this shard: every n-th, or every n-th group of those that are live together."""
        number, shards = self.shard
        size = self.together if self.protocol == "batch" else 1
        return [case for place, case in enumerate(cases) if place // size % shards == number - 1]

    def _rows(self, cases: Sequence[Case], todo: Sequence[Case]) -> Generator[list[Row], None, None]:
        if self.protocol == "single":
            return self._single(todo)
        if self.protocol == "batch":
            return self._batch(cases, todo)
        from corrigenda.eval.sequence import sequential

        return sequential(self, cases, todo)

    def _single(self, cases: Sequence[Case]) -> Generator[list[Row], None, None]:
        for batch in self.batches(cases):
            asked = [[Asked(probe) for probe in case.probes] for case in batch]
            self.before([item for items in asked for item in items])
            if self.collecting is not None:
                with self.collecting():
                    for case, items in zip(batch, asked, strict=True):
                        self._one(case, [item.again() for item in items], ())
            yield [self._one(case, items, self.extras) for case, items in zip(batch, asked, strict=True)]

    def _one(self, case: Case, asked: list[Asked], extras: Sequence[Extra]) -> Row:
        """Make the edits of ``case``, ask, undo, check the undo."""
        check = Trace.of(self.editable, [case], self.budget)
        made = make(self.editable, [case])
        if made.undo is None:
            return row_of(case, asked, self.columns, failure=made.failures[case.id])
        try:
            self.after(asked)
            row = row_of(case, asked, self.columns) | {"edit_seconds": round(made.seconds, 4)}
            for extra in extras:
                extra.look(self.editable, [row], {case.id: case})
        finally:
            made.undo.revert()
        check.compare(self.editable)
        return row

    def _batch(self, cases: Sequence[Case], todo: Sequence[Case]) -> Generator[list[Row], None, None]:
        """Make the edits of each group in one call, ask its probes, undo, check."""
        wanted = {case.id for case in todo}
        for start in range(0, len(cases), self.together):
            group = cases[start : start + self.together]
            if any(case.id in wanted for case in group):
                rows = self._group(group, is_first=start == 0)
                yield [row for row in rows if row["case"] in wanted]

    def _group(self, group: Sequence[Case], *, is_first: bool) -> list[Row]:
        asked = self.exclude(group)
        self.before([item for items in asked.values() for item in items])
        tasks = self.tasks_before() if is_first else {}
        check = Trace.of(self.editable, group[:VERIFIED], self.budget)
        made = make(self.editable, group)
        try:
            rows = [
                row_of(case, asked[case.id], self.columns, failure=made.failures[case.id])
                for case in group
                if case.id in made.failures
            ]
            fine = [case for case in group if case.id not in made.failures]
            for batch in self.batches(fine):
                self.after([item for case in batch for item in asked[case.id]])
            share = {"edit_seconds": round(made.seconds / max(len(fine), 1), 4)}
            rows += [row_of(case, asked[case.id], self.columns) | share for case in fine]
            for extra in self.extras:
                extra.look(self.editable, rows, {case.id: case for case in fine})
            self.tasks_after(tasks, len(fine))
        finally:
            if made.undo is not None:
                made.undo.revert()
        check.compare(self.editable)
        return rows

    # What the protocols share

    def before(self, asked: Sequence[Asked]) -> None:
        """Ask the unedited model what must stay."""
        ask_before(self.unedited, asked, self.budget, self.columns)

    def after(self, asked: Sequence[Asked]) -> None:
        """Ask the edited model everything."""
        ask_after(self.editable, asked, self.budget, self.columns)

    def batches(self, cases: Sequence[Case]) -> Iterator[Sequence[Case]]:
        """Yield ``cases`` in batches of scoring."""
        for start in range(0, len(cases), self.batch):
            yield cases[start : start + self.batch]

    def exclude(self, cases: Sequence[Case]) -> dict[str, list[Asked]]:
        """Return the probes by case, those that cannot be asked with all of ``cases`` live marked as such."""
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

    def tasks_before(self) -> dict[str, TaskScore]:
        """Score the tasks that are not in the journal yet on the unedited model; before any edit is made."""
        from corrigenda.eval.tasks import score_task

        done = {note["name"] for note in self.journal.notes if note["note"] == "task"}
        return {task.name: score_task(self.unedited, task) for task in self.tasks if task.name not in done}

    def tasks_after(self, before: Mapping[str, TaskScore], live: int) -> None:
        """Score them again with ``live`` edits in force, and note what was lost."""
        from corrigenda.eval.tasks import compare, score_task

        for number, task in enumerate(task for task in self.tasks if task.name in before):
            self.progress("task", number, len(before))
            found = compare(before[task.name], score_task(self.editable, task))
            self.journal.note({"note": "task", "name": task.name, "file": task.file, "live": live, **found})
