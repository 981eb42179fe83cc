"""The gate: what is asked before and after printing, and how much may change.

====================  ==================================================  ============================================
figure                its value                                           where the questions come from
====================  ==================================================  ============================================
``edits``             share of the edits whose own prompt gets the        the edits; one that fails is dropped
                      target
``paraphrases``       share of other wordings that get the target         the edits, and cases about them
``neighbours``        share of answers out of scope that begin with the   cases about the edits, those among them that
                      same word as before                                 are dropped too; else the built-in set
``neighbours_exact``  share of these answers that are as before, word     the same
                      for word
``portability``       share of consequences that get their answer         cases about the edits
others                accuracy                                            tasks: PIQA, GLUE's, the user's own
====================  ==================================================  ============================================

Paraphrases kept with an edit are wordings that it must be known by, and editors learn from them; those of cases they
have not seen. ``neighbours`` is locality as papers on editors score it: the answer to a factual prompt is its first
word or two, and what a greedy continuation says after it is no claim about the fact. ``neighbours_exact`` is the
sterner of the two, for models that know what they say; of a small model's guesses it fails many whose answer is still
the same.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from corrigenda.edit import Edit, EditId, fold
from corrigenda.errors import EvaluationError, InvalidParams
from corrigenda.eval import gate as thresholds
from corrigenda.eval.case import Case, Claims, Probe
from corrigenda.eval.datasets import BUILTIN, load
from corrigenda.eval.datasets.tasks import Task, load_task
from corrigenda.eval.normalise import begun_alike, matches, unchanged
from corrigenda.param_editors.consolidation.notebook import content_key
from corrigenda.param_editors.consolidation.questions import Answer, Question

if TYPE_CHECKING:
    from corrigenda.lm.loading import LanguageModel

CHECKS = ("edits", "neighbours", "paraphrases", "portability")
"""What is asked about edits, in the order in which it is asked; tasks come after, for they cost most."""
EXACT = "neighbours_exact"
"""A second figure of the same answers."""

_ROLES = {"generalization": "paraphrases", "locality": "neighbours", "portability": "portability"}


@dataclass(frozen=True)
class GatePlan:
    """What the gate asks. Everything in it is JSON-ready and belongs to the plan.

    Attributes:
        minimums: Least value of a figure, 0…1.
        max_drops: Largest loss of a figure against before, 0…1; PIQA's "one point" is 0.01.
        cases: Dataset files. Of their cases, those whose edit is one of the plan's give paraphrases, neighbours and
            portability.
        tasks: Files of tasks that must not suffer, see :func:`corrigenda.eval.datasets.tasks.load_task`.
        limit: Most questions of a figure, drawn by hash; 0 is all. The edits' own are always all asked.
        task_limit: Most questions of a task; 0 is all. With 500, a drop has a standard error of about half a point.
        own_wordings: Least share of the paraphrases kept with an edit that it must answer to be kept, 0…1; at 0 its
            prompt is enough.
    """

    minimums: Mapping[str, float] = field(default_factory=lambda: {"edits": 0.9, "neighbours": 0.85})
    max_drops: Mapping[str, float] = field(default_factory=dict)
    cases: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ()
    limit: int = 300
    task_limit: int = 500
    own_wordings: float = 0.0

    def __post_init__(self) -> None:
        if min(self.limit, self.task_limit) < 0:
            raise InvalidParams(f"limits must be 0 or more, not {self.limit} and {self.task_limit}")
        for name, value in (*self.minimums.items(), *self.max_drops.items(), ("own_wordings", self.own_wordings)):
            if not 0 <= value <= 1:
                raise InvalidParams(f"{name}={value} is out of range", remedy="Figures of the gate are 0…1.")
        self.thresholds()

    def thresholds(self) -> thresholds.Gate:
        """Return the thresholds as the suite has them."""
        try:
            return thresholds.Gate(minimums=self.minimums, max_drops=self.max_drops)
        except EvaluationError as error:
            raise InvalidParams(error.message, remedy=error.remedy) from None

    def share(self, figures: Mapping[str, Mapping[str, float]]) -> float | None:
        """Return what the thresholds allow of the loss that there is, in the figure that misses most: 0…1.

        ``None`` where none is missed, or the figure was never good enough: there is nothing to share out.

        Args:
            figures: Rows of :meth:`Figure.to_dict`, by name.
        """
        allowed = {name: figures[name]["before"] - least for name, least in self.minimums.items() if name in figures}
        for name in self.max_drops.keys() & figures.keys():
            allowed[name] = min(self.max_drops[name], allowed.get(name, 1.0))
        lost = {name: figures[name]["before"] - figures[name]["after"] for name in allowed}
        return min((allowed[name] / lost[name] for name in allowed if 0 <= allowed[name] < lost[name]), default=None)

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dict; :meth:`from_dict` is its inverse."""
        return {**dataclasses.asdict(self), "cases": list(self.cases), "tasks": list(self.tasks)}

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> GatePlan:
        """Build from a JSON object. Raises :class:`InvalidParams`."""
        try:
            values: dict[str, Any] = {
                name: tuple(value) if isinstance(value, list) else value for name, value in row.items()
            }
            return cls(**values)
        except TypeError as error:
            raise InvalidParams(f"the gate of the plan cannot be read: {error}") from None


