"""Gradients of edits in factored form, and passes under updates that are different for every row.

The gradient of a loss by the weight of a linear layer is a sum over tokens of rank-one matrices (MEND, section 3.1)::

    ∇W = Σₜ δₜ xₜᵀ        xₜ what the layer reads at token t, δₜ the gradient by what it writes there

Hypernetworks read and write these factors; the matrices themselves are formed only when an update is printed.
Shapes: R rows, S columns, T columns of the edits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from corrigenda.param_editors.upper import Text, Upper


@dataclass(frozen=True)
class Factors:
    """Rows of rank-one matrices of one layer, for each of E edits: Σₜ leftₜ rightₜᵀ, (d_out, d_in).

    Attributes:
        left: (E, T, d_out).
        right: (E, T, d_in).
    """

    left: torch.Tensor
    right: torch.Tensor

    def matrix(self) -> torch.Tensor:
        """Return the sums, (E, d_out, d_in)."""
        return self.left.transpose(1, 2) @ self.right

    def of(self, owners: torch.Tensor) -> Factors:
        """Return the factors of these edits, (R, …)."""
        return Factors(self.left[owners], self.right[owners])


def gradient_factors(upper: Upper, places: Sequence[int], modules: Sequence[str]) -> dict[str, Factors]:
    """Return the gradients of the mean token loss of each text by the weights of ``modules``, one edit a text.

    Args:
        upper: Texts with targets.
        places: Which of them are the edits.
        modules: Names of linear modules that run when ``upper`` is run.

    Returns:
        T is the texts' columns, or 1 where each text has a focus.
    """
    rows = len(places)
    found = dict(upper.lm.model.named_modules())
    reads: dict[str, torch.Tensor] = {}
    probes: dict[str, torch.Tensor] = {}

    def probe(name: str) -> Any:
        def hook(module: Any, args: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor:
            reads[name] = args[0].detach()
            probes[name] = torch.zeros_like(output, requires_grad=True)
            return output + probes[name]

        return hook

    with ExitStack() as stack:
        for name in modules:
            stack.callback(found[name].register_forward_hook(probe(name)).remove)
        with torch.enable_grad():
            loss = upper.nll(places).sum()  # rows do not see each other: the gradient of a row is its own
    gradients = torch.autograd.grad(loss, [probes[name] for name in modules])
    texts = [upper.texts[place] for place in places]
    return {
        name: Factors(
            _focused(_by_row(gradient, rows), texts).float(), _focused(_by_row(reads[name], rows), texts).float()
        )
        for name, gradient in zip(modules, gradients, strict=True)
    }


def _focused(states: torch.Tensor, texts: Sequence[Text]) -> torch.Tensor:
    """Return (E, 1, d), the states of the focused tokens, or all (E, T, d) where a text has none."""
    width = states.shape[1]  # rows are padded on the left
    columns = [width - len(text.row) + text.focus for text in texts if text.focus is not None]
    if len(columns) < len(texts):
        return states
    rows = torch.arange(len(texts), device=states.device)
    return states[rows, torch.tensor(columns, device=states.device)][:, None]


@contextmanager
def edited_by_row(model: nn.Module, updates: Mapping[str, Factors]) -> Iterator[None]:
    """Let linear modules run with W + Σₜ leftₜ rightₜᵀ, another sum for each row of the batch; keeps gradients.

    Args:
        model: The model.
        updates: Name of a module → factors of as many edits as the batch has rows.
    """
    found = dict(model.named_modules())
    with ExitStack() as stack:
        for name, factors in updates.items():
            stack.callback(found[name].register_forward_hook(_adder(factors)).remove)
        yield


def _adder(factors: Factors) -> Any:
    def hook(module: Any, args: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor:
        x = _by_row(args[0], len(factors.left)).float()  # (R, S, d_in)
        added = (x @ factors.right.transpose(1, 2)) @ factors.left  # (R, S, d_out)
        return output + added.to(output.dtype).reshape(output.shape)

    return hook


def _by_row(states: torch.Tensor, rows: int) -> torch.Tensor:
    # OPT's feed-forward sees rows and columns as one dimension.
    return states.view(rows, -1, states.shape[-1])
