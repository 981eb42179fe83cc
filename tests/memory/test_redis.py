"""What a server adds to the contract of a store: one order from afar, being away, coming back, and promises."""

from __future__ import annotations

import shutil
import socket
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path

import pytest
import waiting
from servers import RedisServer, free_port

from corrigenda.edit import Edit
from corrigenda.errors import (
    InvalidRequest,
    LedgerMoved,
    StoreDamaged,
    StoreError,
    StoreNotWritable,
    StoreTooNew,
    StoreUnavailable,
)
from corrigenda.memory.ledger import Event
from corrigenda.memory.memory import Memory
from corrigenda.memory.redis import RedisStore
from corrigenda.memory.redis_link import Link, Patience, masked
from corrigenda.memory.redis_promise import Durability
from corrigenda.memory.redis_rights import Role, acl_rules
from corrigenda.testing import FixedEncoder

pytestmark = pytest.mark.redis

QUICK = Patience(answer=0.3, total=0.4, rest=0.2)
Connect = Callable[..., RedisStore]


@pytest.fixture
def connect(redis_server: RedisServer) -> Iterator[Connect]:
    ledger = uuid.uuid4().hex
    opened: list[RedisStore] = []

    def call(**options: object) -> RedisStore:
        values = {"ledger": ledger, "patience": QUICK} | options
        opened.append(RedisStore.connect(redis_server.url, **values))  # type: ignore[arg-type]
        return opened[-1]

    yield call
    for store in opened:
        store.close()


@pytest.fixture
def own_server(tmp_path: Path, redis_server: RedisServer) -> Iterator[RedisServer]:
    """A server of this test's own, to be hurt. (The shared one is asked for first: it knows when to skip.)"""
    with RedisServer(tmp_path / "own", appendonly="yes", appendfsync="always") as server:
        yield server


def added(*numbers: int) -> list[Event]:
    return [Event("added", Edit(f"The capital of land {number} is", f"City {number}")) for number in numbers]


def test_appending_the_same_events_again_changes_nothing(connect: Connect) -> None:
    store = connect()
    events = added(1, 2)
    store.append(added(0))
    with store.exclusive():
        store.read()
        store.append(events)
    keys = [store.key(name) for name in ("events", "meta", "ids", "about", "live", "vectors")]
    again = [1, "", "", 2]
    for event in events:
        again += [event.id, b"{}", event.edit.id, "", "1"]
    assert store._promise.run(keys, again) == (b"known", 3)
    assert [event.seq for event in store.read()] == [1, 2, 3]
    assert store.append(events) == 3

    def promise() -> None:
        with store.exclusive():
            assert store.append(events) == 5

    with pytest.raises(StoreError, match="already"):
        promise()
    assert len(store.read()) == 3
    assert store.knows(events[0].id)
    assert not store.knows("another")


def test_who_decided_on_an_older_state_decides_again(connect: Connect) -> None:
    one, two = connect(), connect()

    def decide() -> None:
        with one.exclusive():
            one.read()
            one.append(added(1))
            two.append(added(2))

    with pytest.raises(LedgerMoved):
        decide()
    assert [event.edit.target for event in one.read()] == ["City 2"]


def test_the_same_number_in_another_history_is_another_state(connect: Connect) -> None:
    one, two = connect(), connect()
    one.append(added(1))
    one.read()
    two.link.client.delete(*two.link.client.keys(f"{two._prefix}*"))
    two.append(added(2))

    def decide() -> None:
        with one.exclusive():
            one.read(1)
            one.append(added(3))

    with pytest.raises(LedgerMoved):
        decide()


@pytest.mark.parametrize("durability", ["server", "disk"])
def test_a_server_that_is_busy_with_a_script_is_away(own_server: RedisServer, durability: Durability) -> None:
    store = RedisStore.connect(own_server.url, patience=QUICK, durability=durability)
    store.append(added(1))
    own_server.command("config", "set", "lua-time-limit", "1")
    with socket.create_connection(("127.0.0.1", own_server.port)) as other:
        other.sendall(b'EVAL "while true do end" 0\r\n')
        waiting.until(lambda: refusal(own_server).startswith(b"-BUSY"), seconds=5.0)
        with pytest.raises(StoreUnavailable, match="BUSY"):
            store.append(added(2))
        assert not store.changed()
        assert store.vectors("one", [b"k"]) == {}
        own_server.command("script", "kill")
    assert store.append(added(2)) == 2
    store.close()


