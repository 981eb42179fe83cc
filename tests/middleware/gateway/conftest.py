"""Fixtures of the gateway's tests: an upstream, a memory, keys, and gateways; all of them real servers."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from gateway_harness import StartGateway, Stub, serving

from corrigenda.memory.memory import Memory
from corrigenda.middleware.gateway import server
from corrigenda.middleware.gateway.app import Gateway
from corrigenda.middleware.gateway.keys import Keys
from corrigenda.middleware.gateway.settings import Settings
from corrigenda.testing import FixedEncoder


@pytest.fixture
def stub() -> Iterator[Stub]:
    app = Stub()
    config = uvicorn.Config(
        app, port=0, log_level="critical", ws="none", server_header=False, date_header=False, access_log=False
    )
    with serving(config) as url:
        app.url = url
        yield app


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Memory]:
    with Memory.open(tmp_path / "facts.db", encoder=FixedEncoder()) as store:
        yield store


@pytest.fixture
def keys(tmp_path: Path) -> Iterator[Keys]:
    store = Keys.beside(tmp_path / "facts.db")
    yield store
    store.close()


@pytest.fixture
def start(memory: Memory, keys: Keys) -> Iterator[StartGateway]:
    """Return a function that starts a gateway and returns its URL."""
    with contextlib.ExitStack() as stack:

        def begin(settings: Settings | None = None, **options: Any) -> str:
            options.setdefault("keys", keys)
            gateway = Gateway(options.pop("memory", memory), settings=settings, **options)
            config = server.config(gateway.app, gateway.settings, port=0, log_level="critical")
            return stack.enter_context(serving(config))

        yield begin
