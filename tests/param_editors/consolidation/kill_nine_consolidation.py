"""Kill a job with SIGKILL at random moments of run, promote and rollback; then see that nothing is a mixture.

After every kill the model in force is whole and is exactly the old one or exactly the new one, the memory answers for
every edit that it does not know, and the same command, run again, comes to the same end. By hand::

    python tests/param_editors/consolidation/kill_nine_consolidation.py --rounds 20
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
import warnings
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import torch  # noqa: E402 (found by the lines above)
from learned import train  # noqa: E402 (found by the lines above)
from learned_consolidation import good_edits, make_world, same, weights_of  # noqa: E402

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
    """Do one stage."""
    torch.set_num_threads(1)
    plan = Plan.read(plan_file)
    with Memory.open(memory_file, encoder=FixedEncoder()) as memory:
        if stage == "run":
            run(plan, home)
            return
        editions = Editions.of(home, plan.model, plan.fingerprint)
        if stage == "promote":
            promote(editions, plan.id, memory)
        else:
            rollback(editions, editions.current().promotions[-1], memory)


def killed(stage: str, files: list[Path], after: float) -> tuple[bool, float]:
    """Start a stage in a process of its own and kill it ``after`` seconds; return whether it died, and how long it ran.

    The process is a fork: its modules are there, so that the kill falls into the work and not into imports.
    """
    process = multiprocessing.get_context("fork").Process(target=child, args=(stage, *files))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # later Pythons warn of forks in general
        process.start()
    began = time.perf_counter()
    process.join(None if after == float("inf") else after)
    if process.is_alive():
        os.kill(process.pid or 0, signal.SIGKILL)
    process.join()
    spent = time.perf_counter() - began
    died = process.exitcode == -signal.SIGKILL
    assert died or process.exitcode == 0, process.exitcode
    return died, spent


def look(home: Path, plan: Plan, model: Path, memory_file: Path, new: dict[str, torch.Tensor]) -> str:
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
        assert same(weights_of(path), new), "neither the old model nor the new one"
        if now.unsettled is None:
            assert all(marks.editions_of(edit) for edit in live.values()), "printed, but not marked"
        return "new"


def rounds(count: int, seed: int, model: Path, folder: Path) -> list[Kill]:
    """Kill jobs on their ways from plan to promotion and back until ``count`` have died; return what each kill left."""
    chance = random.Random(seed)
    kills: list[Kill] = []
    lasts = {"run": 1.5, "promote": 0.5, "rollback": 0.2}
    for cycle in range(count):
        if sum(kill.died for kill in kills) >= count:
            break
        world = make_world(folder / f"cycle-{cycle}", model, good_edits())
        plan_file, memory_file = folder / f"cycle-{cycle}" / "plan.json", folder / f"cycle-{cycle}" / "edits.db"
        plan = world.plan(piece=1, seed=cycle)
        plan.write(plan_file)
        world.memory.close()
        new = expected(plan, model, folder / f"expected-{cycle}")
        for stage in ("run", "promote", "rollback"):
            for attempt in range(8):
                after = chance.random() * lasts[stage] if attempt < 7 else float("inf")
                died, spent = killed(stage, [plan_file, world.home, memory_file], after)
                state = look(world.home, plan, model, memory_file, new)
                kills.append(Kill(stage, round(after, 3), died, state))
                if not died:
                    lasts[stage] = max(0.02, 1.2 * spent)
                if not died or (stage, state) in (("promote", "new"), ("rollback", "old")):
                    break
    return kills


def expected(plan: Plan, model: Path, folder: Path) -> dict[str, torch.Tensor]:
    """Return the weights that a job comes to when nobody kills it."""
    world = make_world(folder, model, good_edits())
    run(plan, world.home)
    path = promote(world.editions, plan.id, world.memory).path
    world.memory.close()
    assert path is not None
    new = weights_of(path)
    assert not same(new, weights_of(model))
    return new


def main() -> None:
    """Run by hand."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
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