def refusal(server: RedisServer) -> bytes:
    """Return what the server says to a simple command."""
    with socket.create_connection(("127.0.0.1", server.port)) as line:
        line.sendall(b"HGET x y\r\n")
        return line.recv(64)


def test_a_ledger_that_began_anew_can_be_written_to(connect: Connect) -> None:
    store = connect()
    store.append([replace(added(1)[0], id="z")])
    store.link.client.delete(*store.link.client.keys(f"{store.key()}*"))
    for number in (1, 2):  # the second is decided on the first, not on what was there in its place
        with store.exclusive():
            store.read(number - 1)
            assert store.append([replace(added(number)[0], id=f"a{number}")]) == number


def test_the_server_keeps_the_live_state_too(connect: Connect) -> None:
    store = connect()
    one, two, three = (event.edit for event in added(1, 2, 3))
    store.append([Event("added", one), Event("added", two), Event("amended", three, replaces=one.id)])
    store.append([Event("retracted", two), Event("restored", two), Event("retracted", three)])
    assert store.live() == {two.id: 5}


def test_waiting_for_what_others_append(connect: Connect) -> None:
    one, two = connect(), connect()
    assert one.wait(0, 0.05) == []
    timer = threading.Timer(0.05, two.append, [added(1)])
    timer.start()
    began = time.monotonic()
    assert [event.seq for event in one.wait(0, 0.25)] == [1]
    assert time.monotonic() - began < 0.25
    timer.join()


def test_waiting_is_shorter_than_the_patience(connect: Connect) -> None:
    assert connect(patience=Patience(answer=2.0, total=0.1)).wait(0, 60.0) == []


def test_a_gap_is_damage(connect: Connect) -> None:
    store = connect()
    store.append(added(*range(5)))
    store.link.client.xdel(store.key("events"), "3-0")
    with pytest.raises(StoreDamaged, match="events 3 to 3 are missing"):
        store.read()
    assert [event.seq for event in store.read(until=2)] == [1, 2]


def test_a_record_that_was_meddled_with_is_damage(connect: Connect) -> None:
    store = connect()
    for seq, record in enumerate([b"{", b"[]", b'{"id": 1}', b"\xff"], 1):
        store.link.client.xadd(store.key("events"), {"i": "x", "e": record}, id=f"{seq}-0")
        with pytest.raises(StoreDamaged, match=f"event {seq} cannot be read"):
            store.read(seq - 1)


def test_later_formats_and_foreign_keys_are_refused(connect: Connect) -> None:
    store = connect()
    store.link.client.hset(store.key("meta"), "format", "2")
    with pytest.raises(StoreTooNew):
        connect()
    store.link.client.hset(store.key("meta"), "format", "soup")
    with pytest.raises(StoreDamaged):
        connect()
    store.link.client.delete(store.key("meta"))
    store.link.client.set(store.key("meta"), "a string")
    with pytest.raises(StoreError, match="WRONGTYPE"):
        connect()


def test_names_urls_and_promises_that_cannot_be(redis_server: RedisServer) -> None:
    for options in ({"ledger": ""}, {"ledger": "a{b}"}, {"durability": "eternal"}, {"replicas": 0}):
        with pytest.raises(InvalidRequest):
            RedisStore.connect(redis_server.url, **options)  # type: ignore[arg-type]
    for url in ("http://x", "redis://localhost:port", "redis+sentinel://h:1/"):
        with pytest.raises(InvalidRequest):
            RedisStore.connect(url)
    with pytest.raises(InvalidRequest):
        Patience(answer=0)
    assert masked("redis://me:secret@host:1/2?password=x") == "redis://host:1/2"


def test_a_server_that_is_not_there(connect: Connect) -> None:
    url = f"redis://user:secret@127.0.0.1:{free_port()}"
    began = time.monotonic()
    with pytest.raises(StoreUnavailable) as caught:
        RedisStore.connect(url, patience=QUICK)
    assert time.monotonic() - began < QUICK.answer + QUICK.total + 1
    assert "secret" not in str(caught.value)
    assert isinstance(caught.value, ConnectionError)


