"""Memories that share a ledger: what one learns the others know, and a server that is away takes no answer down."""

from __future__ import annotations

import functools
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import waiting
from servers import RedisServer

from corrigenda.chat import Chat, Trace
from corrigenda.edit import Edit, Validity
from corrigenda.errors import ConflictingEdit, EncoderMismatch, InvalidRequest, StoreUnavailable, UnknownEdit
from corrigenda.memory.conflicts import Plan
from corrigenda.memory.memory import Memory
from corrigenda.memory.outbox import Intent
from corrigenda.memory.redis_link import Patience
from corrigenda.memory.scope import Scope
from corrigenda.memory.shared import SharedMemory
from corrigenda.memory.upkeep import expire
from corrigenda.memory.vectors import Vectors
from corrigenda.middleware.consult import consult, drive
from corrigenda.middleware.strategies.base import create
from corrigenda.testing import FixedEncoder

pytestmark = pytest.mark.redis

until = functools.partial(waiting.until, seconds=5.0)
QUICK = Patience(answer=1.0, total=0.3, rest=0.1)
Connect = Callable[..., SharedMemory]


@pytest.fixture
def connect(redis_server: RedisServer) -> Iterator[Connect]:
    ledger = uuid.uuid4().hex
    opened: list[SharedMemory] = []

    def call(server: RedisServer = redis_server, **options: object) -> SharedMemory:
        values = {"ledger": ledger, "patience": QUICK, "encoder": FixedEncoder(32)} | options
        opened.append(Memory.connect(server.url, **values))
        return opened[-1]

    yield call
    for memory in opened:
        memory.close()


@pytest.fixture
def own_server(tmp_path: Path, redis_server: RedisServer) -> Iterator[RedisServer]:
    with RedisServer(tmp_path / "own", appendonly="yes", appendfsync="always") as server:
        yield server


def capital(country: str = "Kazakhstan", city: str = "Astana", **fields: object) -> Edit:
    return Edit(f"The capital of {country} is", city, subject=country, relation="capital", **fields)  # type: ignore[arg-type]


def found(memory: Memory, text: str, namespace: str = "default") -> list[str]:
    (hits,) = memory.search(memory.encoder.encode([text]), 3, namespace)
    return [hit.edit.target for hit in hits]


def test_what_one_adds_the_other_finds(connect: Connect) -> None:
    one, two = connect(), connect()
    assert found(two, "The capital of Kazakhstan is") == []
    edit = one.add(capital())
    until(lambda: two.is_live(edit.id))
    assert two.refresh()
    assert not two.refresh()
    assert found(two, "The capital of Kazakhstan is") == ["Astana"]
    assert [mention.name for mention in two.mentions("Where is Kazakhstan?")] == ["Kazakhstan"]
    assert np.array_equal(one.frame_vector(edit.id), two.frame_vector(edit.id))
    two.amend(edit.id, target="Almaty")
    until(lambda: not one.is_live(edit.id))
    assert found(one, "The capital of Kazakhstan is") == ["Almaty"]
    assert [event.kind for event in one.history(edit.id)] == ["added", "amended"]
    (live,) = one.live()
    one.retract(live.id, reason="no")
    until(lambda: not two.live())
    assert one.version == two.version == 3
    assert one.stale_for == two.stale_for == 0.0
    assert one.notices == two.notices == ()


def test_the_writer_encodes_and_the_others_need_not(connect: Connect) -> None:
    one, two = connect(), connect(encoder=FixedEncoder(32))
    found(two, "anything")
    before = two.encoder.calls  # type: ignore[attr-defined]
    one.add_many([capital(f"Land{number}") for number in range(20)])
    until(lambda: len(two) == 20)
    found(two, "The capital of Land3 is")
    assert two.encoder.calls == before + 1  # type: ignore[attr-defined]


