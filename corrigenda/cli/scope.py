"""``corrigenda scope``: train, evaluate and calibrate the scope classifier."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from corrigenda.cli.common import AsJson, console, err_console, print_json, print_table

app = typer.Typer(no_args_is_help=True)

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


@app.command()
def calibrate(
    memory: Annotated[Path, typer.Option(help="The memory whose edits are live.")],
    queries: Annotated[Path, typer.Option(help="Queries that concern none of its edits, one a line.")],
    rate: Annotated[float, typer.Option(min=0.0, max=1.0, help="Share of such queries that may fire.")] = 0.003,
    namespace: Annotated[str, typer.Option(help="Whose edits.")] = "default",
    weights: Weights = None,
    as_json: AsJson = False,
) -> None:
    """Find the threshold that bounds false fires on your own traffic: pass it on as Scope(memory, threshold=...)."""
    from corrigenda.memory.calibration import threshold_for
    from corrigenda.memory.judge import FrameJudge
    from corrigenda.memory.memory import Memory
    from corrigenda.memory.scope import Scope
    from corrigenda.memory.scope_evaluation import highest

    lines = [line.strip() for line in queries.read_text(encoding="utf-8").splitlines() if line.strip()]
    with Memory.open(memory, readonly=True) as opened:
        scope = Scope(opened, judge=FrameJudge.load(weights))
        scores = highest(lines, scope, namespace)
        threshold = threshold_for(rate, scores)
        at_default = sum(score >= scope.threshold for score in scores) / len(scores)
    found: dict[str, Any] = {
        "n": len(lines),
        "rate": rate,
        "threshold": threshold if threshold <= 1 else None,
        "default": {"threshold": scope.threshold, "rate": at_default},
    }
    if as_json:
        print_json(found)
    elif found["threshold"] is None:
        console().print(f"{len(lines)} queries cannot bound a rate of {rate:g}: at least {round(1 / rate)} are needed.")
    else:
        console().print(f"threshold {threshold:.4f} (default {scope.threshold:.4f} fires on {at_default:.2%} of these)")