def test_a_server_that_dies_and_comes_back(own_server: RedisServer) -> None:
    store = RedisStore.connect(own_server.url, patience=QUICK)
    store.append(added(1))
    store.keep_vectors("one", {b"k" * 16: b"v"})
    own_server.kill()
    with pytest.raises(StoreUnavailable):
        store.append(added(2))
    assert store.link.down_for > 0
    assert not store.changed()
    assert store.vectors("one", [b"k" * 16]) == {}
    time.sleep(QUICK.rest)
    assert store.vectors("one", [b"k" * 16]) == {}
    own_server.start()
    assert store.append(added(3)) == 2
    assert store.link.down_for == 0
    assert store.vectors("one", [b"k" * 16]) == {b"k" * 16: b"v"}
    assert [event.edit.target for event in store.read()] == ["City 1", "City 3"]
    store.close()


def test_scripts_that_the_server_forgot_are_loaded_again(connect: Connect) -> None:
    store = connect()
    store.append(added(1))
    store.link.client.script_flush()
    assert store.append(added(2)) == 2


def test_the_disk_is_promised_only_where_it_is_kept(own_server: RedisServer, tmp_path: Path) -> None:
    with RedisServer(tmp_path / "forgetful") as server, pytest.raises(InvalidRequest, match="cannot promise"):
        RedisStore.connect(server.url, durability="disk")
    store = RedisStore.connect(own_server.url, durability="disk", patience=QUICK)
    assert store.append(added(1)) == 1
    own_server.kill()
    own_server.start()
    assert len(store.read()) == 1
    store.close()


def test_replicas_are_waited_for(own_server: RedisServer, tmp_path: Path) -> None:
    patience = Patience(answer=1.0, total=0.1, rest=0.1)
    store = RedisStore.connect(own_server.url, durability="replicas", patience=patience)
    events = added(1)
    with pytest.raises(StoreUnavailable, match="not confirmed by 1 replicas"):
        store.append(events)
    assert [event.id for event in store.read()] == [events[0].id]
    memory = Memory(
        RedisStore.connect(own_server.url, durability="replicas", patience=patience), encoder=FixedEncoder()
    )
    with pytest.raises(StoreUnavailable, match="not confirmed"):  # it is there, but that is not enough to say so
        memory.add(events[0].edit)
    memory.close()
    with RedisServer(tmp_path / "copy", replicaof=f"127.0.0.1\n{own_server.port}") as copy:
        deadline, events = time.monotonic() + 30, added(2)
        while True:  # until the replica has caught up
            try:
                assert store.append(events) == 2
                break
            except StoreUnavailable:
                assert time.monotonic() < deadline
        reader = RedisStore.connect(copy.url, readonly=True)
        assert [event.seq for event in reader.read()] == [1, 2]
        with pytest.raises(StoreUnavailable):  # a replica is no place to write
            RedisStore.connect(copy.url, ledger="new", patience=QUICK)
        reader.close()
    store.close()


def test_users_with_the_least_rights(redis_server: RedisServer) -> None:
    admin = Link(redis_server.url).client
    version = tuple(int(part) for part in str(admin.info("server")["redis_version"]).split("."))

    def connect_as(role: Role, ledger: str = "mine", password: str = "pw", **options: object) -> RedisStore:
        admin.execute_command("ACL", "SETUSER", role, "reset", "on", ">pw", *acl_rules("mine", role, version=version))
        url = redis_server.url.replace("//", f"//{role}:{password}@")
        return RedisStore.connect(url, ledger=ledger, patience=QUICK, **options)  # type: ignore[arg-type]

    writer = connect_as("writer")
    assert writer.append(added(1)) == 1
    writer.keep_vectors("one", {b"k": b"v"})
    assert writer.condition()["role"] == "master"
    reader = connect_as("reader", readonly=True)
    assert reader.vectors("one", [b"k"]) == {b"k": b"v"}
    assert len(reader.read(about=[added(1)[0].edit.id])) == len(reader.wait(0, 0.01)) == len(reader.live()) == 1
    assert reader.kept() == {"one": 1}
    reader.readonly = False
    with pytest.raises(StoreNotWritable, match="permission"):
        reader.append(added(2))
    with pytest.raises(StoreNotWritable, match="permission"):
        writer.compact("one", [])
    keeper = connect_as("keeper")
    assert keeper.compact("one", []) == 1
    keeper.adopt_encoder("another")
    with pytest.raises(StoreNotWritable, match="permission"):
        connect_as("writer", ledger="theirs")
    with pytest.raises(StoreNotWritable, match="user name, password"):
        connect_as("writer", password="wrong")
    with pytest.raises(InvalidRequest):
        acl_rules("mine", "king")  # type: ignore[arg-type]
    for store in (writer, reader, keeper):
        store.close()