def test_without_following_a_refresh_is_needed(connect: Connect) -> None:
    one, two = connect(follow=False), connect(follow=False)
    assert not two.refresh()
    edit = one.add(capital())
    assert not two.is_live(edit.id)
    assert two.refresh()
    assert two.is_live(edit.id)
    assert not two.refresh()


def test_rules_are_decided_on_the_latest_state(connect: Connect) -> None:
    one, two = connect(follow=False), connect(follow=False)
    one.add(capital())
    with pytest.raises(ConflictingEdit):
        two.add(capital(city="Almaty"), on_conflict="refuse")
    two.add(capital(city="Almaty"))
    with pytest.raises(UnknownEdit, match="amended into"):
        one.retract(capital().id)
    assert [edit.target for edit in one.live()] == ["Almaty"]


def test_reading_goes_on_while_the_server_is_away(connect: Connect, own_server: RedisServer) -> None:
    memory = connect(own_server)
    memory.add(capital())
    assert found(memory, "The capital of Kazakhstan is") == ["Astana"]
    own_server.kill()
    until(lambda: memory.stale_for > 0)
    began = time.monotonic()
    memory.refresh()
    assert found(memory, "The capital of Kazakhstan is") == ["Astana"]
    assert time.monotonic() - began < 0.1
    assert "has not answered" in memory.notices[0]
    with pytest.raises(StoreUnavailable):
        memory.add(capital("Nigeria", "Abuja"))
    own_server.start()
    until(lambda: memory.stale_for == 0)
    memory.add(capital("Nigeria", "Abuja"))
    assert len(memory) == 2


def test_a_trace_says_how_old_the_answer_is(connect: Connect, own_server: RedisServer) -> None:
    memory = connect(own_server)
    memory.add(capital())
    scope, strategy = Scope(memory), create("auto")

    def decide() -> Trace:
        question = Chat.of("What is the capital of Kazakhstan?")
        return drive(consult([question], strategy=strategy), memory, scope)[0].trace

    assert decide().notes == ()
    own_server.kill()
    until(lambda: memory.stale_for > 0)
    assert "has not answered for" in decide().notes[-1]
    assert decide().ledger_version == 1


def test_writes_wait_in_the_outbox_and_are_done_once(connect: Connect, own_server: RedisServer, tmp_path: Path) -> None:
    memory = connect(own_server, outbox=tmp_path / "outbox.db")
    gone = memory.add(capital())
    stays = memory.add(capital("Nigeria", "Lagos"))
    own_server.kill()
    later = memory.add(capital("Brazil", "Brasilia"))
    memory.amend(stays.id, target="Abuja")
    memory.retract(gone.id)
    memory.retract(gone.id)  # impossible the second time
    assert memory.waiting == 4
    assert not memory.is_live(later.id)
    memory.close()
    own_server.start()
    other = connect(own_server, outbox=tmp_path / "other.db")
    assert len(other) == 2
    again = connect(own_server, outbox=tmp_path / "outbox.db")
    until(lambda: again.waiting == 0)
    until(lambda: sorted(edit.target for edit in other.live()) == ["Abuja", "Brasilia"])
    until(lambda: any("put aside" in notice for notice in again.notices))
    assert any("3 writes" in notice for notice in again.notices)
    assert again.version == 5


def test_writes_wait_while_the_server_is_full(connect: Connect, own_server: RedisServer, tmp_path: Path) -> None:
    memory = connect(own_server, outbox=tmp_path / "outbox.db")
    own_server.kill()
    memory.add_many([capital(), capital("Nigeria", "Abuja")])
    memory.add(capital("Brazil", "Brasilia"))
    own_server.settings |= {"maxmemory": "1", "maxmemory-policy": "noeviction"}
    own_server.start()
    until(lambda: any("writes wait for the ledger" in notice for notice in memory.notices))
    assert memory.waiting == 2
    own_server.command("config", "set", "maxmemory", "0")
    until(lambda: memory.waiting == 0)
    until(lambda: len(memory) == 3)
    assert not any("put aside" in notice for notice in memory.notices)


