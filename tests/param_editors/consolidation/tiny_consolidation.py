"""Helpers: a tiny model in a folder, a memory of edits that it can learn, statistics for it, and a quick plan."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from tiny_editing import LOCATE, random_statistics, tiny_models

from corrigenda.edit import Edit
from corrigenda.lm.loading import LanguageModel, load
from corrigenda.memory.memory import Memory
from corrigenda.param_editors.consolidation.gate import GatePlan
from corrigenda.param_editors.consolidation.plan import Plan, make_plan
from corrigenda.param_editors.files import write_tensors
from corrigenda.paths import cache_dir
from corrigenda.testing import FixedEncoder

NAMES = ("Kazakhstan", "Danielle Darrieux", "Hamlet", "St. Louis", "Astana", "William Shakespeare", "Dr. Smith", "Dutch")
TARGETS = ("German", "cats", "Dutch", "French", "English", "lives", "printed", "about")
PARAMS: dict[str, Any] = {"layers": [0, 1], "moment_weight": 0.1, **LOCATE}


def edits(count: int = 4, first: int = 0) -> list[Edit]:
    """Edits whose prompts end in their subjects: a random model can be steered there."""
    return [
        Edit(f"The word of {NAMES[n]}", TARGETS[n], subject=NAMES[n], relation="word") for n in range(first, first + count)
    ]


def model_folder(tmp_path: Path) -> Path:
    """Save a tiny Llama, and put statistics for its layers into the cache."""
    folder = tmp_path / "tiny-model"
    lm = tiny_models.tiny("llama")
    lm.model.save_pretrained(folder)
    lm.tokenizer.save_pretrained(folder)
    keep_statistics(load(folder))
    return folder


def keep_statistics(lm: LanguageModel) -> None:
    """Put second moments into the cache, as if they had been collected."""
    stats = random_statistics(lm, (0, 1, 2))
    home = cache_dir() / "stats" / lm.fingerprint[:16] / "random-960"
    for layer in stats.layers:
        meta = {"tokens": "960", "source": "random", "layer": str(layer)}
        write_tensors(home / f"layer-{layer}.safetensors", {"moment": stats.moment(layer).matrix}, meta)


def memory_of(tmp_path: Path, some: list[Edit]) -> Memory:
    """A memory that holds ``some`` edits."""
    memory = Memory.open(tmp_path / "edits.db", encoder=FixedEncoder())
    memory.add_many(some)
    return memory


def plan_for(memory: Memory, folder: Path, home: Path, **more: Any) -> Plan:
    """A plan that takes a moment; its gate asks after the edits and a few neighbours."""
    gate = more.pop("gate", GatePlan(minimums={"edits": 0.5}, limit=12))
    settings: dict[str, Any] = {"method": "memit", "params": PARAMS, "piece": 2, "gate": gate, **more}
    return make_plan(memory, load(folder), str(folder), home, **settings)


def weights_of(lm: LanguageModel) -> dict[str, torch.Tensor]:
    """A copy of all weights."""
    return {name: tensor.clone() for name, tensor in lm.model.state_dict().items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    """Whether two models are the same bit for bit."""
    return one.keys() == other.keys() and all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Write JSON lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path