@dataclass(frozen=True, slots=True)
class Item:
    """A question that counts for a figure.

    Attributes:
        check: Which figure.
        question: What is asked.
        right: Accepted answers, or the place of the right option; ``None`` where the answer must begin as before.
        edit: Whom it is about, if anyone.
    """

    check: str
    question: Question
    right: tuple[str, ...] | int | None = None
    edit: EditId | None = None

    def value(self, before: Answer, after: Answer) -> float:
        """Judge an answer: 1 for right, or begun as before where that is what counts; 0 otherwise."""
        if self.right is None:
            return float(begun_alike(str(before), str(after)))
        if isinstance(self.right, int):
            return float(after == self.right)
        return float(matches(str(after), self.right))


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure, before and after; ``asked`` is the number of questions."""

    name: str
    before: float
    after: float
    asked: int

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dict."""
        return {"before": round(self.before, 6), "after": round(self.after, 6), "asked": self.asked}


class Gate:
    """The questions of a plan for its edits.

    Args:
        plan: What to ask.
        edits: All edits of the job; a trial asks after some of them.
        lm: Whose tokenizer counts how long an answer may be.

    Raises:
        DatasetError: A file cannot be read.
        InvalidParams: A threshold for a figure that is not asked.
    """

    def __init__(self, plan: GatePlan, edits: Sequence[Edit], lm: LanguageModel) -> None:
        self.plan, self.thresholds = plan, plan.thresholds()
        self._count = lambda text: len(lm.tokenizer(f" {text}", add_special_tokens=False).input_ids)
        self.items = [*self._about_edits(edits), *self._about_cases(edits)]
        for source in plan.tasks:
            self.items += _choices(load_task(source), plan.task_limit)
        asked = dict.fromkeys(item.check for item in self.items)
        self.checks = [*(name for name in CHECKS if name in asked), *(name for name in asked if name not in CHECKS)]
        if unknown := sorted({*plan.minimums, *plan.max_drops} - {*self.checks, *CHECKS, EXACT}):
            raise InvalidParams(
                f"there is a threshold for {unknown[0]!r}, but no questions",
                remedy=f"Asked: {', '.join(self.checks)}. Give the task's file as well.",
            )

    @property
    def questions(self) -> list[Question]:
        """What is asked, item by item."""
        return [item.question for item in self.items]

    def asked(self, check: str, ids: frozenset[EditId]) -> list[int]:
        """Return the places of the items of ``check`` that concern any of the edits ``ids``, or none in particular."""
        return [
            n for n, item in enumerate(self.items) if item.check == check and (item.edit is None or item.edit in ids)
        ]

    def figures(
        self, check: str, places: Sequence[int], before: Sequence[Answer], after: Mapping[int, Answer]
    ) -> list[Figure]:
        """Return the figures of ``check`` over the items at ``places``: one, of neighbours two."""
        was = fmean(self.items[place].value(before[place], before[place]) for place in places)
        now = fmean(self.items[place].value(before[place], after[place]) for place in places)
        found = [Figure(check, was, now, len(places))]
        if check == "neighbours":
            exact = fmean(unchanged(str(before[place]), str(after[place])) for place in places)
            found.append(Figure(EXACT, 1.0, exact, len(places)))
        return found

    def faults(self, figures: Sequence[Figure]) -> list[str]:
        """Return the thresholds that ``figures`` miss, in words. Figures that were not taken miss nothing."""
        taken = {figure.name: figure for figure in figures}
        verdict = self.thresholds.check(
            {name: figure.after for name, figure in taken.items()},
            {name: figure.before for name, figure in taken.items()},
        )
        return [str(check).removeprefix("FAIL").strip() for check in verdict.failures if check.name in taken]

    def failed(self, before: Sequence[Answer], after: Mapping[int, Answer]) -> dict[EditId, str]:
        """Return which edits did not hold, with the reason, by the answers to the items of ``edits``."""
        held: dict[EditId, list[tuple[float, Answer]]] = {}
        for place, answer in after.items():
            item = self.items[place]
            if item.check == "edits" and item.edit is not None:
                held.setdefault(item.edit, []).append((item.value(before[place], answer), answer))
        failed = {}
        for edit_id, ((good, answer), *wordings) in held.items():
            if not good:
                failed[edit_id] = f"the model answers {str(answer).strip()[:60]!r}"
            elif wordings and (share := fmean(value for value, _ in wordings)) < self.plan.own_wordings:
                failed[edit_id] = f"only {share:.0%} of its own wordings are answered"
        return failed

    def _about_edits(self, edits: Sequence[Edit]) -> list[Item]:
        items = []
        for edit in edits:
            right = (edit.target, *edit.target_aliases)
            items.append(Item("edits", self._free(edit.prompt, right), right, edit.id))
            check = "edits" if self.plan.own_wordings else "paraphrases"
            items += [Item(check, self._free(prompt, right), right, edit.id) for prompt in edit.paraphrases]
        return items

    def _about_cases(self, edits: Sequence[Edit]) -> list[Item]:
        owners = {(fold(edit.prompt), fold(edit.target)): edit.id for edit in edits}
        cases = [case for path in self.plan.cases for case in load(Path(path)).cases]
        about = [(case, owner) for case in cases if (owner := _owner(case, owners)) is not None]
        items: list[Item] = []
        for case, owner in about:
            for probe in case.probes:
                check = _ROLES.get(probe.role)
                if check is not None and check != "neighbours":
                    items.append(Item(check, self._free(probe.prompt, probe.answers), probe.answers, owner))
        near = _neighbours([case for case, _ in about], edits) or _neighbours(load(BUILTIN).cases, edits)
        return _drawn([*items, *near], self.plan.limit)

    def _free(self, prompt: str, answers: Sequence[str]) -> Question:
        longest = max(map(self._count, answers))
        return Question(prompt, max(8, -(-(longest + 4) // 4) * 4))


def _choices(task: Task, limit: int) -> list[Item]:
    rows = task.sample(limit or None).questions
    return [Item(task.name, Question(row.prompt, options=row.choices), row.answer) for row in rows]


def _neighbours(cases: Sequence[Case], edits: Sequence[Edit]) -> list[Item]:
    """Return the prompts out of scope of ``cases``, but for those whose very fact one of the ``edits`` changes."""
    taken = Claims(
        Case(edit.id, (edit,), (Probe("reliability", edit.prompt, (edit.target,), "prompt"),)) for edit in edits
    )
    return [
        Item("neighbours", Question(probe.prompt))
        for case in cases
        for probe in case.probes
        if probe.role == "locality" and taken.owner(case, probe) is None
    ]


def _owner(case: Case, owners: Mapping[tuple[str, str], EditId]) -> EditId | None:
    keys = ((fold(edit.prompt), fold(edit.target)) for edit in case.edits)
    return next((owners[key] for key in keys if key in owners), None)


def _drawn(items: Sequence[Item], limit: int) -> list[Item]:
    """Return at most ``limit`` items of each check, drawn by hash of what they ask: the same in every run."""
    kept: list[Item] = []
    for check in dict.fromkeys(item.check for item in items):
        own = list(dict.fromkeys(item for item in items if item.check == check))
        if limit and len(own) > limit:
            own = sorted(own, key=lambda item: content_key(item.question.prompt))[:limit]
        kept += own
    return kept
