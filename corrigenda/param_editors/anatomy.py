"""Where an architecture keeps the matrices that are edited: the down-projection of each feed-forward block.

A weight is always seen as (d_out, d_in), a matrix that maps a key to a value; GPT-2's ``Conv1D`` keeps it the other
way round, which :class:`Site` hides.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from corrigenda.errors import InvalidParams, UnsupportedArchitecture

if TYPE_CHECKING:
    from corrigenda.lm.loading import LanguageModel

MLP_OUT = (
    "mlp.down_proj",
    "mlp.c_proj",
    "mlp.fc_out",
    "mlp.dense_4h_to_h",
    "mlp.fc2",
    "fc2",
    "feed_forward.w2",
    "ffn.down_proj",
    "layer.2.DenseReluDense.wo",
    "layer.1.DenseReluDense.wo",
)
"""Names of the down-projection inside a block, by family."""
ATTN_OUT = (
    "self_attn.o_proj",
    "self_attn.out_proj",
    "self_attn.dense",
    "attn.c_proj",
    "attn.out_proj",
    "attention.dense",
    "self_attention.dense",
    "attn.attention.out_proj",
    "layer.0.SelfAttention.o",
)
"""Names of the attention's output projection inside a block, by family."""


@dataclass(frozen=True)
class Site:
    """One matrix that can be edited.

    Attributes:
        name: Of the parameter, in the state dict.
        module: The linear module that holds it.
        transposed: Whether it is kept as (d_in, d_out).
    """

    name: str
    module: nn.Module
    transposed: bool

    @property
    def parameter(self) -> nn.Parameter:
        """The parameter itself."""
        weight = self.module.weight
        assert isinstance(weight, nn.Parameter)
        return weight

    @property
    def matrix(self) -> torch.Tensor:
        """The weight as (d_out, d_in); a view."""
        return oriented(self.parameter.data, self.transposed)

    @property
    def shape(self) -> tuple[int, int]:
        """(d_out, d_in)."""
        d_out, d_in = self.matrix.shape
        return d_out, d_in


def oriented(tensor: torch.Tensor, transposed: bool) -> torch.Tensor:
    """Return a kept weight as (d_out, d_in), or the other way round: the same view does both."""
    return tensor.T if transposed else tensor


class Anatomy:
    """The blocks of a model and the matrices in them.

    Args:
        lm: The model. Of an encoder-decoder the decoder's blocks are meant.

    Raises:
        UnsupportedArchitecture: No list of blocks, or none with a feed-forward part known here.
    """

    def __init__(self, lm: LanguageModel) -> None:
        self.lm = lm
        root = lm.model.get_decoder() if lm.is_encoder_decoder else lm.model
        self.blocks: list[nn.Module] = _blocks(root)
        if not self.blocks or _find(self.blocks[0], MLP_OUT) is None:
            raise UnsupportedArchitecture(
                f"{lm.name}: the feed-forward blocks of {type(lm.model).__name__} are not known here",
                remedy="Use a model of the GPT-2, GPT-J, NeoX, OPT, Llama, Mistral, Qwen, Gemma, Phi or T5 families.",
            )
        self._names = {id(module): name for name, module in lm.model.named_modules()}

    def mlp_out(self, layer: int) -> Site:
        """Return the down-projection of block ``layer`` (from 0).

        Raises:
            InvalidParams: No such block.
            UnsupportedArchitecture: Quantised, or a mixture of experts.
        """
        return self._site(layer, MLP_OUT, "feed-forward")

    def attn_out(self, layer: int) -> Site:
        """Return the attention's output projection of block ``layer`` (from 0); raises as :meth:`mlp_out`."""
        return self._site(layer, ATTN_OUT, "attention")

    def _site(self, layer: int, names: tuple[str, ...], part: str) -> Site:
        if not 0 <= layer < len(self.blocks):
            raise InvalidParams(
                f"layer {layer}: {self.lm.name} has {len(self.blocks)} layers", remedy=f"0…{len(self.blocks) - 1}."
            )
        module = _find(self.blocks[layer], names)
        if module is None:
            raise UnsupportedArchitecture(
                f"{self.lm.name}: the {part} of layer {layer} has no single output projection",
                remedy="Mixtures of experts and unknown families cannot be edited; choose another layer or model.",
            )
        self._refuse_quantised(layer, module)
        return Site(f"{self._names[id(module)]}.weight", module, type(module).__name__ == "Conv1D")

    def _refuse_quantised(self, layer: int, module: nn.Module) -> None:
        weight = getattr(module, "weight", None)
        plain = isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"
        # A subclass of Linear with integers or packed floats inside is quantised as well.
        floats = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
        if not plain or not isinstance(weight, nn.Parameter) or weight.dtype not in floats or weight.ndim != 2:
            kind = getattr(weight, "dtype", None) or type(module).__name__
            raise UnsupportedArchitecture(
                f"{self.lm.name}: layer {layer} is quantised ({kind}); its weights cannot be edited",
                remedy="Load the unquantised checkpoint, edit it, and quantise the result.",
            )


def _blocks(root: nn.Module) -> list[nn.Module]:
    """Return the longest list of equal modules: the decoder's blocks."""
    lists = [module for module in root.modules() if isinstance(module, nn.ModuleList) and len(module)]
    lists = [blocks for blocks in lists if _find(blocks[0], MLP_OUT + ATTN_OUT) is not None]
    return list(max(lists, key=len, default=[]))


def _find(block: nn.Module, names: tuple[str, ...]) -> Any:
    modules = dict(block.named_modules())
    return next((modules[name] for name in names if name in modules), None)
