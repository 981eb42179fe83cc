"""How long a bigger run will take, from a measured one."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Throughput:
    """What was measured, in seconds of one worker.

    Attributes:
        target: To find the value target of an edit.
        key: To collect the keys of an edit in one trial, over all layers.
        solve: Linear algebra of one trial, at ``batch`` edits.
        question: To ask the gate one question.
        batch: Edits of a batch when that was measured.
        trials: Trials a batch, on average.
    """

    target: float
    key: float
    solve: float
    question: float
    batch: int
    trials: float


def project(
    measured: Throughput, edits: int, *, batch: int, questions: int, workers: int = 1, efficiency: float = 1.0
) -> dict[str, float]:
    """Return seconds by stage, and in total, for a run of ``edits``.

    Targets, keys and questions are spread over workers; the linear algebra is the driver's, and grows with the square
    of the batch (its cube only where a batch has more edits than keys have dimensions, where it stops growing).

    Args:
        measured: See :class:`Throughput`.
        edits: How many.
        batch: Edits of a batch.
        questions: What the gate asks besides the edits themselves, each trial and once before.
        workers: Tasks at a time, 1 and more.
        efficiency: What a worker does beside others of what it does alone, 0…1.
    """
    batches = math.ceil(edits / batch)
    spread = 1 / (workers * (efficiency if workers > 1 else 1.0))
    tried = measured.trials * batches
    # Of a job of several batches, every trial asks after all edits kept so far: half of them, on average.
    asked = questions * (tried + 1) + measured.trials * sum(min((n + 1) * batch, edits) for n in range(batches))
    stages = {
        "targets": measured.target * edits * spread,
        "keys": measured.key * edits * measured.trials * spread,
        "solve": measured.solve * (batch / measured.batch) ** 2 * tried,
        "gate": measured.question * asked * spread,
    }
    return {**stages, "total": sum(stages.values())}
