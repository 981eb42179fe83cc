"""From scores to metrics.

A **score** judges one probe, or nothing at all when it could not be judged (*unscored is not zero*). A **metric** is
the mean over edits of the mean score of the edit's probes, with its standard error and a bootstrap interval over
edits: the probes of one edit succeed and fail together, so treating them as independent would make the error too
small.

====================================  ================================================================================
metric                                score of a probe
====================================  ================================================================================
``reliability``                       1 when the answer to the edit's own prompt is the target
``generalization``                    the same for other wordings of the prompt
``portability``, ``multi_hop``        the same for consequences of the edit
``subject_replacement``               the portability probes that call the subject by another name,
``reversed_relation``, ``one_hop``    … that ask the other way round, … that are one hop further (Yao et al. 2023)
``multi_hop_any``                     1 when any wording of a case's multi-hop question is answered rightly (MQuAKE)
``locality``                          1 when the answer to an unrelated prompt is the same as before the edit
``other_attribution``                 the locality probes about other attributes of the edit's subject,
``distract_neighbourhood``            … about neighbours, the edit's statement put in front (Yao et al. 2023, §5)
``locality_argmax``, ``locality_kl``  whether the next token's first choice stayed; divergence of its distribution
``retraction``                        1 when an edit that was taken back leaves the answer from before
``<role>_teacher_forced``             share of the target's tokens that are the model's first choice, each after the
                                      right ones before it (EasyEdit's definition, Yao et al. 2023)
``locality_teacher_forced``           of the tokens that the unedited model would choose first in its own answer, the
                                      share that the edited model chooses first as well
``efficacy_success`` …                1 when the new answer is more probable than the old one (ROME, Meng et al. 2022);
``neighborhood_success``              for neighbours, when the old one is. ``…_magnitude``: the difference
``reliability_at_edit``               reliability right after the edit, before later ones
``fluency``, ``consistency``          see :mod:`corrigenda.eval.writing`
``<role>_judged``                     what a judge model says of the same answers; never mixed with exact matching
====================================  ================================================================================

Teacher forcing flatters: it grants every token a right beginning (Yang et al. 2025, "The Mirage of Model Editing").
The columns are there to compare with publications; the generated ones say what a user sees.
"""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from types import MappingProxyType
from typing import Any

from corrigenda.eval.case import ANSWER_ROLES, UNCHANGED_ROLES, Role

RESAMPLES = 1000
"""Bootstrap samples of an interval."""
COVERAGE = 0.95
"""How often such an interval covers the true mean, about."""


@dataclass(frozen=True, slots=True)
class Definition:
    """A metric's meaning, for tables and the results file.

    Attributes:
        text: In words.
        higher_is_better: Direction.
        least, most: Range of a score; ``None`` is unbounded.
        unit: Of the value, where it has one.
    """

    text: str
    higher_is_better: bool = True
    least: float = 0.0
    most: float | None = 1.0
    unit: str = ""


def teacher_forced(role: Role) -> str:
    """Return the name of the teacher-forced metric of ``role``."""
    return f"{role}_teacher_forced"


def judged(role: Role) -> str:
    """Return the name of the metric of ``role`` that a judge model decides."""
    return f"{role}_judged"


SUCCESS: Mapping[str, str] = MappingProxyType(
    {"reliability": "efficacy", "generalization": "paraphrase", "locality": "neighborhood"}
)
"""ROME's names of the columns, by role."""

FACETS: Mapping[tuple[str, str], str] = MappingProxyType(
    {
        ("portability", "alias"): "subject_replacement",
        ("portability", "Subject_Aliasing"): "subject_replacement",
        ("portability", "reversed"): "reversed_relation",
        ("portability", "Logical_Generalization"): "reversed_relation",
        ("portability", "one_hop"): "one_hop",
        ("portability", "Reasoning"): "one_hop",
        ("portability", "Compositionality_I"): "one_hop",
        ("portability", "Compositionality_II"): "one_hop",
        ("locality", "other_attribute"): "other_attribution",
        ("locality", "Relation_Specificity"): "other_attribution",
        ("locality", "Distracting_Neighbor"): "distract_neighbourhood",
        ("locality", "distracted"): "distract_neighbourhood",
    }
)
"""The columns of their own that some kinds of probes have besides their role's, by role and kind."""


def _definitions() -> dict[str, Definition]:
    right = "share of edits' probes where"
    table = {
        "reliability": Definition(f"{right} the edit's own prompt gets the target"),
        "reliability_at_edit": Definition("the same, asked right after each edit, before later ones"),
        "generalization": Definition(f"{right} another wording of the prompt gets the target"),
        "portability": Definition(f"{right} a consequence of the edit gets its new answer"),
        "subject_replacement": Definition("portability where the subject is called by another name"),
        "reversed_relation": Definition("portability where the relation is asked the other way round"),
        "one_hop": Definition("portability one hop further"),
        "multi_hop": Definition(f"{right} a question over several facts gets its new answer"),
        "multi_hop_any": Definition("share of cases where any wording of the multi-hop question gets its new answer"),
        "locality": Definition("share of unrelated prompts whose answer is the same as before the edit"),
        "other_attribution": Definition("locality on other attributes of the edited subject"),
        "distract_neighbourhood": Definition(
            "locality on neighbours, with the edit's statement in front of the prompt"
        ),
        "retraction": Definition("share of prompts of withdrawn edits that are answered as before the edit"),
        "locality_argmax": Definition(
            "share of unrelated prompts whose most probable next token is the same as before"
        ),
        "locality_kl": Definition(
            "Kullback–Leibler divergence of the next token after unrelated prompts, before the edit from after",
            higher_is_better=False,
            most=None,
            unit="nats",
        ),
    }
    for role in ANSWER_ROLES:
        text = "share of target tokens that are the model's first choice, the right ones before them given"
        table[teacher_forced(role)] = Definition(text)
    for role in UNCHANGED_ROLES:
        table[teacher_forced(role)] = Definition("share of the unedited model's own tokens that stay the first choice")
    for kind, name in SUCCESS.items():
        wanted, other = ("old", "new") if kind == "locality" else ("new", "old")
        more = f"the {wanted} answer is more probable than the {other} one, per token"
        table[f"{name}_success"] = Definition(f"share of probes where {more}")
        table[f"{name}_magnitude"] = Definition(
            f"probability of the {wanted} answer minus the {other} one's", least=-1.0
        )
    table["fluency"] = Definition("n-gram entropy of written text", most=None, unit="bits")
    table["consistency"] = Definition("TF-IDF cosine of written text with true texts about the target")
    for role in ANSWER_ROLES:
        table[judged(role)] = Definition(f"share of the answers of {role} that a judge model accepts")
    return table


