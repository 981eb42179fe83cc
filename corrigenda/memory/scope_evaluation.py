"""How good the scope classifier is: on labelled pairs, and with many edits live at once."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from corrigenda.memory.calibration import expected_calibration_error
from corrigenda.memory.encoder import Encoder, MiniLM
from corrigenda.memory.judge import FrameJudge, Judge, Pair
from corrigenda.memory.scope import Scope
from corrigenda.memory.scope_pairs import LabelledPair
from corrigenda.memory.scope_training import measures
from corrigenda.memory.texts import index_text

Numbers = NDArray[np.float64]

_BATCH = 256
_TIMED = 300


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
        ``rate`` that fires at the threshold of 1 % false positives, whatever the judge's own; ``ms`` with ``p50`` and
        ``p99`` of one pair, query encoded and judged; ``verdicts``: of the pairs in scope, how many were called right
        as to direct or needed.
    """
    judge, encoder = judge or FrameJudge.load(), encoder or MiniLM.load()
    labels = np.array([pair.label for pair in pairs], dtype=np.int64)
    chances, needs = probabilities(pairs, judge, encoder)
    found = measures([pair.kind for pair in pairs], labels, chances)
    inside = labels > 0
    return {
        "n": len(pairs),
        "auroc": found["auroc"],
        "ece": expected_calibration_error(inside, chances),
        "tpr_at_fpr": found["tpr_at_fpr"],
        "by_kind": found["by_kind"],
        "verdicts": float(((labels == 2) == needs)[inside].mean()) if inside.any() else None,
        "threshold_at_fpr_0.01": found["threshold"],
        "ms": _timings(pairs, judge, encoder),
    }


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
            found.append(considered.candidates[0].probability if considered.candidates else 0.0)
    return found


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
