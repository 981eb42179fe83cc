"""What happens to a server and its machine: killed, without power, with a slow disk, a full one, a clock that jumps."""

from __future__ import annotations

import mmap
import random
import shutil
import struct
import subprocess
import time
from pathlib import Path

from servers import RedisServer
from trial import SUBJECTS, Tally, Trial, connect, fact

from corrigenda.memory import live_index
from corrigenda.memory.state_file import state_path

COMPILER = shutil.which("cc")


def killed_always(rounds: int, folder: Path, chance: random.Random) -> Tally:
    """SIGKILL to the server, ``appendfsync always``: nothing acknowledged may be lost."""
    return _killed(rounds, folder, chance, "always")


def killed_everysec(rounds: int, folder: Path, chance: random.Random) -> Tally:
    """SIGKILL to the server, ``appendfsync everysec``: it writes later while it flushes, two seconds at worst."""
    return _killed(rounds, folder, chance, "everysec")


def _killed(rounds: int, folder: Path, chance: random.Random, policy: str) -> Tally:
    durability = "disk" if policy == "always" else "server"
    with (
        RedisServer(folder, appendonly="yes", appendfsync=policy) as server,
        Trial(server.url, durability=durability) as trial,
    ):
        trial.forgiving = policy == "everysec"
        excused: set[str] = set()
        for _ in range(rounds):
            trial.progress()
            time.sleep(chance.random() * 0.05)
            server.kill()
            killed = time.monotonic()
            time.sleep(chance.random() * 0.2)
            server.start()
            if trial.forgiving:
                excused |= _gone(trial, killed)
            trial.come_back()
    _excuse(trial.tally, excused)
    return trial.tally


def power_cut(rounds: int, folder: Path, chance: random.Random) -> Tally:
    """Killed, and the log cut to what was flushed: with ``everysec`` up to two seconds of edits may go, not more.

    The last flush is taken to be the one of two seconds ago, the worst that Redis documents.
    """
    with RedisServer(folder, appendonly="yes", appendfsync="everysec") as server, Trial(server.url) as trial:
        trial.forgiving = True
        sizes: list[tuple[float, Path, int]] = []
        excused: set[str] = set()
        for _ in range(rounds):
            trial.progress()
            began = time.monotonic()
            sizes.clear()
            while time.monotonic() < began + 0.5 + chance.random() * 2:
                sizes += [(time.monotonic(), file, file.stat().st_size) for file in _logs(folder)]
                time.sleep(0.02)
            server.kill()
            killed = time.monotonic()
            flushed = {file: size for when, file, size in reversed(sizes) if when >= killed - 2}
            for file, size in flushed.items():
                with file.open("r+b") as log:
                    log.truncate(size)
            server.start()
            excused |= _gone(trial, killed)
            trial.come_back()
    _excuse(trial.tally, excused)
    return trial.tally


def _logs(folder: Path) -> list[Path]:
    return list((folder / "appendonlydir").glob("*.incr.aof"))


def _excuse(tally: Tally, ids: set[str]) -> None:
    tally.excused = len(ids)
    tally.lost -= len(ids)


def _gone(trial: Trial, killed: float) -> set[str]:
    """Return what the two seconds before the kill acknowledged and the server does not have any more."""
    with connect(trial.url, readonly=True, follow=False) as memory:
        there = {event.edit.id for event in memory._server.read()}
    return {edit.id for when, edit in trial.acknowledged if killed - 2.1 <= when <= killed} - there


