"""Kill a job with SIGKILL at random moments of run, promote and rollback; then see that nothing is a mixture.

After every kill the model in force is whole and is exactly the old one or exactly the new one, the memory answers for
every edit that it does not know, and the same command, run again, comes to the same end. By hand::

    python tests/param_editors/consolidation/kill_nine_consolidation.py --rounds 20
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from learned import train  # noqa: E402 (found by the lines above)
from learned_consolidation import PARAMS, World, child_environment, good_edits, make_world, same, weights_of  # noqa: E402

from corrigenda.memory.memory import Memory  # noqa: E402
from corrigenda.param_editors.consolidation import marks  # noqa: E402
from corrigenda.param_editors.consolidation.editions import Editions  # noqa: E402
from corrigenda.param_editors.consolidation.job import run  # noqa: E402
from corrigenda.param_editors.consolidation.plan import Plan  # noqa: E402
from corrigenda.param_editors.consolidation.promotion import promote, rollback  # noqa: E402
from corrigenda.param_editors.consolidation.publishing import verify  # noqa: E402
from corrigenda.testing import FixedEncoder  # noqa: E402


@dataclass(frozen=True)
class Kill:
    """What one kill left.

    Attributes:
        stage: What was going on.
        after: Seconds of it.
        died: Whether it was killed before it was done.
        state: "old" or "new".
    """

    stage: str
    after: float
    died: bool
    state: str


def child(stage: str, plan_file: Path, home: Path, memory_file: Path) -> None:
    """Do one stage, saying when it begins and when it is done."""
    plan = Plan.read(plan_file)
    with Memory.open(memory_file, encoder=FixedEncoder()) as memory:
        print("ready", flush=True)
        if stage == "run":
            run(plan, home)
        elif stage == "promote":
            promote(Editions.of(home, plan.model, plan.fingerprint), plan.id, memory)
        else:
            editions = Editions.of(home, plan.model, plan.fingerprint)
            rollback(editions, editions.current().promotions[-1], memory)
    print("done", flush=True)


def killed(stage: str, files: list[Path], after: float) -> tuple[bool, float]:
    """Start a stage and kill it ``after`` seconds of work; return whether it died, and how long it ran."""
    command = [sys.executable, __file__, "--child", stage, *map(str, files)]
    quiet = subprocess.DEVNULL
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=quiet, text=True, env=child_environment()) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        began = time.perf_counter()
        timer = None if after == float("inf") else after
        try:
            process.wait(timer)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
        process.wait()
        spent = time.perf_counter() - began
        died = process.returncode == -signal.SIGKILL
        assert died or (process.returncode == 0 and "done" in process.stdout.read()), process.returncode
    return died, spent


def look(home: Path, plan: Plan, model: Path, memory_file: Path, new: dict | None) -> str:  # type: ignore[type-arg]
    """Return which model is in force, "old" or "new".

    Raises:
        AssertionError: It is neither, or somebody knows an edit no longer.
    """
    editions = Editions.of(home, plan.model, plan.fingerprint)
    now = editions.current() if editions.folder.exists() else None
    with Memory.open(memory_file, encoder=FixedEncoder()) as memory:
        live = {edit.id: edit for edit in memory.live()}
        assert live.keys() == {edit.id for edit in good_edits()}, "an edit is lost"
        if now is None or now.edition is None:
            if now is None or now.unsettled is None:
                assert not any(marks.editions_of(edit) for edit in live.values()), "marked, but not printed"
            return "old"
        path = editions.editions / now.edition
        verify(path)
        assert new is None or same(weights_of(path), new), "neither the old model nor the new one"
        if now.unsettled is None:
            assert all(marks.editions_of(edit) for edit in live.values()), "printed, but not marked"
        return "new"


def rounds(count: int, seed: int, model: Path, folder: Path) -> list[Kill]:
    """Kill a job ``count`` times on its ways from plan to promotion and back, and return what each kill left."""
    chance = random.Random(seed)
    world: World = make_world(folder, model, good_edits())
    plan_file, memory_file = folder / "plan.json", folder / "edits.db"
    plan = world.plan(params={**PARAMS, "v_steps": 25}, piece=1)
    plan.write(plan_file)
    world.memory.close()
    files = [plan_file, world.home, memory_file]
    kills: list[Kill] = []
    lasts = {"run": 2.0, "promote": 1.0, "rollback": 0.3}
    new = None
    while len(kills) < count:
        for stage in ("run", "promote", "rollback"):
            for _ in range(50):
                after = chance.random() * lasts[stage] if len(kills) < count else float("inf")
                died, spent = killed(stage, files, after)
                if not died:
                    lasts[stage] = max(0.05, spent)
                state = look(world.home, plan, model, memory_file, new)
                if after != float("inf"):
                    kills.append(Kill(stage, round(after, 3), died, state))
                if not died or (stage == "rollback" and state == "old"):
                    break
                if stage == "promote" and state == "new":
                    break
            if stage == "promote" and new is None:
                editions = Editions.of(world.home, plan.model, plan.fingerprint)
                new = weights_of(editions.path() or model)
                assert not same(new, weights_of(model))
    return kills


def main() -> None:
    """Run by hand."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--child", nargs=4)
    given = parser.parse_args()
    if given.child:
        stage, *files = given.child
        child(stage, *map(Path, files))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["CORRIGENDA_CACHE"] = str(folder / "cache")
        train(folder / "learned")
        kills = rounds(given.rounds, given.seed, folder / "learned", folder)
    for kill in kills:
        print(kill)
    died = sum(kill.died for kill in kills)
    print(f"{len(kills)} rounds, {died} killed before they were done; every time the old model or the new one")


if __name__ == "__main__":
    main()
