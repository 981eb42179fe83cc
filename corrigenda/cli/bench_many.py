"""``corrigenda bench memory``: what a memory of very many edits costs."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import typer

from corrigenda.cli.common import AsJson, asides, print_figures


def memory(
    edits: Annotated[int, typer.Option("--edits", min=1_000, help="Live edits, in one namespace.")] = 100_000,
    adds: Annotated[int, typer.Option(min=10, help="Edits to add one by one, while reading.")] = 200,
    reads: Annotated[float, typer.Option(min=0, help="Queries a second while adding.")] = 50.0,
    data: Annotated[Path | None, typer.Option("--data", help="Take the statements from this dataset file.")] = None,
    url: Annotated[str | None, typer.Option("--url", help="Of a Redis server; a file otherwise.")] = None,
    folder: Annotated[Path | None, typer.Option("--folder", help="Work here, and leave the memory there.")] = None,
    as_json: AsJson = False,
) -> None:
    """Measure search, recall, size, cold start and adding in a memory of many edits."""
    from corrigenda.cli.many_edits import Multiplied, Place, made_up, measure, statements
    from corrigenda.memory.encoder import MiniLM

    say = asides(quiet=as_json)
    encoder = Multiplied(MiniLM.load(), statements(data), say)
    with tempfile.TemporaryDirectory(prefix="corrigenda-bench-") as temporary:
        place = Place(folder or Path(temporary), url, encoder)
        figures = measure(place, encoder, *made_up(edits, adds), reads=reads, say=say)
    if not as_json:
        figures |= figures.pop("details")
        figures["notices"] = len(figures["notices"])
    print_figures("A memory of many edits", figures, as_json)
