from __future__ import annotations

from pathlib import Path

from corrigenda.cli.bench_memory import measure
from corrigenda.testing import FixedEncoder


def test_it_measures(tmp_path: Path) -> None:
    figures = measure(tmp_path, 50, FixedEncoder(), repeats=5)
    assert figures.edits == 50
    assert all(0 < value < 60_000 for value in vars(figures).values())
    assert figures.add_ms <= figures.add_p95_ms
