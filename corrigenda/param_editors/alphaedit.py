"""AlphaEdit: updates inside the null space of old keys, careful of the edits before (Fang et al. 2025).

The null space is that of C, so it belongs to the statistics; the keys of earlier edits belong to the chain of
consolidations: each carries those of all before it, and reverting the last one forgets its keys.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from corrigenda.errors import InvalidParams, InvalidRequest
from corrigenda.param_editors.memit import Spread, SpreadParams
from corrigenda.param_editors.params import EditorParams, require
from corrigenda.param_editors.solve import alphaedit_factor, null_space
from corrigenda.param_editors.statistics import Statistics
from corrigenda.param_editors.update import Consolidation


@dataclass(frozen=True)
class AlphaEditParams(SpreadParams):
    """Hyper-parameters of AlphaEdit.

    Attributes:
        null_threshold: Eigenvalues of C below it make the null space, > 0.
        relative: Whether the threshold is in units of the mean eigenvalue, or as it is (the paper's 0.02, which fits
            the scale of GPT-J).
        ridge: L2, > 0.
    """

    null_threshold: float = 0.02
    relative: bool = False
    ridge: float = 10.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, "null_threshold", above=0)
        require(self, "ridge", above=0)


class AlphaEdit(Spread):
    """MEMIT's update projected onto the null space of old keys."""

    name = "alphaedit"
    params_type: type[EditorParams] = AlphaEditParams

    def factor(
        self, stats: Statistics, layer: int, keys: torch.Tensor, params: Any, previous: Consolidation | None
    ) -> torch.Tensor:
        """Return X with Δ = R·X in the null space."""
        limit = params.null_threshold
        if params.relative:
            limit *= float(stats.moment(layer).matrix.diagonal().mean())
        basis = stats.derived("null space", layer, limit, lambda moment: null_space(moment, limit))
        if basis.shape[1] == 0:
            raise InvalidParams(
                f"layer {layer}: no eigenvalue of the second moments is below {limit:g}",
                remedy="Raise null_threshold, or make it relative.",
            )
        return alphaedit_factor(basis, keys, self._earlier(previous, layer), params.ridge)

    def carry(self, keys: dict[int, torch.Tensor], previous: Consolidation | None) -> dict[str, torch.Tensor]:
        """Return the keys of all edits of the chain, (d_in, edits) float32 a layer."""
        found = {}
        for layer, own in keys.items():
            earlier = self._earlier(previous, layer)
            every = own if earlier is None else torch.cat([earlier.double(), own], 1)
            found[_name(layer)] = every.float()
        return found

    def _earlier(self, previous: Consolidation | None, layer: int) -> torch.Tensor | None:
        if previous is None or not (previous.edits or previous.carry):  # nothing has been written yet
            return None
        if previous.method != self.name or _name(layer) not in previous.carry:
            raise InvalidRequest(
                f"the previous consolidation, of {previous.method}, holds no keys of layer {layer}",
                remedy="Chain consolidations of alphaedit with the same layers.",
            )
        return previous.carry[_name(layer)]


def _name(layer: int) -> str:
    return f"keys-{layer}"
