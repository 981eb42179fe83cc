"""The benchmark of many edits, on few."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from corrigenda.cli.main import app
from corrigenda.cli.many_edits import Multiplied, Place, made_up, measure, statements
from corrigenda.errors import InvalidRequest
from corrigenda.memory import index
from corrigenda.testing import FixedEncoder


@pytest.fixture(scope="module")
def encoder() -> Multiplied:
    return Multiplied(FixedEncoder(32), statements(None)[:1_000])


def test_made_up_vectors_are_near_real_ones(encoder: Multiplied) -> None:
    texts = [f"The capital of land {number} is" for number in range(300)]
    rows = encoder.encode([*texts, "The capital of X is", *texts])
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    np.testing.assert_array_equal(rows[:300], rows[301:])
    np.testing.assert_array_equal(rows[300], FixedEncoder(32).encode(["The capital of X is"])[0])
    nearest = (rows[:300] @ FixedEncoder(32).encode(statements(None)[:1_000]).T).max(axis=1)
    assert np.median(nearest) > 0.7


def test_figures(encoder: Multiplied, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "EXACT_UP_TO", 600)
    figures = measure(Place(tmp_path, None, encoder), encoder, *made_up(1_000, 12), reads=20)
    assert figures["details"]["approximate"]
    assert figures["recall_at_8"] > 0.95
    assert 0 < figures["lookup_ms"]["p50"] <= figures["lookup_ms"]["p99"]
    assert figures["details"]["cold_start_ledger_s"] <= figures["cold_start_s"]
    again = measure(Place(tmp_path, None, encoder), encoder, *made_up(1_000, 12), reads=0)
    assert again["recall_at_8"] == figures["recall_at_8"]
    assert again["details"]["notices"] == []
    with pytest.raises(InvalidRequest, match="another memory"):
        measure(Place(tmp_path, None, encoder), encoder, *made_up(900, 12), reads=0)


@pytest.mark.redis
def test_figures_of_a_server(encoder: Multiplied, tmp_path: Path, redis_server: Any) -> None:
    figures = measure(Place(tmp_path, redis_server.url, encoder), encoder, *made_up(1_000, 12), reads=0)
    assert figures["recall_at_8"] == 1
    assert not figures["details"]["approximate"]


@pytest.mark.real_model
@pytest.mark.slow
def test_the_command(tmp_path: Path) -> None:
    arguments = ["bench", "memory", "--edits", "1000", "--adds", "10", "--folder", str(tmp_path), "--json"]
    result = CliRunner().invoke(app, arguments)
    assert [*json.loads(result.stdout)] == [
        "lookup_ms",
        "recall_at_8",
        "index_mb",
        "cold_start_s",
        "add_ms",
        "details",
    ]
