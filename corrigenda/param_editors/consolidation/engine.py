"""Engines: where the tasks of a job run. A task is a plain function of a model and a piece of work."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import torch

from corrigenda.errors import UnknownName

if TYPE_CHECKING:
    from corrigenda.lm.loading import LanguageModel

Task = Callable[["LanguageModel", Any], Any]
"""A function at the top of a module; it may look at the model but leaves it as it is."""

ENGINES = ("local", "ray")


class Engine(Protocol):
    """Runs tasks on the model of a job, as it is now.

    Attributes:
        name: One of :data:`ENGINES`.
    """

    name: str

    def run(self, task: Task, pieces: Sequence[Any], changed: Mapping[str, torch.Tensor]) -> Iterator[tuple[int, Any]]:
        """Yield (place, result) for each of ``pieces``, in any order, as they are done.

        Args:
            task: What to do.
            pieces: What to do it on; the same pieces give the same results on every engine.
            changed: Weights in which the model now differs from the one that was loaded, by name.
        """
        ...

    def close(self) -> None:
        """Let go of workers."""
        ...


class LocalEngine:
    """Runs tasks one after the other in this process.

    Args:
        lm: The job's own model: what the job writes into it, tasks see.
    """

    name = "local"

    def __init__(self, lm: LanguageModel) -> None:
        self.lm = lm

    def run(self, task: Task, pieces: Sequence[Any], changed: Mapping[str, torch.Tensor]) -> Iterator[tuple[int, Any]]:
        """Yield (place, result) in order."""
        for place, piece in enumerate(pieces):
            yield place, task(self.lm, piece)

    def close(self) -> None:
        """Do nothing."""


def in_order(results: Iterator[tuple[int, Any]]) -> list[Any]:
    """Return the results of :meth:`Engine.run` in the order of the pieces."""
    return [result for _, result in sorted(results, key=lambda pair: pair[0])]


def pieces_of(items: Sequence[Any], size: int) -> list[tuple[Any, ...]]:
    """Cut ``items`` into pieces of ``size``, the last one shorter."""
    return [tuple(items[start : start + size]) for start in range(0, len(items), size)]


def start_engine(name: str, lm: LanguageModel, source: str, *, address: str | None = None) -> Engine:
    """Return the engine called ``name`` for a job on ``lm``.

    Args:
        name: One of :data:`ENGINES`.
        lm: The job's model, as it was loaded.
        source: What it was loaded from; workers on other machines load it from there.
        address: Of a running Ray cluster; by default one is started on this machine.

    Raises:
        UnknownName: No such engine.
        MissingExtra: Ray is not installed.
    """
    if name == "local":
        return LocalEngine(lm)
    if name == "ray":
        from corrigenda.param_editors.consolidation.ray_engine import RayEngine

        return RayEngine(lm, source, address=address)
    raise UnknownName.among("engine", name, list(ENGINES))
