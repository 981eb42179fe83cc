from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from corrigenda.edit import Edit
from corrigenda.memory.memory import Memory
from corrigenda.testing import FixedEncoder


@pytest.fixture
def fixed() -> FixedEncoder:
    """An encoder without a model."""
    return FixedEncoder(32)


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    """Where the memory of this test lies."""
    return tmp_path / "facts.db"


@pytest.fixture
def open_memory(ledger: Path, fixed: FixedEncoder) -> Iterator[Callable[..., Memory]]:
    """Open the memory of this test, as often as wanted; everything is closed in the end."""
    opened: list[Memory] = []

    def call(**options: object) -> Memory:
        opened.append(Memory.open(ledger, **({"encoder": fixed} | options)))  # type: ignore[arg-type]
        return opened[-1]

    yield call
    for memory in opened:
        memory.close()


@pytest.fixture
def memory(open_memory: Callable[..., Memory]) -> Memory:
    """An empty memory with an encoder that needs no model."""
    return open_memory()


@pytest.fixture
def capital() -> Callable[..., Edit]:
    """Build an edit about a capital; the relation is given."""

    def call(country: str = "Kazakhstan", city: str = "Astana", **fields: object) -> Edit:
        values = {"subject": country, "relation": "capital"} | fields
        return Edit(f"The capital of {country} is", city, **values)  # type: ignore[arg-type]

    return call
