"""The matrices that are edited: the down-projection of each feed-forward block, whichever way round it is kept.

A weight is always seen as (d_out, d_in), a matrix that maps a key to a value; GPT-2's ``Conv1D`` keeps it the other
way round, which :class:`Site` hides.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from corrigenda.errors import InvalidParams, UnsupportedArchitecture

if TYPE_CHECKING:
    from corrigenda.lm.loading import LanguageModel

FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class Site:
    """One matrix that can be edited.

    Attributes:
        module: Name of the linear module that holds it.
        weight: The parameter.
        transposed: Whether it is kept as (d_in, d_out).
    """

    module: str
    weight: nn.Parameter
    transposed: bool

    @property
    def name(self) -> str:
        """Name of the parameter, in the state dict."""
        return f"{self.module}.weight"

    @property
    def matrix(self) -> torch.Tensor:
        """The weight as (d_out, d_in); a view."""
        return oriented(self.weight.data, self.transposed)


def oriented(tensor: torch.Tensor, transposed: bool) -> torch.Tensor:
    """Return a kept weight as (d_out, d_in), or the other way round: the same view does both."""
    return tensor.T if transposed else tensor


class Anatomy:
    """The blocks of a model and the matrices in them; of an encoder-decoder those of the decoder.

    Args:
        lm: The model.

    Raises:
        UnsupportedArchitecture: No :class:`~corrigenda.lm.layer_map.LayerMap` for it, or it is quantised.
    """

    def __init__(self, lm: LanguageModel) -> None:
        self.lm = lm
        # Before the map is made: packed weights have shapes that it would only find odd.
        if getattr(lm.model, "is_quantized", False) or getattr(lm.model.config, "quantization_config", None):
            raise _quantised(lm, "by its configuration")
        self.map = lm.layers
        self._modules = dict(lm.model.named_modules())
        self.blocks: list[nn.Module] = [self._modules[self.map.block(layer)] for layer in range(self.map.count)]

    @property
    def head(self) -> nn.Module:
        """The projection to the vocabulary."""
        head: nn.Module = self._modules[self.map.head]
        return head

    def block_name(self, layer: int) -> str:
        """Return the name of block ``layer`` (from 0)."""
        self._check(layer)
        return self.map.block(layer)

    def mlp_out(self, layer: int) -> Site:
        """Return the down-projection of block ``layer`` (from 0).

        Raises:
            InvalidParams: No such block.
            UnsupportedArchitecture: Its weight is quantised.
        """
        self._check(layer)
        return self._site(self.map.mlp_out(layer))

    def attention_out(self, layer: int) -> Site:
        """Return the attention's output projection of block ``layer`` (from 0); raises as :meth:`mlp_out`."""
        self._check(layer)
        return self._site(self.map.attention_out(layer))

    def linear(self, name: str) -> Site:
        """Return the projection ``name``, one of those that the layer map names; raises as :meth:`mlp_out`."""
        return self._site(name)

    def _check(self, layer: int) -> None:
        if not 0 <= layer < self.map.count:
            raise InvalidParams(
                f"layer {layer}: {self.lm.name} has {self.map.count} layers", remedy=f"0…{self.map.count - 1}."
            )

    def _site(self, name: str) -> Site:
        weight = getattr(self._modules[name], "weight", None)
        if not isinstance(weight, nn.Parameter) or weight.dtype not in FLOATS or weight.ndim != 2:
            raise _quantised(self.lm, f"{name} is {getattr(weight, 'dtype', type(weight).__name__)}")
        return Site(name, weight, self.map.transposed)


def _quantised(lm: LanguageModel, how: str) -> UnsupportedArchitecture:
    return UnsupportedArchitecture(
        f"{lm.name} is quantised ({how}); its weights cannot be edited",
        remedy="Load the unquantised checkpoint, edit it, and quantise the result.",
    )
