"""A LoRA adapter: low-rank changes of a model's linear layers, laid over it for the length of a block.

Hu et al. 2022, "LoRA: Low-Rank Adaptation of Large Language Models". What a linear layer returns for x becomes
W x + (α / r) · B A x. The model's own weights are neither copied nor changed, and other threads use it as it is.

Legend: r rank, d_in and d_out widths of a linear layer.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from corrigenda.errors import ModelDamaged, UnknownModel, UnsupportedArchitecture

FORMAT = "corrigenda-lora-1"
Pair = tuple[torch.Tensor, torch.Tensor]
"""A (r, d_in) and B (d_out, r)."""


@dataclass
class Adapter:
    """Low-rank changes by module name.

    Attributes:
        pairs: Module name → A, B.
        alpha: Scale of the changes before the division by the rank.
        about: What is known about it: base model, prompt format, training; JSON-ready.
    """

    pairs: dict[str, Pair]
    alpha: float
    about: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def fresh(cls, model: Any, names: Sequence[str], *, rank: int, alpha: float, seed: int) -> Adapter:
        """Return an adapter that changes nothing yet: A random, B zero.

        Args:
            model: Whose modules ``names`` are linear layers.
            names: Modules to adapt.
            rank: r ≥ 1.
            alpha: See :class:`Adapter`.
            seed: Fixes A.
        """
        generator = torch.Generator().manual_seed(seed)
        modules = dict(model.named_modules())
        pairs = {}
        for name in names:
            out, into = modules[name].weight.shape
            first = torch.randn(rank, into, generator=generator) / into**0.5
            pairs[name] = (first, torch.zeros(out, rank))
        return cls(pairs, alpha)

    @classmethod
    def load(cls, path: Path) -> Adapter:
        """Read what :meth:`save` wrote; float32 in memory.

        Raises:
            UnknownModel: There is no such file.
            ModelDamaged: It is no adapter, or not whole.
        """
        if not path.is_file():
            raise UnknownModel(f"there is no adapter at {path}", remedy="corrigenda serac train --out FOLDER")
        try:
            with safe_open(path, framework="pt") as file:
                about = json.loads((file.metadata() or {}).get("corrigenda", "null"))
                tensors = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError, ValueError) as error:
            raise ModelDamaged(f"{path} cannot be read: {error}", remedy="Train or install it again.") from error
        names = {name.removesuffix(".A") for name in tensors if name.endswith(".A")}
        whole = {f"{name}.{side}" for name in names for side in "AB"} == set(tensors)
        if not isinstance(about, Mapping) or about.get("format") != FORMAT or not whole or not names:
            raise ModelDamaged(f"{path} is not an adapter of this package", remedy="Train or install it again.")
        if not all(bool(tensor.isfinite().all()) for tensor in tensors.values()):
            raise ModelDamaged(f"{path} holds NaN or infinity", remedy="Train or install it again.")
        pairs = {name: (tensors[f"{name}.A"], tensors[f"{name}.B"]) for name in sorted(names)}
        return cls(pairs, float(about["alpha"]), dict(about))

    def save(self, path: Path) -> None:
        """Write the adapter as float16."""
        tensors = {}
        for name, (first, second) in self.pairs.items():
            tensors[f"{name}.A"] = first.detach().half().contiguous()
            tensors[f"{name}.B"] = second.detach().half().contiguous()
        about = {**self.about, "format": FORMAT, "alpha": self.alpha}
        save_file(tensors, path, metadata={"corrigenda": json.dumps(about, sort_keys=True)})

    @property
    def parameters(self) -> list[torch.Tensor]:
        """All tensors, in a fixed order."""
        return [tensor for name in sorted(self.pairs) for tensor in self.pairs[name]]

    def check(self, model: Any) -> None:
        """Refuse a model that lacks the layers, or has others.

        Raises:
            UnsupportedArchitecture: Names the first layer that does not fit.
        """
        modules = dict(model.named_modules())
        for name, (first, second) in self.pairs.items():
            shape = getattr(getattr(modules.get(name), "weight", None), "shape", None)
            if shape != (second.shape[0], first.shape[1]):
                raise UnsupportedArchitecture(
                    f"the adapter changes {name} ({second.shape[0]} × {first.shape[1]}), which the model does not have",
                    remedy=f"It belongs to {self.about.get('base', 'another model')}.",
                )

    @contextmanager
    def over(self, model: Any) -> Iterator[None]:
        """Lay the adapter over ``model`` inside the block, for this thread."""
        modules = dict(model.named_modules())
        with ExitStack() as stack:
            for name, pair in self.pairs.items():
                handle = modules[name].register_forward_hook(_Low(pair, self.alpha))
                stack.callback(handle.remove)
            yield


class _Low:
    """The forward hook of one layer."""

    def __init__(self, pair: Pair, alpha: float) -> None:
        self.first, self.second = pair
        self.scale = alpha / len(self.first)
        self.owner = threading.get_ident()

    def __call__(self, module: Any, args: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor:
        # Gradients flow in the same thread; other threads must not notice.
        if threading.get_ident() != self.owner:
            return output
        first, second = self.first.to(output.device), self.second.to(output.device)
        low = args[0].to(first.dtype) @ first.T @ second.T * self.scale
        changed: torch.Tensor = output + low.to(output.dtype)
        return changed
