"""How good the scope classifier is: on labelled pairs, and with many edits live at once."""

from __future__ import annotations

import io
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from corrigenda.errors import MissingExtra
from corrigenda.memory.calibration import expected_calibration_error, held_out_rates
from corrigenda.memory.encoder import Encoder, MiniLM
from corrigenda.memory.judge import FrameJudge, Judge, Pair
from corrigenda.memory.scope import Scope
from corrigenda.memory.scope_pairs import LabelledPair
from corrigenda.memory.scope_training import measures
from corrigenda.memory.texts import index_text

Numbers = NDArray[np.float64]

_BATCH = 256
_PROMISED = (0.05, 0.01, 0.005)
_TIMED = 300
_BINS = 10


def evaluate(
    pairs: Sequence[LabelledPair], judge: Judge | None = None, encoder: Encoder | None = None
) -> dict[str, Any]:
    """Return measures of ``judge`` on ``pairs``.

    Args:
        pairs: Labelled pairs.
        judge: The trained one by default.
        encoder: MiniLM by default.

    Returns:
        ``auroc``; ``ece``; ``tpr_at_fpr``, over paraphrases, questions and aliases; ``by_kind`` with ``n`` and the
        ``rate`` that fires at the threshold of 1 % false positives, whatever the judge's own; ``bound``, the mean
        false-fire rate over 50 random splits of what is out of scope, half to calibrate and half to check, for each of
        three promised rates; ``ms`` with ``p50`` and ``p99`` of one pair, query encoded and judged.
    """
    judge, encoder = judge or FrameJudge.load(), encoder or MiniLM.load()
    labels = np.array([pair.label for pair in pairs], dtype=np.int64)
    chances, _ = probabilities(pairs, judge, encoder)
    found = measures([pair.kind for pair in pairs], labels, chances)
    return {
        "auroc": found["auroc"],
        "ece": expected_calibration_error(labels > 0, chances),
        "tpr_at_fpr": found["tpr_at_fpr"],
        "by_kind": found["by_kind"],
        "bound": _bound(chances[labels == 0]),
        "ms": _timings(pairs, judge, encoder),
    }


def _bound(out_of_scope: Numbers) -> dict[str, float]:
    if out_of_scope.size < 2:
        return {}
    return {f"{rate:g}": float(held_out_rates(rate, out_of_scope).mean()) for rate in _PROMISED}


def probabilities(pairs: Sequence[LabelledPair], judge: Judge, encoder: Encoder) -> tuple[Numbers, NDArray[np.bool_]]:
    """Return for each pair the probability that it is in scope, and whether the edit is needed rather than direct."""
    chances, needs = np.zeros(len(pairs)), np.zeros(len(pairs), dtype=bool)
    for start in range(0, len(pairs), _BATCH):
        part = pairs[start : start + _BATCH]
        for place, judgement in enumerate(judge.judge(_prepared(part, encoder)), start):
            chances[place], needs[place] = judgement.probability, judgement.needs
    return chances, needs


def highest(queries: Sequence[str], scope: Scope, namespace: str = "default") -> list[float]:
    """Return the highest probability that any live edit gets for each of ``queries``; 0 when none was looked at."""
    found = []
    for start in range(0, len(queries), 64):
        for considered in scope.consider(queries[start : start + 64], namespace):
            found.append(max((candidate.probability for candidate in considered.candidates), default=0.0))
    return found


def reliability_diagram(
    pairs: Sequence[LabelledPair], judge: Judge | None = None, encoder: Encoder | None = None
) -> bytes:
    """Return a PNG: per tenth of probability the share that is in scope, and how many pairs there are.

    Raises:
        MissingExtra: matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtra.named("trace", "matplotlib") from error
    chances, _ = probabilities(pairs, judge or FrameJudge.load(), encoder or MiniLM.load())
    inside = np.array([pair.label > 0 for pair in pairs])
    place = np.minimum((chances * _BINS).astype(int), _BINS - 1)
    counts = np.bincount(place, minlength=_BINS)
    shares = np.bincount(place, weights=inside, minlength=_BINS) / np.maximum(counts, 1)
    middles = (np.arange(_BINS) + 0.5) / _BINS
    figure = Figure(figsize=(5, 6), layout="constrained")
    FigureCanvasAgg(figure)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[4, 1])
    upper.plot([0, 1], [0, 1], "--", color="0.6", label="as it should be")
    upper.bar(middles[counts > 0], shares[counts > 0], width=0.9 / _BINS, label="share in scope")
    gap = expected_calibration_error(inside, chances)
    upper.set(ylabel="share in scope", title=f"{len(pairs)} pairs, calibration error {gap:.4f}")
    upper.legend()
    lower.bar(middles, counts, width=0.9 / _BINS, color="0.5")
    lower.set(xlabel="probability", ylabel="pairs", yscale="symlog")
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=120)
    return image.getvalue()


def _prepared(pairs: Sequence[LabelledPair], encoder: Encoder) -> list[Pair]:
    judged = [pair.judged() for pair in pairs]
    edits = encoder.encode([index_text(pair.edit) for pair in pairs])
    queries = encoder.encode([text for text, _ in judged])
    similarity = (edits * queries).sum(axis=1)
    return [
        Pair(pair.edit, text, match, float(cosine))
        for pair, (text, match), cosine in zip(pairs, judged, similarity, strict=True)
    ]


def _timings(pairs: Sequence[LabelledPair], judge: Judge, encoder: Encoder) -> dict[str, float]:
    spent = []
    for pair in pairs[:: max(1, len(pairs) // _TIMED)]:
        edit = encoder.encode([index_text(pair.edit)])[0]  # a memory has this vector already
        begin = time.perf_counter()
        text, match = pair.judged()
        judge.judge([Pair(pair.edit, text, match, float(encoder.encode([text])[0] @ edit))])
        spent.append((time.perf_counter() - begin) * 1e3)
    return {"p50": float(np.percentile(spent, 50)), "p99": float(np.percentile(spent, 99))}
