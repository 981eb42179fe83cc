"""Whether two methods differ by more than chance.

Where both journals are at hand, the methods are compared on the cases that both scored, by a **sign-flip test**
(Fisher's randomisation test for paired samples): if there were no difference, each case's difference could as well have
had the other sign. The p-value is the share of random sign patterns whose mean difference is at least as large as the
one found. Without journals, by the normal approximation from both standard errors, which is weaker; where both errors
are 0 it cannot tell.

In a column of a table every method is compared with the best one. So many comparisons need a correction: Holm's (1979),
at :data:`LEVEL`.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Any

from corrigenda.eval.report.entries import BASELINE, Entry

LEVEL = 0.05
"""Probability of marking any difference in a column when there is none."""
PATTERNS = 5_000
"""Random sign patterns of a test."""


def differ(one: Entry, other: Entry, metric: str) -> float | None:
    """Return the two-sided p-value of the hypothesis that both have the same mean; ``None`` if it cannot be told."""
    mine, theirs = one.by_case.get(metric, {}), other.by_case.get(metric, {})
    shared = sorted(mine.keys() & theirs.keys())
    if len(shared) >= 2:
        return sign_flip([mine[case] - theirs[case] for case in shared], f"{metric}/{one.label}/{other.label}")
    return _normal(one.metric(metric), other.metric(metric))


def test_of(entries: Sequence[Entry]) -> str:
    """Return which test :func:`differ` makes on ``entries``, for the legend of their report."""
    paired = "paired sign-flip test over the cases that both scored"
    normal = "normal approximation from both standard errors"
    journals = [bool(entry.by_case) for entry in entries if entry.results["method"] != BASELINE]
    if all(journals):
        return paired
    return f"{paired}, or {normal} where a journal is missing" if sum(journals) > 1 else normal


def sign_flip(differences: Sequence[float], seed: str = "") -> float:
    """Return the p-value of the sign-flip test on paired ``differences``."""
    import numpy as np

    values = np.asarray(differences, dtype=float)
    chance = np.random.default_rng(int.from_bytes(hashlib.sha256(seed.encode()).digest()[:8], "big"))
    signs = chance.integers(0, 2, (PATTERNS, len(values))) * 2 - 1
    found = abs(float(values.sum()))
    at_least = int((np.abs(signs @ values) >= found - 1e-12).sum())
    return (at_least + 1) / (PATTERNS + 1)  # the pattern that was found is one of them


def _normal(one: Mapping[str, Any] | None, other: Mapping[str, Any] | None) -> float | None:
    if one is None or other is None or one["stderr"] is None or other["stderr"] is None:
        return None
    error = math.hypot(one["stderr"], other["stderr"])
    gap = abs(one["value"] - other["value"])
    if error == 0:  # as when few cases all got the same score: that says nothing about chance
        return 1.0 if gap == 0 else None
    return math.erfc(gap / error / math.sqrt(2))


def holm(p_values: Mapping[str, float | None]) -> dict[str, bool]:
    """Return which hypotheses are rejected at :data:`LEVEL` by Holm's procedure; one without p-value never is."""
    known = sorted((p, name) for name, p in p_values.items() if p is not None)
    rejected = dict.fromkeys(p_values, False)
    for place, (p, name) in enumerate(known):
        if p > LEVEL / (len(known) - place):
            break
        rejected[name] = True
    return rejected
