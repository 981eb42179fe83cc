"""A model of which some blocks are passed by: a view that shares every weight, for passes that need only a part.

The view is a copy of the module tree down to the list of blocks: other threads, and other passes, run the model with
all its blocks. Those that the view does run are the model's own, and what is hooked to them is hooked to the model.

Shapes: R rows, S columns, d hidden size.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from corrigenda.lm.hooks import first_tensor

if TYPE_CHECKING:
    from corrigenda.lm.loading import LanguageModel


def up_to(lm: LanguageModel, layer: int) -> Any:
    """Return a view of the model whose blocks behind block ``layer`` hand on what they get: its logits mean nothing."""
    return _view(lm, dict.fromkeys(range(layer + 1, lm.layers.count), _handing_on))


def from_block(lm: LanguageModel, layer: int, states: torch.Tensor) -> Any:
    """Return a view of the model in which ``states``, (R, S, d), enter block ``layer`` whatever the tokens are."""
    if layer == 0:
        return lm.model

    def put(*args: Any, **kwargs: Any) -> torch.Tensor:
        return states

    return _view(lm, {place: put if place == layer - 1 else _handing_on for place in range(layer)})


def _view(lm: LanguageModel, forwards: dict[int, Callable[..., Any]]) -> Any:
    *path, first = lm.layers.block(0).split(".")
    assert first == "0"
    view = copy.copy(lm.model)
    parent = view
    for name in path:
        parent._modules = dict(parent._modules)
        child = copy.copy(parent._modules[name])
        parent._modules[name] = child
        parent = child
    parent._modules = {str(place): _block(block, forwards.get(place)) for place, block in enumerate(parent)}
    return view


def _block(block: nn.Module, forward: Callable[..., Any] | None) -> nn.Module:
    if forward is None:
        return block
    passed = copy.copy(block)
    passed.__dict__["forward"] = _Shaped(forward, block)
    return passed


class _Shaped:
    """A block's forward that returns what the block would: a tensor, or a tuple with the states first (GPT-J)."""

    def __init__(self, forward: Callable[..., Any], block: nn.Module) -> None:
        self.forward = forward
        self.tuple = type(block).__name__ in _TUPLES

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        states = self.forward(*args, **kwargs)
        return (states, None) if self.tuple else states


_TUPLES = frozenset({"GPTJBlock"})


def _handing_on(*args: Any, **kwargs: Any) -> torch.Tensor:
    return first_tensor(args[0] if args else kwargs["hidden_states"])
