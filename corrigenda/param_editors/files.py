"""The file of a consolidation: tensors as safetensors, everything else as JSON in its header."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from corrigenda.atomic import draft
from corrigenda.edit import Edit
from corrigenda.param_editors.neurons import Neurons
from corrigenda.param_editors.update import Consolidation, WeightUpdate, damaged, digest

if TYPE_CHECKING:
    from corrigenda.lm.loading import LanguageModel

FORMAT = "corrigenda-consolidation/1"
_TENSORS = ("original", "left", "right", "edited")
_NEURONS = ("up", "down", "gate", "bias")
_PLAIN = ("name", "transposed", "ratio", "rounding", "before", "after")


def write_consolidation(done: Consolidation, path: Path, *, originals: bool = True) -> Path:
    """Write ``done`` to ``path``; the file appears whole or not at all.

    Args:
        done: What is written.
        path: The file.
        originals: Whether the weights from before go into it; without them it can only be read for the model as it
            was before.
    """
    tensors = {f"carry/{name}": tensor.contiguous() for name, tensor in done.carry.items()}
    for place, update in enumerate(done.updates):
        for kind in _TENSORS if originals else _TENSORS[1:]:
            if (tensor := getattr(update, kind)) is not None:
                tensors[f"{place}/{kind}"] = tensor.cpu().contiguous()
    for place, group in enumerate(done.neurons):
        for kind in _NEURONS:
            if (tensor := getattr(group, kind)) is not None:
                tensors[f"neurons/{place}/{kind}"] = tensor.detach().cpu().contiguous()
    head = {
        "method": done.method,
        "edits": [edit.to_dict() for edit in done.edits],
        "updates": [{name: getattr(update, name) for name in _PLAIN} for update in done.updates],
        "neurons": [{"layer": group.layer, "activation": group.activation} for group in done.neurons],
        "params": dict(done.params),
        "seconds": dict(done.seconds),
        "notes": list(done.notes),
        "details": dict(done.details),
    }
    write_tensors(path, tensors, {"format": FORMAT, "consolidation": json.dumps(head, ensure_ascii=False)})
    return path


def read_consolidation(path: Path, lm: LanguageModel | None = None) -> Consolidation:
    """Read what :func:`write_consolidation` wrote.

    Args:
        path: The file.
        lm: The model as it was before, for a file without the original weights.

    Raises:
        ModelDamaged: Not such a file, or cut off, or without original weights that ``lm`` has.
    """
    try:
        tensors, meta = read_tensors(path)
    except (OSError, SafetensorError) as error:
        raise damaged(path, str(error).splitlines()[0]) from error
    if meta.get("format") != FORMAT:
        raise damaged(path, f"its format is {meta.get('format')!r}, not {FORMAT!r}")
    head = json.loads(meta["consolidation"])
    updates = []
    for place, row in enumerate(head["updates"]):
        kept: dict[str, Any] = {kind: tensors[key] for kind in _TENSORS if (key := f"{place}/{kind}") in tensors}
        if "original" not in kept:
            kept["original"] = _original(path, row, lm)
        updates.append(WeightUpdate(**row, **kept))
    neurons = []
    for place, row in enumerate(head.get("neurons", ())):
        own: dict[str, Any] = {kind: tensors[key] for kind in _NEURONS if (key := f"neurons/{place}/{kind}") in tensors}
        neurons.append(Neurons(**row, **own))
    carry = {name.removeprefix("carry/"): tensor for name, tensor in tensors.items() if name.startswith("carry/")}
    return Consolidation(
        method=head["method"],
        edits=tuple(Edit.from_dict(row) for row in head["edits"]),
        updates=tuple(updates),
        params=head["params"],
        seconds=head["seconds"],
        notes=tuple(head["notes"]),
        details=head["details"],
        carry=carry,
        neurons=tuple(neurons),
        model=lm,
    )


def _original(path: Path, row: dict[str, Any], lm: LanguageModel | None) -> torch.Tensor:
    weight = None if lm is None else dict(lm.model.named_parameters()).get(row["name"])
    if weight is None or digest(weight) != row["before"]:
        raise damaged(path, f"it lacks the original of {row['name']}, and the model's weight is another")
    copy: torch.Tensor = weight.detach().clone().cpu()
    return copy


def write_tensors(path: Path, tensors: dict[str, torch.Tensor], meta: dict[str, str]) -> None:
    """Write tensors and text to ``path``; the file appears whole or not at all. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with draft(path) as part:
            save_file(_apart(tensors), part, metadata=meta)
    except SafetensorError as error:  # what it makes of a full disk
        raise OSError(errno.EIO, str(error), str(path)) from error


def _apart(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return ``tensors``, each in memory of its own, as the format demands: updates of several layers may share one."""
    seen: set[int] = set()
    own = {}
    for name, tensor in tensors.items():
        place = tensor.untyped_storage().data_ptr()
        own[name] = tensor.clone() if place in seen else tensor
        seen.add(place)
    return own


def read_tensors(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Read tensors and text; raises OSError or SafetensorError."""
    with safe_open(path, framework="pt") as file:
        meta: dict[str, Any] = file.metadata() or {}
        return {name: file.get_tensor(name) for name in file.keys()}, meta  # noqa: SIM118 (not a mapping)
