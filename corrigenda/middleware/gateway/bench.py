"""What the gateway costs: the same upstream behind a bare proxy of the same stack and behind the edits, in one run.

Three servers in processes of their own: a stub upstream, which answers at once, and two gateways in turn. The load is
generated here. Latency is measured with one connection, throughput with many.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import multiprocessing
import random
import statistics
import time
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal

import aiohttp
import psutil

from corrigenda.edit import Edit
from corrigenda.errors import CorrigendaError

Traffic = Literal["bare", "early_exit", "judged"]
_ANSWER = json.dumps(
    {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "stub",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "Yes."}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 11},
    }
).encode()
_ASIDE = (
    "how do I keep basil alive on a shady window sill?",
    "write two lines about rain on a tin roof",
    "what is a good name for a small grey cat?",
    "explain recursion to a child, in three sentences",
    "which is heavier, a kilo of feathers or a kilo of lead?",
)


def facts(count: int, seed: int = 0) -> list[Edit]:
    """Return ``count`` invented edits; their subjects are two invented words each."""
    chance = random.Random(seed)
    syllables = [consonant + vowel for consonant in "bcdfghjklmnpqrstvwxz" for vowel in "aeiou"]

    def word() -> str:
        return "".join(chance.choice(syllables) for _ in range(3)).capitalize()

    names: dict[str, None] = {}
    while len(names) < count:
        names[f"{word()} {word()}"] = None
    return [Edit(f"The capital of {name} is", word(), subject=name, relation="capital") for name in names]


def measure(folder: Path, *, edits: int, requests: int, connections: int, soak_seconds: float = 0) -> dict[str, Any]:
    """Return latency and throughput of a bare proxy and of the gateway.

    Args:
        folder: Where the memory is kept; made there if it is not.
        edits: How many live edits.
        requests: How many requests a measurement takes.
        connections: How many at once, for throughput.
        soak_seconds: How long mixed traffic goes on afterwards, to see whether memory grows; 0 for not at all.

    Raises:
        CorrigendaError: A server did not start, or an answer was wrong.
    """
    known = _prepared(folder / "bench.db", edits)
    subjects = [edit.subject or "" for edit in known]
    result: dict[str, Any] = {"edits": edits, "connections": connections, "requests": requests}
    with (
        _server(_stub) as (upstream, _),
        _server(_gateway, upstream, None) as (bare, bare_process),
        _server(_gateway, upstream, str(folder / "bench.db")) as (edited, process),
    ):
        # In turns, so that what else the machine does hits all alike.
        plans: list[tuple[Traffic, str, int]] = [
            ("bare", bare, bare_process),
            ("early_exit", edited, process),
            ("judged", edited, process),
        ]
        for traffic, url, _ in plans:
            asyncio.run(_load(url, _bodies(traffic, subjects, 50), 1))
        for traffic, url, running in plans:
            result[traffic] = _measured(url, running, traffic, subjects, requests, connections)
        again = _measured(bare, bare_process, "bare", subjects, requests, connections)
        result["bare"] = {key: round((result["bare"][key] + again[key]) / 2, 3) for key in again}
        if soak_seconds:
            result["soak"] = _soak(edited, process, subjects, connections, soak_seconds)
    for traffic in ("early_exit", "judged"):
        result[traffic]["added_p50_ms"] = round(result[traffic]["p50_ms"] - result["bare"]["p50_ms"], 3)
        result[traffic]["added_ttft_ms"] = round(result[traffic]["ttft_ms"] - result["bare"]["ttft_ms"], 3)
        result[traffic]["added_cpu_ms"] = round(result[traffic]["cpu_ms"] - result["bare"]["cpu_ms"], 3)
        result[traffic]["share_of_bare_rps"] = round(result[traffic]["rps"] / result["bare"]["rps"], 3)
    return result


def _measured(
    url: str, process: int, traffic: Traffic, subjects: Sequence[str], requests: int, many: int
) -> dict[str, float]:
    count = requests if traffic != "judged" else max(requests // 4, 50)
    alone, _ = asyncio.run(_load(url, _bodies(traffic, subjects, max(count // 2, 50)), 1))
    streamed, _ = asyncio.run(_load(url, _bodies(traffic, subjects, max(count // 4, 25), stream=True), 1))
    before = psutil.Process(process).cpu_times()
    _, seconds = asyncio.run(_load(url, _bodies(traffic, subjects, count), many))
    after = psutil.Process(process).cpu_times()
    return {
        "p50_ms": round(statistics.median(alone) * 1e3, 3),
        "p95_ms": round(statistics.quantiles(alone, n=20)[-1] * 1e3, 3),
        "ttft_ms": round(statistics.median(streamed) * 1e3, 3),
        "rps": round(count / seconds, 1),
        # What the server itself spent: the same however busy the machine is.
        "cpu_ms": round((after.user + after.system - before.user - before.system) / count * 1e3, 3),
    }


def _bodies(traffic: Traffic, subjects: Sequence[str], count: int, *, stream: bool = False) -> list[bytes]:
    chance = random.Random(1)
    texts = [
        # Half of what is judged is in scope, half only mentions a subject.
        (chance.choice(("The capital of {} is", "Write a poem about {}."))).format(chance.choice(subjects))
        if traffic == "judged"
        else chance.choice(_ASIDE)
        for _ in range(count)
    ]
    system = {"role": "system", "content": "You are a helpful assistant."}
    rows = ({"model": "stub", "messages": [system, {"role": "user", "content": text}]} for text in texts)
    return [json.dumps({**row, "stream": True} if stream else row).encode() for row in rows]


async def _load(
    url: str, bodies: Sequence[bytes], connections: int, errors: list[str] | None = None
) -> tuple[list[float], float]:
    """Send ``bodies``; return seconds until the first byte of each answer, and seconds for all.

    What goes wrong is appended to ``errors``; without such a list it is raised.
    """
    times: list[float] = []
    todo = iter(bodies)
    headers = {"content-type": "application/json", "authorization": "Bearer none"}

    async def ask(session: aiohttp.ClientSession, body: bytes) -> float:
        began = time.perf_counter()
        async with session.post(url + "/v1/chat/completions", data=body, headers=headers) as answer:
            await answer.content.readany()
            first = time.perf_counter() - began
            await answer.read()
            if answer.status != 200:
                raise CorrigendaError(f"the gateway answered {answer.status}")
        return first

    async def worker(session: aiohttp.ClientSession) -> None:
        for body in todo:
            try:
                times.append(await ask(session, body))
            except (aiohttp.ClientError, CorrigendaError) as error:
                if errors is None:
                    raise
                errors.append(str(error))

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        began = time.perf_counter()
        await asyncio.gather(*(worker(session) for _ in range(connections)))
        return times, time.perf_counter() - began


def _soak(url: str, process: int, subjects: Sequence[str], connections: int, seconds: float) -> dict[str, float]:
    gateway = psutil.Process(process)
    mixed = _bodies("judged", subjects, 100) + _bodies("early_exit", subjects, 900)
    random.Random(2).shuffle(mixed)
    end = time.monotonic() + seconds
    sizes: list[float] = []
    errors: list[str] = []
    count = 0
    while time.monotonic() < end:
        asyncio.run(_load(url, mixed, connections, errors))
        count += len(mixed)
        sizes.append(gateway.memory_info().rss / 2**20)
    # The first tenth warms caches; from then on nothing should grow.
    settled = sizes[max(1, len(sizes) // 10) :] or sizes
    return {
        "seconds": round(seconds, 1),
        "requests": count,
        "errors": len(errors),
        "rss_mib_begin": round(settled[0], 1),
        "rss_mib_end": round(settled[-1], 1),
        "rss_growth": round(settled[-1] / settled[0] - 1, 4),
    }


def _prepared(path: Path, count: int) -> list[Edit]:
    from corrigenda.memory.memory import Memory

    known = facts(count)
    with Memory.open(path) as memory:
        if len(memory) != count:
            memory.add_many(known)
    return known


@contextlib.contextmanager
def _server(run: Any, *arguments: Any) -> Iterator[tuple[str, int]]:
    """Run a server in a process of its own; yield its URL and process id."""
    context = multiprocessing.get_context("spawn")
    mine, theirs = context.Pipe()
    process = context.Process(target=run, args=(theirs, *arguments), daemon=True)
    process.start()
    try:
        if not mine.poll(120):
            raise CorrigendaError("a server of the benchmark did not start within two minutes")
        yield f"http://127.0.0.1:{mine.recv()}", process.pid or 0
    finally:
        process.terminate()
        process.join(10)


def _stub(pipe: Connection) -> None:
    """Serve an upstream that answers at once."""
    import uvicorn

    async def app(scope: Any, receive: Any, send: Any) -> None:
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        if b'"stream": true' in body or b'"stream":true' in body:
            await send(
                {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]}
            )
            for _ in range(3):
                await send({"type": "http.response.body", "body": b"data: {}\n\n", "more_body": True})
            await send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})
            return
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(_ANSWER))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": _ANSWER})

    config = uvicorn.Config(app, port=0, lifespan="off", ws="none", log_level="warning", access_log=False)
    _run(config, pipe)


def _gateway(pipe: Connection, upstream: str, path: str | None) -> None:
    """Serve a gateway; without a memory, a bare proxy of the same stack."""
    from corrigenda.middleware.gateway import server
    from corrigenda.middleware.gateway.app import Gateway
    from corrigenda.middleware.gateway.passing import bare_app
    from corrigenda.middleware.gateway.settings import Settings

    settings = Settings()
    if path is None:
        _run(server.config(bare_app(upstream, settings), settings, port=0), pipe)
        return
    from corrigenda.memory.memory import Memory

    with Memory.open(path, readonly=True) as memory:
        _run(server.config(Gateway(memory, upstream=upstream, settings=settings).app, settings, port=0), pipe)


def _run(config: Any, pipe: Connection) -> None:
    import uvicorn

    class Announcing(uvicorn.Server):
        async def startup(self, sockets: Any = None) -> None:
            await super().startup(sockets)
            pipe.send(self.servers[0].sockets[0].getsockname()[1])

    Announcing(config).run()