@pytest.mark.parametrize(("ledger", "other"), [("a*", "abc"), ("a?", "ab"), ("team[1]", "team1"), ("a\\*", "a*")])
def test_the_rights_to_a_ledger_are_to_no_other(redis_server: RedisServer, ledger: str, other: str) -> None:
    user = uuid.uuid4().hex
    rules = acl_rules(ledger, "reader", version=(7, 0))
    redis_server.command("ACL", "SETUSER", user, "reset", "on", ">pw", *rules)
    own = RedisStore.connect(redis_server.url, ledger=ledger, username=user, password="pw", readonly=True)
    assert own.read() == []
    own.close()
    with pytest.raises(StoreNotWritable, match="ermission"):
        RedisStore.connect(redis_server.url, ledger=other, username=user, password="pw", readonly=True)


@pytest.mark.parametrize("ledger", ["my team", "my\tteam", "", "a}b"])
def test_names_that_no_rule_can_express(ledger: str) -> None:
    with pytest.raises(InvalidRequest, match="no rule can name"):
        acl_rules(ledger, "reader")


def test_a_line_that_nobody_else_can_read(tmp_path: Path, redis_server: RedisServer) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("no openssl here to make a certificate with")
    key, certificate, port = tmp_path / "key.pem", tmp_path / "cert.pem", free_port()
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    making = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *subject]
    subprocess.run([*making, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    tls = {"tls-port": port, "tls-cert-file": certificate, "tls-key-file": key, "tls-auth-clients": "no"}
    server = RedisServer(tmp_path / "server", **tls)
    try:
        server.start()
    except RuntimeError:
        pytest.skip("this redis-server was built without TLS")
    url = f"rediss://127.0.0.1:{port}"
    with ExitStack() as stack:
        stack.callback(server.kill)
        with closing(RedisStore.connect(url, ssl_ca_certs=str(certificate), patience=QUICK)) as store:
            assert store.append(added(1)) == 1
        with pytest.raises(StoreUnavailable, match="certificate"):
            RedisStore.connect(url, patience=QUICK)  # nobody vouches for it
        with pytest.raises(StoreUnavailable):
            RedisStore.connect(f"redis://127.0.0.1:{port}", patience=QUICK)


def test_sentinel_says_who_the_primary_is(own_server: RedisServer, tmp_path: Path) -> None:
    folder, port = tmp_path / "sentinel", free_port()
    folder.mkdir()
    watch = f"sentinel monitor it 127.0.0.1 {own_server.port} 1"
    (folder / "it.conf").write_text(f"port {port}\ndir {folder}\n{watch}\n")
    with RedisServer(folder, port=port, configuration=folder / "it.conf"):
        store = RedisStore.connect(f"redis+sentinel://127.0.0.1:{port}/it", patience=QUICK)
        assert store.append(added(1)) == 1
        store.close()
        with pytest.raises(StoreUnavailable):
            RedisStore.connect(f"redis+sentinel://127.0.0.1:{port}/another", patience=QUICK)
    with pytest.raises(InvalidRequest, match="names no service"):
        RedisStore.connect(f"redis+sentinel://127.0.0.1:{port}")


def test_a_server_without_memory_refuses_and_says_so(own_server: RedisServer) -> None:
    store = RedisStore.connect(own_server.url, patience=QUICK)
    store.link.client.config_set("maxmemory", "1")
    with pytest.raises(StoreNotWritable, match="maxmemory"):
        store.append(added(1))
    assert store.read() == []
    store.close()
