"""KE: a network reads the edit as text and masks its gradient (De Cao, Aziz, Titov, EMNLP 2021).

A bidirectional LSTM reads the tokens of "prompt, new answer"; from its last states, for each matrix W (d_out × d_in)::

    ΔW = −σ(η) · [ (softmax(α) βᵀ)ᵀ ⊙ ∇W + γ softmax(δ)ᵀ ]

with α, δ ∈ ℝ^d_in, β, γ ∈ ℝ^d_out and η ∈ ℝ from the states. The mask has rank one, so the masked gradient is again a
sum over tokens, of (β ⊙ δₜ)(softmax(α) ⊙ xₜ)ᵀ, and is never formed. softmax(α) is multiplied by d_in, so that a mask
starts at 1 and not at 1/d_in, and the gradient is scaled to norm 1. Training holds KL(before ‖ after) below a margin by
a Lagrange multiplier, and lowers the margin (:mod:`.hyper_training`).
"""

from __future__ import annotations

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

_START = -4.0
"""η at the start: steps of σ(−4) ≈ 0.02."""


class KENetworks(Hypernetwork):
    """The reader, and one head for each matrix."""

    def __init__(
        self,
        modules: Sequence[str],
        shapes: Mapping[str, tuple[int, int]],
        rank: int,
        seed: int,
        embeddings: torch.Tensor,
    ) -> None:
        super().__init__(modules, shapes)
        # The model's own embeddings, frozen; kept out of the state dict, for they are in the model already.
        self.embeddings = [embeddings.detach().float()]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.reader = nn.LSTM(embeddings.shape[1], rank, batch_first=True, bidirectional=True)
            self.heads = nn.ModuleList()
            for name in modules:
                d_out, d_in = shapes[name]
                head = nn.Linear(2 * rank, 2 * d_in + 2 * d_out + 1)
                nn.init.normal_(head.weight, std=1e-3)
                with torch.no_grad():
                    head.bias.zero_()
                    head.bias[d_in : d_in + d_out] = 1.0  # β: the gradient as it is
                    head.bias[-1] = _START
                self.heads.append(head)

    def read(self, texts: Sequence[Text]) -> torch.Tensor:
        """Return the last states of the reader in both directions, (texts, 2·rank)."""
        rows = [list(text.source + text.target) for text in texts]
        table = self.embeddings[0]
        parts = [table[torch.tensor(row, device=table.device)] for row in rows]
        packed = nn.utils.rnn.pack_sequence(parts, enforce_sorted=False)
        _, (last, _) = self.reader(packed)
        states: torch.Tensor = last.transpose(0, 1).flatten(1)
        return states

    def updates(
        self, gradients: Mapping[str, Factors], texts: Sequence[Text], *, learn: bool = False
    ) -> dict[str, Factors]:
        """See :meth:`Hypernetwork.updates`."""
        state = self.read(texts)
        found = {}
        for name, head in zip(self.modules_written, self.heads, strict=True):
            d_out, d_in = self.shapes[name]
            alpha, beta, gamma, delta, eta = head(state).split([d_in, d_out, d_out, d_in, 1], 1)
            gradient = gradients[name]
            size = gradient.left.norm(dim=(1, 2), keepdim=True).clamp(min=1e-12)  # steps do not depend on the loss
            left = torch.cat([beta[:, None] * gradient.left / size, gamma[:, None]], 1)
            right = torch.cat([d_in * alpha.softmax(1)[:, None] * gradient.right, delta.softmax(1)[:, None]], 1)
            found[name] = Factors(-eta.sigmoid()[:, None] * left, right)
        return found

    @torch.no_grad()
    def lengthen(self, factor: float) -> None:
        """See :meth:`Hypernetwork.lengthen`."""
        for head in self.heads:
            bias: torch.Tensor = head.bias  # type: ignore[assignment]
            bias[-1] = (factor * bias[-1].sigmoid()).clamp(max=0.9).logit()


class KE(TrainedEditor):
    """KnowledgeEditor."""

    name = "ke"

    def build(self, lm: LanguageModel, params: Any, *, seed: int = 0) -> KENetworks:
        """Return untrained networks: their updates are small steps along the gradient."""
        shapes = written_modules(Anatomy(lm), params.layers, params.matrices)
        rows = lm.model.get_input_embeddings().weight
        return KENetworks(list(shapes), shapes, params.rank, seed, rows)
