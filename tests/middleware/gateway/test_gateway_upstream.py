"""What only passes through: limits hold there too, and nobody works for clients that left."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import httpx
import pytest
from gateway_harness import StartGateway, Stub, eventually, get, post

from corrigenda.middleware.gateway.settings import Settings


def refused(answer: httpx.Response) -> tuple[int, str, bool]:
    error = answer.json()["error"]
    return answer.status_code, error["code"], error["retryable"]


def test_a_body_that_is_too_long_is_the_clients_fault(stub: Stub, start: StartGateway) -> None:
    url = start(Settings(max_body=1000), upstream=stub.url)
    assert refused(post(url + "/v1/files", content=b"x" * 1001)) == (413, "too_large", False)
    assert stub.seen == []
    assert refused(post(url + "/v1/files", content=iter([b"x" * 600] * 2))) == (413, "too_large", False)
    eventually(lambda: 'requests_total{outcome="refused",status="4xx"} 2.0' in get(url + "/metrics").text)


def test_a_body_that_is_too_slow_is_the_clients_fault(stub: Stub, start: StartGateway) -> None:
    url = start(Settings(body_seconds=0.3), upstream=stub.url)
    with closing(begun(url)) as slow:
        assert b"408" in slow.recv(100).splitlines()[0]


def test_a_client_that_leaves_amid_its_body_is_no_fault_of_the_upstream(stub: Stub, start: StartGateway) -> None:
    url = start(upstream=stub.url)
    begun(url).close()
    eventually(lambda: 'requests_total{outcome="passed",status="4xx"} 1.0' in get(url + "/metrics").text)


@pytest.mark.parametrize("content", [b"{}", [b"{", b"}"]])
def test_a_client_that_leaves_frees_the_upstream(stub: Stub, start: StartGateway, content: Any) -> None:
    url = start(upstream=stub.url)
    stub.chunks, stub.pause = [b"data: 1\n\n"] * 200, 0.2
    body = content if isinstance(content, bytes) else streamed(content)
    with httpx.stream("POST", url + "/v1/embeddings", timeout=60, content=body) as answer:
        next(answer.iter_raw())
    assert stub.cancelled.wait(20)
    assert stub.last["body"] == b"{}"


def streamed(chunks: list[bytes]) -> Iterator[bytes]:
    yield from chunks


def begun(url: str) -> socket.socket:
    """Return a connection on which a request has begun."""
    connection = socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])))
    connection.settimeout(30)
    connection.sendall(b"POST /v1/files HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nab")
    return connection
