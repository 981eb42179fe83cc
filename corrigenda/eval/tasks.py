"""Other tasks: whether a model still chooses as well as it did before it was edited.

Every choice is scored as the continuation of the question; the most probable one is the model's pick (Yao et al. 2023,
§5 "Other Task", use PIQA so). Two ways of comparing choices of unequal length, both as lm-evaluation-harness has them:

``accuracy``        by the log-probability of the whole choice (its ``acc``): the headline
``accuracy_norm``   by the log-probability divided by the length of the choice in bytes (its ``acc_norm``)

A question that the model refuses (too long for its context) is unscored, and in no mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any

from corrigenda.eval.asking import Failure, force
from corrigenda.eval.datasets.tasks import Question, Task
from corrigenda.eval.editable import Answers
from corrigenda.eval.metrics import rounded, standard_error

if TYPE_CHECKING:
    from corrigenda.lm.scoring import TargetScore


@dataclass(frozen=True, slots=True)
class Pick:
    """What a model chose.

    Attributes:
        right: Whether the most probable choice is the right one; ``None`` when it could not be scored.
        right_norm: The same per byte.
        reason: Why it could not be scored.
    """

    right: bool | None
    right_norm: bool | None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class TaskScore:
    """A task, scored.

    Attributes:
        task: Its name.
        picks: One a question, in order.
    """

    task: str
    picks: tuple[Pick, ...]

    @property
    def accuracy(self) -> float | None:
        """Share of scored questions answered rightly, 0…1; ``None`` when none was scored."""
        return _mean([pick.right for pick in self.picks])

    @property
    def accuracy_norm(self) -> float | None:
        """The same, choices compared per byte."""
        return _mean([pick.right_norm for pick in self.picks])

    def to_dict(self) -> dict[str, Any]:
        """Return value (``accuracy``), ``norm``, n, standard error and number of unscored questions."""
        scored = [float(pick.right) for pick in self.picks if pick.right is not None]
        error = standard_error(scored)
        return {
            "value": rounded(self.accuracy),
            "norm": rounded(self.accuracy_norm),
            "n": len(scored),
            "stderr": rounded(error),
            "unscored": len(self.picks) - len(scored),
        }


def score_task(model: Answers, task: Task, *, batch: int = 64) -> TaskScore:
    """Ask ``model`` every question of ``task``, ``batch`` questions at a time.

    Longest first, so that a batch holds questions of like length and what is too large for memory fails early.
    """
    order = sorted(range(len(task.questions)), key=lambda place: -len(task.questions[place].prompt))
    picks: dict[int, Pick] = {}
    for start in range(0, len(order), batch):
        places = order[start : start + batch]
        for place, pick in zip(places, _picks(model, [task.questions[place] for place in places]), strict=True):
            picks[place] = pick
    return TaskScore(task.name, tuple(picks[place] for place in range(len(order))))


def compare(before: TaskScore, after: TaskScore) -> dict[str, Any]:
    """Return what the edits did to a task: both scores, and the drop with its standard error.

    Both models got the same questions, so the error is that of the mean difference over questions scored both times.
    """
    pairs = zip(before.picks, after.picks, strict=True)
    lost = [
        float(was.right) - float(now.right) for was, now in pairs if was.right is not None and now.right is not None
    ]
    return {
        "before": before.to_dict(),
        "after": after.to_dict(),
        "drop": rounded(fmean(lost) if lost else None),
        "drop_stderr": rounded(standard_error(lost)),
    }


def _picks(model: Answers, questions: Sequence[Question]) -> list[Pick]:
    pairs = [(item.prompt, choice) for item in questions for choice in item.choices]
    scores = iter(force(model, [prompt for prompt, _ in pairs], [choice for _, choice in pairs]))
    return [_pick(item, [next(scores) for _ in item.choices]) for item in questions]


def _pick(question: Question, scores: Sequence[TargetScore | Failure]) -> Pick:
    totals = []
    for score in scores:
        if isinstance(score, Failure):
            return Pick(None, None, score.reason)
        totals.append(score.log_prob)
    per_byte = [total / len(choice.encode()) for total, choice in zip(totals, question.choices, strict=True)]
    return Pick(_best(totals) == question.answer, _best(per_byte) == question.answer)


def _best(values: Sequence[float]) -> int:
    return max(range(len(values)), key=values.__getitem__)


def _mean(values: Sequence[bool | None]) -> float | None:
    scored = [float(value) for value in values if value is not None]
    return fmean(scored) if scored else None
