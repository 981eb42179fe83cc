"""The Ray engine: tasks of a job on the processes and machines of a Ray cluster.

Every worker process loads the base model once, from where the job loaded it, and checks that it is the same. The
weights that the job has changed since go to the workers through Ray's object store, once for each state of the job. A
lost worker is Ray's business: its tasks are run again by another.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from corrigenda.errors import MissingExtra, PlanOutdated
from corrigenda.param_editors.consolidation.engine import Task
from corrigenda.param_editors.update import digest

if TYPE_CHECKING:
    from corrigenda.lm.loading import LanguageModel

RETRIES = 5
"""How often a task whose worker was lost is run again."""
STORE_BYTES = 512 << 20
"""Shared memory of a cluster that is started here: the changed weights of a small model several times over."""


class RayEngine:
    """Runs tasks on Ray. A cluster that was not running is started on this machine, and stopped by :meth:`close`.

    Args:
        lm: The job's model, as it was loaded.
        source: What workers load it from.
        address: Of a running cluster; a new one on this machine by default.
        workers: Tasks at a time on a new cluster; one a core by default.

    Raises:
        MissingExtra: Ray is not installed.
    """

    name = "ray"

    def __init__(
        self, lm: LanguageModel, source: str, *, address: str | None = None, workers: int | None = None
    ) -> None:
        try:
            import ray
        except ImportError:
            raise MissingExtra.named("ray", "ray") from None
        self._ray = ray
        self._ours = not ray.is_initialized()
        if self._ours:
            options: dict[str, Any] = {"address": address} if address else _local(workers)
            ray.init(
                log_to_driver=False, logging_level=logging.ERROR, runtime_env={"env_vars": _environment()}, **options
            )
        self._about = (source, lm.fingerprint, str(lm.device), str(lm.dtype).removeprefix("torch."))
        gpus = 1 if lm.device.type == "cuda" else 0
        self._work = ray.remote(max_retries=RETRIES, num_cpus=1, num_gpus=gpus)(_work)
        self._state: tuple[str, Any] = ("", None)

    def run(self, task: Task, pieces: Sequence[Any], changed: Mapping[str, torch.Tensor]) -> Iterator[tuple[int, Any]]:
        """Yield (place, result) as tasks are done."""
        key, weights = self._put(changed)
        waiting = {
            self._work.remote(self._about, key, weights, task, piece): place for place, piece in enumerate(pieces)
        }
        while waiting:
            done, _ = self._ray.wait(list(waiting), num_returns=1)
            for reference in done:
                yield waiting.pop(reference), self._ray.get(reference)

    def close(self) -> None:
        """Stop the cluster, if it was started here."""
        self._state = ("", None)
        if self._ours:
            self._ray.shutdown()

    def _put(self, changed: Mapping[str, torch.Tensor]) -> tuple[str, Any]:
        """Put the changed weights where workers find them, unless they are there already."""
        key = ",".join(f"{name}={digest(weight)}" for name, weight in sorted(changed.items()))
        if key != self._state[0] or self._state[1] is None:
            weights = {name: weight.cpu().clone() for name, weight in changed.items()}
            self._state = (key, self._ray.put(weights))
        return self._state


class _Worker:
    """What a worker process keeps between tasks: the model, and which weights are in it."""

    def __init__(self) -> None:
        self.about: tuple[str, ...] = ()
        self.lm: Any = None
        self.originals: dict[str, torch.Tensor] = {}
        self.key = ""

    def model(self, about: tuple[str, ...], key: str, weights: Mapping[str, torch.Tensor]) -> LanguageModel:
        """Return the model with ``weights`` in it."""
        if about != self.about:
            self._load(about)
        if key != self.key:
            parameters = dict(self.lm.model.named_parameters())
            for name, original in self.originals.items():
                parameters[name].data.copy_(original)
            for name, weight in weights.items():
                self.originals.setdefault(name, parameters[name].data.clone())
                parameters[name].data.copy_(weight)
            self.key = key
        lm: LanguageModel = self.lm
        return lm

    def _load(self, about: tuple[str, ...]) -> None:
        from corrigenda.lm.loading import load

        torch.set_num_threads(1)  # a task is one core's work; there are as many tasks as cores
        source, fingerprint, device, dtype = about
        self.lm = load(source, device=device, dtype=dtype)
        if self.lm.fingerprint != fingerprint:
            raise PlanOutdated(
                f"{source} is another model on this worker than where the job runs",
                remedy="Put the same weights on every machine of the cluster.",
            )
        self.about, self.originals, self.key = about, {}, ""


_worker = _Worker()


def _work(about: tuple[str, ...], key: str, weights: Mapping[str, torch.Tensor], task: Task, piece: Any) -> Any:
    """Run one task in a worker process."""
    return task(_worker_of_this_process().model(about, key, weights), piece)


def _worker_of_this_process() -> _Worker:
    # Looked up by import: what Ray sends to a worker is a copy of the function, with globals of its own.
    from corrigenda.param_editors.consolidation import ray_engine

    return ray_engine._worker


def _local(workers: int | None) -> dict[str, Any]:
    return {
        "num_cpus": workers or os.cpu_count() or 1,
        "include_dashboard": False,
        "object_store_memory": STORE_BYTES,
    }


def _environment() -> dict[str, str]:
    """Return what workers need of this process's environment."""
    names = ("CORRIGENDA_CACHE", "XDG_CACHE_HOME", "HF_HOME", "PYTHONPATH")
    return {"OMP_NUM_THREADS": "1"} | {name: os.environ[name] for name in names if name in os.environ}
