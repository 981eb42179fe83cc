"""Judge: does this edit concern this query? Three answers: no, directly, or as one step of several."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from corrigenda.edit import Edit
from corrigenda.memory.names import NameMatch

Probabilities = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Pair:
    """An edit and a piece of a query, to be judged together.

    Attributes:
        edit: The edit.
        query: One segment of the query.
        match: Where the edit's subject, or something like it, stands in ``query``.
        similarity: Cosine of the vectors of the edit's prompt and of ``query``, −1…1.
    """

    edit: Edit
    query: str
    match: NameMatch
    similarity: float


class Judge(Protocol):
    """Judges pairs.

    Attributes:
        threshold: Probability of being in scope, 0…1, from which an edit should fire; higher fires less.
    """

    threshold: float

    def judge(self, pairs: Sequence[Pair]) -> Probabilities:
        """Return (n, 3) probabilities: out of scope, direct, needs (the edit is one step of the answer)."""
        ...


class SimilarityJudge:
    """The baseline: similarity alone, with a bonus for a subject that is mentioned. Not good with hard negatives."""

    threshold = 0.5

    def judge(self, pairs: Sequence[Pair]) -> Probabilities:
        """Return (n, 3) probabilities; nothing is ever ``needs``."""
        logits = np.array(
            [
                10 * (pair.similarity - 0.6)
                if pair.match.exact
                else 20 * (pair.similarity - 0.9 + 0.1 * pair.match.score)
                for pair in pairs
            ]
        )
        inside = 1 / (1 + np.exp(-logits))
        return np.stack([1 - inside, inside, np.zeros_like(inside)], axis=-1)
