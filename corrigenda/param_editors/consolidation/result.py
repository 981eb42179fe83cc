"""What a job came to, as it lies in its folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from corrigenda.edit import EditId
from corrigenda.errors import PlanOutdated
from corrigenda.param_editors.consolidation.durable import read_json
from corrigenda.param_editors.consolidation.editions import Editions


@dataclass(frozen=True)
class Result:
    """What a job came to.

    Attributes:
        job: Its id.
        kept: Edits that are in the weights and hold, in the order of the plan.
        dropped: Why the others are not, by id.
        batches: Files of consolidations in the job's folder, in the order of printing, with their sha256.
        figures: The gate's figures for what was kept, by name: before, after, asked.
        faults: Thresholds that are missed even so; there is nothing to promote then.
        trials: Sets that were printed and judged.
        seconds: Wall time by stage, of the run that did the work.
    """

    job: str
    kept: tuple[str, ...]
    dropped: Mapping[EditId, str]
    batches: tuple[tuple[str, str], ...]
    figures: Mapping[str, Mapping[str, float]]
    faults: tuple[str, ...]
    trials: int
    seconds: Mapping[str, float]

    @property
    def passed(self) -> bool:
        """Whether there is something to promote."""
        return bool(self.kept) and not self.faults

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> Result:
        """Build from the JSON object of ``result.json``."""
        batches = tuple((name, digest) for name, digest in row["batches"])
        return cls(**{**row, "kept": tuple(row["kept"]), "batches": batches, "faults": tuple(row["faults"])})


def read_result(editions: Editions, job: str) -> Result:
    """Return what a finished job came to. Raises :class:`PlanOutdated` when it is not finished."""
    path = editions.jobs / job / "result.json"
    if not path.is_file():
        raise PlanOutdated(f"the job {job} is not finished", remedy="corrigenda consolidate run PLAN")
    return Result.from_dict(read_json(path))
