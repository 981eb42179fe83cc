"""One evaluation run, put together from its parts: model, method, data, protocol, journal, results."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from corrigenda.cli.eval_show import progress_bar
from corrigenda.errors import EvaluationError

if TYPE_CHECKING:
    from corrigenda.cli.eval_methods import Method
    from corrigenda.cli.eval_settings import Sample, Settings
    from corrigenda.eval.asking import Budget, Columns
    from corrigenda.eval.case import Case
    from corrigenda.eval.contexts import Context
    from corrigenda.eval.datasets.tasks import Task
    from corrigenda.eval.extras import Extra
    from corrigenda.eval.journal import Journal
    from corrigenda.lm.loading import LanguageModel


@dataclass
class Evaluation:
    """A run: the data and the model, and what becomes of them under ``settings``.

    Attributes:
        settings: See there.
        sample: The data.
        lm: The model.
        shard: See :class:`corrigenda.eval.protocol.Run`.
    """

    settings: Settings
    sample: Sample
    lm: LanguageModel
    shard: tuple[int, int] = (1, 1)
    cases: Sequence[Case] = field(init=False)
    about: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        from corrigenda.eval import results

        self.cases = self.sample.cases
        if neighbours := self.settings.measures.distract:
            from corrigenda.eval.case import distracted

            self.cases = [distracted(case, neighbours) for case in self.cases]
        self.about = {
            "method": self.settings.method,
            "protocol": self.settings.schedule.protocol,
            "data": results.describe_data(self.sample.dataset, self.sample.limit, self.settings.seed),
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
        from corrigenda.eval.journal import Journal, journal_path
        from corrigenda.eval.results import Meter, save

        meter, started = Meter(), datetime.now(UTC)
        context = self._context()
        unedited = self._unedited(context, cache)
        tasks = self._tasks()
        options = self._options(tasks)
        with self._opened(unedited, context, None if out is None else _kept(out, fresh)) as method:
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
            journal.finish()
            shutil.rmtree(_kept(out, fresh), ignore_errors=True)  # of use to a run that was killed only
        return results

    def made(self, results: Mapping[str, Any]) -> bool:
        """Tell whether ``results`` are this run's: its data, its model and all its settings, the method's own too."""
        if any(results.get(name) != value for name, value in self.about.items()):
            return False
        context = self._context()
        with self._opened(self._unedited(context, cache=False), context) as method:
            settings = {**self._options(self._tasks()), **method.settings}
        return bool(results["settings"] == json.loads(json.dumps(settings)))

    def _score(
        self, method: Any, unedited: Any, journal: Journal, batch: int, tasks: tuple[Task, ...], quiet: bool
    ) -> None:
        from corrigenda.eval.protocol import Run

        schedule = self.settings.schedule
        with progress_bar(quiet) as report:
            if method.watch is not None:
                method.watch(report)
            Run(
                method.editable,
                unedited,
                self._budget(),
                protocol=schedule.protocol,
                columns=self._columns(),
                batch=batch,
                together=schedule.together,
                at_edit=schedule.at_edit,
                checkpoints=schedule.checkpoints,
                retracted=schedule.retracted,
                seed=self.settings.seed,
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

    def _opened(self, unedited: Any, context: Context, keep: Path | None = None) -> AbstractContextManager[Method]:
        from corrigenda.cli.eval_methods import open_method
        from corrigenda.eval.wordings import Asked

        return open_method(
            self.settings.method,
            self.lm,
            unedited,
            threshold=self.settings.threshold,
            expansion=self.settings.expansion,
            allowed=Asked(self.sample.dataset.cases).allows,
            context=context,
            seed=self.settings.seed,
            keep=keep,
        )

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

        measures = self.settings.measures
        return Columns(measures.forced, measures.success, measures.divergence, anywhere=self._context().chat)

    def _tasks(self) -> tuple[Task, ...]:
        from corrigenda.eval.datasets.tasks import load_task

        measures = self.settings.measures
        tasks = tuple(load_task(source).sample(measures.task_limit, self.settings.seed) for source in measures.tasks)
        names = [task.name for task in tasks]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise EvaluationError(f"the task {twice[0]} is given twice", remedy="Name one otherwise: choices=FILE.")
        return tasks

    def _extras(self) -> tuple[Extra, ...]:
        from corrigenda.eval.extras import Judge, Writing

        measures = self.settings.measures
        found: list[Extra] = []
        if measures.writing:
            found.append(Writing.over(self.sample.dataset.cases, texts=measures.writing, seed=self.settings.seed))
        if measures.judge is not None:
            from corrigenda.eval.editable import Bare
            from corrigenda.lm.loading import load

            found.append(Judge(Bare(load(measures.judge))))
        return tuple(found)

    def _options(self, tasks: Sequence[Task]) -> dict[str, Any]:
        """Return the settings as results files and journals hold them; the method adds its own."""
        schedule, measures, budget = self.settings.schedule, self.settings.measures, self._budget()
        names = ("forced", "success", "divergence", "writing", "distract")
        kept = {"context": self.settings.context, **{name: getattr(measures, name) for name in names}}
        if schedule.protocol == "batch":
            kept["together"] = schedule.together
        if schedule.protocol in ("sequential", "stream"):
            kept |= {"at_edit": schedule.at_edit, "checkpoints": list(schedule.checkpoints)}
        if schedule.protocol == "stream":
            kept["retracted"] = schedule.retracted
        return kept | {
            "max_new_tokens": {"locality": budget.locality, "least": budget.least, "slack": budget.slack},
            "judge": measures.judge,
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
