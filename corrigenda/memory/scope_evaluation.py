"""How good the scope classifier is: on labelled pairs, and with many edits live at once."""

from __future__ import annotations

import struct
import time
import zlib
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


def reliability_diagram(
    pairs: Sequence[LabelledPair], judge: Judge | None = None, encoder: Encoder | None = None
) -> bytes:
    """Return a PNG: per tenth of probability a bar as high as the share in scope; the diagonal is what is right."""
    chances, _ = probabilities(pairs, judge or FrameJudge.load(), encoder or MiniLM.load())
    inside = np.array([pair.label > 0 for pair in pairs])
    side, margin = 400, 20
    image = np.full((side + 2 * margin, side + 2 * margin, 3), 255, dtype=np.uint8)
    canvas = image[margin : margin + side, margin : margin + side]  # row 0 is probability 1
    place = np.minimum((chances * 10).astype(int), 9)
    for number in range(10):
        if (place == number).any():
            height = round(side * float(inside[place == number].mean()))
            canvas[side - height :, number * 40 + 3 : number * 40 + 37] = (86, 130, 180)
    steps = np.arange(side)
    canvas[side - 1 - steps, steps] = (200, 60, 50)
    canvas[[0, -1], :] = canvas[:, [0, -1]] = 0
    return _png(image)


def _png(image: NDArray[np.uint8]) -> bytes:
    """Return ``image``, (height, width, 3), as a PNG file: too little to ask for a plotting library."""
    height, width, _ = image.shape

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    rows = b"".join(b"\x00" + row.tobytes() for row in image)  # filter 0: bytes as they are
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


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
