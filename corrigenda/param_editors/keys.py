"""Keys: what enters a down-projection at the subject's last token, averaged over contexts.

Shapes: n edits, d_in width of a key, d_out width of a value.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from corrigenda.edit import Edit
from corrigenda.param_editors.forwards import last_states
from corrigenda.param_editors.rows import key_rows
from corrigenda.param_editors.sampling import every

if TYPE_CHECKING:
    from corrigenda.param_editors.anatomy import Anatomy
    from corrigenda.param_editors.sampling import Contexts


@dataclass(frozen=True)
class Keys:
    """Keys of edits at one layer.

    Attributes:
        bare: (n, d_in) float64, of the bare prompts.
        mean: (n, d_in) float64, averaged within each group of contexts, then over the groups.
    """

    bare: torch.Tensor
    mean: torch.Tensor


def subject_keys(
    anatomy: Anatomy, edits: Sequence[Edit], contexts: Contexts, layer: int, *, flat: bool = False
) -> Keys:
    """Return the keys of ``edits`` at ``layer``.

    Args:
        anatomy: The model as it is now.
        edits: n edits whose prompts hold their subjects.
        contexts: Groups; the first is the bare prompt.
        layer: Which block.
        flat: Average over all contexts alike (ROME) rather than over groups (MEMIT, where the bare prompt weighs as
            much as all sampled contexts of a length together).
    """
    site = anatomy.mlp_out(layer)
    beginnings = every(contexts)
    rows = key_rows(anatomy.lm, edits, beginnings)
    states = last_states(anatomy, rows, layer, inputs=[site.module])
    keys = states[site.module].double().view(len(edits), len(beginnings), -1)  # (n, contexts, d_in)
    if flat:
        return Keys(keys[:, 0], keys.mean(1))
    sizes = [len(group) for group in contexts]
    mean = torch.stack([part.mean(1) for part in torch.split(keys, sizes, 1)]).mean(0)
    return Keys(keys[:, 0], mean)


def values_at(anatomy: Anatomy, edits: Sequence[Edit], module: str, layer: int) -> torch.Tensor:
    """Return the output of a module of block ``layer`` at the subject of the bare prompts: (n, d_out) float64."""
    rows = key_rows(anatomy.lm, edits, ("",))
    return last_states(anatomy, rows, layer, outputs=[module])[module].double()
