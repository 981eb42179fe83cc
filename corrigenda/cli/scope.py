"""``corrigenda scope``: train, evaluate and calibrate the scope classifier."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any

import typer

from corrigenda.cli.common import (
    DEFAULT_MEMORY,
    AsJson,
    MemoryPath,
    check_output,
    console,
    err_console,
    open_memory,
    print_json,
    print_table,
)
from corrigenda.cli.scope_live import live

app = typer.Typer(no_args_is_help=True)
app.command("live")(live)

PairsFile = Annotated[Path, typer.Option("--pairs", help="JSON lines with edit, query, label and kind.")]
Weights = Annotated[Path | None, typer.Option(help="Folder of a classifier; the one of the package by default.")]


@app.command()
def train(
    pairs: PairsFile,
    out: Annotated[Path, typer.Option(help="Folder for the weights.")],
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the pairs.")] = 2,
    seed: Annotated[int, typer.Option(help="Same seed, same classifier.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Train the classifier on labelled pairs; needs the extra 'train'. An interrupted run goes on where it stopped."""
    from corrigenda.memory.scope_pairs import read_pairs
    from corrigenda.memory.scope_training import Recipe, train

    report = train(
        read_pairs(pairs), out, Recipe(epochs=epochs, seed=seed), progress=lambda line: err_console().print(line)
    )
    if as_json:
        print_json(report)
        return
    for part in ("seen_relations", "unseen_relations"):
        found = report[part]
        console().print(f"{part}: AUROC {found['auroc']:.4f}, at 1 % false {found['tpr_at_fpr']['0.01']:.3f} found")
    console().print(f"Weights: {out}")


@app.command("eval")
def evaluate(
    pairs: PairsFile,
    weights: Weights = None,
    plot: Annotated[Path | None, typer.Option(help="Write a reliability diagram to this PNG.")] = None,
    as_json: AsJson = False,
) -> None:
    """Measure the classifier on labelled pairs."""
    from corrigenda.memory.judge import FrameJudge
    from corrigenda.memory.scope_evaluation import evaluate, reliability_diagram
    from corrigenda.memory.scope_pairs import read_pairs

    if plot is not None:
        check_output(plot)
    rows, judge = read_pairs(pairs), FrameJudge.load(weights)
    found = evaluate(rows, judge)
    if plot is not None:
        plot.write_bytes(reliability_diagram(rows, judge))
    if as_json:
        print_json(found)
        return
    kinds = [[kind, str(of["n"]), f"{of['rate']:.3f}"] for kind, of in found["by_kind"].items()]
    print_table("Share that fires at 1 % false positives", ["kind", "pairs", "fires"], kinds)
    rates = found["tpr_at_fpr"]
    console().print(
        f"AUROC {found['auroc']:.4f} · calibration error {found['ece']:.4f} · found at 1 % false {rates['0.01']:.3f}, "
        f"at 0.1 % {rates['0.001']:.3f} · {found['ms']['p50']:.1f} ms a pair ({found['ms']['p99']:.1f} at p99)"
    )
    kept = ", ".join(f"{mean:.2%} of {float(rate):.1%}" for rate, mean in found["bound"].items())
    console().print(f"False fires against what was promised, mean of 50 splits: {kept}")


Traffic = Annotated[Path, typer.Option(help="Log of queries that concern no edit: one a line, or JSON lines.")]
Whose = Annotated[str, typer.Option("--namespace", "-n", help="Whose edits.")]


@app.command()
def calibrate(
    queries: Traffic,
    memory: MemoryPath = DEFAULT_MEMORY,
    rate: Annotated[float, typer.Option(min=0.0, max=1.0, help="Share of such queries that may fire.")] = 0.01,
    namespace: Whose = "default",
    weights: Weights = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show the threshold; keep nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Find the threshold that bounds false fires on your own traffic, and keep it beside the memory for all to use."""
    from datetime import UTC, datetime

    from corrigenda.memory.calibration import rate_above, threshold_for
    from corrigenda.memory.scope_thresholds import Calibration, Thresholds, selected

    scope, scores = _scores(memory, queries, namespace, weights)
    threshold = threshold_for(rate, scores, least=scope.judge.threshold)
    bounded = threshold <= 1
    if bounded and not dry_run:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        found = Calibration(threshold, rate, len(scores), selected(scores), scope.judge.fingerprint, now)
        Thresholds.beside(memory).put(namespace, found)
    row: dict[str, Any] = {
        "n": len(scores),
        "rate": rate,
        "threshold": threshold if bounded else None,
        "default": {"threshold": scope.threshold, "rate": rate_above(scores, scope.threshold)},
        "kept": str(Thresholds.beside(memory).path) if bounded and not dry_run else None,
    }
    if as_json:
        print_json(row)
    elif not bounded:
        console().print(
            f"{len(scores)} queries cannot bound a rate of {rate:g}: at least {least_for(rate)} are needed."
        )
    else:
        fires = f"default {scope.threshold:.4f} fires on {row['default']['rate']:.2%} of these"
        console().print(f"threshold {threshold:.4f} ({fires})" + (f", kept in {row['kept']}" if row["kept"] else ""))


@app.command()
def drift(
    queries: Traffic,
    memory: MemoryPath = DEFAULT_MEMORY,
    namespace: Whose = "default",
    weights: Weights = None,
    as_json: AsJson = False,
) -> None:
    """Check whether new traffic still resembles what a namespace was calibrated on; exits with 1 if it does not."""
    from dataclasses import asdict

    from corrigenda.errors import InvalidRequest
    from corrigenda.memory.calibration import drift
    from corrigenda.memory.scope_thresholds import Thresholds

    scope, scores = _scores(memory, queries, namespace, weights)
    known = Thresholds.beside(memory).get(namespace, scope.judge.fingerprint)
    if known is None:
        raise InvalidRequest(
            f"namespace {namespace!r} was never calibrated with this classifier",
            remedy="Run corrigenda scope calibrate first.",
        )
    found = drift(known.scores, scores, known.threshold, known.rate)
    if as_json:
        print_json({"n": len(scores), "rate": known.rate, "threshold": known.threshold, **asdict(found)})
    else:
        console().print(
            f"fires on {found.fires:.2%} of {len(scores)} (promised {known.rate:.2%}, p = {found.fires_p:.3g}); "
            f"scores differ by {found.distance:.3f} (p = {found.distance_p:.3g})"
        )
        console().print("drifted: calibrate again" if found.drifted else "no drift seen")
    if found.drifted:
        raise typer.Exit(1)


def least_for(rate: float) -> int:
    """Return how many queries a false-fire rate needs at least to be bounded."""
    return max(1, math.ceil(round(1 / rate - 1, 9))) if rate > 0 else 0


def _scores(memory: Path, queries: Path, namespace: str, weights: Path | None) -> tuple[Any, list[float]]:
    """Return the scope of the memory, and for each query of the log the highest probability of any of its edits."""
    from corrigenda.memory.judge import FrameJudge
    from corrigenda.memory.scope import Scope
    from corrigenda.memory.scope_evaluation import highest
    from corrigenda.memory.scope_traffic import read_traffic

    asked = read_traffic(queries, namespace)
    with open_memory(memory, readonly=True) as opened:
        scope = Scope(opened, judge=FrameJudge.load(weights))
        return scope, highest(asked, scope, namespace)
