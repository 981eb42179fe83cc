"""PMET: attention and feed-forward shifted together, only the feed-forward written (Li et al. 2024).

Two shifts are found together, of the output projections of attention and feed-forward at the last layer (of the linear
modules, not of the block); the attention takes up what is general, so the feed-forward's δ is more precise. Only that
one is written, and the layers share it by square roots: R = (z − v) / √(layers left).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from corrigenda.edit import Edit
from corrigenda.param_editors.anatomy import Anatomy
from corrigenda.param_editors.editor import Progress
from corrigenda.param_editors.memit import MEMIT, MEMITParams
from corrigenda.param_editors.params import EditorParams, require
from corrigenda.param_editors.sampling import Contexts
from corrigenda.param_editors.targets import Targets, value_targets


@dataclass(frozen=True)
class PMETParams(MEMITParams):
    """Hyper-parameters of PMET.

    Attributes:
        eased: Weight of the likelihood once every target token is the first choice.
        stop_kl: An edit whose target is the first choice is done when its divergence is at most this, in nats.
    """

    v_steps: int = 30
    v_lr: float = 0.2
    kl_factor: float = 1.0
    moment_weight: float = 6_000.0
    eased: float = 0.1
    stop_kl: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, "eased", least=0)
        require(self, "stop_kl", least=0)


class PMET(MEMIT):
    """Precise updates from jointly optimised attention and feed-forward."""

    name = "pmet"
    params_type: type[EditorParams] = PMETParams

    def targets(
        self,
        anatomy: Anatomy,
        edits: Sequence[Edit],
        contexts: Contexts,
        params: Any,
        progress: Progress | None,
    ) -> Targets:
        """Find the shifts of attention and feed-forward; the latter, which is written, comes last."""
        last = params.layers[-1]
        modules = [anatomy.attention_out(last).module, anatomy.mlp_out(last).module]

        def early(nll: torch.Tensor, kl: torch.Tensor, right: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            weight = torch.where(right, torch.full_like(nll, params.eased), torch.ones_like(nll))
            return weight, right & (kl <= params.stop_kl)

        return value_targets(
            anatomy, edits, contexts, params, first=last, modules=modules, early=early, progress=progress
        )

    def reached(self, anatomy: Anatomy, edits: Sequence[Edit], params: Any) -> torch.Tensor:
        """Return the feed-forward's output at the last layer: (n, d) float64."""
        return self.fed(anatomy, edits, params)

    def share(self, left: int) -> float:
        """Return √(layers left)."""
        return math.sqrt(left)
