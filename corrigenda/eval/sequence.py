"""Many edits, one after the other: ``sequential`` and ``stream``.

A **stream** makes edits and takes some of them back, as a live system does. After each edit, with a probability such
that the wanted share is met, one of the edits made so far is withdrawn. At the end the withdrawn ones must have left no
trace: the prompts that asked for their targets are asked for the answer from before instead (``retraction``).

**Retention**: after so many edits as a checkpoint says, a sample of those made so far is asked again. The curve over
the checkpoints shows what later edits do to earlier ones.
"""

from __future__ import annotations

import random
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from corrigenda.eval.asking import Asked, Columns, ask_after
from corrigenda.eval.case import Case
from corrigenda.eval.journal import Row
from corrigenda.eval.metrics import metrics
from corrigenda.eval.scoring import row_of, scores_of
from corrigenda.eval.undoing import VERIFIED, Stack, Trace

if TYPE_CHECKING:
    from corrigenda.eval.protocol import Run

SAMPLE = 50
"""Cases that a checkpoint asks, at most; evenly spaced over those made, the latest among them."""


@dataclass
class _Session:
    """The state of a run through a sequence."""

    run: Run
    cases: Sequence[Case]
    stack: Stack
    asked: dict[str, list[Asked]]
    gone: set[str]
    at_edit: dict[str, float | None] = field(default_factory=dict)

    def make_all(self, withdrawals: dict[int, Case]) -> None:
        """Make every edit, taking back what ``withdrawals`` says after so many edits."""
        asked_now = {case.id for case in evenly(self.cases, self.run.at_edit)}
        noted = {note["after"] for note in self.run.journal.notes if note["note"] == "checkpoint"}
        withdrawn: set[str] = set()
        for number, case in enumerate(self.cases, start=1):
            self.stack.push(case)
            if case.id in asked_now and case.id not in self.stack.failures:
                self.at_edit[case.id] = self._reliability(case)
            if number in withdrawals:
                self.stack.retract(withdrawals[number])
                withdrawn.add(withdrawals[number].id)
            if number in self.run.checkpoints and number < len(self.cases) and number not in noted:
                self._checkpoint(number, [made for made in self.cases[:number] if made.id not in withdrawn])
            self.run.progress("edit", number, len(self.cases))

    def _reliability(self, case: Case) -> float | None:
        """Ask the edit's own prompt right after the edit."""
        asked = [Asked(probe) for probe in case.probes if probe.role == "reliability"]
        row = self._ask(case, asked)
        values = [probe["scores"]["reliability"] for probe in row["probes"]]
        scored = [value for value in values if value is not None]
        return sum(scored) / len(scored) if scored else None

    def _ask(self, case: Case, asked: list[Asked]) -> Row:
        columns = Columns(forced=False, anywhere=self.run.columns.anywhere)
        ask_after(self.run.editable, asked, self.run.budget, columns)
        return row_of(case, asked, columns)

    def _checkpoint(self, number: int, live: Sequence[Case]) -> None:
        """Ask a sample of the edits made so far: own prompt, first wording, first unrelated prompt."""
        table = self.run.exclude(live)
        # An edit that will be taken back is asked for other things; see _withdrawn.
        lasting = [case for case in live if case.id not in self.gone and case.id not in self.stack.failures]
        chosen = evenly(lasting, SAMPLE)
        some = {case.id: _firsts(self.asked[case.id], table[case.id]) for case in chosen}
        every = [asked for items in some.values() for asked in items]
        columns = Columns(forced=False, anywhere=self.run.columns.anywhere)
        ask_after(self.run.editable, every, self.run.budget, columns)
        scores = [scores_of(row_of(case, some[case.id], columns)) for case in chosen]
        found = {name: metric.to_dict() for name, metric in metrics(scores).items()}
        self.run.journal.note({"note": "checkpoint", "after": number, "cases": len(chosen), "metrics": found})


