"""EMMET: the batched form of ROME, equality constraints with a ridge (Gupta et al. 2024)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from corrigenda.param_editors.memit import Spread, SpreadParams
from corrigenda.param_editors.params import EditorParams, require
from corrigenda.param_editors.solve import emmet_factor
from corrigenda.param_editors.statistics import Statistics
from corrigenda.param_editors.update import Consolidation


@dataclass(frozen=True)
class EMMETParams(SpreadParams):
    """Hyper-parameters of EMMET.

    Attributes:
        ridge: α, added to the diagonal of KᵀC⁻¹K, > 0; keeps near-equal keys solvable.
    """

    ridge: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, "ridge", above=0)


class EMMET(Spread):
    """Δ = R·(KᵀC⁻¹K + αI)⁻¹KᵀC⁻¹."""

    name = "emmet"
    params_type: type[EditorParams] = EMMETParams

    def factor(
        self, stats: Statistics, layer: int, keys: torch.Tensor, params: Any, previous: Consolidation | None
    ) -> torch.Tensor:
        """Return (KᵀC⁻¹K + αI)⁻¹KᵀC⁻¹."""
        return emmet_factor(stats.factor(layer), keys, params.ridge)
