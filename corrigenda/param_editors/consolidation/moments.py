"""Second moments for a job: from the cache, from a corpus, or from the model itself; summed up by an engine."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from corrigenda.param_editors.anatomy import Anatomy
from corrigenda.param_editors.consolidation.engine import Engine, pieces_of
from corrigenda.param_editors.statistics import (
    BATCH,
    SecondMoment,
    Statistics,
    add_moments,
    collect,
    collect_from_model,
    find,
    paragraphs,
)

if TYPE_CHECKING:
    from corrigenda.lm.loading import LanguageModel

PASSES = 8
"""Forward passes of one task."""

Say = Callable[[str, int, int], None]


def moments_for(
    source: Mapping[str, Any], lm: LanguageModel, layers: Sequence[int], engine: Engine, *, say: Say
) -> Statistics:
    """Return the second moments that a plan asks for; those that are in the cache are not taken again.

    Args:
        source: ``{"from": "cache"}``, ``{"corpus": file}`` or ``{"from_model": tokens}``.
        lm: The base model, unedited.
        layers: Which blocks.
        engine: Sums them up.
        say: Told how it goes.

    Raises:
        MissingStatistics: None in the cache.
        InvalidParams: The corpus cannot be read.
    """
    if "from" in source:
        return find(lm, layers)

    def accumulate(model: LanguageModel, wanted: Sequence[int], rows: Sequence[list[int]]) -> dict[int, SecondMoment]:
        return summed(engine, wanted, rows, say)

    if "from_model" in source:
        return collect_from_model(lm, layers, int(source["from_model"]), progress=say, accumulate=accumulate)
    path = Path(source["corpus"])
    return collect(lm, layers, paragraphs(path), source=path.name, accumulate=accumulate)


def summed(engine: Engine, layers: Sequence[int], rows: Sequence[list[int]], say: Say) -> dict[int, SecondMoment]:
    """Return the second moments of ``layers`` over rows of tokens, piece by piece.

    The pieces are added in their order, so that engines agree to the bit.
    """
    rows = sorted(rows, key=len, reverse=True)
    pieces = [(tuple(layers), part) for part in pieces_of(rows, BATCH * PASSES)]
    found: dict[int, dict[int, torch.Tensor]] = {}
    for place, sums in engine.run(moments_task, pieces, {}):
        found[place] = sums
        say("statistics", len(found), len(pieces))
    total = sum(map(len, rows))
    return {
        layer: SecondMoment(torch.stack([found[place][layer] for place in range(len(pieces))]).sum(0) / total, total)
        for layer in layers
    }


def moments_task(lm: LanguageModel, piece: tuple[Sequence[int], Sequence[list[int]]]) -> dict[int, torch.Tensor]:
    """Return the sum of k·kᵀ over all tokens of some rows, by layer: (f, f) float64."""
    layers, rows = piece
    anatomy = Anatomy(lm)
    sums: dict[int, torch.Tensor] = {}
    for part in pieces_of(rows, BATCH):
        add_moments(sums, anatomy, layers, part)
    return sums
