"""From scores to metrics.

A **score** judges one probe: 0…1, or nothing at all when it could not be judged (*unscored is not zero*). A **metric**
is the mean over edits of the mean score of the edit's probes, with its standard error over edits: the probes of one
edit succeed and fail together, so treating them as independent would make the error too small.

=================================  =================================================================================
metric                             score of a probe
=================================  =================================================================================
``reliability``                    1 when the answer to the edit's own prompt begins with the target
``generalization``                 the same for other wordings of the prompt
``portability``, ``multi_hop``     the same for consequences of the edit
``locality``                       1 when the answer to an unrelated prompt is the same as before the edit
``<role>_teacher_forced``          share of the target's tokens that are the model's first choice, each after the
                                   right ones before it (EasyEdit's definition, Yao et al. 2023)
``locality_teacher_forced``        of the tokens that the unedited model would choose first in its own answer, the
                                   share that the edited model chooses first as well
=================================  =================================================================================

Teacher forcing flatters: it grants every token a right beginning (Yang et al. 2025, "The Mirage of Model Editing").
The columns are there to compare with publications; the generated ones say what a user sees.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from types import MappingProxyType
from typing import Any

from corrigenda.eval.case import ROLES, Role


@dataclass(frozen=True, slots=True)
class Score:
    """What one probe of one case came to.

    Attributes:
        metric: Name of the metric that it counts for.
        kind: The probe's kind.
        value: 0…1; ``None`` when the probe could not be scored.
        reason: Why not, when it could not.
    """

    metric: str
    kind: str
    value: float | None
    reason: str = ""

    def __post_init__(self) -> None:
        if self.value is not None and not 0.0 <= self.value <= 1.0:
            raise ValueError(f"a score is between 0 and 1, not {self.value}")


@dataclass(frozen=True, slots=True)
class Definition:
    """A metric's meaning, for tables and the results file."""

    text: str
    higher_is_better: bool = True


def _definitions() -> dict[str, Definition]:
    asked = {
        "reliability": "the edit's own prompt gets the target",
        "generalization": "another wording of the prompt gets the target",
        "portability": "a consequence of the edit gets its new answer",
        "multi_hop": "a question over several facts gets its new answer",
    }
    table = {role: Definition(f"share of edits' probes where {text}") for role, text in asked.items()}
    table["locality"] = Definition("share of unrelated prompts whose answer is the same as before the edit")
    for role in ROLES:
        table[teacher_forced(role)] = Definition(
            "share of target tokens that are the model's first choice, the right ones before them given"
            if role != "locality"
            else "share of the unedited model's own tokens that stay the first choice"
        )
    return table


def teacher_forced(role: Role) -> str:
    """Return the name of the teacher-forced metric of ``role``."""
    return f"{role}_teacher_forced"


METRICS: Mapping[str, Definition] = MappingProxyType(_definitions())
"""Every metric by name."""


@dataclass(frozen=True, slots=True)
class Metric:
    """A mean over edits.

    Attributes:
        value: Mean over cases of the mean score of the case's scored probes; ``None`` when nothing was scored.
        n: Cases with at least one scored probe.
        stderr: Standard error of ``value`` over cases: sample standard deviation / √n; ``None`` below two cases.
        probes: Probes scored.
        unscored: Probes that could not be scored; they are in no mean.
        higher_is_better: Direction.
    """

    value: float | None
    n: int
    stderr: float | None
    probes: int
    unscored: int
    higher_is_better: bool

    def to_dict(self) -> dict[str, Any]:
        """Return the metric as a JSON-ready dict, numbers rounded to six places."""
        return {
            "value": None if self.value is None else round(self.value, 6),
            "n": self.n,
            "stderr": None if self.stderr is None else round(self.stderr, 6),
            "probes": self.probes,
            "unscored": self.unscored,
            "higher_is_better": self.higher_is_better,
        }


def aggregate(name: str, cases: Iterable[Sequence[Score]]) -> Metric:
    """Aggregate the scores of the metric ``name``, given as one sequence a case."""
    means, probes, unscored = [], 0, 0
    for scores in cases:
        values = [score.value for score in scores if score.value is not None]
        probes += len(values)
        unscored += len(scores) - len(values)
        if values:
            means.append(fmean(values))
    return Metric(
        value=fmean(means) if means else None,
        n=len(means),
        stderr=standard_error(means),
        probes=probes,
        unscored=unscored,
        higher_is_better=METRICS[name].higher_is_better,
    )


def standard_error(values: Sequence[float]) -> float | None:
    """Return the standard error of the mean of ``values``; ``None`` below two values."""
    if len(values) < 2:
        return None
    mean = fmean(values)
    variance = math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)
    return math.sqrt(variance / len(values))


def metrics(cases: Sequence[Sequence[Score]]) -> dict[str, Metric]:
    """Aggregate the scores of every case into the metrics that occur in them, in the order of :data:`METRICS`."""
    grouped = _group(cases, lambda score: score.metric)
    return {name: aggregate(name, grouped[name]) for name in METRICS if name in grouped}


def metrics_by_kind(cases: Sequence[Sequence[Score]]) -> dict[str, dict[str, Metric]]:
    """Aggregate once more, within each metric by the probes' kind."""
    result: dict[str, dict[str, Metric]] = {}
    for name in METRICS:
        chosen = [[score for score in scores if score.metric == name] for scores in cases]
        grouped = _group(chosen, lambda score: score.kind)
        if grouped:
            result[name] = {kind: aggregate(name, grouped[kind]) for kind in sorted(grouped)}
    return result


def _group(cases: Sequence[Sequence[Score]], key: Any) -> dict[str, list[list[Score]]]:
    """Split each case's scores by ``key``; a case without scores of a key adds nothing to it."""
    grouped: dict[str, list[list[Score]]] = defaultdict(list)
    for scores in cases:
        own: dict[str, list[Score]] = defaultdict(list)
        for score in scores:
            own[key(score)].append(score)
        for name, chosen in own.items():
            grouped[name].append(chosen)
    return grouped
