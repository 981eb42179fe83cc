"""Leaving with the edits: a PEFT LoRA adapter, a full checkpoint, or a file of factors.

Names are immutable: what exists is never written over, because servers keep caches by name.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, MutableMapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from corrigenda.errors import InvalidRequest
from corrigenda.param_editors.files import read_tensors, write_tensors
from corrigenda.param_editors.update import Consolidation, added, damaged
from corrigenda.param_editors.widening import with_neurons

if TYPE_CHECKING:
    from corrigenda.lm.loading import LanguageModel

DELTA_FORMAT = "corrigenda-delta/1"
MAX_RANK = 512
"""Largest rank of an exported adapter by default; servers reserve memory for it."""


def export_name(chain: Sequence[Consolidation]) -> str:
    """Return a name for what a chain of consolidations wrote: methods, number of edits, and a hash of both."""
    edits = [edit.id for done in chain for edit in done.edits]
    content = json.dumps([[done.method, dict(done.params)] for done in chain] + edits, default=str)
    methods = "+".join(dict.fromkeys(done.method for done in chain))
    return f"{methods}-{len(edits)}-{hashlib.sha256(content.encode()).hexdigest()[:10]}"


def factors(chain: Sequence[Consolidation]) -> dict[str, tuple[torch.Tensor, torch.Tensor, bool]]:
    """Return the update of a whole chain by weight: left (d_out, r), right (r, d_in), and whether kept transposed.

    Raises:
        InvalidRequest: An update of full rank (fine-tuning).
    """
    found: dict[str, tuple[torch.Tensor, torch.Tensor, bool]] = {}
    for done in chain:
        if done.neurons:
            raise InvalidRequest(
                f"{done.method} added neurons; no low-rank update of the weights is equal to that",
                remedy="Export a full checkpoint, which widens the feed-forwards.",
            )
        for update in done.updates:
            if update.left is None or update.right is None:
                raise InvalidRequest(
                    f"{done.method} changed {update.name} in full rank; it has no small factors",
                    remedy="Export a full checkpoint instead.",
                )
            left, right = update.left, update.right
            if update.name in found:
                left = torch.cat([found[update.name][0], left], 1)
                right = torch.cat([found[update.name][1], right], 0)
            found[update.name] = left, right, update.transposed
    return found


def export_lora(chain: Sequence[Consolidation], folder: str | Path, *, base: str, max_rank: int = MAX_RANK) -> Path:
    """Write a chain of consolidations as a PEFT LoRA adapter that equals it up to float32 rounding.

    Args:
        chain: Consolidations in the order they were made.
        folder: New folder.
        base: Name or path of the unedited model, for ``base_model_name_or_path``.
        max_rank: Refuse an adapter of a higher rank; the rank of a layer is the number of its edits.

    Raises:
        InvalidRequest: The folder exists, the rank is too high, nothing was written, or an update has full rank.
    """
    parts = factors(chain)
    if not parts:
        raise InvalidRequest("the consolidation wrote no weight: there is nothing to export", remedy="Apply edits.")
    rank = max(left.shape[1] for left, _, _ in parts.values())
    if rank > max_rank:
        raise InvalidRequest(
            f"the update has rank {rank}, at most {max_rank} is allowed",
            remedy="Raise --max-rank, export a full checkpoint, or print fewer edits into one adapter.",
        )
    tensors = {}
    for name, (left, right, _) in parts.items():
        a, b = _balanced(left, right, rank)
        module = name.removesuffix(".weight")
        tensors[f"base_model.model.{module}.lora_A.weight"] = a
        tensors[f"base_model.model.{module}.lora_B.weight"] = b
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "inference_mode": True,
        "r": rank,
        "lora_alpha": rank,  # the product counts once
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": any(transposed for _, _, transposed in parts.values()),
        "target_modules": sorted(name.removesuffix(".weight") for name in parts),
    }

    def fill(draft: Path) -> None:
        save_file(tensors, draft / "adapter_model.safetensors", metadata={"format": "pt"})
        (draft / "adapter_config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
        _describe(draft, chain)

    return _new_folder(Path(folder), fill)


def export_checkpoint(lm: LanguageModel, folder: str | Path, *, chain: Sequence[Consolidation] = ()) -> Path:
    """Write the model as it is, edits in the weights, so that plain transformers loads it; the tokenizer as well.

    Neurons that were added become part of the feed-forwards, which are widened for it.

    Args:
        lm: The edited model.
        folder: New folder.
        chain: What is in the weights, for the record.

    Raises:
        InvalidRequest: The folder exists.
        UnsupportedArchitecture: Neurons were added to a model that cannot be widened.
    """
    neurons = [group for done in chain for group in done.neurons]
    model = with_neurons(lm, neurons) if neurons else lm.model

    def fill(draft: Path) -> None:
        model.save_pretrained(draft)
        lm.tokenizer.save_pretrained(draft)
        _describe(draft, chain)

    return _new_folder(Path(folder), fill)


def export_delta(chain: Sequence[Consolidation], path: str | Path) -> Path:
    """Write the factors only: the smallest file, for :func:`add_delta`; raises as :func:`export_lora`."""
    path = Path(path)
    _refuse_existing(path)
    tensors: dict[str, torch.Tensor] = {}
    transposed = {}
    for name, (left, right, flag) in factors(chain).items():
        tensors |= {f"{name}/left": left.contiguous(), f"{name}/right": right.contiguous()}
        transposed[name] = flag
    meta = {"format": DELTA_FORMAT, "transposed": json.dumps(transposed), "about": json.dumps(_about(chain))}
    write_tensors(path, tensors, meta)
    return path


def add_delta(state: MutableMapping[str, torch.Tensor], path: str | Path) -> None:
    """Add a delta file to the weights of a state dict, in place of the mapping's entries.

    Raises:
        ModelDamaged: Not a delta file.
        InvalidRequest: A weight is missing.
    """
    path = Path(path)
    try:
        tensors, meta = read_tensors(path)
    except (OSError, SafetensorError) as error:
        raise damaged(path, str(error).splitlines()[0]) from error
    if meta.get("format") != DELTA_FORMAT:
        raise damaged(path, f"its format is {meta.get('format')!r}, not {DELTA_FORMAT!r}")
    flags: dict[str, bool] = json.loads(meta["transposed"])
    if missing := sorted(set(flags) - set(state)):
        raise InvalidRequest(f"the weights lack {missing[0]!r}", remedy="Use a checkpoint of the same architecture.")
    for name, flag in flags.items():
        state[name] = added(state[name], tensors[f"{name}/left"], tensors[f"{name}/right"], flag)


def _balanced(left: torch.Tensor, right: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return A (rank, d_in) and B (d_out, rank), zero-filled, each direction of the same norm in both.

    A key direction may be 10⁻⁶ and its value 10⁶; servers that run adapters in half precision would lose either.
    """
    sizes = (left.norm(dim=0) / right.norm(dim=1).clamp(min=1e-30)).sqrt().clamp(min=1e-30)
    a = torch.zeros(rank, right.shape[1])
    b = torch.zeros(left.shape[0], rank)
    a[: len(right)] = right * sizes[:, None]
    b[:, : left.shape[1]] = left / sizes
    return a, b


def _about(chain: Sequence[Consolidation]) -> dict[str, Any]:
    return {
        "corrigenda": version("corrigenda"),
        "name": export_name(chain),
        "methods": [done.method for done in chain],
        "edits": [edit.to_dict() | {"id": edit.id} for done in chain for edit in done.edits],
    }


def _describe(folder: Path, chain: Sequence[Consolidation]) -> None:
    (folder / "corrigenda.json").write_text(json.dumps(_about(chain), ensure_ascii=False, indent=2), encoding="utf-8")


def _refuse_existing(path: Path) -> None:
    if path.exists():
        raise InvalidRequest(f"{path} exists", remedy="Exports are never written over; choose a new name.")


def _new_folder(folder: Path, fill: Callable[[Path], None]) -> Path:
    """Make ``folder`` with what ``fill`` writes; it appears whole or not at all."""
    _refuse_existing(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(draft, ignore_errors=True)  # of a killed process with the same number
    draft.mkdir()
    try:
        fill(draft)
        draft.replace(folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return folder