METRICS: Mapping[str, Definition] = MappingProxyType(_definitions())
"""Every metric by name, in the order of tables."""


@dataclass(frozen=True, slots=True)
class Score:
    """What one probe of one case came to.

    Attributes:
        metric: Name of the metric that it counts for, one of :data:`METRICS`.
        kind: The probe's kind; empty for a score of the whole case.
        value: Within the metric's range; ``None`` when the probe could not be scored.
        reason: Why not, when it could not.
    """

    metric: str
    kind: str
    value: float | None
    reason: str = ""

    def __post_init__(self) -> None:
        if self.value is None:
            return
        meant = METRICS[self.metric]
        if not meant.least <= self.value <= (math.inf if meant.most is None else meant.most):
            most = "∞" if meant.most is None else f"{meant.most:g}"
            raise ValueError(f"a score of {self.metric} is between {meant.least:g} and {most}, not {self.value}")


@dataclass(frozen=True, slots=True)
class Metric:
    """A mean over edits.

    Attributes:
        value: Mean over cases of the mean score of the case's scored probes; ``None`` when nothing was scored.
        n: Cases with at least one scored probe.
        stderr: Standard error of ``value`` over cases: sample standard deviation / √n; ``None`` below two cases.
        low, high: Bootstrap interval of ``value`` over cases, :data:`COVERAGE`; ``None`` below two cases.
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
    low: float | None = None
    high: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the metric as a JSON-ready dict, numbers rounded to six places."""
        return {
            "value": rounded(self.value),
            "n": self.n,
            "stderr": rounded(self.stderr),
            "low": rounded(self.low),
            "high": rounded(self.high),
            "probes": self.probes,
            "unscored": self.unscored,
            "higher_is_better": self.higher_is_better,
        }


def rounded(value: float | None) -> float | None:
    """Return ``value`` to six places, as results files hold numbers."""
    return None if value is None else round(value, 6)


def aggregate(name: str, cases: Iterable[Sequence[Score]], *, interval: bool = True) -> Metric:
    """Aggregate the scores of the metric ``name``, given as one sequence a case; ``interval`` adds the bootstrap."""
    means, probes, unscored = [], 0, 0
    for scores in cases:
        values = [score.value for score in scores if score.value is not None]
        probes += len(values)
        unscored += len(scores) - len(values)
        if values:
            means.append(fmean(values))
    low, high = bootstrap(means, name) if interval else (None, None)
    return Metric(
        value=fmean(means) if means else None,
        n=len(means),
        stderr=standard_error(means),
        probes=probes,
        unscored=unscored,
        higher_is_better=METRICS[name].higher_is_better,
        low=low,
        high=high,
    )


def standard_error(values: Sequence[float]) -> float | None:
    """Return the standard error of the mean of ``values``; ``None`` below two values."""
    if len(values) < 2:
        return None
    mean = fmean(values)
    variance = math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)
    return math.sqrt(variance / len(values))


def bootstrap(values: Sequence[float], seed: str = "") -> tuple[float | None, float | None]:
    """Return the percentile bootstrap interval of the mean of ``values`` (Efron 1979); ``None`` below two values.

    :data:`RESAMPLES` samples of the same size are drawn with replacement; the interval holds the middle
    :data:`COVERAGE` of their means. The same values and seed give the same interval.
    """
    if len(values) < 2:
        return None, None
    import numpy as np

    chance = np.random.default_rng(int.from_bytes(hashlib.sha256(seed.encode()).digest()[:8], "big"))
    drawn = np.asarray(values)[chance.integers(0, len(values), (RESAMPLES, len(values)))].mean(axis=1)
    tail = (1 - COVERAGE) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail])
    return float(low), float(high)


def metrics(cases: Sequence[Sequence[Score]], *, interval: bool = True) -> dict[str, Metric]:
    """Aggregate the scores of every case into the metrics that occur in them, in the order of :data:`METRICS`."""
    grouped = _group(cases, lambda score: score.metric)
    return {name: aggregate(name, grouped[name], interval=interval) for name in METRICS if name in grouped}


def metrics_by_kind(cases: Sequence[Sequence[Score]]) -> dict[str, dict[str, Metric]]:
    """Aggregate once more, within each metric by the probes' kind."""
    result: dict[str, dict[str, Metric]] = {}
    for name in METRICS:
        chosen = [[score for score in scores if score.metric == name and score.kind] for scores in cases]
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
