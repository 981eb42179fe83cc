"""Tiny models that may be changed, and a cache of their own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_editing import tiny_models

from corrigenda.lm.loading import LanguageModel


@pytest.fixture
def fresh() -> Callable[[str], LanguageModel]:
    """Makes a model whose weights may be changed."""
    return tiny_models.tiny


@pytest.fixture
def llama(fresh: Callable[[str], LanguageModel]) -> LanguageModel:
    return fresh("llama")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Statistics are kept in the cache; tests have one of their own, except those that need the real model from it."""
    if "real_model" not in request.keywords:
        monkeypatch.setenv("CORRIGENDA_CACHE", str(tmp_path / "cache"))
