"""Faults, provoked: nothing acknowledged is lost, nothing is there twice or by half, and all come back by themselves.

``CORRIGENDA_FAULT_ROUNDS`` sets the rounds (3 by default; 50 for ``make test-slow``).
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from proxy import Proxy
from servers import RedisServer

from corrigenda.edit import Edit
from corrigenda.errors import StoreError, StoreUnavailable
from corrigenda.memory.ledger import replay
from corrigenda.memory.memory import Memory
from corrigenda.memory.redis import RedisStore
from corrigenda.memory.redis_link import Patience
from corrigenda.memory.shared import SharedMemory
from corrigenda.testing import FixedEncoder

pytestmark = pytest.mark.redis

ROUNDS = int(os.environ.get("CORRIGENDA_FAULT_ROUNDS", "3"))
QUICK = Patience(answer=1.0, total=1.0, rest=0.1)

# A writer in a process of its own: prints the number of each edit once it is acknowledged.
WRITER = """
import json, sys
from corrigenda.edit import Edit
from corrigenda.memory.memory import Memory
from corrigenda.testing import FixedEncoder
url, name, first, count, step = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:])
memory = Memory.connect(url, ledger="faults", encoder=FixedEncoder(16), follow=False)
for start in range(first, first + count, step):
    memory.add_many(
        [Edit(f"{name} {n} is", f"value {n}", subject=f"{name} {n}", relation="is") for n in range(start, start + step)]
    )
    print(json.dumps([name, start]), flush=True)
