"""MEND: small networks turn the gradient of an edit into an update that generalises (Mitchell et al., ICLR 2022).

For a token with input x and output gradient δ, z = [x; δ], each normalised by running mean and deviation::

    h = z + relu(s₁ ⊙ (U₁V₁z + b₁) + o₁)
    [x̃; δ̃] = h + s₂ ⊙ (U₂V₂h + b₂) + o₂
    ΔW = −λ Σₜ δ̃ₜ x̃ₜᵀ

U starts at zero, so training starts from the normalised gradient. Matrices of one shape share U, V and b and the
normalisation; scale s, shift o and step size λ are each matrix's own. The published code adds the update and lets
the sign of λ be learned; here descent is the start. Tokens whose x or δ is all zero (padding) are left out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from corrigenda.param_editors.anatomy import Anatomy
from corrigenda.param_editors.gradients import Factors
from corrigenda.param_editors.hypernetwork import Hypernetwork, TrainedEditor, written_modules
from corrigenda.param_editors.upper import Text

if TYPE_CHECKING:
    from corrigenda.lm.loading import LanguageModel

STEP_SIZE = 1e-4
"""λ at the start."""


class Normaliser(nn.Module):
    """Running mean and deviation of rows; float32 buffers, which are saved with the weights.

    Args:
        width: Of a row.
    """

    count: torch.Tensor
    mean: torch.Tensor
    square: torch.Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(()))
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("square", torch.zeros(width))  # mean squared distance from the mean

    @torch.no_grad()
    def take_in(self, rows: torch.Tensor) -> None:
        """Add rows (n, width) to the statistics (Chan et al.'s pairwise update)."""
        if not len(rows):
            return
        mean, square = rows.mean(0), rows.var(0, unbiased=False)
        total = self.count + len(rows)
        share = len(rows) / total
        gap = mean - self.mean
        self.square += share * (square - self.square) + share * (1 - share) * gap.square()
        self.mean += share * gap
        self.count.copy_(total)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Return rows (…, width) with mean 0 and deviation 1."""
        if float(self.count) < 2:
            return rows
        normal: torch.Tensor = (rows - self.mean) / (self.square.sqrt() + 1e-7)
        return normal


class ResidualLayer(nn.Module):
    """z + relu(s ⊙ (UVz + b) + o), with s and o for each matrix that shares it.

    Args:
        width: Of z.
        rank: Rows of V.
        users: How many matrices share it.
        last: Whether it is the output layer, which has no relu: with one, it could raise numbers but never lower them.
    """

    def __init__(self, width: int, rank: int, users: int, *, last: bool = False) -> None:
        super().__init__()
        self.last = last
        self.v = nn.Parameter(torch.empty(rank, width))
        self.u = nn.Parameter(torch.zeros(width, rank))
        self.bias = nn.Parameter(torch.zeros(width))
        self.scale = nn.Parameter(torch.ones(users, width))
        self.shift = nn.Parameter(torch.zeros(users, width))

    def forward(self, z: torch.Tensor, user: int) -> torch.Tensor:
        """Return (…, width)."""
        inner = (z @ self.v.T) @ self.u.T + self.bias
        change = self.scale[user] * inner + self.shift[user]
        # All starts at 0, where relu has no gradient but clamp has: with relu, nothing here would ever be learned.
        return z + (change if self.last else change.clamp(min=0))


class MENDNetworks(Hypernetwork):
    """One pair of layers for each shape of matrix."""

    def __init__(self, modules: Sequence[str], shapes: Mapping[str, tuple[int, int]], rank: int, seed: int) -> None:
        super().__init__(modules, shapes)
        kinds = sorted(set(shapes.values()))
        self._kind = {name: kinds.index(shapes[name]) for name in modules}
        members = [[name for name in modules if self._kind[name] == kind] for kind in range(len(kinds))]
        self._user = {name: place for group in members for place, name in enumerate(group)}
        generator = torch.Generator().manual_seed(seed)
        self.first, self.second = nn.ModuleList(), nn.ModuleList()
        self.inputs, self.outputs = nn.ModuleList(), nn.ModuleList()
        for (d_out, d_in), group in zip(kinds, members, strict=True):
            for part in (self.first, self.second):
                layer = ResidualLayer(d_in + d_out, rank, len(group), last=part is self.second)
                nn.init.xavier_normal_(layer.v, generator=generator)
                part.append(layer)
            self.inputs.append(Normaliser(d_in))
            self.outputs.append(Normaliser(d_out))
        self.log_steps = nn.Parameter(torch.full((len(modules),), math.log(STEP_SIZE)))

    def updates(
        self, gradients: Mapping[str, Factors], texts: Sequence[Text], *, learn: bool = False
    ) -> dict[str, Factors]:
        """See :meth:`Hypernetwork.updates`."""
        found = {}
        for place, name in enumerate(self.modules_written):
            x, delta = gradients[name].right, gradients[name].left
            delta = delta / delta.norm(dim=(1, 2), keepdim=True).clamp(min=1e-12)
            used = (x.abs().sum(-1) > 0) & (delta.abs().sum(-1) > 0)  # (E, T)
            kind, user = self._kind[name], self._user[name]
            if learn:
                self.inputs[kind].take_in(x[used])  # type: ignore[operator]
                self.outputs[kind].take_in(delta[used])  # type: ignore[operator]
            z = torch.cat([self.inputs[kind](x[used]), self.outputs[kind](delta[used])], 1)
            z = self.second[kind](self.first[kind](z, user), user)
            right, left = torch.zeros_like(x), torch.zeros_like(delta)
            right = right.masked_scatter(used[..., None], z[:, : x.shape[-1]])
            left = left.masked_scatter(used[..., None], -self.log_steps[place].exp() * z[:, x.shape[-1] :])
            found[name] = Factors(left, right)
        return found

    @torch.no_grad()
    def lengthen(self, factor: float) -> None:
        """See :meth:`Hypernetwork.lengthen`."""
        self.log_steps.add_(math.log(factor))


class MEND(TrainedEditor):
    """Model editor networks with gradient decomposition."""

    name = "mend"

    def build(self, lm: LanguageModel, params: Any, *, seed: int = 0) -> MENDNetworks:
        """Return untrained networks: their updates are steps along the normalised gradient."""
        shapes = written_modules(Anatomy(lm), params.layers, params.matrices)
        return MENDNetworks(list(shapes), shapes, params.rank, seed)
