"""The gate: what is asked before and after printing, and how much may change.

==============  =======================================================  ============================================
check           its value                                                where the questions come from
==============  =======================================================  ============================================
``edits``       share of the edits whose own prompt gets the target      the edits; one that fails is dropped
``paraphrases`` share of other wordings that get the target              the edits, and cases about them
``neighbours``  share of answers out of scope that are as before         cases about the edits; else the built-in set
``portability`` share of consequences that get their answer              cases about the edits
``piqa``        accuracy                                                 a file in PIQA's format
others          accuracy, or share of right answers                      files of the user
==============  =======================================================  ============================================
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from corrigenda.edit import Edit, EditId, fold
from corrigenda.errors import DatasetError, InvalidParams
from corrigenda.eval.case import Case, Claims
from corrigenda.eval.datasets import BUILTIN, load
from corrigenda.eval.normalise import matches, unchanged
from corrigenda.param_editors.consolidation.admission import Trial
from corrigenda.param_editors.consolidation.questions import Answer, Question
from corrigenda.param_editors.params import require

if TYPE_CHECKING:
    from corrigenda.lm.loading import LanguageModel


@dataclass(frozen=True)
class Threshold:
    """How a value must come out.

    Attributes:
        least: Smallest value afterwards, 0…1; ``None`` is any.
        most_drop: Largest loss against before, 0…1; ``None`` is any. PIQA's "one point" is 0.01.
    """

    least: float | None = None
    most_drop: float | None = None

    def __post_init__(self) -> None:
        for name in ("least", "most_drop"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise InvalidParams(f"{name} must be 0…1, not {value!r}")

    def fault(self, name: str, before: float, after: float) -> str | None:
        """Return what is wrong with ``after``, if anything."""
        if self.least is not None and after < self.least:
            return f"{name} is {after:.3f}, below {self.least:g}"
        if self.most_drop is not None and before - after > self.most_drop + 1e-9:
            return f"{name} fell from {before:.3f} to {after:.3f}, by more than {self.most_drop:g}"
        return None


@dataclass(frozen=True)
class GatePlan:
    """What the gate asks. Everything in it is JSON-ready and belongs to the plan.

    Attributes:
        thresholds: By check; a check without one is not made.
        cases: Dataset files; of their cases those about the edits, by prompt, give paraphrases, neighbours, portability.
        tasks: Name → file. Lines of ``{"goal", "sol1", "sol2", "label"}`` (PIQA), of ``{"prompt", "options", "label"}``,
            or of ``{"prompt", "answers"}``.
        limit: Most questions of a check, drawn by hash; 0 is all. The edits' own are always all asked.
        own_wordings: Least share of its own paraphrases (those kept with the edit) that an edit must answer itself,
            0…1; at 0 its prompt is enough.
    """

    thresholds: Mapping[str, Threshold] = field(default_factory=lambda: dict(DEFAULTS))
    cases: tuple[str, ...] = ()
    tasks: Mapping[str, str] = field(default_factory=dict)
    limit: int = 300
    own_wordings: float = 0.0

    def __post_init__(self) -> None:
        if self.limit < 0:
            raise InvalidParams(f"limit must be 0 or more, not {self.limit}")
        require(self, "own_wordings", least=0)
        known = {*DEFAULTS, "portability", *self.tasks}
        if unknown := sorted(set(self.thresholds) - known):
            raise InvalidParams(
                f"the gate has a threshold for {unknown[0]!r}, which it does not ask",
                remedy=f"Known: {', '.join(sorted(known))}; name other tasks with their files.",
            )

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dict; :meth:`from_dict` is its inverse."""
        limits = {name: dataclasses.asdict(limit) for name, limit in self.thresholds.items()}
        return {**dataclasses.asdict(self), "thresholds": limits, "cases": list(self.cases), "tasks": dict(self.tasks)}

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> GatePlan:
        """Build from a JSON object. Raises :class:`InvalidParams`."""
        try:
            limits = {name: Threshold(**limit) for name, limit in row["thresholds"].items()}
            return cls(**{**row, "thresholds": limits, "cases": tuple(row["cases"])})
        except (TypeError, KeyError, AttributeError) as error:
            raise InvalidParams(f"the gate of the plan cannot be read: {error}") from None


