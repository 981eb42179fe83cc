"""Kill a process that adds edits, with SIGKILL, at random moments; then see that the ledger kept its word.

Every edit whose id was acknowledged must be there, whole, live and found by a search; of the others each is there as a
whole or not at all. Run by the tests in small, and by hand with the real encoder::

    python tests/faults/kill_nine.py --rounds 20 --adds 1000
"""

from __future__ import annotations

import argparse
import random
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from corrigenda.edit import Edit
from corrigenda.memory.encoder import Encoder
from corrigenda.memory.memory import Memory
from corrigenda.memory.sqlite import SQLiteStore
from corrigenda.testing import FixedEncoder


@dataclass(frozen=True)
class Round:
    """What one round left.

    Attributes:
        acknowledged: Edits whose ids the process printed before it died.
        kept: Edits of that round in the ledger.
        killed: Whether it was killed before it had added all.
        opened: Seconds until the memory was open and had answered one search.
    """

    acknowledged: int
    kept: int
    killed: bool
    opened: float


def edit(round_number: int, number: int) -> Edit:
    """Return the edit that add ``number`` of a round adds: the parent knows what to expect."""
    return Edit(
        f"The mayor of town {number} in county {round_number} is",
        f"Mayor {number}",
        subject=f"town {number} in county {round_number}",
        relation="mayor",
        aliases=(f"T{number}C{round_number}",),
    )


def encoder(real: bool) -> Encoder:
    """Return MiniLM, or an encoder that needs no model."""
    if not real:
        return FixedEncoder()
    from corrigenda.memory.encoder import MiniLM

    return MiniLM.load()


def child(path: Path, round_number: int, adds: int, real: bool) -> None:
    """Add edits one after the other, and acknowledge each on standard output once it is durable."""
    with Memory.open(path, encoder=encoder(real)) as memory:
        print("ready", flush=True)
        for number in range(adds):
            print(memory.add(edit(round_number, number)).id, flush=True)


def one_round(path: Path, round_number: int, adds: int, real: bool, chance: random.Random) -> Round:
    """Start a child, kill it somewhere on its way, and check what is left.

    Raises:
        AssertionError: An acknowledged edit is missing, or one is there in part.
    """
    command = [sys.executable, __file__, "--child", str(path), "--round", str(round_number), "--adds", str(adds)]
    deadly = chance.randrange(adds)  # the kill comes a moment after this acknowledgement
    acknowledged: list[str] = []
    with subprocess.Popen([*command, *(["--real"] if real else [])], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        for line in process.stdout:
            acknowledged.append(line)
            if len(acknowledged) > deadly:
                time.sleep(chance.random() * 0.003)
                process.send_signal(signal.SIGKILL)
                break
        acknowledged += process.stdout.readlines()
    # A line that was cut off acknowledged nothing.
    ids = [line.strip() for line in acknowledged if line.endswith("\n")]
    start = time.perf_counter()
    with Memory.open(path, encoder=encoder(real)) as memory:
        memory.search(memory.encoder.encode(["Who is the mayor?"]), 1)
        opened = time.perf_counter() - start
        kept = check(memory, round_number, adds, ids)
    return Round(len(ids), kept, process.returncode == -signal.SIGKILL, opened)


def check(memory: Memory, round_number: int, adds: int, acknowledged: list[str]) -> int:
    """Compare the memory with what was acknowledged; return how many edits of the round are there."""
    expected = {made.id: made for made in (edit(round_number, number) for number in range(adds))}
    live = {kept.id: kept for kept in memory.live() if kept.id in expected}
    missing = [edit_id for edit_id in acknowledged if edit_id not in live]
    assert not missing, f"round {round_number}: acknowledged, but gone: {missing[:5]} and {len(missing)} in all"
    assert all(expected[edit_id] == kept for edit_id, kept in live.items()), "an edit came back changed"
    assert len(live) <= len(acknowledged) + 1, "more than one edit was never acknowledged"
    if live:
        last = list(live.values())[-1]
        (hits,) = memory.search(memory.encoder.encode([last.prompt]), 1)
        assert hits[0].similarity > 0.999, "the last edit is not found by its own prompt"
        assert last.id in {i for mention in memory.mentions(f"in {last.subject}?") for i in mention.edit_ids}
    return len(live)


def whole(path: Path) -> None:
    """Check every page of the file, and that the ledger counts 1, 2, 3 without a gap."""
    store = SQLiteStore.open(path)
    events = store.read()
    store.close()
    assert [event.seq for event in events] == list(range(1, len(events) + 1))


def main() -> None:
    """Run the rounds and print one line each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--adds", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--fixed", action="store_true", help="an encoder without a model instead of MiniLM")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--round", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--real", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child is not None:
        child(options.child, options.round, options.adds, options.real)
        return
    chance, total = random.Random(options.seed), 0
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "facts.db"
        for number in range(options.rounds):
            result = one_round(path, number, options.adds, not options.fixed, chance)
            total += result.acknowledged
            print(f"round {number + 1:2d}: {result}", flush=True)
        whole(path)
    print(f"{total} acknowledged edits in {options.rounds} rounds: all there, none half there")


if __name__ == "__main__":
    main()
