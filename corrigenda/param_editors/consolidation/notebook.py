"""Notebook: what a job has worked out, so that a killed one goes on where it was.

A job is a deterministic function of its plan, and every expensive step of it is looked up here before it is done. To
resume is to run again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from corrigenda.param_editors.consolidation.durable import read_json, write_json
from corrigenda.param_editors.files import read_tensors, write_tensors


class Notebook:
    """Results of steps, by name, in a folder. A note is there as a whole or not at all.

    Args:
        folder: Where they lie; made when something is noted.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.recalled = 0
        """Steps that did not have to be done."""

    def has(self, name: str) -> bool:
        """Tell whether the result of the step ``name`` is noted."""
        return (self.folder / f"{name}.json").is_file()

    def value(self, name: str, work: Callable[[], Any]) -> Any:
        """Return the JSON-ready result of the step ``name``; ``work`` is only called where it is not noted."""
        path = self.folder / f"{name}.json"
        if self.has(name):
            self.recalled += 1
            return read_json(path)
        found = work()
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(path, found)
        return json.loads(json.dumps(found))  # the same as the next run will read

    def tensors(self, name: str) -> dict[str, torch.Tensor] | None:
        """Return the tensors noted as ``name``, or ``None``."""
        try:
            found, _ = read_tensors(self.folder / f"{name}.safetensors")
        except (OSError, SafetensorError):
            return None
        self.recalled += 1
        return found

    def keep_tensors(self, name: str, tensors: dict[str, torch.Tensor]) -> None:
        """Note tensors."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_tensors(self.folder / f"{name}.safetensors", tensors, {})


def content_key(*parts: Any) -> str:
    """Return a short name for what JSON-ready ``parts`` say: 16 hexadecimal digits."""
    text = json.dumps(parts, ensure_ascii=False, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
