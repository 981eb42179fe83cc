"""``corrigenda eval compare``, ``merge`` and ``gate``: what happens to results files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from corrigenda.cli.common import AsJson, console, print_json

Files = Annotated[list[Path], typer.Argument(help="Results files of eval run.")]


def compare(
    results: Files,
    out: Annotated[list[Path], typer.Option("--out", "-o", help="Where to: .html, .md, or both by giving it twice.")],
    title: Annotated[str, typer.Option(help="Heading of the report.")] = "Editing methods compared",
) -> None:
    """Make a report of several results: tables, curves, differences that are significant."""
    from corrigenda.eval.report import write_report

    for path in out:
        write_report(results, path, title=title)
        console().print(f"wrote {path}", highlight=False)


def merge(
    results: Files,
    out: Annotated[Path, typer.Option("--out", "-o", help="Where the merged results go.")],
) -> None:
    """Put the results of all shards of a run together."""
    from corrigenda.eval.merge import merge_shards

    merged = merge_shards(results, out)
    console().print(f"{merged['cases']['total']} cases of {len(results)} shards in {out}", highlight=False)


def gate(
    results: Annotated[Path, typer.Argument(help="A results file.")],
    minimum: Annotated[list[str] | None, typer.Option("--min", help="NAME=LEAST, e.g. reliability=0.98.")] = None,
    maximum: Annotated[list[str] | None, typer.Option("--max", help="NAME=MOST, e.g. locality_kl=0.1.")] = None,
    max_drop: Annotated[list[str] | None, typer.Option("--max-drop", help="NAME=MOST, e.g. piqa=0.01.")] = None,
    baseline: Annotated[Path | None, typer.Option(help="Results to drop from, e.g. of the method none.")] = None,
    as_json: AsJson = False,
) -> None:
    """Exit with 0 when every threshold is met, with 1 when one is not. Figures that were not measured do not pass."""
    from corrigenda.eval.gate import Gate, values_of
    from corrigenda.eval.results import load

    thresholds = Gate.parse(minimum or (), maximum or (), max_drop or ())
    values, before = values_of(load(results))
    if baseline is not None:
        before = values_of(load(baseline))[0] | before
    verdict = thresholds.check(values, before)
    if as_json:
        print_json(verdict.to_dict())
    else:
        typer.echo(str(verdict))
    raise typer.Exit(0 if verdict.passed else 1)
