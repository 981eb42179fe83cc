"""Printing a set of edits with what is known about them already: value targets are found once for each edit.

Editors that spread an update over layers (MEMIT and its siblings) work in stages: targets, which cost nearly all of
the time, and keys are each the same task over pieces of the edits, for an engine to run; the rest is linear algebra.
Other editors print in one go.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from corrigenda.edit import Edit, EditId
from corrigenda.param_editors.anatomy import Anatomy
from corrigenda.param_editors.editor import Editor, Progress, editor
from corrigenda.param_editors.memit import Spread
from corrigenda.param_editors.params import EditorParams
from corrigenda.param_editors.targets import Targets

if TYPE_CHECKING:
    from corrigenda.lm.loading import LanguageModel
    from corrigenda.param_editors.sampling import Contexts


@dataclass(frozen=True)
class Piece:
    """Some edits of a batch, as a task gets them.

    Attributes:
        method: The editor.
        edits: Which.
        contexts: Beginnings in front of their prompts.
        params: Of the editor.
        layer: Where keys are wanted.
    """

    method: str
    edits: tuple[Edit, ...]
    contexts: Contexts
    params: EditorParams
    layer: int = -1


def targets_task(lm: LanguageModel, piece: Piece) -> dict[str, torch.Tensor]:
    """Find the value targets of a piece; tensors by name, rows in the order of the edits."""
    made = editor(piece.method)
    assert isinstance(made, Spread)
    return pack(made.targets(Anatomy(lm), piece.edits, piece.contexts, piece.params, None))


def keys_task(lm: LanguageModel, piece: Piece) -> torch.Tensor:
    """Return the mean keys of a piece at its layer: (n, d_in) float64."""
    made = editor(piece.method)
    assert isinstance(made, Spread)
    return made.keys(Anatomy(lm), piece.edits, piece.contexts, piece.layer).cpu()


def pack(targets: Targets) -> dict[str, torch.Tensor]:
    """Return targets as tensors by name, to be written and sent."""
    tensors = {f"shift-{n}": shift.cpu().contiguous() for n, shift in enumerate(targets.shifts)}
    tensors |= {f"base-{n}": base.cpu().contiguous() for n, base in enumerate(targets.base)}
    return tensors | {
        "loss": torch.tensor(targets.loss, dtype=torch.float64),
        "steps": torch.tensor(targets.steps, dtype=torch.int64),
    }


class Known:
    """Value targets by edit: rows of tensors, see :func:`pack`."""

    def __init__(self) -> None:
        self._rows: dict[EditId, dict[str, torch.Tensor]] = {}

    def add(self, edits: Sequence[Edit], tensors: dict[str, torch.Tensor]) -> None:
        """Take in the targets of ``edits``."""
        for place, edit in enumerate(edits):
            self._rows[edit.id] = {name: tensor[place] for name, tensor in tensors.items()}

    def of(self, edits: Sequence[Edit], device: torch.device) -> Targets:
        """Return the targets of ``edits`` together."""
        rows = [self._rows[edit.id] for edit in edits]
        whole = {name: torch.stack([row[name] for row in rows]).to(device) for name in rows[0]}
        count = sum(name.startswith("shift-") for name in whole)
        return Targets(
            tuple(whole[f"shift-{n}"] for n in range(count)),
            tuple(whole[f"base-{n}"] for n in range(count)),
            tuple(whole["loss"].tolist()),
            tuple(whole["steps"].tolist()),
        )

    def suspicion(self, edit: Edit) -> float:
        """Tell how much an edit asks for: ‖δ‖/‖v₀‖ of its last shift.

        Long shifts move neighbours; a target that could not be reached has the longest that the clamp allows.
        """
        row = self._rows.get(edit.id)
        if row is None:
            return 0.0
        last = max(int(name.removeprefix("shift-")) for name in row if name.startswith("shift-"))
        return float(row[f"shift-{last}"].norm() / row[f"base-{last}"].norm().clamp(min=1e-9))


KeysOf = Callable[[Sequence[Edit], "Contexts", int], torch.Tensor]


def staged(method: str, known: Known, keys_of: KeysOf) -> Editor:
    """Return the editor ``method``, which takes targets from ``known`` and keys from ``keys_of``."""
    kind: Any = type(editor(method))

    class Staged(kind):  # type: ignore[misc]
        """The editor with two of its stages done elsewhere."""

        def targets(
            self,
            anatomy: Anatomy,
            edits: Sequence[Edit],
            contexts: Contexts,
            params: Any,
            progress: Progress | None,
        ) -> Targets:
            """Return what was found before."""
            return known.of(edits, anatomy.lm.device)

        def keys(self, anatomy: Anatomy, edits: Sequence[Edit], contexts: Contexts, layer: int) -> torch.Tensor:
            """Let the engine collect them, from the model as it is now."""
            return keys_of(edits, contexts, layer)

    made: Editor = Staged()
    return made


def is_staged(method: str) -> bool:
    """Tell whether the editor works in stages that an engine can run."""
    return isinstance(editor(method), Spread)
