"""What happens to a line: cut, slow, silent, broken between the question and the answer; and to a writer."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

from proxy import Proxy
from servers import RedisServer
from trial import Tally, Trial, connect, fact
from waiting import until

# A writer in a process of its own: prints the first number of each batch once it is acknowledged.
WRITER = """
import json, sys
from corrigenda.edit import Edit
from corrigenda.memory.memory import Memory
from corrigenda.testing import FixedEncoder
url, name, count, step = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:])
with Memory.connect(url, ledger="trial", encoder=FixedEncoder(16), follow=False) as memory:
    for start in range(0, count, step):
        batch = range(start, start + step)
        memory.add_many([Edit(f"{name} {n} is", f"{n}", subject=f"{name} {n}", relation="is") for n in batch])
        print(json.dumps(start), flush=True)
"""
# A reader in a process of its own: prints when each edit in turn was found by a search, by the machine's one clock.
READER = """
import sys, time
from corrigenda.memory.memory import Memory
from corrigenda.testing import FixedEncoder
url, count = sys.argv[1], int(sys.argv[2])
with Memory.connect(url, ledger="trial", encoder=FixedEncoder(16)) as memory:
    vectors = [memory.encoder.encode([f"Thing {n} is"]) for n in range(count)]
    memory.search(vectors[0], 1)
    print("ready", flush=True)
    for n, vector in enumerate(vectors):
        while not any(hit.edit.subject == f"Thing {n}" for hit in memory.search(vector, 1)[0]):
            time.sleep(0.001)
        print(time.monotonic(), flush=True)
"""
BATCH = 5
AT_ONCE = 0.2
"""Seconds within which an edit must be everywhere, for 99 of 100 edits."""


def writer(url: str, name: str, count: int, step: int = 1) -> subprocess.Popen[str]:
    """Start a process that adds ``count`` edits, ``step`` at a time."""
    arguments = [sys.executable, "-c", WRITER, url, name, str(count), str(step)]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)


def killed_writer(rounds: int, folder: Path, chance: random.Random) -> Tally:
    """SIGKILL to a process that adds batches of five: whole batches only, and every acknowledged one."""
    tally = Tally()
    with RedisServer(folder, appendonly="yes", appendfsync="always") as server:
        promised: dict[str, set[int]] = {}
        for round_ in range(rounds):
            name = f"w{round_}"
            with writer(server.url, name, 100_000, BATCH) as process:
                assert process.stdout is not None
                acknowledged = [process.stdout.readline() for _ in range(3)]
                time.sleep(chance.random() * 0.05)
                process.send_signal(signal.SIGKILL)
                acknowledged += process.stdout.readlines()
            promised[name] = {json.loads(line) for line in acknowledged if line.endswith("\n")}
            with connect(server.url, follow=False) as memory:
                began = time.monotonic()
                memory.add(fact(round_, 1))
                tally.recovered(time.monotonic() - began)
        with connect(server.url, readonly=True, follow=False) as memory:
            there = Counter(str(event.edit.subject) for event in memory._server.read())
        tally.doubled = sum(count - 1 for count in there.values())
        for name, starts in promised.items():
            tally.acknowledged += BATCH * len(starts)
            wanted = {f"{name} {start + place}" for start in starts for place in range(BATCH)}
            tally.lost += len(wanted - there.keys())
            tally.answers += 1
            tally.wrong += sum(subject.startswith(f"{name} ") for subject in there) % BATCH != 0  # half a batch
    return tally


def cut_line(rounds: int, folder: Path, chance: random.Random) -> Tally:
    """The reader's line, the writer's, or both are cut for a moment; the reader goes on answering meanwhile."""
    with (
        RedisServer(folder, appendonly="yes") as server,
        Proxy(server.port) as near,
        Proxy(server.port) as far,
        Trial(near.url, far.url) as trial,
    ):
        for _ in range(rounds):
            trial.progress()
            cut = chance.choice(((near,), (far,), (near, far)))
            for proxy in cut:
                proxy.cut()
            if far in cut:
                until(lambda: trial.reader.stale_for > 0)
            asked = trial.tally.answers
            time.sleep(chance.random() * 0.3)
            until(lambda asked=asked: trial.tally.answers > asked, 1)  # type: ignore[misc]
            for proxy in cut:
                proxy.mend()
            trial.come_back()
    return trial.tally


def slow_line(rounds: int, folder: Path, chance: random.Random) -> Tally:
    """Everything is late by up to 0.7 s, so that some writes pass and some run out of time."""
    return _moody(rounds, folder, chance, silent=False)


def silent_line(rounds: int, folder: Path, chance: random.Random) -> Tally:
    """The line swallows everything and says nothing."""
    return _moody(rounds, folder, chance, silent=True)


def _moody(rounds: int, folder: Path, chance: random.Random, *, silent: bool) -> Tally:
    with (
        RedisServer(folder, appendonly="yes") as server,
        Proxy(server.port) as line,
        Trial(line.url) as trial,
    ):
        for _ in range(rounds):
            trial.progress()
            if silent:
                line.mood = "black hole"
                until(lambda: trial.reader.stale_for > 0)
            else:
                line.delay = chance.random() * 0.7
            time.sleep(0.1 + chance.random() * 0.4)
            asked = trial.tally.answers
            until(lambda asked=asked: trial.tally.answers > asked, 1)  # type: ignore[misc]
            line.delay = 0.0
            if silent:
                line.cut()  # or the connections would stay open, and silent
                line.mend()
            trial.come_back()
    return trial.tally


def lost_answer(rounds: int, folder: Path, chance: random.Random) -> Tally:
    """The writer's line breaks within the milliseconds of a write, again and again."""
    with (
        RedisServer(folder, appendonly="yes") as server,
        Proxy(server.port) as line,
        Trial(line.url, server.url) as trial,
    ):
        for _ in range(rounds):
            for _ in range(10):
                breaker = threading.Timer(chance.random() * 0.008, line.cut)
                breaker.start()
                breaker.join()
                line.mend()
            trial.come_back()
    return trial.tally