def test_what_waits_is_done_while_others_keep_writing(connect: Connect, tmp_path: Path) -> None:
    memory, other = connect(outbox=tmp_path / "outbox.db"), connect(follow=False)
    numbers, stop = count(), threading.Event()

    def write() -> None:
        while not stop.wait(0.1):
            other.add(capital(f"Land{next(numbers)}"))

    writer = threading.Thread(target=write)
    writer.start()
    try:
        until(lambda: memory.version > 0)
        assert memory._outbox is not None
        memory._outbox.put(Intent("add", {"edits": [capital().to_dict()], "on_conflict": "supersede"}))
        until(lambda: memory.waiting == 0, seconds=2.0)
    finally:
        stop.set()
        writer.join()
    assert memory.is_live(capital().id)


def test_an_amendment_that_waited_changes_what_it_named(
    connect: Connect, own_server: RedisServer, tmp_path: Path
) -> None:
    memory = connect(own_server, outbox=tmp_path / "outbox.db", follow=False)
    end = datetime(2999, 1, 1, tzinfo=UTC)
    edit = memory.add(capital(aliases=("KZ",), tags=("old",)))
    ends = memory.add(capital("Peru", "Lima"))
    own_server.kill()
    assert memory.amend(edit.id, tags=(), source="atlas").tags == ()
    memory.amend(ends.id, validity=Validity(end=end))
    own_server.start()
    other = connect(own_server, follow=False)
    other.amend(edit.id, aliases=("KZ", "Qazaqstan"))
    memory._deliver()
    assert memory.waiting == 0
    amended, ended = memory.live()
    assert (amended.aliases, amended.tags, amended.source) == (("KZ", "Qazaqstan"), (), "atlas")
    assert ended.validity.end == end


def test_an_amendment_of_an_older_version_is_done(connect: Connect) -> None:
    memory = connect(follow=False)
    edit = memory.add(capital(validity=Validity(end=datetime(2999, 1, 1, tzinfo=UTC))))
    values = {"edit_id": edit.id, "reason": None, "on_conflict": "supersede", "edit": capital(city="Almaty").to_dict()}
    memory._carry_out(Intent("amend", values))
    assert memory.live() == (capital(city="Almaty"),)


def test_what_cannot_be_kept_does_not_wait(connect: Connect, own_server: RedisServer, tmp_path: Path) -> None:
    memory = connect(own_server, outbox=tmp_path / "outbox.db", follow=False)
    edit = memory.add(capital())
    own_server.kill()
    with pytest.raises(InvalidRequest, match="reason"):
        memory.retract(edit.id, reason="\ud800")
    with pytest.raises(InvalidRequest, match="reason"):
        memory.amend(edit.id, reason="\ud800", tags=("x",))
    assert memory.waiting == 0


def test_what_was_put_aside_can_wait_again(connect: Connect, own_server: RedisServer, tmp_path: Path) -> None:
    memory = connect(own_server, outbox=tmp_path / "outbox.db")
    edit = memory.add(capital())
    own_server.kill()
    memory.retract(edit.id)
    memory.retract(edit.id, reason="impossible the second time")
    own_server.start()
    until(lambda: any("put aside" in notice for notice in memory.notices))
    memory.add(edit)
    assert memory.requeue() == 1
    until(lambda: not memory.is_live(edit.id))
    assert memory.history(edit.id)[-1].reason == "impossible the second time"
    assert memory.requeue() == memory.waiting == 0


