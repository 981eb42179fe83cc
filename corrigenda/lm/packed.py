"""Faster linear layers on CPUs whose vendor the default BLAS does not serve well.

PyTorch's default BLAS (MKL) leaves AMD processors at half their speed; oneDNN, which PyTorch brings along, does not,
provided that the weights are laid out for it first. Laying out takes about 2 ms per million weights, so it pays
for batches and not for a short question. The copies live for one ``with`` block: nothing can go stale, and a change
made to the weights before the block is seen. Hooks run as ever. Results differ in the last bits (1e-5).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import torch
from transformers.pytorch_utils import Conv1D

WORTHWHILE_TOKENS = 128
"""Fewest tokens through the model for which laying out the weights pays."""
MAX_WEIGHTS = 500_000_000
"""Most weights that are copied, 2 GB as float32: a larger model keeps its memory for itself."""


@contextmanager
def packed(
    model: Any,
    parts: Iterable[Any] | None = None,
    *,
    gradients: bool = False,
    half: bool = False,
    but: Collection[Any] = (),
) -> Iterator[None]:
    """Run the linear layers of ``model`` from copies laid out for this processor, where that is faster.

    Without effect on other processors, devices and number formats, on large models, and inside itself. Other threads
    that use the model meanwhile run it as it is. Do not change weights inside the block.

    Args:
        model: The model.
        parts: Modules of it whose linear layers are meant; all by default.
        gradients: Whether gradients shall pass through to what goes in (not to weights, which get none inside the
            block). Takes a second copy of each weight.
        half: Multiply in bfloat16 where the processor has instructions for that, 1.8 times as fast: results are right
            to two or three digits, which serves where a gradient is noise for the most part.
        but: Modules that are left as they are: their weights may change inside the block.
    """
    form = torch.bfloat16 if half and _has_bfloat16() else torch.float32
    changed = []
    try:
        if _processor_gains() and sum(weight.numel() for weight in model.parameters()) <= MAX_WEIGHTS:
            for module in (each for part in ([model] if parts is None else parts) for each in part.modules()):
                if module not in but and (forward := _packed_forward(module, gradients, form)) is not None:
                    module.forward = forward
                    changed.append(module)
        yield
    finally:
        for module in changed:
            vars(module).pop("forward", None)


def _packed_forward(module: Any, gradients: bool, form: torch.dtype) -> Callable[[torch.Tensor], torch.Tensor] | None:
    """Return a faster ``forward`` for a linear layer; ``None`` when there is none, or when it has been replaced."""
    if type(module) not in (torch.nn.Linear, Conv1D) or "forward" in vars(module):
        return None
    weight, bias = module.weight.detach(), module.bias
    if weight.dtype != torch.float32 or weight.device.type != "cpu":
        return None
    if isinstance(module, Conv1D):
        weight = weight.t().contiguous()  # (d_out, d_in)
    weight = weight.to(form)
    ops: Any = torch.ops.mkldnn
    laid_out = ops._reorder_linear_weight(weight, None)
    backward = ops._reorder_linear_weight(weight.t().contiguous(), None) if gradients else None
    bias = None if bias is None else bias.detach().to(form)

    owner = threading.get_ident()

    def forward(states: torch.Tensor) -> torch.Tensor:
        if threading.get_ident() != owner:
            return type(module).forward(module, states)  # type: ignore[no-any-return]
        if backward is not None and states.requires_grad and torch.is_grad_enabled():
            return _Linear.apply(states, laid_out, backward, bias)  # type: ignore[no-any-return, no-untyped-call]
        result: torch.Tensor = ops._linear_pointwise(states.to(form), laid_out, bias, "none", [], "")
        return result.to(states.dtype)

    return forward


class _Linear(torch.autograd.Function):
    """A linear layer whose gradient runs from a laid-out copy too; the weight itself gets none."""

    @staticmethod
    def forward(
        ctx: Any, states: torch.Tensor, laid_out: torch.Tensor, backward: torch.Tensor, bias: torch.Tensor | None
    ) -> torch.Tensor:
        ctx.weight = backward
        ops: Any = torch.ops.mkldnn
        result: torch.Tensor = ops._linear_pointwise(states.to(laid_out.dtype), laid_out, bias, "none", [], "")
        return result.to(states.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        ops: Any = torch.ops.mkldnn
        found = ops._linear_pointwise(gradient.contiguous().to(ctx.weight.dtype), ctx.weight, None, "none", [], "")
        return found.to(gradient.dtype), None, None, None


@cache
def _processor_gains() -> bool:
    """Whether this is an AMD processor and the operators are there; by vendor, not by a race, to be repeatable."""
    info = Path("/proc/cpuinfo")
    if not (info.is_file() and "AuthenticAMD" in info.read_text(errors="replace")[:4_000]):
        return False
    backend: Any = torch.backends.mkldnn
    return bool(backend.is_available()) and hasattr(torch.ops.mkldnn, "_linear_pointwise")


@cache
def _has_bfloat16() -> bool:
    info = Path("/proc/cpuinfo")
    return info.is_file() and "avx512_bf16" in info.read_text(errors="replace")[:4_000]