def full_disk(rounds: int, folder: Path, chance: random.Random) -> Tally:
    """The log may not grow: ``everysec`` refuses writes until it may, ``always`` stops the server, who is restarted."""
    total = Tally()
    for policy, durability in (("everysec", "server"), ("always", "disk")):
        with (
            RedisServer(folder / policy, appendonly="yes", appendfsync=policy) as server,
            Trial(server.url, durability=durability) as trial,
        ):
            for _ in range((rounds + 1) // 2):
                trial.progress()
                server.allow_files_of(
                    max(file.stat().st_size for file in _logs(folder / policy)) + chance.randrange(500)
                )
                _until_refused(trial, server)
                if server.running:
                    server.allow_files_of(None)
                else:
                    server.start()
                trial.come_back()
        _add(total, trial.tally)
    return total


def _until_refused(trial: Trial, server: RedisServer) -> None:
    """Wait until the server is gone, or nothing has been acknowledged for a while."""
    while server.running:
        try:
            trial.progress(1, seconds=0.5)
        except TimeoutError:
            return


def _add(total: Tally, part: Tally) -> None:
    for name, value in vars(part).items():
        setattr(total, name, max(total.slowest, value) if name == "slowest" else getattr(total, name) + value)


class Moods:
    """The file through which :file:`moods.c` is told what time it is and how slow the disk is."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        library, path = folder / "moods.so", folder / "moods"
        assert COMPILER is not None
        source = Path(__file__).with_name("moods.c")
        subprocess.run([COMPILER, "-shared", "-fPIC", "-O1", "-o", library, source], check=True)
        path.write_bytes(bytes(16))
        with path.open("r+b") as file:
            self._shared = mmap.mmap(file.fileno(), 16)
        self.environment = {"LD_PRELOAD": str(library), "CORRIGENDA_MOODS": str(path)}

    def set(self, *, clock: float = 0.0, flush: float = 0.0) -> None:
        """Let the clock be wrong by ``clock`` seconds, and a flush take ``flush`` seconds longer."""
        self._shared[:] = struct.pack("dd", clock, flush)


def slow_disk(rounds: int, folder: Path, chance: random.Random) -> Tally:
    """Flushes take up to 1.5 s, longer than an answer may: writes wait or fail and are repeated; reads go on."""
    moods = Moods(folder)
    settings = {"appendonly": "yes", "appendfsync": "always"}
    with (
        RedisServer(folder, environment=moods.environment, **settings) as server,
        Trial(server.url, durability="disk") as trial,
    ):
        for _ in range(rounds):
            trial.progress()
            moods.set(flush=0.05 + chance.random() ** 2 * 1.5)
            time.sleep(0.2 + chance.random())
            asked = trial.tally.answers
            time.sleep(0.1)
            assert trial.tally.answers > asked, "readers waited for the disk"
            moods.set()
            trial.come_back()
    return trial.tally


def clock_jump(rounds: int, folder: Path, chance: random.Random) -> Tally:
    """The server's time of day jumps, by a second or by years, forwards or back. Order and tail must not care."""
    moods = Moods(folder)
    with (
        RedisServer(folder, environment=moods.environment, appendonly="yes") as server,
        Trial(server.url) as trial,
    ):
        for _ in range(rounds):
            trial.progress()
            moods.set(clock=chance.choice((-1, 1)) * 10 ** (chance.random() * 8))
            assert abs(float(server.command("TIME")[0]) - time.time()) > 0.5
            time.sleep(chance.random() * 0.1)
            trial.come_back()
    return trial.tally


def damaged_snapshot(rounds: int, folder: Path, chance: random.Random) -> Tally:
    """Index and state on disk are cut off, flipped, emptied or swapped: a search finds what it should all the same."""
    tally, path = Tally(), folder / "kept.index"
    before, live_index._BIG = live_index._BIG, 10
    try:
        with RedisServer(folder, appendonly="yes") as server:
            edits = [fact(subject, 1) for subject in range(10 * SUBJECTS)]
            with connect(server.url, snapshot=path, follow=False) as memory:
                memory.add_many(edits)
                memory.search(memory.encoder.encode(["x"]), 1)
            tally.acknowledged = len(edits)
            whole = {file: file.read_bytes() for file in (path, state_path(path))}
            for _ in range(rounds):
                for file, data in whole.items():
                    file.write_bytes(_harmed(data, whole[path], chance) if chance.random() < 0.7 else data)
                began = time.monotonic()
                with connect(server.url, snapshot=path, follow=False) as memory:
                    for edit in chance.sample(edits, 5):
                        (hits,) = memory.search(memory.encoder.encode([edit.prompt]), 1)
                        tally.answers += 1
                        tally.wrong += hits[0].edit != edit or hits[0].similarity < 0.99
                    tally.lost += len(edits) - len(memory)
                    tally.doubled += len(memory) - len({edit.subject for edit in memory.live()})
                tally.recovered(time.monotonic() - began)
    finally:
        live_index._BIG = before
    return tally


def _harmed(data: bytes, other: bytes, chance: random.Random) -> bytes:
    harm = chance.randrange(5)
    if harm == 0:
        return data[: chance.randrange(len(data))]
    if harm == 1:
        return b""
    if harm == 2:
        return other
    flipped = bytearray(data)
    for _ in range(1 if harm == 3 else 20):
        flipped[chance.randrange(len(flipped))] ^= 1 << chance.randrange(8)
    return bytes(flipped)