"""


@pytest.fixture
def server(tmp_path: Path, redis_server: RedisServer) -> Iterator[RedisServer]:
    with RedisServer(tmp_path / "own", appendonly="yes", appendfsync="always") as own:
        yield own


def connect(url: str, **options: object) -> SharedMemory:
    values: dict[str, Any] = {"ledger": "faults", "encoder": FixedEncoder(16), "patience": QUICK} | options
    return Memory.connect(url, **values)


def writer(url: str, name: str, first: int, count: int, step: int = 1) -> subprocess.Popen[str]:
    arguments = [sys.executable, "-c", WRITER, url, name, str(first), str(count), str(step)]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def until(condition: Callable[[], bool], seconds: float = 20.0) -> float:
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < seconds
        time.sleep(0.002)
    return time.monotonic() - began


def fact(number: int) -> Edit:
    return Edit(f"Thing {number} is", f"value {number}", subject=f"Thing {number}", relation="is")


def test_a_writer_is_killed(server: RedisServer) -> None:
    """Batches of five, killed at any moment: whole batches only, and every acknowledged one."""
    for round_ in range(ROUNDS):
        process = writer(server.url, f"w{round_}", 0, 5_000, 5)
        assert process.stdout is not None
        acknowledged = [json.loads(process.stdout.readline())[1] for _ in range(3)]
        time.sleep(random.random() * 0.05)
        process.send_signal(signal.SIGKILL)
        acknowledged += [json.loads(line)[1] for line in process.stdout if line.endswith("]\n")]
        process.wait()
        process.stdout.close()
        assert process.stderr is not None
        process.stderr.close()
        store = RedisStore.connect(server.url, ledger="faults")
        mine = [event.edit.subject for event in store.read() if str(event.edit.subject).startswith(f"w{round_} ")]
        assert len(mine) % 5 == 0
        assert len(mine) == len(set(mine))
        assert {f"w{round_} {start + n}" for start in acknowledged for n in range(5)} <= set(mine)
        store.close()


def test_the_server_is_killed(server: RedisServer) -> None:
    """With ``appendfsync always`` nothing acknowledged is lost; replicas and ledger agree afterwards."""
    memory, reader = connect(server.url, durability="disk"), connect(server.url)
    acknowledged: list[str] = []
    stop = threading.Event()

    def work() -> None:
        number = 0
        while not stop.is_set():
            try:
                acknowledged.append(memory.add(fact(number)).id)
                number += 1
            except StoreUnavailable:
                continue  # the same again: that is safe

    thread = threading.Thread(target=work)
    thread.start()
    for _ in range(ROUNDS):
        before = len(acknowledged)
        until(lambda before=before: len(acknowledged) > before + 3)
        time.sleep(random.random() * 0.05)
        server.kill()
        server.start()
    stop.set()
    thread.join()
    store = RedisStore.connect(server.url, ledger="faults")
    state = replay(store.read())
    assert set(acknowledged) <= set(state.live)
    assert len(state.live) - len(set(acknowledged)) <= 1
    assert store.live().keys() == state.live.keys()
    until(lambda: reader.version == state.seq)
    assert {edit.id for edit in reader.live()} == set(state.live)
    for closing in (memory, reader, store):
        closing.close()


def test_the_network_is_cut(server: RedisServer) -> None:
    with Proxy(server.port) as proxy:
        far, near = connect(proxy.url), connect(server.url)
        until(lambda: far.stale_for == 0)
        for round_ in range(ROUNDS):
            far.add(fact(2 * round_))
            proxy.cut()
            until(lambda: far.stale_for > 0)
            with pytest.raises(StoreUnavailable):
                far.add(fact(10_000))
            edit = near.add(fact(2 * round_ + 1))
            assert not far.is_live(edit.id)
            assert far.is_live(fact(2 * round_).id)
            proxy.mend()
            until(lambda edit=edit: far.is_live(edit.id))
            until(lambda: far.stale_for == 0)
        assert far.version == near.version == 2 * ROUNDS
        far.close()
        near.close()


def test_a_line_that_swallows_everything_costs_readers_nothing(server: RedisServer) -> None:
    with Proxy(server.port) as proxy:
        memory = connect(proxy.url, patience=Patience(answer=0.6, total=0.3, rest=0.1))
        memory.add(fact(1))
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
            memory.add(fact(2))
        assert time.monotonic() - began < 3
        proxy.cut()
        proxy.mend()
        until(lambda: memory.stale_for == 0)
        memory.add(fact(2))
        memory.close()


def test_an_answer_that_is_lost_is_no_second_edit(server: RedisServer) -> None:
    """The line breaks between the append and its answer, over and over."""
    with Proxy(server.port) as proxy:
        memory = connect(proxy.url, follow=False)
        for number in range(10 * ROUNDS):
            breaker = threading.Timer(random.random() * 0.004, lambda: (proxy.cut(), proxy.mend()))
            breaker.start()
            memory.add(fact(number))
            breaker.join()
        events = memory._server.read()
        assert [event.edit.id for event in events] == [fact(number).id for number in range(10 * ROUNDS)]
        memory.close()


def test_an_edit_is_everywhere_at_once(redis_server: RedisServer) -> None:
    ledger = uuid.uuid4().hex
    one, two = (connect(redis_server.url, ledger=ledger) for _ in range(2))
    query = two.encoder.encode(["Thing 0 is"])
    two.search(query, 1)
    waits = []
    for number in range(20 * ROUNDS):
        edit = one.add(fact(number))
        waits.append(until(lambda edit=edit: two.is_live(edit.id)))
        assert edit.id in {hit.edit.id for hit in two.search(two.encoder.encode([edit.prompt]), 1)[0]}
    assert sorted(waits)[int(len(waits) * 0.98)] < 0.2
    one.close()
    two.close()


def test_a_snapshot_that_is_damaged_is_built_anew(server: RedisServer, tmp_path: Path) -> None:
    path = tmp_path / "index"
    with connect(server.url, snapshot=path, follow=False) as memory:
        memory.add_many([fact(number) for number in range(50)])
        memory.search(memory.encoder.encode(["x"]), 1)
    whole = path.read_bytes()
    chance = random.Random(0)
    for round_ in range(ROUNDS * 3):
        data = bytearray(whole)
        if round_ % 3 == 0:
            del data[chance.randrange(len(data)) :]
        else:
            for _ in range(20):
                data[chance.randrange(len(data))] ^= 0xFF
        path.write_bytes(data)
        with connect(server.url, snapshot=path, follow=False) as memory:
            (hits,) = memory.search(memory.encoder.encode([fact(7).prompt]), 1)
            assert hits[0].edit.id == fact(7).id
            assert hits[0].similarity > 0.99


def test_a_full_server_refuses_and_recovers(server: RedisServer) -> None:
    memory = connect(server.url)
    memory.add(fact(1))
    memory._server.link.client.config_set("maxmemory", "1")
    with pytest.raises(StoreError, match="maxmemory"):
        memory.add(fact(2))
    assert [edit.id for edit in memory.live()] == [fact(1).id]
    memory._server.link.client.config_set("maxmemory", "0")
    memory.add(fact(2))
    assert memory.version == 2
    memory.close()


@pytest.mark.slow
def test_eight_writers_lose_nothing(redis_server: RedisServer) -> None:
    each = int(os.environ.get("CORRIGENDA_FAULT_WRITES", "5000"))
    writers = [writer(redis_server.url, f"w{number}", 0, each) for number in range(8)]
    for process in writers:
        _, errors = process.communicate()
        assert process.returncode == 0, errors
    store = RedisStore.connect(redis_server.url, ledger="faults")
    events = store.read()
    assert [event.seq for event in events] == list(range(1, 8 * each + 1))
    assert {event.edit.subject for event in events} == {f"w{w} {n}" for w in range(8) for n in range(each)}
    for number in range(8):
        mine = [event.edit.subject for event in events if str(event.edit.subject).startswith(f"w{number} ")]
        assert mine == [f"w{number} {n}" for n in range(each)]
    other = connect(redis_server.url, follow=False)
    assert other.version == 8 * each
    assert list(other._replica.state.live) == list(replay(events).live)
    store.close()
    other.close()
