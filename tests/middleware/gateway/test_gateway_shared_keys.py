"""Keys in Redis: made and revoked anywhere, they count everywhere; and nowhere once nobody knows any more."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from corrigenda.errors import UnknownName
from corrigenda.middleware.gateway import shared_keys
from corrigenda.middleware.gateway.keys import Keys
from corrigenda.middleware.gateway.shared_keys import SharedRows

pytestmark = pytest.mark.redis


@pytest.fixture
def two(redis_server: Any) -> Iterator[tuple[Keys, Keys]]:
    ledger = f"keys{time.monotonic_ns()}"
    pair = tuple(Keys(SharedRows(redis_server.url, ledger, every=0.05)) for _ in range(2))
    yield pair[0], pair[1]
    for keys in pair:
        keys.close()


def soon(wanted: Any) -> bool:
    end = time.monotonic() + 20
    while not wanted():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def test_made_here_revoked_there(two: tuple[Keys, Keys]) -> None:
    here, there = two
    key, text = here.create("ann", "editor", ["a", "b"])
    assert here.find(text) == key
    assert soon(lambda: there.find(text) == key)
    assert there.all() == [key]
    assert there.revoke(key.id).revoked
    assert soon(lambda: here.find(text) is None)
    assert here.all()[0].revoked
    with pytest.raises(UnknownName):
        here.revoke("nope")


def test_a_copy_that_is_too_old_admits_nobody(two: tuple[Keys, Keys], monkeypatch: pytest.MonkeyPatch) -> None:
    keys = two[0]
    _, text = keys.create("ann", "reader", ["*"])
    assert keys.find(text)
    monkeypatch.setattr(shared_keys, "_TRUSTED", -1.0)
    assert keys.find(text) is None


def test_secrets_are_not_on_the_server(two: tuple[Keys, Keys], redis_server: Any) -> None:
    redis = pytest.importorskip("redis")
    _, text = two[0].create("ann", "reader", ["*"])
    with redis.Redis.from_url(redis_server.url) as client:
        kept = b"".join(b"".join(client.hgetall(name).values()) for name in client.keys("corrigenda:*:keys"))
    assert text.split("_", 2)[2].encode() not in kept


def test_the_command_line_makes_keys_for_a_shared_memory(redis_server: Any) -> None:
    from typer.testing import CliRunner

    from corrigenda.cli.main import app

    place = f"{redis_server.url}#cli{time.monotonic_ns()}"
    made = CliRunner().invoke(app, ["keys", "create", "ann", "--memory", place])
    assert made.exit_code == 0, made.output
    assert "ann" in CliRunner().invoke(app, ["keys", "list", "--memory", place]).output