def test_a_write_that_was_done_though_the_answer_was_lost(connect: Connect, tmp_path: Path) -> None:
    memory = connect(outbox=tmp_path / "outbox.db", follow=False)
    assert memory._outbox is not None
    lost = []
    memory._outbox.put = lost.append  # type: ignore[method-assign]
    original = memory._server._commit

    def commit(transaction: object) -> None:
        original(transaction)  # type: ignore[arg-type]
        raise StoreUnavailable("the line was cut just then")

    memory._server._commit = commit  # type: ignore[assignment, method-assign]
    edit = memory.add(capital())
    memory._server._commit = original  # type: ignore[method-assign]
    memory.refresh()
    memory.retract(edit.id)
    memory._carry_out(lost[0])
    assert [event.kind for event in memory.history(edit.id)] == ["added", "retracted"]


def test_a_server_that_lost_the_end_of_its_ledger(connect: Connect, own_server: RedisServer) -> None:
    one, two = connect(own_server), connect(own_server)
    one.add(capital())
    until(lambda: found(two, "The capital of Kazakhstan is") == ["Astana"])
    own_server.kill()
    for file in own_server.folder.glob("appendonlydir/*"):
        file.unlink()
    own_server.start()
    until(lambda: len(one) == len(two) == 0)
    edit = one.add(capital("Nigeria", "Abuja"))
    until(lambda: two.is_live(edit.id))
    assert found(two, "The capital of Kazakhstan is") == ["Abuja"]
    assert any("lost" in notice for notice in two.notices)


def test_an_emptied_ledger_is_noticed_without_following(connect: Connect) -> None:
    one = connect(follow=False)
    one.add(capital())
    one._server.link.client.delete(*one._server.link.client.keys(f"{one._server._prefix}*"))
    one.add(capital("Nigeria", "Abuja"))
    assert [edit.target for edit in one.live()] == ["Abuja"]


@pytest.mark.parametrize("way", ["refresh", "take", "write"])
def test_two_histories_are_not_mixed(connect: Connect, way: str) -> None:
    one, other = connect(follow=False), connect(follow=False)
    one.add_many([capital(), capital("Peru", "Lima")])
    one._server.link.client.delete(*one._server.link.client.keys(f"{one._server._prefix}*"))
    for number in range(4):  # past where the other history ended
        other.add(capital(f"Land{number}"))
    if way == "refresh":
        assert one.refresh()
    elif way == "take":
        one.replica.take(one._server.read(one.version))
    else:
        one.replica.write(lambda state: Plan())
    assert one.live() == other.live()
    assert any("lost" in notice for notice in one.notices)
    one.refresh()
    assert not one.refresh()


def test_what_one_wrote_itself_is_not_asked_for_again(connect: Connect) -> None:
    one, two = connect(follow=False), connect(follow=False)
    one.add(capital())
    assert not one._server.changed()
    two.add(capital("Peru", "Lima"))
    one.add(capital("Nigeria", "Abuja"))
    assert two._server.changed()
    assert len(one) == 3


class Moody(FixedEncoder):
    """An encoder that fails at will, in its own way."""

    away = False

    def encode(self, texts: Sequence[str]) -> Vectors:
        if self.away:
            raise OSError("the server of embeddings is away")
        return super().encode(texts)


def test_an_encoder_that_fails_does_not_keep_a_copy_from_following(connect: Connect) -> None:
    encoder = Moody(32, "moody")
    one, two = connect(encoder=encoder), connect(follow=False)
    assert found(one, "The capital of Kazakhstan is") == []
    encoder.away = True
    edit = two.add(capital())
    until(lambda: one.is_live(edit.id))
    assert any("not encoded yet: OSError" in notice for notice in one.notices)
    encoder.away = False
    later = two.add(capital("Peru", "Lima"))
    until(lambda: one.is_live(later.id))
    assert one.stale_for == 0
    assert sorted(found(one, "The capital of Kazakhstan is")) == ["Astana", "Lima"]


def test_what_ends_no_thread(connect: Connect) -> None:
    one, two = connect(), connect(follow=False)
    take = one._replica.take

    def broken(events: object) -> bool:
        raise ZeroDivisionError

    one._replica.take = broken  # type: ignore[assignment, method-assign]
    edit = two.add(capital())
    until(lambda: one.stale_for > 0)
    until(lambda: any("cannot be followed" in notice and "ZeroDivisionError" in notice for notice in one.notices))
    one._replica.take = take  # type: ignore[method-assign]
    until(lambda: one.is_live(edit.id) and one.stale_for == 0)


