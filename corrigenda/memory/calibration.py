"""Thresholds with a bound on the false-fire rate, and probabilities that mean what they say.

Split-conformal: among n scores of out-of-scope queries that the classifier was not trained on, the k-th smallest with
k = ⌈(n + 1)(1 − α)⌉ is exceeded by a new such query with probability at most α, whatever the distribution, provided
that old and new queries are exchangeable. The bound is over the draw of both; one particular threshold can do worse.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from corrigenda.errors import InvalidRequest

Numbers = NDArray[np.float64]


def threshold_for(false_fire_rate: float, scores_of_out_of_scope: ArrayLike, *, least: float = 0.0) -> float:
    """Return the threshold that a new out-of-scope score reaches with probability at most ``false_fire_rate``.

    An edit fires when its score is at least the threshold. Of a live memory, use the highest score a query gets from
    any edit: the more edits are live, the more compete to fire falsely.

    Args:
        false_fire_rate: α, above 0 and below 1.
        scores_of_out_of_scope: n scores, each the highest of one out-of-scope query; higher is surer of "in scope".
        least: The threshold is not below it. Traffic that names no edited subject scores 0 for the most part: it bounds
            its own kind of false fire by next to nothing, and says nothing of questions near to an edit.

    Returns:
        A number just above the k-th smallest score, k = ⌈(n + 1)(1 − α)⌉, or ``least``; infinity when n < 1/α − 1: so
        few scores bound nothing.

    Raises:
        InvalidRequest: A rate outside (0, 1), no scores, or scores that are not finite.
    """
    if not 0 < false_fire_rate < 1:
        raise InvalidRequest(f"a false-fire rate of {false_fire_rate} is not between 0 and 1")
    scores = np.sort(np.asarray(scores_of_out_of_scope, dtype=np.float64).ravel())
    if not scores.size or not np.isfinite(scores).all():
        raise InvalidRequest("a threshold needs finite scores of out-of-scope queries", remedy="Give at least 1/α.")
    # Rounding keeps (n + 1)(1 − α) from landing a hair above a whole number.
    rank = math.ceil(round((scores.size + 1) * (1 - false_fire_rate), 9))
    if rank > scores.size:
        return math.inf
    return max(float(np.nextafter(scores[rank - 1], math.inf)), least)


def held_out_rates(
    false_fire_rate: float, scores_of_out_of_scope: ArrayLike, *, splits: int = 50, seed: int = 0
) -> Numbers:
    """Return shares (splits,), 0…1, of one random half of the scores that fire at the threshold of the other half.

    Their mean is at most ``false_fire_rate``, but for the luck of the splits; all 0 if half of them bound nothing.

    Raises:
        InvalidRequest: As :func:`threshold_for`; or fewer than two scores.
    """
    scores = np.asarray(scores_of_out_of_scope, dtype=np.float64).ravel()
    if scores.size < 2:
        raise InvalidRequest("one score cannot be split in two", remedy="Give more out-of-scope queries.")
    rng, half = np.random.default_rng(seed), scores.size // 2
    orders = (rng.permutation(scores.size) for _ in range(splits))
    return np.array(
        [rate_above(scores[order[half:]], threshold_for(false_fire_rate, scores[order[:half]])) for order in orders]
    )


def expected_calibration_error(labels: ArrayLike, probabilities: ArrayLike, bins: int = 15) -> float:
    """Return the mean gap between probability and frequency over ``bins`` equally wide bins, 0…1, lower is better."""
    truth = np.asarray(labels, dtype=np.float64)
    guesses = np.asarray(probabilities, dtype=np.float64)
    place = np.minimum((guesses * bins).astype(int), bins - 1)
    gaps = [
        abs(truth[place == number].mean() - guesses[place == number].mean()) * (place == number).mean()
        for number in range(bins)
        if (place == number).any()
    ]
    return float(sum(gaps))


def area_under_roc(labels: ArrayLike, scores: ArrayLike) -> float:
    """Return the probability that a positive scores above a negative, ties counting half; NaN without both."""
    truth = np.asarray(labels).astype(bool)
    values = np.asarray(scores, dtype=np.float64)
    positives, negatives = int(truth.sum()), int((~truth).sum())
    if not positives or not negatives:
        return math.nan
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]  # tied scores share the mean of their ranks
    return float((ranks[truth].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def platt(scores: ArrayLike, labels: ArrayLike, steps: int = 100) -> tuple[float, float]:
    """Return (a, b) such that sigmoid(a·score + b) fits the labels, by Newton's method.

    The targets are smoothed as Platt proposed, so that separable scores do not run off to infinity.
    """
    values = np.asarray(scores, dtype=np.float64)
    truth = np.asarray(labels, dtype=np.float64)
    positives = truth.sum()
    target = np.where(truth > 0, (positives + 1) / (positives + 2), 1 / (len(truth) - positives + 2))
    design = np.stack([values, np.ones_like(values)], axis=-1)  # (n, 2)
    weights = np.array([1.0, 0.0])
    for _ in range(steps):
        guess = sigmoid(design @ weights)
        gradient = design.T @ (guess - target)
        curvature = (design * (guess * (1 - guess))[:, None]).T @ design + 1e-6 * np.eye(2)
        step = np.linalg.solve(curvature, gradient)
        weights = weights - step / max(1.0, float(np.abs(step).max()))  # damped: Newton overshoots far from the fit
        if np.abs(step).max() < 1e-9:
            break
    return float(weights[0]), float(weights[1])


def sigmoid(values: ArrayLike) -> Numbers:
    """Return 1 / (1 + exp(−x)), without overflow."""
    return 0.5 * (1 + np.tanh(0.5 * np.asarray(values, dtype=np.float64)))


def rate_above(scores: ArrayLike, threshold: float) -> float:
    """Return the share of ``scores`` that reach ``threshold``; NaN for none."""
    values = np.asarray(scores, dtype=np.float64)
    return float(np.mean(values >= threshold)) if values.size else math.nan


@dataclass(frozen=True)
class Drift:
    """How traffic differs from what a threshold was calibrated on.

    Attributes:
        distance: Largest gap between the two distributions of scores, 0…1 (Kolmogorov and Smirnov's).
        distance_p: Probability of such a gap or a larger one if nothing had changed.
        fires: Share of the new queries that reach the threshold.
        fires_p: Probability of so many or more if the promised rate held.
        drifted: Either probability is below the level: calibrate again.
    """

    distance: float
    distance_p: float
    fires: float
    fires_p: float
    drifted: bool


def drift(
    calibrated: ArrayLike, scores: ArrayLike, threshold: float, false_fire_rate: float, level: float = 0.01
) -> Drift:
    """Compare the scores of new out-of-scope queries with those of a calibration.

    Exchangeability cannot be proved, only refuted: two tests look for a change, of the scores as a whole and of the
    share that fires. Each is wrong about unchanged traffic with probability ``level`` at most.

    Args:
        calibrated: Scores that the threshold was found on.
        scores: Scores of new queries, each the highest of one query.
        threshold: The threshold.
        false_fire_rate: What it promised, above 0 and below 1.
        level: Of each test.

    Raises:
        InvalidRequest: No scores on either side.
    """
    old, new = np.sort(np.asarray(calibrated, dtype=np.float64)), np.sort(np.asarray(scores, dtype=np.float64))
    if not old.size or not new.size:
        raise InvalidRequest("drift needs scores of both times")
    every = np.concatenate([old, new])
    gaps = np.searchsorted(old, every, side="right") / old.size - np.searchsorted(new, every, side="right") / new.size
    distance = float(np.abs(gaps).max())
    distance_p = _kolmogorov(distance * math.sqrt(old.size * new.size / (old.size + new.size)))
    fired = int((new >= threshold).sum())
    fires_p = _at_least(fired, new.size, false_fire_rate)
    return Drift(distance, distance_p, fired / new.size, fires_p, min(distance_p, fires_p) < level)


def _kolmogorov(scaled: float) -> float:
    """Return the probability that Kolmogorov's distribution exceeds ``scaled``; its series converges at once."""
    if scaled < 0.2:
        return 1.0
    terms = [(-1) ** (k - 1) * math.exp(-2 * (k * scaled) ** 2) for k in range(1, 101)]
    return float(min(1.0, max(0.0, 2 * sum(terms))))


def _at_least(count: int, trials: int, rate: float) -> float:
    """Return the probability of ``count`` or more successes in ``trials`` at ``rate`` each."""
    below: float = sum(
        math.exp(
            math.lgamma(trials + 1)
            - math.lgamma(k + 1)
            - math.lgamma(trials - k + 1)
            + k * math.log(rate)
            + (trials - k) * math.log1p(-rate)
        )
        for k in range(count)
    )
    return float(min(1.0, max(0.0, 1 - below)))
