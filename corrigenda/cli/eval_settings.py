"""What an evaluation is asked to do: values that ``eval run`` and ``eval table`` build and ``eval_run`` carries out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from corrigenda.cli.expanding import Sources
from corrigenda.eval.protocol import Name

if TYPE_CHECKING:
    from corrigenda.eval.case import Case
    from corrigenda.eval.datasets import Dataset


@dataclass(frozen=True)
class Schedule:
    """When edits are made and asked about; see :class:`corrigenda.eval.protocol.Run`."""

    protocol: Name = "single"
    together: int = 10
    at_edit: int = 100
    checkpoints: tuple[int, ...] = ()
    retracted: float = 0.0


@dataclass(frozen=True)
class Measures:
    """What is scored besides the generated answers.

    Attributes:
        forced, success, divergence: Columns; see :class:`corrigenda.eval.asking.Columns`.
        writing: Texts a case that are written for fluency and consistency; 0 for none.
        distract: Neighbours a case that are asked once more with the edit's statement in front.
        judge: Name of the model that judges answers, if any.
        tasks: Files of other tasks.
        task_limit: Questions of each other task.
    """

    forced: bool = True
    success: bool = False
    divergence: bool = False
    writing: int = 0
    distract: int = 0
    judge: str | None = None
    tasks: tuple[str, ...] = ()
    task_limit: int | None = 200


@dataclass(frozen=True)
class Settings:
    """Everything that the figures of a run depend on besides model and data.

    Attributes:
        method: See :func:`corrigenda.cli.eval_methods.known_methods`.
        schedule: See there.
        measures: See there.
        context: See :mod:`corrigenda.eval.contexts`.
        threshold: Of the scope classifier.
        expansion: What is added with each edit; see :func:`corrigenda.cli.eval_methods.open_method`.
        locality_tokens: Tokens of an answer that is compared with an earlier one.
        seed: Of the sample, and of whatever else is drawn.
    """

    method: str
    schedule: Schedule = field(default_factory=Schedule)
    measures: Measures = field(default_factory=Measures)
    context: str = "completion"
    threshold: float | None = None
    expansion: Sources = field(default_factory=Sources)
    locality_tokens: int = 8
    seed: int = 0


@dataclass(frozen=True)
class Sample:
    """Records of a dataset.

    Attributes:
        dataset: Where they are from.
        cases: They, in the order of the edits.
        limit: How many were asked for; all, by default.
    """

    dataset: Dataset
    cases: Sequence[Case]
    limit: int | None = None

    @classmethod
    def read(cls, source: str, limit: int | None, seed: int, format: str | None = None) -> Sample:
        """Draw ``limit`` records of ``source``, see :func:`corrigenda.eval.datasets.load`."""
        from corrigenda.eval.case import sample
        from corrigenda.eval.datasets import load

        dataset = load(source, format)
        return cls(dataset, sample(dataset.cases, limit, seed), limit)
