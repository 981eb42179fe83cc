"""Fixtures of all tests: the real parts are loaded once, everything else lives in temporary folders."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Two threads on two busy cores make small models several times slower."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def data() -> Path:
    """Datasets in the published formats, where the machine has them; the tests that use them are extras."""
    folder = Path(os.environ.get("CORRIGENDA_DATA", ROOT / "../shared/data"))
    if not folder.is_dir():
        pytest.skip("no datasets here: set CORRIGENDA_DATA")
    return folder


@pytest.fixture(autouse=True)
def no_ambient_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user's own settings must not reach the tests."""
    for name in ("CORRIGENDA_MEMORY", "CORRIGENDA_MODEL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "200")
