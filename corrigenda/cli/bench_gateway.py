"""``corrigenda bench gateway``: what the gateway costs."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from corrigenda.cli.common import AsJson, console, print_json, print_table, with_status
from corrigenda.errors import MissingExtra


def gateway(
    edits: Annotated[int, typer.Option(min=1, help="How many live edits.")] = 10_000,
    requests: Annotated[int, typer.Option(min=100, help="Requests of a measurement.")] = 2_000,
    connections: Annotated[int, typer.Option(min=1, help="How many at once, for throughput.")] = 16,
    soak: Annotated[float, typer.Option(min=0, help="Seconds of mixed traffic afterwards, to watch its memory.")] = 0,
    folder: Annotated[
        Path | None, typer.Option(help="Keep the memory here, to measure again without filling it.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Measure the gateway against a bare proxy of the same stack, in front of the same upstream, in one run."""
    try:
        from corrigenda.middleware.gateway.bench import measure
    except ImportError as error:
        raise MissingExtra.named("gateway", error.name or "aiohttp") from error
    with tempfile.TemporaryDirectory() as fresh:
        place = folder or Path(fresh)
        place.mkdir(parents=True, exist_ok=True)

        def work() -> dict[str, Any]:
            return measure(place, edits=edits, requests=requests, connections=connections, soak_seconds=soak)

        figures = with_status("measuring", work, quiet=as_json)
    if as_json:
        print_json(figures)
        return
    kinds = [kind for kind in ("bare", "early_exit", "judged") if kind in figures]
    columns = list(dict.fromkeys(name for kind in kinds for name in figures[kind]))
    cells = [[kind, *(str(figures[kind].get(name, "")) for name in columns)] for kind in kinds]
    print_table(f"{edits:,} live edits, {connections} connections", ["", *columns], cells)
    if "soak" in figures:
        console().print(figures["soak"])