def many_writers(rounds: int, folder: Path, chance: random.Random) -> Tally:
    """Eight processes write at once, ``rounds`` times 100 edits each: all there, once, each writer's in its order."""
    tally, count = Tally(), 100 * rounds
    with RedisServer(folder, appendonly="yes") as server:
        began = time.monotonic()
        with connect(server.url) as follower:
            writers = [writer(server.url, f"w{number}", count) for number in range(8)]
            for process in writers:
                out, _ = process.communicate()
                tally.acknowledged += len(out.splitlines())
                tally.stuck += process.returncode != 0
            with connect(server.url, follow=False) as memory:
                events = memory._server.read()
                until(lambda: follower.version == memory.version)
                tally.wrong += list(follower._replica.state.live) != list(memory._replica.state.live)
        there = Counter(str(event.edit.subject) for event in events)
        tally.lost = tally.acknowledged - len(there)
        tally.doubled = len(events) - len(there)
        tally.wrong += [event.seq for event in events] != list(range(1, len(events) + 1))
        for number in range(8):
            mine = [subject for subject in there if subject.startswith(f"w{number} ")]
            tally.wrong += mine != [f"w{number} {n}" for n in range(count)]
        tally.answers = 10
        tally.rounds, tally.slowest = rounds, time.monotonic() - began
    return tally


def two_processes(rounds: int, folder: Path, chance: random.Random) -> Tally:
    """An edit added in one process is found by another, behind lines of their own: ``slowest`` is the 99th percentile.

    Counted from the call of ``add``, twenty edits a round.
    """
    tally, count = Tally(rounds=rounds), 20 * rounds
    with (
        RedisServer(folder, appendonly="yes") as server,
        Proxy(server.port) as near,
        Proxy(server.port) as far,
        connect(near.url) as memory,
    ):
        arguments = [sys.executable, "-c", READER, far.url, str(count)]
        with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as reader:
            assert reader.stdout is not None
            assert reader.stdout.readline() == "ready\n"
            waits = []
            for number in range(count):
                began = time.monotonic()
                memory.add(fact(number, 1))
                tally.acknowledged += 1
                waits.append(float(reader.stdout.readline()) - began)
                time.sleep(chance.random() * 0.03)
    tally.answers = len(waits)
    tally.slowest = sorted(waits)[int(0.99 * len(waits))]
    tally.stuck = int(tally.slowest > AT_ONCE)
    return tally
