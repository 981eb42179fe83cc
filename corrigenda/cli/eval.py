"""``corrigenda eval``: score editing methods, look at what was answered."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from corrigenda.cli.common import (
    DEFAULT_MODEL,
    AsJson,
    ModelName,
    console,
    err_console,
    print_json,
    print_table,
    with_status,
)

if TYPE_CHECKING:
    from corrigenda.eval.case import Case
    from corrigenda.eval.datasets import Dataset
    from corrigenda.eval.journal import Row
    from corrigenda.eval.protocol import Progress as Report
    from corrigenda.lm.loading import LanguageModel

app = typer.Typer(no_args_is_help=True)

Data = Annotated[str, typer.Option("--data", "-d", help="A dataset file, or 'builtin'.")]
Format = Annotated[str | None, typer.Option("--format", help="Its format; by default told from the first record.")]
Limit = Annotated[int | None, typer.Option(min=1, help="Score a sample of so many records.", show_default="all")]
Out = Annotated[Path | None, typer.Option("--out", "-o", help="Where the results go; a journal is kept next to it.")]
Results = Annotated[Path, typer.Argument(help="A results file.")]


@app.command()
def run(
    data: Data = "builtin",
    method: Annotated[str, typer.Option(help="none, a strategy (auto, ike, …), an editor (rome, …).")] = "auto",
    protocol: Annotated[
        Literal["single", "sequential"], typer.Option(help="One edit at a time, or all of them live.")
    ] = "single",
    limit: Limit = None,
    seed: Annotated[int, typer.Option(help="Decides which records the sample holds, and their order.")] = 0,
    out: Out = None,
    format: Format = None,
    teacher_forced: Annotated[bool, typer.Option(help="Score with the right tokens given, as well.")] = True,
    threshold: Annotated[float | None, typer.Option(min=0, max=1, help="Probability from which an edit fires.")] = None,
    locality_tokens: Annotated[int, typer.Option(min=1, max=256, help="Tokens of a locality answer.")] = 8,
    batch: Annotated[int, typer.Option(min=1, help="Cases a batch; a kill loses at most one.")] = 16,
    cache: Annotated[bool, typer.Option(help="Keep the bare model's answers for later runs.")] = True,
    fresh: Annotated[bool, typer.Option("--fresh/--resume", help="Begin anew, or go on where a run stopped.")] = False,
    model: ModelName = DEFAULT_MODEL,
    as_json: AsJson = False,
) -> None:
    """Score a method: make edits, ask the probes, undo."""
    from corrigenda.eval.case import sample
    from corrigenda.eval.datasets import load
    from corrigenda.lm.loading import load as load_model

    dataset = load(data, format)
    cases = sample(dataset.cases, limit, seed)
    lm = with_status(f"loading {model}", lambda: load_model(model), quiet=as_json)
    options = {
        "max_new_tokens": {"locality": locality_tokens, "least": 8, "slack": 4},
        "teacher_forced": teacher_forced,
    }
    evaluation = _Evaluation(dataset, cases, limit, seed, lm, method, protocol, options)
    results = evaluation.run(out, threshold=threshold, batch=batch, cache=cache, fresh=fresh, quiet=as_json)
    if as_json:
        print_json(results)
    else:
        _show_metrics(results)


class _Evaluation:
    """The parts of one run, put together."""

    def __init__(
        self,
        dataset: Dataset,
        cases: list[Case],
        limit: int | None,
        seed: int,
        lm: LanguageModel,
        method: str,
        protocol: Literal["single", "sequential"],
        options: dict[str, Any],
    ) -> None:
        from corrigenda.eval import results
        from corrigenda.eval.scoring import Budget

        self.cases = cases
        self.lm = lm
        self.method = method
        self.protocol: Literal["single", "sequential"] = protocol
        self.options = options
        self.budget = Budget(self._count, locality=options["max_new_tokens"]["locality"])
        self.about = {
            "method": method,
            "protocol": protocol,
            "data": results.describe_data(dataset, limit, seed),
            "edits": results.describe_edits(cases),
            "model": {
                "name": lm.name,
                "fingerprint": lm.fingerprint,
                "dtype": str(lm.dtype).removeprefix("torch."),
                "device": str(lm.device),
            },
            "versions": results.versions(),
            "commit": results.commit(),
        }

    def run(
        self, out: Path | None, *, threshold: float | None, batch: int, cache: bool, fresh: bool, quiet: bool
    ) -> dict[str, Any]:
        """Score; write the results to ``out``; return them."""
        from corrigenda.cli.eval_methods import open_method
        from corrigenda.eval.cache import Cached, cache_file
        from corrigenda.eval.editable import Bare
        from corrigenda.eval.journal import Journal, journal_path
        from corrigenda.eval.protocol import Run
        from corrigenda.eval.results import save
        from corrigenda.lm.stopping import NATURAL
        from corrigenda.paths import cache_dir

        started, clock = datetime.now(UTC), time.perf_counter()
        kept = cache_file(cache_dir(), self.lm.fingerprint, (NATURAL, str(self.lm.device))) if cache else None
        unedited = Cached(Bare(self.lm), kept)
        with open_method(self.method, self.lm, unedited, threshold=threshold) as method:
            settings = {**self.options, **method.settings}
            journal = Journal()
            if out is not None:
                journal = Journal.open(journal_path(out), {**self.about, "settings": settings}, fresh=fresh)
            resumed = len(journal.rows)
            with _bar(quiet) as report:
                rows = Run(
                    method.editable,
                    unedited,
                    self.budget,
                    protocol=self.protocol,
                    forced=self.options["teacher_forced"],
                    batch=batch,
                    journal=journal,
                    collecting=method.collecting,
                    progress=report,
                )(self.cases)
        results = self._results(rows, resumed, settings, journal.path)
        results["started"] = started.isoformat(timespec="seconds")
        results["cost"] |= {
            "wall_seconds": round(time.perf_counter() - clock, 3),
            "cache_hits": unedited.hits,
            "cache_misses": unedited.misses,
        }
        if out is not None:
            save(results, out)
        return results

    def _results(self, rows: list[Row], resumed: int, settings: dict[str, Any], journal: Path | None) -> dict[str, Any]:
        from corrigenda.eval.results import KIND, count_answers, peak_memory_mb, summarise

        peak = peak_memory_mb()
        return {
            "schema": KIND,
            **self.about,
            **summarise(rows),
            "cases": {
                "total": len(rows),
                "failed": sum("failure" in row for row in rows),
                "resumed": resumed,
            },
            "settings": settings,
            "cost": {
                "scoring_seconds": round(sum(row["seconds"] for row in rows), 3),
                "peak_memory_mb": None if peak is None else round(peak, 1),
                "generated_tokens": count_answers(rows, self._count),
            },
            "journal": None if journal is None else journal.name,
        }

    def _count(self, text: str) -> int:
        return len(self.lm.tokenizer(text, add_special_tokens=False).input_ids)


@app.command()
def show(
    results: Results,
    failures: Annotated[bool, typer.Option("--failures", help="List probes that did not pass.")] = False,
    unscored: Annotated[bool, typer.Option("--unscored", help="List probes that could not be scored.")] = False,
    metric: Annotated[str | None, typer.Option(help="Only of this metric, e.g. locality.")] = None,
    most: Annotated[int, typer.Option("--most", min=1, help="List so many at most.")] = 40,
    as_json: AsJson = False,
) -> None:
    """Show a results file; with --failures also what was asked and answered."""
    from corrigenda.eval import results as files
    from corrigenda.eval.journal import read_rows

    found = files.load(results)
    if not failures and not unscored:
        print_json(found) if as_json else _show_metrics(found)
        return
    rows = read_rows(results.with_name(found["journal"] or f"{results.stem}.journal.jsonl"))
    chosen = _probes(rows, failures, unscored, metric)[:most]
    if as_json:
        print_json(chosen)
        return
    columns = ("case", "metric", "prompt", "expected", "before", "after")
    print_table(
        f"{len(chosen)} probes of {results.name}",
        columns,
        [tuple(str(row.get(column, "")) for column in columns) for row in chosen],
    )


def _probes(rows: list[Row], failures: bool, unscored: bool, metric: str | None) -> list[dict[str, Any]]:
    """Return the probes with a score below 1, or without one, each with the metric concerned."""
    chosen = []
    for row in rows:
        for probe in row["probes"]:
            for name, value in probe["scores"].items():
                wanted = unscored if value is None else failures and value < 1
                if wanted and metric in (None, name):
                    expected = ", ".join(probe["expected"]) if probe["role"] != "locality" else "as before"
                    reason = probe.get("unscored", {}).get(name)
                    chosen.append(
                        {
                            "case": row["case"],
                            "metric": name,
                            "score": value,
                            "prompt": probe["prompt"],
                            "expected": expected,
                            **{key: probe[key] for key in ("before", "after") if key in probe},
                            **({"after": reason, "reason": reason} if reason else {}),
                        }
                    )
    return chosen


def _show_metrics(results: dict[str, Any]) -> None:
    data, cases, cost = results["data"], results["cases"], results["cost"]
    out = console()
    out.print(
        f"[bold]{escape(results['method'])}[/] on {escape(results['model']['name'])}, {escape(data['name'])}: "
        f"{cases['total']} cases, {results['protocol']}, seed {data['seed']}",
        highlight=False,
    )
    missing = any(metric["unscored"] for metric in results["metrics"].values())
    rows = []
    for name, metric in results["metrics"].items():
        value = "-" if metric["value"] is None else f"{metric['value']:.4f}"
        error = "" if metric["stderr"] is None else f"± {metric['stderr']:.4f}"
        row = [name, value, error, str(metric["n"]), str(metric["probes"])]
        rows.append([*row, str(metric["unscored"])] if missing else row)
    columns = ["metric", "value", "stderr", "edits", "probes"]
    print_table("", [*columns, "unscored"] if missing else columns, rows)
    for reason, count in results.get("unscored", {}).items():
        out.print(f"[dim]unscored: {count} × {escape(reason)}[/]", highlight=False)
    out.print(
        f"[dim]{cost['wall_seconds']:.1f} s; {cost['cache_hits']:,} answers from the cache, "
        f"{cost['cache_misses']:,} new; peak memory {cost['peak_memory_mb'] or 0:,.0f} MB[/]",
        highlight=False,
    )


def _bar(quiet: bool) -> AbstractContextManager[Report]:
    """Return a context that gives a progress report: a bar on a terminal, else silence."""
    target = err_console()
    if quiet or not target.is_terminal:
        return nullcontext(lambda stage, done, total: None)
    return _Bar()


_STAGES = {"before": "asking the unedited model", "edit": "making edits", "score": "scoring"}


class _Bar:
    """A progress bar a stage, on standard error."""

    def __init__(self) -> None:
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=err_console(),
        )
        self._tasks: dict[str, Any] = {}

    def __enter__(self) -> Report:
        self._bar.start()
        return self._report

    def __exit__(self, *exc: object) -> None:
        self._bar.stop()

    def _report(self, stage: str, done: int, total: int) -> None:
        if stage not in self._tasks:
            self._tasks[stage] = self._bar.add_task(_STAGES[stage])
        self._bar.update(self._tasks[stage], completed=done, total=total)
