"""Norm anchors: what keeps long sequences of edits from blowing themselves up (Liu et al. 2026, arXiv 2602.02543).

A value v* = v₀ + δ is as long as the feed-forward's output v₀ makes it, and every edit makes that output longer:
longer values make larger weights, which make longer values. Rescaling each v* to the length that values have in the
model as it was before the first edit breaks the loop. That length is the mean ‖v*‖ over the first edits of a chain of
consolidations, so it belongs to the chain and is kept in what each consolidation hands on.

Shapes: n edits, d hidden size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from corrigenda.param_editors.update import Consolidation

CARRIED = "norm-anchor"
"""Name of the anchor in what a consolidation hands on."""
ENOUGH = 16
"""Edits whose values make an anchor; fewer say little, more come from a model that is no longer the original one."""


@dataclass(frozen=True)
class Anchor:
    """The length of values in a model before it was edited.

    Attributes:
        total: Sum of ‖v*‖ over the edits that make the anchor.
        edits: How many they are.
    """

    total: float = 0.0
    edits: int = 0

    @classmethod
    def of(cls, previous: Consolidation | None) -> Anchor:
        """Return what ``previous`` hands on; an empty anchor at the beginning of a chain."""
        if previous is None or CARRIED not in previous.carry:
            return cls()
        total, edits = previous.carry[CARRIED].tolist()
        return cls(total, int(edits))

    @property
    def norm(self) -> float | None:
        """The mean ‖v*‖; ``None`` until there are :data:`ENOUGH` edits."""
        return self.total / self.edits if self.edits >= ENOUGH else None

    def hold(self, base: torch.Tensor, shift: torch.Tensor) -> tuple[torch.Tensor, Anchor]:
        """Return δ (n, d) such that each ‖v₀ + δ‖ is the anchor, and the anchor for what comes next.

        While there is no anchor yet, δ stays as it is and adds to it.

        Args:
            base: v₀, the feed-forward's output, (n, d).
            shift: δ, (n, d).
        """
        value = base.double() + shift.double()  # v*, (n, d)
        norms = value.norm(dim=1, keepdim=True)  # (n, 1)
        if self.norm is None:
            return shift, Anchor(self.total + float(norms.sum()), self.edits + len(norms))
        scaled = value * (self.norm / norms.clamp(min=1e-30)) - base.double()
        return scaled.to(shift.dtype), self

    def carried(self) -> dict[str, torch.Tensor]:
        """Return it as a consolidation hands it on."""
        return {CARRIED: torch.tensor([self.total, float(self.edits)], dtype=torch.float64)}
