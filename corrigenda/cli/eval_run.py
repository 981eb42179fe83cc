"""One evaluation run, put together from its parts: model, method, data, protocol, journal, results."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from corrigenda.cli.eval_show import progress_bar
from corrigenda.cli.expanding import Sources
from corrigenda.errors import EvaluationError
from corrigenda.eval.protocol import Name

if TYPE_CHECKING:
    from corrigenda.eval.asking import Budget, Columns
    from corrigenda.eval.case import Case
    from corrigenda.eval.contexts import Context
    from corrigenda.eval.datasets import Dataset
    from corrigenda.eval.datasets.tasks import Task
    from corrigenda.eval.extras import Extra
    from corrigenda.eval.journal import Journal
    from corrigenda.lm.loading import LanguageModel


@dataclass(frozen=True)
class Settings:
    """What a run is to do; everything that its figures depend on besides model and data.

    Attributes:
        method: See :func:`corrigenda.cli.eval_methods.known_methods`.
        protocol: See :mod:`corrigenda.eval.protocol`; the next five belong to it.
        context: See :mod:`corrigenda.eval.contexts`.
        forced, success, divergence: Columns; see :class:`corrigenda.eval.asking.Columns`.
        writing: Texts a case that are written for fluency and consistency; 0 for none.
        distract: Neighbours a case that are asked once more with the edit's statement in front.
        judge: Name of the model that judges answers, if any.
        task_limit: Questions of each other task.
        threshold: Of the scope classifier.
        expansion: What is added with each edit, for strategies.
        locality_tokens: Tokens of an answer that is compared with an earlier one.
    """

    method: str
    protocol: Name = "single"
    together: int = 10
    at_edit: int = 100
    checkpoints: tuple[int, ...] = ()
    retracted: float = 0.0
    context: str = "completion"
    forced: bool = True
    success: bool = False
    divergence: bool = False
    writing: int = 0
    distract: int = 0
    judge: str | None = None
    tasks: tuple[str, ...] = ()
    task_limit: int | None = 200
    threshold: float | None = None
    expansion: Sources = field(default_factory=Sources)
    locality_tokens: int = 8
    seed: int = 0


@dataclass
class Evaluation:
    """A run: the data and the model, and what becomes of them under ``settings``.

    Attributes:
        settings: See there.
        dataset: Where the cases are from.
        cases: The sample, in the order of the edits.
        limit: Size of the sample that was asked for.
        lm: The model.
        shard: See :class:`corrigenda.eval.protocol.Run`.
    """

    settings: Settings
    dataset: Dataset
    cases: Sequence[Case]
    limit: int | None
    lm: LanguageModel
    shard: tuple[int, int] = (1, 1)
    about: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        from corrigenda.eval import results

        if self.settings.distract:
            from corrigenda.eval.case import distracted

            self.cases = [distracted(case, self.settings.distract) for case in self.cases]
        self.about = {
            "method": self.settings.method,
            "protocol": self.settings.protocol,
            "data": results.describe_data(self.dataset, self.limit, self.settings.seed),
            "edits": results.describe_edits(self.cases),
            "model": {
                "name": self.lm.name,
                "fingerprint": self.lm.fingerprint,
                "dtype": str(self.lm.dtype).removeprefix("torch."),
                "device": str(self.lm.device),
            },
            "shard": list(self.shard),
        }

    def run(self, out: Path | None, *, batch: int, cache: bool, fresh: bool, quiet: bool) -> dict[str, Any]:
        """Score; write the results to ``out``; return them."""
        from corrigenda.cli.eval_methods import open_method
        from corrigenda.eval.journal import Journal, journal_path
        from corrigenda.eval.results import Meter, save

        meter, started = Meter(), datetime.now(UTC)
        context = self._context()
        unedited = self._unedited(context, cache)
        tasks = self._tasks()
        options = self._options(tasks)
        opened = open_method(
            self.settings.method,
            self.lm,
            unedited,
            threshold=self.settings.threshold,
            expansion=self.settings.expansion,
            context=context,
            seed=self.settings.seed,
            keep=None if out is None else _kept(out, fresh),
        )
        with opened as method:
            settings = {**options, **method.settings}
            journal = Journal()
            if out is not None:
                journal = Journal.open(journal_path(out), {**self.about, "settings": settings}, fresh=fresh)
            resumed = len(journal.rows)
            self._score(method, unedited, journal, batch, tasks, quiet)
        results = self._results(journal, resumed, settings)
        results["started"] = started.isoformat(timespec="seconds")
        results["cost"] |= {**meter.read(), "cache_hits": unedited.hits, "cache_misses": unedited.misses}
        if out is not None:
            save(results, out)
            shutil.rmtree(_kept(out, fresh), ignore_errors=True)  # of use to a run that was killed only
        return results

    def _score(
        self, method: Any, unedited: Any, journal: Journal, batch: int, tasks: tuple[Task, ...], quiet: bool
    ) -> None:
        from corrigenda.eval.protocol import Run

        settings = self.settings
        with progress_bar(quiet) as report:
            if method.watch is not None:
                method.watch(report)
            Run(
                method.editable,
                unedited,
                self._budget(),
                protocol=settings.protocol,
                columns=self._columns(),
                batch=batch,
                together=settings.together,
                at_edit=settings.at_edit,
                checkpoints=settings.checkpoints,
                retracted=settings.retracted,
                seed=settings.seed,
                shard=self.shard,
                tasks=tasks,
                extras=self._extras(),
                journal=journal,
                collecting=method.collecting,
                progress=report,
            )(self.cases)

    # The parts

    def _context(self) -> Context:
        from corrigenda.eval.contexts import context

        return context(self.settings.context)

    def _unedited(self, context: Context, cache: bool) -> Any:
        from corrigenda.eval.cache import Cached, cache_file
        from corrigenda.eval.editable import Bare
        from corrigenda.lm.stopping import NATURAL
        from corrigenda.paths import cache_dir

        decoding: tuple[object, ...] = (NATURAL, str(self.lm.device))
        if context.chat:
            decoding = (*decoding, context)
        kept = cache_file(cache_dir(), self.lm.fingerprint, decoding) if cache else None
        return Cached(Bare(self.lm, context=context), kept)

    def _budget(self) -> Budget:
        from corrigenda.eval.asking import Budget
        from corrigenda.eval.contexts import CONVERSATION_TOKENS

        least = CONVERSATION_TOKENS if self._context().chat else 8
        return Budget(self._count, locality=self.settings.locality_tokens, least=least)

    def _columns(self) -> Columns:
        from corrigenda.eval.asking import Columns

        settings = self.settings
        return Columns(settings.forced, settings.success, settings.divergence, anywhere=self._context().chat)

    def _tasks(self) -> tuple[Task, ...]:
        from corrigenda.eval.datasets.tasks import load_task

        tasks = tuple(
            load_task(source).sample(self.settings.task_limit, self.settings.seed) for source in self.settings.tasks
        )
        names = [task.name for task in tasks]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise EvaluationError(f"the task {twice[0]} is given twice", remedy="Name one otherwise: choices=FILE.")
        return tasks

    def _extras(self) -> tuple[Extra, ...]:
        from corrigenda.eval.extras import Judge, Writing

        found: list[Extra] = []
        if self.settings.writing:
            found.append(Writing.over(self.dataset.cases, texts=self.settings.writing, seed=self.settings.seed))
        if self.settings.judge is not None:
            from corrigenda.eval.editable import Bare
            from corrigenda.lm.loading import load

            found.append(Judge(Bare(load(self.settings.judge))))
        return tuple(found)

    def _options(self, tasks: Sequence[Task]) -> dict[str, Any]:
        """Return the settings as results files and journals hold them; the method adds its own."""
        given = asdict(self.settings)
        budget = self._budget()
        kept = {name: given[name] for name in ("context", "forced", "success", "divergence", "writing", "distract")}
        if self.settings.protocol == "batch":
            kept["together"] = given["together"]
        if self.settings.protocol in ("sequential", "stream"):
            kept |= {"at_edit": given["at_edit"], "checkpoints": list(given["checkpoints"])}
        if self.settings.protocol == "stream":
            kept["retracted"] = given["retracted"]
        return kept | {
            "max_new_tokens": {"locality": budget.locality, "least": budget.least, "slack": budget.slack},
            "judge": given["judge"],
            "tasks": [{"name": t.name, "file": t.file, "sha256": t.sha256, "n": len(t.questions)} for t in tasks],
        }

    def _results(self, journal: Journal, resumed: int, settings: dict[str, Any]) -> dict[str, Any]:
        from corrigenda.eval import results

        rows = journal.rows
        return {
            "schema": results.KIND,
            **self.about,
            "versions": results.versions(),
            "commit": results.commit(),
            **results.summarise(rows, journal.notes, [case.id for case in self.cases]),
            "cases": results.count_cases(rows, resumed),
            "settings": settings,
            "cost": results.cost_of(rows, self._count),
            "journal": None if journal.path is None else journal.path.name,
        }

    def _count(self, text: str) -> int:
        return len(self.lm.tokenizer(text, add_special_tokens=False).input_ids)


def _kept(out: Path, fresh: bool) -> Path:
    """Return the folder next to ``out`` for what editors of weights find on the way; emptied for a fresh run."""
    folder = out.with_name(f"{out.stem}.edits")
    if fresh:
        shutil.rmtree(folder, ignore_errors=True)
    return folder