def _firsts(known: Sequence[Asked], now: Sequence[Asked]) -> list[Asked]:
    """Return the first probe of each role that can be asked ``now``, with the answers from before already ``known``."""
    first: dict[str, Asked] = {}
    for item, state in zip(known, now, strict=True):
        askable = not state.excluded and (not state.stays or item.before is not None)
        if askable and item.probe.role in ("reliability", "generalization", "locality"):
            again = item.again()
            again.excluded = ""
            first.setdefault(item.probe.role, again)
    return list(first.values())


def evenly(cases: Sequence[Case], count: int) -> list[Case]:
    """Return ``count`` of ``cases`` at even distances, the last one among them; all when there are fewer."""
    if count >= len(cases):
        return list(cases)
    return [cases[(place + 1) * len(cases) // count - 1] for place in range(count)]


def plan_withdrawals(cases: Sequence[Case], share: float, seed: int) -> dict[int, Case]:
    """Return which case is taken back after how many edits, so that about ``share`` of all are in the end."""
    chance = random.Random(f"withdrawals {seed}")
    live: list[Case] = []
    plan: dict[int, Case] = {}
    for number, case in enumerate(cases, start=1):
        live.append(case)
        if len(plan) < round(share * len(cases)) and chance.random() < min(1.0, 1.5 * share):
            plan[number] = live.pop(chance.randrange(len(live)))
    return plan


def sequential(run: Run, cases: Sequence[Case], todo: Sequence[Case]) -> Generator[list[Row], None, None]:
    """Make the edits of all ``cases``, then ask the probes of those ``todo``; yields batches of rows."""
    withdrawals = plan_withdrawals(cases, run.retracted, run.seed) if run.retracted else {}
    gone = {case.id for case in withdrawals.values()}
    asked = run.exclude([case for case in cases if case.id not in gone])
    asked |= {case.id: _withdrawn(case, asked) for case in cases if case.id in gone}
    # All that the unedited model is asked comes first: it may be the very model that is about to be edited.
    needed = cases if run.checkpoints else todo
    for number, batch in enumerate(run.batches(needed)):
        run.before([item for case in batch for item in asked[case.id]])
        run.progress("before", min((number + 1) * run.batch, len(needed)), len(needed))
    tasks = run.tasks_before()
    check = Trace.of(run.editable, cases[:VERIFIED], run.budget)
    session = _Session(run, cases, Stack(run.editable), asked, gone)
    try:
        session.make_all(withdrawals)
        run.tasks_after(tasks, len(cases) - len(gone) - len(session.stack.failures))
        *batches, last = run.batches(todo)
        for batch in batches:
            yield _score(run, session, batch)
        rows = _score(run, session, last)
    finally:
        session.stack.clear()
    check.compare(run.editable)
    # After the check: a run whose rows are all in the journal counts as scored when it is started again.
    yield rows


def _withdrawn(case: Case, table: dict[str, list[Asked]]) -> list[Asked]:
    """Return what is asked of an edit that was taken back: its prompts, for the answer from before."""
    claimed = {item.probe.prompt for items in table.values() for item in items if not item.stays}
    asked = []
    for probe in case.probes:
        if probe.role in ("reliability", "generalization"):
            item = Asked(replace(probe, role="retraction", rival=None))
            if probe.prompt in claimed:
                item.excluded = "in the scope of another case"
            asked.append(item)
    return asked


def _score(run: Run, session: _Session, batch: Sequence[Case]) -> list[Row]:
    """Ask the probes of ``batch`` with all edits in force."""
    failures, asked, gone = session.stack.failures, session.asked, session.gone
    run.after([item for case in batch if case.id not in failures for item in asked[case.id]])
    rows = []
    for case in batch:
        row = row_of(case, asked[case.id], run.columns, failure=failures.get(case.id))
        row["edit_seconds"] = round(session.stack.seconds.get(case.id, 0.0), 4)
        if case.id in session.at_edit:
            row.setdefault("scores", {})["reliability_at_edit"] = session.at_edit[case.id]
            if session.at_edit[case.id] is None:
                row.setdefault("unscored", {})["reliability_at_edit"] = "not answered"
        if case.id in gone:
            row["withdrawn"] = True
        rows.append(row)
    fine = {case.id: case for case in batch if case.id not in failures and case.id not in gone}
    for extra in run.extras:
        extra.look(run.editable, rows, fine)
    return rows
