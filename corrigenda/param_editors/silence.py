"""Updates that other subjects of the same prompt do not feel.

An update Σₜ δ̃ₜx̃ₜᵀ writes δ̃ₜ wherever an input k has x̃ₜ·k ≠ 0. The edit's own prompt about other subjects tells which
inputs those are: the first token of every text, the words of the prompt, endings of names. With their inputs as rows of
K (n, d_in), each x̃ becomes::

    x̃ − Kᵀ(KKᵀ + ρI)⁻¹Kx̃        ρ = ridge · mean ‖k‖²

which is what least squares leaves of it. This is no part of MEND or KE.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch

from corrigenda.lm.hooks import Tap
from corrigenda.lm.tokens import pad, token_ids
from corrigenda.param_editors.forwards import call, ended_after, headed
from corrigenda.param_editors.gradients import Factors
from corrigenda.param_editors.others import about_others

if TYPE_CHECKING:
    from corrigenda.edit import Edit
    from corrigenda.param_editors.anatomy import Anatomy

RIDGE = 0.005


@torch.no_grad()
def inputs_of_others(
    anatomy: Anatomy, edit: Edit, modules: Sequence[str], last: int, count: int
) -> dict[str, torch.Tensor]:
    """Return what modules read when the edit's prompt is about ``count`` other subjects: (tokens, d_in) by name.

    Args:
        anatomy: The model as it is now.
        edit: An edit; without a subject in its prompt there is nothing to return.
        modules: Names of linear modules.
        last: The highest block among them.
        count: 0…32.
    """
    prompts = about_others(edit, count)
    if not prompts:
        return {}
    batch = pad(anatomy.lm, [token_ids(anatomy.lm, prompt) for prompt in prompts])
    tapped = Tap(anatomy.lm.model, list(modules), outputs=False)
    with tapped as tap, ended_after(anatomy.blocks, last), headed(anatomy, None):
        call(anatomy.lm, batch)
    used = batch.attention_mask.bool().flatten()
    return {name: tap.inputs[name].float().flatten(0, -2)[used] for name in modules}


def silenced(updates: Mapping[str, Factors], inputs: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, Factors]:
    """Return the updates of E edits, each without what the inputs given for it (E mappings) would feel of it."""
    found = {}
    for name, part in updates.items():
        right = [
            row if name not in own else _left_over(row, own[name]) for row, own in zip(part.right, inputs, strict=True)
        ]
        found[name] = Factors(part.left, torch.stack(right))
    return found


def _left_over(rows: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
    """Return rows (T, d_in) without what keys (n, d_in) explain of them."""
    keys = keys.double()
    gram = keys @ keys.T
    gram += RIDGE * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    weights = torch.linalg.solve(gram, keys @ rows.double().T)  # (n, T)
    left: torch.Tensor = (rows.double() - weights.T @ keys).to(rows.dtype)
    return left
