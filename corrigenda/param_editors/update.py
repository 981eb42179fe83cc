"""What an editor wrote, as a value: :class:`Consolidation` reverts it to the bit, saves it, merges it.

Subtracting a delta leaves rounding behind, so the original tensors are kept.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from corrigenda.edit import Edit
from corrigenda.errors import InvalidRequest, ModelDamaged, NotRevertible
from corrigenda.param_editors.anatomy import oriented
from corrigenda.param_editors.neurons import Neurons, attach, detach, is_attached

if TYPE_CHECKING:
    from corrigenda.lm.loading import LanguageModel


@dataclass(frozen=True, eq=False)
class WeightUpdate:
    """What happened to one weight.

    Attributes:
        name: Of the parameter, in the state dict.
        original: The weight before, as it was kept.
        transposed: Whether it is kept as (d_in, d_out).
        left, right: Factors of a low-rank update, (d_out, r) and (r, d_in) float32: W' = W + left·right. ``None`` for
            an update of full rank.
        edited: The weight after, for an update of full rank.
        ratio: ‖W' − W‖ / ‖W‖, Frobenius.
        rounding: Share of the update that was lost by writing it in the number format of the weight: ‖written −
            computed‖ / ‖update‖; 10⁻⁴ in float32, and up to 1 in bfloat16.
        before, after: Digests of the weight's bytes.
    """

    name: str
    original: torch.Tensor = field(repr=False)
    transposed: bool
    left: torch.Tensor | None = field(default=None, repr=False)
    right: torch.Tensor | None = field(default=None, repr=False)
    edited: torch.Tensor | None = field(default=None, repr=False)
    ratio: float = 0.0
    rounding: float = 0.0
    before: str = ""
    after: str = ""

    @property
    def rank(self) -> int | None:
        """Rank of the factors; ``None`` for an update of full rank."""
        return None if self.left is None else self.left.shape[1]

    def result(self, weight: torch.Tensor) -> torch.Tensor:
        """Return ``weight``, kept like the original, with the update in it."""
        if self.edited is not None:
            return self.edited.to(device=weight.device, dtype=weight.dtype, copy=True)
        assert self.left is not None
        assert self.right is not None
        return added(weight, self.left, self.right, self.transposed)


@dataclass(frozen=True, eq=False)
class Consolidation:
    """Edits that were printed into a model's weights.

    Attributes:
        method: Name of the editor.
        edits: What was written.
        updates: One for each weight; in the order of writing.
        params: The hyper-parameters.
        seconds: Wall time by stage.
        notes: What a user should know: thin statistics, rounding, edits that did not converge.
        details: Figures by edit or layer, JSON-ready.
        carry: Tensors that the next consolidation of a chain needs (AlphaEdit's running keys).
        neurons: What was added beside feed-forward blocks (T-Patcher, CaliNET).
        model: The model that was written to; ``None`` for one read from a file.
    """

    method: str
    edits: tuple[Edit, ...]
    updates: tuple[WeightUpdate, ...]
    params: Mapping[str, Any] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)
    carry: Mapping[str, torch.Tensor] = field(default_factory=dict, repr=False)
    neurons: tuple[Neurons, ...] = ()
    model: LanguageModel | None = field(default=None, repr=False)

    @property
    def max_ratio(self) -> float:
        """Largest ‖W' − W‖ / ‖W‖ of all written weights; 0 when none was."""
        return max((update.ratio for update in self.updates), default=0.0)

    def revert(self, lm: LanguageModel | None = None) -> None:
        """Put every written weight back as it was, bit for bit, and take added neurons off.

        Args:
            lm: The model to put back; the one that was written to by default.

        Raises:
            NotRevertible: A weight is not what the update left behind, or the neurons are not there; nothing is
                changed.
            InvalidRequest: Read from a file, and no model given.
        """
        self._swap(lm, undo=True)

    def write(self, lm: LanguageModel | None = None) -> None:
        """Write the update again, into a model whose weights are as before it; raises as :meth:`revert`."""
        self._swap(lm, undo=False)

    def _swap(self, lm: LanguageModel | None, *, undo: bool) -> None:
        target = lm or self.model
        if target is None:
            raise InvalidRequest("this consolidation was read from a file", remedy="Give it the model: revert(lm).")
        weights = dict(target.model.named_parameters())
        for update in self.updates:
            found = weights.get(update.name)
            wanted, state = (update.after, "left behind") if undo else (update.before, "was made from")
            if found is None or digest(found) != wanted:
                raise NotRevertible(
                    f"{update.name} of {target.name} is not as this {self.method} update {state}",
                    remedy="Revert later updates first, the last one first, or load the model anew.",
                )
        if any(is_attached(target, group) != undo for group in self.neurons):
            raise NotRevertible(
                f"neurons of this {self.method} update are {'not ' if undo else ''}attached to {target.name}",
                remedy="An update is written once, and then reverted once.",
            )
        for group in self.neurons:
            (detach if undo else attach)(target, group)
        with torch.no_grad():
            for update in self.updates:
                weight = weights[update.name]
                weight.data.copy_(update.original if undo else update.result(update.original))

    def merge_into(self, state: MutableMapping[str, torch.Tensor]) -> None:
        """Add the update to the weights of a state dict, in place of the mapping's entries.

        Raises:
            InvalidRequest: A weight is missing or of another shape, or neurons were added; nothing is changed.
        """
        if self.neurons:
            raise InvalidRequest(
                f"{self.method} added neurons: matrices grow, and the configuration with them",
                remedy="Export a full checkpoint, which widens every block.",
            )
        for update in self.updates:
            found = state.get(update.name)
            if found is None or found.shape != update.original.shape:
                shape = "missing" if found is None else f"of shape {tuple(found.shape)}"
                raise InvalidRequest(
                    f"{update.name} is {shape}; the update is for {tuple(update.original.shape)}",
                    remedy="Merge into a checkpoint of the same architecture.",
                )
        for update in self.updates:
            state[update.name] = update.result(state[update.name])

    def save(self, path: str | Path) -> Path:
        """Write everything to one file (safetensors, about the size of the written weights); returns its path."""
        from corrigenda.param_editors.files import write_consolidation

        return write_consolidation(self, Path(path))

    @classmethod
    def load(cls, path: str | Path, lm: LanguageModel | None = None) -> Consolidation:
        """Read what :meth:`save` wrote, for ``lm`` where one is given.

        Raises:
            ModelDamaged: Not such a file.
        """
        from corrigenda.param_editors.files import read_consolidation

        return replace(read_consolidation(Path(path)), model=lm)


def added(weight: torch.Tensor, left: torch.Tensor, right: torch.Tensor, transposed: bool) -> torch.Tensor:
    """Return ``weight`` + left·right, summed in float64, in the weight's number format and orientation."""
    matrix = oriented(weight, transposed).double()
    matrix = matrix + left.to(matrix) @ right.to(matrix)
    return oriented(matrix, transposed).to(weight.dtype).contiguous()


def digest(weight: torch.Tensor) -> str:
    """Return a hash of a weight's bytes, number format and shape."""
    data = weight.detach().cpu().contiguous()
    head = f"{data.dtype} {tuple(data.shape)}".encode()
    return hashlib.blake2b(head + data.flatten().view(torch.uint8).numpy().tobytes(), digest_size=16).hexdigest()


def damaged(path: Path, why: str) -> ModelDamaged:
    """Build the error for a file that is no consolidation."""
    return ModelDamaged(f"{path} is not a consolidation: {why}", remedy="Give a file that Consolidation.save wrote.")
