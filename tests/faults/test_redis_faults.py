"""Faults, provoked once each; ``tests/faults/rounds.py`` does it often, and ``make test-slow`` ten times."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from proxy import Proxy
from rounds import FAULTS, NEEDS_COMPILER, provoke
from server_faults import COMPILER
from servers import RedisServer
from trial import connect, fact
from waiting import until

from corrigenda.errors import StoreError, StoreUnavailable
from corrigenda.memory.redis_link import Patience

pytestmark = pytest.mark.redis

LONG = ("killed-server-everysec", "power-cut-everysec", "silent-line", "failover", "failover-behind")
LONG += ("eight-writers", "two-processes")


@pytest.fixture
def server(tmp_path: Path, redis_server: RedisServer) -> Iterator[RedisServer]:
    with RedisServer(tmp_path / "own", appendonly="yes", appendfsync="always") as own:
        yield own


@pytest.mark.usefixtures("redis_server")
@pytest.mark.parametrize("name", [name for name in FAULTS if name not in LONG])
def test_a_fault(name: str) -> None:
    if name in NEEDS_COMPILER and COMPILER is None:
        pytest.skip("no C compiler here")
    tally = provoke(name, 1)
    assert tally.clean, tally


@pytest.mark.slow
@pytest.mark.usefixtures("redis_server")
@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_again_and_again(name: str) -> None:
    if name in NEEDS_COMPILER and COMPILER is None:
        pytest.skip("no C compiler here")
    tally = provoke(name, 10, seed=1)
    assert tally.clean, tally


def test_a_line_that_swallows_everything_costs_readers_nothing(server: RedisServer) -> None:
    with Proxy(server.port) as proxy:
        memory = connect(proxy.url, patience=Patience(answer=0.6, total=0.3, rest=0.1))
        memory.add(fact(1, 1))
        query = memory.encoder.encode(["Thing 1 is"])
        memory.search(query, 1)
        proxy.mood = "black hole"
        until(lambda: memory.stale_for > 0)
        slowest = 0.0
        for _ in range(200):
            began = time.monotonic()
            memory.refresh()
            assert memory.search(query, 1)[0]
            slowest = max(slowest, time.monotonic() - began)
        assert slowest < 0.3
        began = time.monotonic()
        with pytest.raises(StoreUnavailable):
            memory.add(fact(2, 1))
        assert time.monotonic() - began < 3
        proxy.cut()
        proxy.mend()
        until(lambda: memory.stale_for == 0)
        memory.add(fact(2, 1))
        memory.close()


def test_a_full_server_refuses_and_recovers(server: RedisServer) -> None:
    memory = connect(server.url)
    memory.add(fact(1, 1))
    memory._server.link.client.config_set("maxmemory", "1")
    with pytest.raises(StoreError, match="maxmemory"):
        memory.add(fact(2, 1))
    assert [edit.id for edit in memory.live()] == [fact(1, 1).id]
    memory._server.link.client.config_set("maxmemory", "0")
    memory.add(fact(2, 1))
    assert memory.version == 2
    memory.close()
