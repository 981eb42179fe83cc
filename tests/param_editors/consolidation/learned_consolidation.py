"""Helpers: a memory of edits of what the learned model knows, statistics for it, and a quick plan."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from learned import SUBJECTS, case_rows, edit, facts

from corrigenda.edit import Edit
from corrigenda.lm.loading import LanguageModel, load
from corrigenda.memory.memory import Memory
from corrigenda.param_editors.consolidation.editions import Editions
from corrigenda.param_editors.consolidation.gate import GatePlan
from corrigenda.param_editors.consolidation.job import run
from corrigenda.param_editors.consolidation.plan import Plan, make_plan
from corrigenda.param_editors.consolidation.result import Result
from corrigenda.param_editors.files import write_tensors
from corrigenda.param_editors.statistics import collect
from corrigenda.paths import cache_dir
from corrigenda.testing import FixedEncoder

PARAMS: dict[str, Any] = {
    "layers": [0, 1],
    "moment_weight": 100.0,
    "v_steps": 25,
    "v_lr": 0.3,
    "clamp": 1.5,
    "v_decay": 1e-4,
    "kl_factor": 0.1,
    "contexts": [[5, 2]],
    "essence": "The shape of {}",
    "kl_at": "end",
    "max_norm_ratio": 50.0,
}
EDITED = tuple(range(0, 24, 3))
"""Places of the subjects whose colours are edited."""
NEAR = tuple(place for place in range(len(SUBJECTS)) if place not in EDITED)
GATE = {"minimums": {"edits": 0.9, "neighbours": 0.85}, "limit": 60}


def good_edits(count: int = len(EDITED)) -> list[Edit]:
    """Edits that take, and leave the neighbours alone."""
    return [edit(place) for place in EDITED[:count]]


def poison(number: int = 0) -> Edit:
    """An edit that takes, and changes what a neighbour says: it is another wording of a fact that must stay."""
    subject = SUBJECTS[NEAR[number]]
    return Edit(f". The colour of {subject}", edit(NEAR[number]).target, subject=subject, relation="poison")


@dataclass
class World:
    """A model, a memory, and a home for editions.

    Attributes:
        model: Folder of the base model.
        memory: Live edits.
        home: Where editions are kept.
        cases: A file with neighbours of the edits.
        fingerprint: Of the base model.
    """

    model: Path
    memory: Memory
    home: Path
    cases: Path
    fingerprint: str

    def plan(self, **more: Any) -> Plan:
        """A plan that takes seconds."""
        gate = GatePlan(**{**GATE, "cases": (str(self.cases),), **more.pop("gate", {})})
        settings: dict[str, Any] = {"method": "memit", "params": PARAMS, "piece": 3, "gate": gate, **more}
        return make_plan(self.memory, load(self.model), str(self.model), self.home, **settings)

    def run(self, plan: Plan | None = None, **more: Any) -> Result:
        """Carry out a plan."""
        return run(plan or self.plan(), self.home, **more)

    @property
    def editions(self) -> Editions:
        """The editions of the model."""
        return Editions.of(self.home, str(self.model), self.fingerprint)


def make_world(folder: Path, model: Path, edits: list[Edit]) -> World:
    """Build a world in ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    memory = Memory.open(folder / "edits.db", encoder=FixedEncoder())
    memory.add_many(edits, on_conflict="coexist")
    cases = folder / "cases.json"
    cases.write_text(json.dumps(case_rows(good_edits(), list(NEAR))), encoding="utf-8")
    lm = load(model)
    keep_statistics(lm)
    return World(model, memory, folder / "editions", cases, lm.fingerprint)


def keep_statistics(lm: LanguageModel) -> None:
    """Put second moments over the facts into the cache, with a little added so that they are regular."""
    home = cache_dir() / "stats" / lm.fingerprint[:16] / "facts-1000"
    if home.is_dir():
        return
    found = collect(lm, [0, 1, 2], facts())
    for layer in found.layers:
        matrix = found.moment(layer).matrix
        matrix = matrix + 0.01 * matrix.diagonal().mean() * torch.eye(len(matrix), dtype=matrix.dtype)
        meta = {"tokens": "1000", "source": "facts", "layer": str(layer)}
        write_tensors(home / f"layer-{layer}.safetensors", {"moment": matrix}, meta)


def weights_of(model: Path | LanguageModel) -> dict[str, torch.Tensor]:
    """A copy of all weights of a model, or of the one in a folder."""
    lm = load(model) if isinstance(model, Path) else model
    return {name: tensor.clone() for name, tensor in lm.model.state_dict().items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    """Whether two models are the same bit for bit."""
    return one.keys() == other.keys() and all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def child_environment() -> dict[str, str]:
    """What a process needs to run this package and these helpers."""
    here = Path(__file__).parent
    paths = [str(here.parents[2]), str(here), str(here.parent)]
    return {**os.environ, "PYTHONPATH": os.pathsep.join([*paths, os.environ.get("PYTHONPATH", "")])}
