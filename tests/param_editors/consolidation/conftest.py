"""A model that was taught something, once for all tests; and a world around it, for each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from learned import train
from learned_consolidation import World, good_edits, make_world

from corrigenda.edit import Edit


@pytest.fixture(scope="session")
def learned_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "learned"
    train(folder)
    return folder


@pytest.fixture
def world_of(tmp_path: Path, learned_model: Path) -> Callable[[list[Edit]], World]:
    """Makes a world with these edits in memory."""
    return lambda edits: make_world(tmp_path, learned_model, edits)


@pytest.fixture
def world(world_of: Callable[[list[Edit]], World]) -> World:
    return world_of(good_edits())
