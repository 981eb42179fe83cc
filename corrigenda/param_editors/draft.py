"""Writing weights with a way back: a :class:`Draft` becomes a consolidation or leaves the model as it was.

Editors of several layers must write the lower ones before they can compute the upper ones. Inside a draft every step is
computed, checked, then written; any error, also Ctrl-C, restores the original tensors.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any

import torch

from corrigenda.edit import Edit
from corrigenda.errors import UnstableUpdate
from corrigenda.param_editors.anatomy import Site, oriented
from corrigenda.param_editors.neurons import Neurons, attach
from corrigenda.param_editors.update import Consolidation, WeightUpdate, added, digest

if TYPE_CHECKING:
    from corrigenda.lm.loading import LanguageModel

ROUNDING_NOTE = 0.05
"""Share of an update lost by rounding above which a consolidation says so."""


class Draft:
    """Changes to weights that are not final yet; a context manager.

    Args:
        lm: The model.
        method: Name of the editor.
        max_norm_ratio: Largest ‖Δ‖/‖W‖ against the weight before the draft.
    """

    def __init__(self, lm: LanguageModel, method: str, *, max_norm_ratio: float) -> None:
        self.lm, self.method, self.max_norm_ratio = lm, method, max_norm_ratio
        self.notes: list[str] = []
        self.seconds: dict[str, float] = {}
        self._originals: dict[str, tuple[Site, torch.Tensor]] = {}
        self._factors: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}

    def __enter__(self) -> Draft:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self.restore()

    def restore(self) -> None:
        """Put every touched weight back."""
        for site, original in self._originals.values():
            site.weight.data.copy_(original)

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add the wall time of the block to ``stage``."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - began

    def add(self, site: Site, left: torch.Tensor, right: torch.Tensor) -> None:
        """Write W + left·right, on top of what was written before.

        Args:
            site: Which weight.
            left: (d_out, r), any float format.
            right: (r, d_in).

        Raises:
            UnstableUpdate: Not finite, or too large against the original weight; this step is not written.
        """
        new = left.detach().float().cpu(), right.detach().float().cpu()
        self._check_finite(site, *new)
        old = self._factors.get(site.name)
        both = new if old is None else (torch.cat([old[0], new[0]], 1), torch.cat([old[1], new[1]], 0))
        original = self._original(site)
        norm = product_norm(*both)
        self._check_ratio(site, norm / float(original.double().norm()))
        self._factors[site.name] = both
        # From the original and all factors, not from the last state: what is written is what the factors say.
        site.weight.data.copy_(added(original, *both, site.transposed))

    def touch(self, site: Site) -> None:
        """Keep the original of a weight that is going to be written directly until :meth:`replace`."""
        self._original(site)

    def replace(self, site: Site, matrix: torch.Tensor) -> None:
        """Write a whole matrix (d_out, d_in); raises as :meth:`add`."""
        self._check_finite(site, matrix)
        original = self._original(site)
        change = (matrix.double() - oriented(original, site.transposed).double()).norm()
        self._check_ratio(site, float(change / original.double().norm()))
        site.weight.data.copy_(oriented(matrix, site.transposed))

    def finish(
        self,
        edits: Sequence[Edit],
        params: Mapping[str, Any],
        *,
        details: Mapping[str, Any] | None = None,
        carry: Mapping[str, torch.Tensor] | None = None,
        neurons: Sequence[Neurons] = (),
    ) -> Consolidation:
        """Return what was written as a value; ``neurons`` are attached now."""
        updates = tuple(self._update(name) for name in self._originals)
        lost = max((update.rounding for update in updates), default=0.0)
        if lost > ROUNDING_NOTE:
            self.notes.append(
                f"rounding to {self.lm.dtype} lost {lost:.0%} of the update; edit a float32 copy to keep it"
            )
        for group in neurons:
            attach(self.lm, group)
        return Consolidation(
            method=self.method,
            edits=tuple(edits),
            updates=updates,
            params=dict(params),
            seconds={name: round(value, 4) for name, value in self.seconds.items()},
            notes=tuple(self.notes),
            details=dict(details or {}),
            carry=dict(carry or {}),
            neurons=tuple(neurons),
            model=self.lm,
        )

    def _original(self, site: Site) -> torch.Tensor:
        if site.name not in self._originals:
            self._originals[site.name] = site, site.weight.data.clone()
        return self._originals[site.name][1]

    def _update(self, name: str) -> WeightUpdate:
        site, original = self._originals[name]
        factors = self._factors.get(name)
        written = site.weight.data
        change = oriented(written, site.transposed).double() - oriented(original, site.transposed).double()
        size, rounding = float(change.norm()), 0.0
        if factors is not None:
            exact = factors[0].to(change) @ factors[1].to(change)
            rounding = float((change - exact).norm() / exact.norm().clamp(min=1e-300))
        return WeightUpdate(
            name=name,
            original=original.cpu(),
            transposed=site.transposed,
            left=None if factors is None else factors[0],
            right=None if factors is None else factors[1],
            edited=written.detach().clone().cpu() if factors is None else None,
            ratio=size / float(original.double().norm()),
            rounding=rounding,
            before=digest(original),
            after=digest(written),
        )

    def _check_finite(self, site: Site, *tensors: torch.Tensor) -> None:
        if not all(bool(tensor.isfinite().all()) for tensor in tensors):
            raise UnstableUpdate(
                f"the {self.method} update of {site.name} is not finite",
                remedy="Collect more statistics, or lower the learning rate; the model is as before.",
            )

    def _check_ratio(self, site: Site, ratio: float) -> None:
        if not ratio <= self.max_norm_ratio:
            raise UnstableUpdate(
                f"the {self.method} update of {site.name} is {ratio:.2f} times as large as the weight itself; "
                f"at most {self.max_norm_ratio:g} is allowed",
                remedy="Write fewer edits at once, lower clamp or lr, collect more text, or raise max_norm_ratio.",
            )


def product_norm(left: torch.Tensor, right: torch.Tensor) -> float:
    """Return ‖left·right‖ (Frobenius) without forming the product: √tr(LᵀL·RRᵀ)."""
    left, right = left.double(), right.double()
    return float(((left.T @ left) * (right @ right.T)).sum().clamp(min=0).sqrt())
