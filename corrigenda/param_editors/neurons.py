"""Neurons added beside a feed-forward block: what T-Patcher and CaliNET give a model instead of changing its weights.

n neurons of block ℓ read what the block's own feed-forward reads, x, and add to what it writes::

    plain   Σᵢ downᵢ · act(upᵢ·x + biasᵢ)
    gated   Σᵢ downᵢ · act(gateᵢ·x) · (upᵢ·x)

which is the form of the block's own neurons. So they can be attached to a running model and taken off again, which
leaves it as it was to the bit, or become part of the matrices of a checkpoint (:mod:`.widening`).
"""

from __future__ import annotations

import hashlib
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from torch import nn
from transformers.activations import ACT2FN

from corrigenda.errors import InvalidRequest, NotRevertible, UnsupportedArchitecture
from corrigenda.lm.hooks import first_tensor, with_first_tensor

if TYPE_CHECKING:
    from corrigenda.lm.layer_map import LayerMap
    from corrigenda.lm.loading import LanguageModel

_ACTIVATION_NAMES = ("hidden_activation", "hidden_act", "activation_function", "dense_act_fn")
_PARTS = ("up", "down", "gate", "bias")

_attached: WeakKeyDictionary[nn.Module, dict[str, list[Any]]] = WeakKeyDictionary()
"""Model → digest of the neurons → handles of their hooks."""


@dataclass(frozen=True, eq=False)
class Neurons:
    """n neurons beside the feed-forward of one block; d is the hidden size.

    Attributes:
        layer: The block, from 0.
        up: (n, d) float32.
        down: (d, n) float32.
        activation: Name of the activation, as transformers names it.
        gate: (n, d) float32 in a gated block, else ``None``.
        bias: (n,) float32 in a plain block whose input projection has a bias, else ``None``.
    """

    layer: int
    up: torch.Tensor = field(repr=False)
    down: torch.Tensor = field(repr=False)
    activation: str
    gate: torch.Tensor | None = field(default=None, repr=False)
    bias: torch.Tensor | None = field(default=None, repr=False)

    def __len__(self) -> int:
        """Count the neurons."""
        return self.up.shape[0]

    def fired(self, x: torch.Tensor) -> torch.Tensor:
        """Return the activations (…, n) float32 of inputs (…, d)."""
        return activations(x.float(), self.up, self.gate, self.bias, self.activation)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Return what the neurons add for inputs (…, d): (…, d), in the number format of ``x``."""
        return (self.fired(x) @ self.down.T).to(x.dtype)

    def to(self, device: torch.device | str) -> Neurons:
        """Return a copy on ``device``."""
        gate = None if self.gate is None else self.gate.to(device)
        bias = None if self.bias is None else self.bias.to(device)
        return Neurons(self.layer, self.up.to(device), self.down.to(device), self.activation, gate, bias)

    @property
    def digest(self) -> str:
        """A hash of all of it."""
        head = hashlib.blake2b(f"{self.layer} {self.activation}".encode(), digest_size=16)
        for name in _PARTS:
            part = getattr(self, name)
            if part is not None:
                head.update(f"{name} {tuple(part.shape)}".encode())
                head.update(part.detach().cpu().float().contiguous().numpy().tobytes())
        return head.hexdigest()


def activations(
    x: torch.Tensor, up: torch.Tensor, gate: torch.Tensor | None, bias: torch.Tensor | None, activation: str
) -> torch.Tensor:
    """Return what n neurons make of inputs (…, d): (…, n), with gradients."""
    act = ACT2FN[activation]
    if gate is not None:
        found: torch.Tensor = act(x @ gate.T) * (x @ up.T)
        return found
    before = x @ up.T
    added: torch.Tensor = act(before if bias is None else before + bias)
    return added


def activation_name(lm: LanguageModel) -> str:
    """Return the name of the activation inside the model's feed-forward.

    Raises:
        UnsupportedArchitecture: Its configuration does not say.
    """
    for name in _ACTIVATION_NAMES:
        if isinstance(found := getattr(lm.model.config, name, None), str):
            return found
    raise UnsupportedArchitecture(f"the configuration of {lm.name} does not name its activation")


def takes_bias(lm: LanguageModel, layer: int) -> bool:
    """Tell whether added neurons of this block may have a bias, so that they fit into its matrices."""
    module = lm.model.get_submodule(lm.layers.mlp_in(layer)[0])
    return not lm.layers.gated and getattr(module, "bias", None) is not None


def attach(lm: LanguageModel, neurons: Neurons) -> None:
    """Let ``neurons`` take part in every forward pass of ``lm`` from now on, in any thread.

    Raises:
        InvalidRequest: They are attached already, or do not fit: wrong width, no such block, gated or not.
    """
    own = _attached.setdefault(lm.model, {})
    mark = neurons.digest
    if mark in own:
        raise InvalidRequest("these neurons are attached to the model already")
    _check(lm.layers, neurons)
    here = neurons.to(lm.device)
    seen = threading.local()

    def read(module: Any, args: tuple[Any, ...]) -> None:
        seen.x = args[0]

    def add(module: Any, args: Any, output: Any) -> Any:
        return with_first_tensor(output, first_tensor(output) + here(seen.x))

    modules = dict(lm.model.named_modules())
    reader = modules[lm.layers.mlp_in(neurons.layer)[0]]
    writer = modules[lm.layers.mlp_out(neurons.layer)]
    own[mark] = [reader.register_forward_pre_hook(read), writer.register_forward_hook(add)]


def detach(lm: LanguageModel, neurons: Neurons) -> None:
    """Take ``neurons`` off again; the model is then as it was, to the bit.

    Raises:
        NotRevertible: They are not attached to it.
    """
    handles = _attached.get(lm.model, {}).pop(neurons.digest, None)
    if handles is None:
        raise NotRevertible(f"these neurons are not attached to {lm.name}", remedy="Attach them first: write(lm).")
    for handle in handles:
        handle.remove()


def is_attached(lm: LanguageModel, neurons: Neurons) -> bool:
    """Tell whether ``neurons`` take part in the forward passes of ``lm``."""
    return neurons.digest in _attached.get(lm.model, {})


def _check(layers: LayerMap, neurons: Neurons) -> None:
    layers.mlp_out(neurons.layer)
    width = layers.hidden_size
    n = len(neurons)
    fits = neurons.up.shape == (n, width) and neurons.down.shape == (width, n)
    fits = fits and (neurons.gate is not None) == layers.gated
    fits = fits and (neurons.gate is None or neurons.gate.shape == (n, width))
    if not fits:
        raise InvalidRequest(
            f"neurons of shape {tuple(neurons.up.shape)} do not fit into block {neurons.layer} of a "
            f"{layers.architecture} model of width {width}",
            remedy="Attach them to the model that they were trained for.",
        )
