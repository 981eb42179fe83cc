"""How evaluations look on a terminal: metrics, probes that went wrong, progress."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from corrigenda.cli.common import console, err_console, print_table
from corrigenda.eval.case import UNCHANGED_ROLES
from corrigenda.eval.metrics import METRICS

if TYPE_CHECKING:
    from corrigenda.eval.journal import Row
    from corrigenda.eval.protocol import Progress as Report


def show_metrics(results: dict[str, Any]) -> None:
    """Print the metrics of a results file, what could not be scored, and what it cost."""
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
        row = [name, _figure(metric["value"]), _error(metric), str(metric["n"]), str(metric["probes"])]
        rows.append([*row, str(metric["unscored"])] if missing else row)
    columns = ["metric", "value", "95 % interval", "edits", "probes"]
    print_table("", [*columns, "unscored"] if missing else columns, rows)
    for name, task in results.get("tasks", {}).items():
        before, after = _figure(task["before"]["value"]), _figure(task["after"]["value"])
        out.print(f"{escape(name)}: {before} → {after} with {task['live']} edits live", highlight=False)
    for reason, count in results.get("unscored", {}).items():
        out.print(f"[dim]unscored: {count} × {escape(reason)}[/]", highlight=False)
    out.print(
        f"[dim]{cost['wall_seconds']:.1f} s; {cost['cache_hits']:,} answers from the cache, "
        f"{cost['cache_misses']:,} new; peak memory {cost['peak_memory_mb'] or 0:,.0f} MB[/]",
        highlight=False,
    )


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _error(metric: dict[str, Any]) -> str:
    if metric.get("low") is None:
        return "" if metric["stderr"] is None else f"± {metric['stderr']:.4f}"
    return f"{metric['low']:.4f} – {metric['high']:.4f}"


def wrong_probes(rows: list[Row], failures: bool, unscored: bool, metric: str | None) -> list[dict[str, Any]]:
    """Return the probes that did not pass, or without a score, each with the metric concerned."""
    chosen = []
    for row in rows:
        for probe in row["probes"]:
            for name, value in probe["scores"].items():
                wanted = unscored if value is None else failures and not _passed(name, value)
                if wanted and metric in (None, name):
                    expected = ", ".join(probe["expected"]) if probe["role"] not in UNCHANGED_ROLES else "as before"
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


def _passed(metric: str, value: float) -> bool:
    """Tell whether a probe has the best score that ``metric`` knows."""
    meant = METRICS[metric]
    if not meant.higher_is_better:
        return round(value, 6) <= meant.least
    # Magnitudes and whatever has no upper end are not passed or failed: no figure of theirs is the right one.
    return meant.least < 0 or meant.most is None or value >= meant.most


def progress_bar(quiet: bool) -> AbstractContextManager[Report]:
    """Return a context that gives a progress report: a bar on a terminal, else silence."""
    target = err_console()
    if quiet or not target.is_terminal:
        return nullcontext(lambda stage, done, total: None)
    return _Bar()


_STAGES = {
    "before": "asking the unedited model",
    "edit": "making edits",
    "task": "scoring other tasks",
    "score": "scoring",
    "statistics": "reading text for statistics",
    "sampling": "sampling text for statistics",
    "values": "finding values",
    "layers": "writing layers",
    "edits": "writing edits",
    "epochs": "training",
}


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
            self._tasks[stage] = self._bar.add_task(_STAGES.get(stage, stage))
        self._bar.update(self._tasks[stage], completed=done, total=total)
