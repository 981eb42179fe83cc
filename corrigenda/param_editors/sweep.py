"""Which layers to edit: try candidates on a few facts and compare what came of it.

Causal tracing (:mod:`corrigenda.param_editors.tracing`) says where a fact passes; where an edit works best is near, but
not always there, so the published layers of most models were found by trying. Facts of a training split should be used:
the layers chosen are a fit to them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from corrigenda.edit import Edit, fold
from corrigenda.errors import InvalidParams, UnstableUpdate
from corrigenda.lm.scoring import greedy
from corrigenda.param_editors.editable import EditedWeights
from corrigenda.param_editors.editor import editor

if TYPE_CHECKING:
    from corrigenda.lm.loading import LanguageModel
    from corrigenda.param_editors.params import EditorParams
    from corrigenda.param_editors.statistics import Statistics

TOKENS = 8
"""Tokens of an answer that is only compared with an earlier one."""
Right = Callable[[str, str], bool]
"""From (answer, target): whether the answer gives the target."""


@dataclass(frozen=True)
class Fact:
    """A fact to try an editor on.

    Attributes:
        edit: What is written.
        rephrased: Other wordings of its prompt, which should get the target.
        near: Prompts about other things, whose answers should stay.
    """

    edit: Edit
    rephrased: tuple[str, ...] = ()
    near: tuple[str, ...] = ()


@dataclass(frozen=True)
class Tried:
    """What came of one choice of layers; means over the facts, 0…1.

    Attributes:
        layers: The choice.
        reliability: Share of edits whose own prompt gets the target, in free generation.
        generalization: Share of other wordings that do.
        locality: Share of other prompts whose answer is the same, over all its tokens.
        refused: Edits that the editor refused as unstable; they count as failed.
        seconds: Wall time per fact.
    """

    layers: tuple[int, ...]
    reliability: float
    generalization: float
    locality: float
    refused: int
    seconds: float

    @property
    def score(self) -> float:
        """Harmonic mean of the three, so that none can be bought with another."""
        parts = (self.reliability, self.generalization, self.locality)
        return len(parts) / sum(1 / part for part in parts) if all(parts) else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return everything, JSON-ready."""
        return asdict(self) | {"score": self.score}


def windows(layers: Sequence[int], width: int) -> list[tuple[int, ...]]:
    """Return every run of ``width`` neighbouring layers within ``layers``, ascending.

    Raises:
        InvalidParams: There is none.
    """
    given = sorted(set(layers))
    runs = [tuple(range(first, first + width)) for first in given]
    found = [run for run in runs if set(run) <= set(given)]
    if not found:
        raise InvalidParams(
            f"layers {', '.join(map(str, given))} hold no {width} neighbouring ones", remedy="Give a wider range."
        )
    return found


def sweep(
    lm: LanguageModel,
    method: str,
    facts: Sequence[Fact],
    candidates: Sequence[tuple[int, ...]],
    *,
    params: EditorParams | None = None,
    stats: Statistics | None = None,
    seed: int = 0,
    right: Right | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> list[Tried]:
    """Edit each fact alone with each choice of layers, look, and undo; the best choice comes first.

    Args:
        lm: The model; as before when this returns.
        method: Name of an editor.
        facts: At least one.
        candidates: Choices of layers.
        params: Everything but the layers; the preset by default.
        stats: Second moments of all layers that are tried; by default the best in the cache.
        seed: Of everything that is drawn at random.
        right: When an answer counts; by default when it begins with the target, case and space aside.
        progress: Told after each edit.

    Raises:
        InvalidParams: No facts.
        MissingStatistics: There are none for a layer.
    """
    if not facts:
        raise InvalidParams(
            "a sweep needs facts", remedy="Give a training split; facts that the model knows tell most."
        )
    right = right or _begins
    base = params or editor(method).params_type.preset(method, lm)
    near = list(dict.fromkeys(prompt for fact in facts for prompt in fact.near))
    before = dict(zip(near, greedy(lm, near, max_new_tokens=TOKENS), strict=True)) if near else {}
    found = []
    for number, layers in enumerate(candidates):
        model = EditedWeights(lm, method, params=base.replace(layers=layers), stats=stats, seed=seed)
        began, refused = time.perf_counter(), 0
        rows: list[tuple[float, float, float]] = []
        for place, fact in enumerate(facts):
            try:
                rows.append(_tried(model, fact, before, right))
            except UnstableUpdate:
                refused += 1
                rows.append((0.0, 0.0, 1.0))
            if progress is not None:
                progress("edits", number * len(facts) + place + 1, len(candidates) * len(facts))
        hits, rephrased, kept = (_mean(list(column)) for column in zip(*rows, strict=True))
        took = (time.perf_counter() - began) / len(facts)
        found.append(Tried(tuple(layers), hits, rephrased, kept, refused, took))
    return sorted(found, key=lambda tried: -tried.score)


def _tried(model: EditedWeights, fact: Fact, before: dict[str, str], right: Right) -> tuple[float, float, float]:
    """Return reliability, generalization and locality of one edit; what was not asked counts as passed."""
    undo = model.edit([fact.edit])
    try:
        asked = [fact.edit.prompt, *fact.rephrased]
        room = TOKENS + len(model.lm.tokenizer(fact.edit.target).input_ids)
        said = model.generate(asked, max_new_tokens=room)
        other = model.generate(list(fact.near), max_new_tokens=TOKENS) if fact.near else []
    finally:
        undo.revert()
    hits = [float(right(answer, fact.edit.target)) for answer in said]
    kept = [float(before[prompt] == answer) for prompt, answer in zip(fact.near, other, strict=True)]
    return hits[0], _mean(hits[1:]), _mean(kept)


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else 1.0


def _begins(answer: str, target: str) -> bool:
    return fold(answer).startswith(fold(target))
