"""The benchmark runs, and its figures belong together."""

from __future__ import annotations

from pathlib import Path

import pytest

from corrigenda.middleware.gateway.bench import facts, measure


def test_facts_are_the_same_every_time() -> None:
    assert facts(50) == facts(50)
    assert len({edit.subject for edit in facts(500)}) == 500


@pytest.mark.real_model
def test_the_benchmark(tmp_path: Path) -> None:
    figures = measure(tmp_path, edits=20, requests=60, connections=4, soak_seconds=0.1)
    for kind in ("bare", "early_exit", "judged"):
        assert figures[kind]["rps"] > 0
        assert 0 < figures[kind]["p50_ms"] <= figures[kind]["p95_ms"]
    assert figures["judged"]["added_p50_ms"] == pytest.approx(figures["judged"]["p50_ms"] - figures["bare"]["p50_ms"])
    assert figures["soak"]["requests"] >= 1000
    assert figures["soak"]["errors"] == 0