DEFAULTS: Mapping[str, Threshold] = {
    "edits": Threshold(least=0.9),
    "paraphrases": Threshold(),
    "neighbours": Threshold(least=0.85),
    "piqa": Threshold(most_drop=0.01),
}


@dataclass(frozen=True)
class Item:
    """A question of a check.

    Attributes:
        check: Which.
        question: What is asked.
        right: Accepted answers, or the number of the right option; ``None`` where the answer must be as before.
        edit: Whom it is about, if anyone.
    """

    check: str
    question: Question
    right: tuple[str, ...] | int | None = None
    edit: EditId | None = None

    def value(self, before: Answer | None, after: Answer) -> float:
        """Judge an answer: 1 for right, or as before where that is what counts; 0 otherwise."""
        if self.right is None:
            return float(unchanged(str(before), str(after)))
        if isinstance(self.right, int):
            return float(after == self.right)
        return float(matches(str(after), self.right))


@dataclass(frozen=True)
class Finding:
    """One check, before and after.

    Attributes:
        check: Which.
        before, after: Values, 0…1.
        asked: Questions.
        fault: What is wrong, if anything.
    """

    check: str
    before: float
    after: float
    asked: int
    fault: str | None = None


class Gate:
    """The questions of a plan for its edits.

    Args:
        plan: What to ask.
        edits: All edits of the job; a trial asks after some of them.
        lm: Whose tokenizer counts how long an answer may be.

    Raises:
        DatasetError: A file cannot be read.
    """

    def __init__(self, plan: GatePlan, edits: Sequence[Edit], lm: LanguageModel) -> None:
        self.plan = plan
        self._count = lambda text: len(lm.tokenizer(f" {text}", add_special_tokens=False).input_ids)
        asked = [*self._about_edits(edits), *self._about_cases(edits), *self._tasks()]
        self.items = [item for item in asked if item.check in plan.thresholds]
        self.checks = [name for name in (*DEFAULTS, "portability", *plan.tasks) if any(i.check == name for i in self.items)]

    def asked(self, check: str, ids: frozenset[EditId]) -> list[int]:
        """Return the places of the items of ``check`` that concern the edits ``ids``, or any."""
        return [
            n for n, item in enumerate(self.items) if item.check == check and (item.edit is None or item.edit in ids)
        ]

    def judge(self, check: str, places: Sequence[int], before: Sequence[Answer], after: Mapping[int, Answer]) -> Finding:
        """Compare the answers to one check's items with those of the model before."""
        items = [self.items[place] for place in places]
        was = [item.value(before[place], before[place]) for item, place in zip(items, places, strict=True)]
        now = [item.value(before[place], after[place]) for item, place in zip(items, places, strict=True)]
        old, new = sum(was) / len(was), sum(now) / len(now)
        return Finding(check, old, new, len(places), self.plan.thresholds[check].fault(check, old, new))

    def failed(self, after: Mapping[int, Answer]) -> dict[EditId, str]:
        """Return which edits did not hold, by the answers to items of ``edits``, with the reason."""
        held: dict[EditId, list[tuple[Item, Answer]]] = {}
        for place, answer in after.items():
            item = self.items[place]
            if item.check == "edits" and item.edit is not None:
                held.setdefault(item.edit, []).append((item, answer))
        failed = {}
        for edit_id, pairs in held.items():
            (prompt, answer), *wordings = pairs
            good = [item.value(None, said) for item, said in wordings]
            if not prompt.value(None, answer):
                failed[edit_id] = f"the model answers {str(answer).strip()[:60]!r}"
            elif good and sum(good) / len(good) < self.plan.own_wordings:
                failed[edit_id] = f"{sum(good):.0f} of {len(good)} of its own wordings are answered"
        return failed

    def trial(self, findings: Sequence[Finding], after: Mapping[int, Answer]) -> Trial:
        """Sum up a trial."""
        faults = tuple(finding.fault for finding in findings if finding.fault and finding.check != "edits")
        return Trial(self.failed(after), faults)

    def _about_edits(self, edits: Sequence[Edit]) -> list[Item]:
        items = []
        for edit in edits:
            right = (edit.target, *edit.target_aliases)
            items.append(Item("edits", self._free(edit.prompt, right), right, edit.id))
            for prompt in edit.paraphrases:
                check = "edits" if self.plan.own_wordings else "paraphrases"
                items.append(Item(check, self._free(prompt, right), right, edit.id))
        return items

    def _about_cases(self, edits: Sequence[Edit]) -> list[Item]:
        owners = {(fold(edit.prompt), fold(edit.target)): edit.id for edit in edits}
        cases = [case for path in self.plan.cases for case in load(path).cases]
        about = [(case, owner) for case in cases if (owner := _owner(case, owners)) is not None]
        if not about:
            cases = list(load(BUILTIN).cases)
        taken = Claims([case for case, _ in about])
        roles = {"generalization": "paraphrases", "portability": "portability", "locality": "neighbours"}
        items: list[Item] = []
        for case, owner in about or [(case, None) for case in cases]:
            for probe in case.probes:
                check = roles.get(probe.role)
                if check is None or (owner is None and check != "neighbours"):
                    continue
                if check == "neighbours":
                    if owner is not None and taken.owner(case, probe) is not None:
                        continue  # another edit changes the very fact that it asks for
                    items.append(Item(check, Question(probe.prompt)))
                else:
                    items.append(Item(check, self._free(probe.prompt, probe.answers), probe.answers, owner))
        return _drawn(items, self.plan.limit)

    def _tasks(self) -> list[Item]:
        return [item for name, path in self.plan.tasks.items() for item in _drawn(self._task(name, path), self.plan.limit)]

    def _task(self, name: str, path: str) -> list[Item]:
        return [
            self._task_item(name, row, f"{path}, line {number}")
            for number, row in enumerate(_rows(Path(path)), start=1)
        ]

    def _task_item(self, name: str, row: Mapping[str, Any], where: str) -> Item:
        try:
            if "goal" in row:
                question = Question(f"Question: {row['goal']}\nAnswer:", options=(row["sol1"], row["sol2"]))
                return Item(name, question, int(row["label"]))
            if "options" in row:
                return Item(name, Question(row["prompt"], options=tuple(row["options"])), int(row["label"]))
            answers = tuple(row["answers"])
            return Item(name, self._free(row["prompt"], answers), answers)
        except (KeyError, TypeError, ValueError) as error:
            raise DatasetError(
                f"{where}: {type(error).__name__} {error}",
                remedy='Write {"goal", "sol1", "sol2", "label"}, {"prompt", "options", "label"} or {"prompt", "answers"}.',
            ) from None

    def _free(self, prompt: str, answers: Sequence[str]) -> Question:
        longest = max(map(self._count, answers))
        return Question(prompt, max(8, -(-(longest + 4) // 4) * 4))


def _owner(case: Case, owners: Mapping[tuple[str, str], EditId]) -> EditId | None:
    return next((owners[key] for edit in case.edits if (key := (fold(edit.prompt), fold(edit.target))) in owners), None)


def _drawn(items: Sequence[Item], limit: int) -> list[Item]:
    """Return at most ``limit`` items of each check, drawn by hash of what they ask: the same in every run."""
    from corrigenda.param_editors.consolidation.notebook import content_key

    kept: list[Item] = []
    for check in dict.fromkeys(item.check for item in items):
        own = [item for item in items if item.check == check]
        if limit and len(own) > limit:
            own = sorted(own, key=lambda item: content_key(item.question.prompt, item.question.options))[:limit]
        kept += own
    return kept


def _rows(path: Path) -> list[dict[str, Any]]:
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path} cannot be read: {error}", remedy="Give a file of JSON lines.") from None
