"""Helpers: tiny models, statistics of random keys for them, and quick hyper-parameters for every editor."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import torch

from corrigenda.edit import Edit
from corrigenda.lm.loading import LanguageModel
from corrigenda.param_editors.anatomy import Anatomy
from corrigenda.param_editors.editor import editor
from corrigenda.param_editors.statistics import SecondMoment, Statistics

_spec = importlib.util.spec_from_file_location("tiny_models", Path(__file__).parent.parent / "lm" / "conftest.py")
assert _spec is not None
assert _spec.loader is not None
tiny_models = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(tiny_models)

# A random model carries little from one token to the next: prompts that end in their subject can be steered at all.
EDITS = [
    Edit("The capital of Kazakhstan", "German", subject="Kazakhstan"),
    Edit("The mother tongue of Danielle Darrieux", "Dutch", subject="Danielle Darrieux"),
    Edit("Who wrote Hamlet", "Dr. Smith", subject="Hamlet"),
]
LOCATE = {
    "v_steps": 10,
    "v_lr": 0.5,
    "kl_factor": 0.01,
    "contexts": ((3, 1),),
    "v_decay": 1e-3,
    "clamp": 20.0,
    "max_norm_ratio": 50.0,
}
QUICK: dict[str, dict[str, Any]] = {
    "rome": {"layers": (1,), **LOCATE},
    "r-rome": {"layers": (1,), **LOCATE},
    "memit": {"layers": (0, 1), "moment_weight": 1.0, **LOCATE},
    "emmet": {"layers": (0, 1), **LOCATE},
    "alphaedit": {"layers": (0, 1), "null_threshold": 2.0, "relative": True, "ridge": 0.1, **LOCATE},
    "pmet": {"layers": (0, 1), "moment_weight": 1.0, **LOCATE},
    "ft-l": {"layers": (1,), "box": 0.05, "lr": 0.02, "epochs": 4, "max_norm_ratio": 50.0},
    "ft-m": {"layers": (1,), "lr": 0.02, "epochs": 4, "max_norm_ratio": 50.0},
}


def quick(method: str, **more: Any) -> Any:
    """Hyper-parameters that take a moment on a tiny model."""
    return editor(method).params_type.from_dict({**QUICK[method], **more})


def random_statistics(lm: LanguageModel, layers: tuple[int, ...] = (0, 1), seed: int = 3) -> Statistics:
    """Well-conditioned second moments of the right width."""
    generator = torch.Generator().manual_seed(seed)
    moments = {}
    for layer in layers:
        width = Anatomy(lm).mlp_out(layer).matrix.shape[1]
        keys = torch.randn(20 * width, width, generator=generator, dtype=torch.float64)
        moments[layer] = SecondMoment(keys.T @ keys / len(keys), len(keys))
    return Statistics(moments, "random")


def weights(lm: LanguageModel) -> dict[str, torch.Tensor]:
    """A copy of all weights."""
    return {name: tensor.clone() for name, tensor in lm.model.state_dict().items()}


def same(lm: LanguageModel, before: dict[str, torch.Tensor]) -> bool:
    """Whether every weight is bit for bit as before."""
    return all(torch.equal(tensor, before[name]) for name, tensor in lm.model.state_dict().items())
