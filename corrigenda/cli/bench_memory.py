"""What a memory costs: adding, finding, opening and rebuilding, measured at a given size.

``python -m corrigenda.cli.bench_memory --edits 10000`` prints the figures; loading the encoder is not in them.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from corrigenda.edit import Edit
from corrigenda.memory.encoder import Encoder, MiniLM
from corrigenda.memory.memory import Memory
from corrigenda.memory.snapshot import snapshot_path


@dataclass(frozen=True)
class MemoryFigures:
    """Figures of one run, wall-clock time.

    Attributes:
        edits: Live edits while measuring.
        bulk_s: Adding them all at once, encoded and durable.
        add_ms: One more edit, durable and searchable: median.
        add_p95_ms: The same, 95th percentile.
        search_ms: The 8 nearest of one vector: median.
        mentions_ms: The names in one question: median.
        open_s: Opening the ledger and answering a first search.
        rebuild_s: The same without the index on disk.
    """

    edits: int
    bulk_s: float
    add_ms: float
    add_p95_ms: float
    search_ms: float
    mentions_ms: float
    open_s: float
    rebuild_s: float


def measure(folder: Path, edits: int, encoder: Encoder, *, repeats: int = 100) -> MemoryFigures:
    """Fill a memory in ``folder`` with ``edits`` edits and measure it, each single step ``repeats`` times."""
    path = folder / "facts.db"
    question = "What is the capital of land 77, and who rules it?"
    vector = encoder.encode([question])

    def first_search() -> Memory:
        memory = Memory.open(path, encoder=encoder)
        memory.search(vector, 8)
        return memory

    with Memory.open(path, encoder=encoder) as memory:
        bulk = _seconds(lambda: memory.add_many(_edit(number) for number in range(edits)))
        memory.search(vector, 8)
        adds = [_seconds(lambda n=number: memory.add(_edit(n))) for number in range(edits, edits + repeats)]  # type: ignore[misc]
        searches = [_seconds(lambda: memory.search(vector, 8)) for _ in range(repeats)]
        mentions = [_seconds(lambda: memory.mentions(question)) for _ in range(repeats)]
    opened = _seconds(lambda: first_search().close())
    snapshot_path(path).unlink()
    rebuilt = _seconds(lambda: first_search().close())
    return MemoryFigures(
        edits=edits,
        bulk_s=bulk,
        add_ms=1e3 * statistics.median(adds),
        add_p95_ms=1e3 * statistics.quantiles(adds, n=20)[-1],
        search_ms=1e3 * statistics.median(searches),
        mentions_ms=1e3 * statistics.median(mentions),
        open_s=opened,
        rebuild_s=rebuilt,
    )


def _edit(number: int) -> Edit:
    return Edit(
        f"The capital of land {number} is",
        f"City {number}",
        subject=f"land {number}",
        relation="capital",
        aliases=(f"L{number}",),
    )


def _seconds(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def main(edits: Annotated[int, typer.Option(help="Live edits to measure with.", min=1)] = 10_000) -> None:
    """Measure a memory of ``edits`` edits with MiniLM."""
    encoder = MiniLM.load()
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(Path(folder), edits, encoder)
    for name, value in vars(figures).items():
        typer.echo(f"{name:12} {value:,.3f}" if isinstance(value, float) else f"{name:12} {value:,}")


if __name__ == "__main__":
    typer.run(main)
