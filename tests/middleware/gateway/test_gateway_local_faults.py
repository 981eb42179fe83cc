"""A local model when something goes wrong: every stream ends, and nobody works for clients that left."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from gateway_harness import StartGateway, eventually, get, post, serving

from corrigenda.memory.memory import Memory
from corrigenda.memory.scope import Consideration, Scope
from corrigenda.middleware.gateway import server
from corrigenda.middleware.gateway.app import Gateway
from corrigenda.middleware.generate import EditedModel

CHAT = {"model": "x", "max_tokens": 5, "messages": [{"role": "user", "content": "Tell me a story"}]}


@pytest.mark.parametrize("stream", [False, True])
def test_arguments_that_no_model_can_take_are_answered(
    start: StartGateway, edited: Callable[..., EditedModel], llama: Any, stream: bool
) -> None:
    url = start(model=edited(llama))

    def ask(**more: Any) -> int:
        return post(url + "/v1/chat/completions", json={**CHAT, "stream": stream, **more}).status_code

    assert ask(temperature=1.0, seed=1 << 64) == 400
    assert ask(temperature=1.0, seed=(1 << 64) - 1) == 200
    assert ask(temperature=1e-45) == 200


def test_an_error_that_nobody_foresaw_ends_the_stream(
    start: StartGateway, edited: Callable[..., EditedModel], llama: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: Any, **options: Any) -> Any:
        raise ZeroDivisionError

    model = edited(llama)
    monkeypatch.setattr(model, "stream", broken)
    url = start(model=model)
    assert post(url + "/v1/chat/completions", json={**CHAT, "stream": True}).status_code == 500
    assert post(url + "/v1/chat/completions", json=CHAT).status_code == 200


class Slow(Scope):
    """Counts how often it is asked, and can be told to wait."""

    def __init__(self, memory: Memory, **settings: Any) -> None:
        super().__init__(memory, **settings)
        self.asked, self.go = 0, threading.Event()
        self.go.set()

    def consider(self, queries: Sequence[str], namespace: str = "default", **more: Any) -> list[Consideration]:
        self.asked += 1
        assert self.go.wait(60)
        return super().consider(queries, namespace, **more)


def test_who_left_is_not_answered(memory: Memory, llama: Any, name_judge: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    scope = Slow(memory, judge=name_judge())
    gateway = Gateway(memory, model=EditedModel(llama, memory, scope=scope))
    assert gateway.model is not None
    pool, queued = gateway.model.pool, 0
    own = pool.submit

    def submit(*args: Any) -> Any:
        nonlocal queued
        queued += 1
        return own(*args)

    monkeypatch.setattr(pool, "submit", submit)
    config = server.config(gateway.app, gateway.settings, port=0, log_level="critical")
    with serving(config) as url, ThreadPoolExecutor(1) as client:
        scope.asked = 0  # it was tried out when the gateway began
        scope.go.clear()
        first = client.submit(post, url + "/v1/chat/completions", json=CHAT)
        eventually(lambda: scope.asked == 1)
        for number in range(6):
            leave(url, {**CHAT, "stream": number % 2 == 0}, lambda wanted=number + 2: queued == wanted)
        gone = 'corrigenda_requests_total{outcome="local",status="4xx"} 6.0'
        try:
            eventually(lambda: gone in get(url + "/metrics").text)
        finally:
            scope.go.set()
        assert first.result().status_code == 200
        assert post(url + "/v1/chat/completions", json=CHAT).status_code == 200
    assert scope.asked == 2


def leave(url: str, body: Any, once: Callable[[], bool]) -> None:
    """Send a request, and hang up ``once`` something is so."""
    data = json.dumps(body).encode()
    with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2]))) as connection:
        head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(data)
        connection.sendall(head + data)
        eventually(once)