def test_a_snapshot_saves_a_new_process_the_encoding(connect: Connect, tmp_path: Path) -> None:
    one = connect(snapshot=tmp_path / "index")
    one.add_many([capital(f"Land{number}") for number in range(10)])
    found(one, "x")
    one.close()
    two = connect(snapshot=tmp_path / "index")
    two._server.vectors = lambda *_: {}  # type: ignore[method-assign]
    before = two.encoder.calls  # type: ignore[attr-defined]
    assert len(found(two, "The capital of Land3 is")) == 3
    assert two.encoder.calls == before + 1  # type: ignore[attr-defined]
    assert two.notices == ()


def test_another_encoder_is_refused_if_so_wished(connect: Connect) -> None:
    one = connect()
    one.add(capital())
    other = connect(encoder=FixedEncoder(32, "another"), other_encoder="refuse")
    assert [mention.name for mention in other.mentions("Where is Kazakhstan?")] == ["Kazakhstan"]
    with pytest.raises(EncoderMismatch, match="fixed-32"):
        found(other, "The capital of Kazakhstan is")


def test_a_ledger_is_encoded_anew_while_it_answers(connect: Connect) -> None:
    one = connect()
    edits = one.add_many([capital(f"Land{number}") for number in range(600)])
    encoder, go_on = FixedEncoder(32, "another"), threading.Event()
    encode = encoder.encode

    def slowly(texts: Sequence[str]) -> np.ndarray:
        assert len(texts) < 10 or go_on.wait(20)
        return encode(texts)

    encoder.encode = slowly  # type: ignore[method-assign]
    two = connect(encoder=encoder)
    go_on.set()
    vector = encoder.encode(["The capital of Land77 is"])
    go_on.clear()
    assert two.search(vector, 1) == [[]]
    assert "fixed-32" in two.notices[0]
    assert "600 edits are being encoded" in two.notices[0]
    assert two.frame_vector(edits[77].id).shape == (32,)  # what is asked for by name need not wait
    assert [hit.edit.id for hit in two.search(vector, 1)[0]] == [edits[77].id]
    go_on.set()
    two._replica._index.wait()
    assert two.notices[-1] == "all edits can be found again"
    assert {hit.edit.id for hit in two.search(vector, 600)[0]} == {edit.id for edit in edits}
    assert one._server.encoder() == "fixed-32"
    assert one._server.kept() == {"fixed-32": 601, "another": 601}


def test_the_mark_of_the_encoder_is_in_the_record(connect: Connect) -> None:
    one = connect(follow=False)
    edit = one.add(capital())
    one.retract(edit.id)
    one.add_many([capital(f"Land{number}") for number in range(600)])  # more than are encoded at a time
    rows = one._server.link.client.xrange(one._server.key("events"))
    assert [fields[b"f"] for _, fields in rows] == [b"fixed-32", b"", *[b"fixed-32"] * 600]


def test_an_edit_may_end_by_itself_and_be_cleared_away(connect: Connect) -> None:
    one = connect(follow=False)
    one.add(capital(), ttl=timedelta(seconds=0.2))
    one.add(capital("Nigeria", "Abuja"), ttl=3600)
    assert found(one, "The capital of Kazakhstan is")[0] == "Astana"
    until(lambda: len(one.live()) == 1)
    assert "Astana" not in found(one, "The capital of Kazakhstan is")
    assert expire(one) == 1
    assert expire(one) == 0
    assert len(one) == 1
    assert [event.reason for event in one._server.read()][-1] == "its time is over"
    with pytest.raises(InvalidRequest, match="ttl"):
        one.add(capital("Brazil", "Brasilia"), ttl=-1)
