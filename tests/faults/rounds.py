"""Provoke every fault, many times, and count: ``python tests/faults/rounds.py --rounds 50``. Exit code 1 if any hurt.

Each fault is a function: rounds, a folder for its servers, and a source of chance, to a :class:`trial.Tally`.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path += [str(Path(__file__).parent), str(Path(__file__).parent.parent)]

import fleet_faults as fleet
import line_faults as line
import server_faults as server
from trial import Tally

Fault = Callable[[int, Path, random.Random], Tally]

FAULTS: dict[str, Fault] = {
    "killed-writer": line.killed_writer,
    "killed-server-always": server.killed_always,
    "killed-server-everysec": server.killed_everysec,
    "power-cut-everysec": server.power_cut,
    "cut-line": line.cut_line,
    "slow-line": line.slow_line,
    "silent-line": line.silent_line,
    "lost-answer": line.lost_answer,
    "failover": fleet.failover,
    "failover-behind": fleet.failover_behind,
    "slow-disk": server.slow_disk,
    "full-disk": server.full_disk,
    "clock-jump": server.clock_jump,
    "damaged-snapshot": server.damaged_snapshot,
    "moving-slot": fleet.moving_slot,
    "eight-writers": line.many_writers,
    "two-processes": line.two_processes,
}
NEEDS_COMPILER = ("slow-disk", "clock-jump")


def provoke(name: str, rounds: int, seed: int = 0) -> Tally:
    """Run one fault in a folder of its own."""
    with tempfile.TemporaryDirectory(prefix="corrigenda-faults-") as folder:
        return FAULTS[name](rounds, Path(folder), random.Random(f"{name} {seed}"))


def main() -> None:
    """Run the faults asked for and print a line each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", choices=FAULTS, default=list(FAULTS))
    parser.add_argument("--json", type=Path, help="write the counts here, too")
    options = parser.parse_args()
    logging.getLogger("corrigenda").setLevel(logging.ERROR)  # of the warnings there are going to be thousands
    counts = {}
    for name in options.only:
        began = time.monotonic()
        tally = provoke(name, options.rounds, options.seed)
        counts[name] = vars(tally) | {"clean": tally.clean, "seconds": round(time.monotonic() - began, 1)}
        print(f"{name:24}", *(f"{key}={value:.3g}" for key, value in counts[name].items()), flush=True)
        if options.json is not None:
            options.json.write_text(json.dumps(counts, indent=2))
    sys.exit(not all(row["clean"] for row in counts.values()))


if __name__ == "__main__":
    main()
