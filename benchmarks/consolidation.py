"""Consolidation measured: how the target stage scales over workers, and what a user sees before, during and after.

    python benchmarks/consolidation.py scaling plan.json --workers 2 --pieces 4 --rounds 3
    python benchmarks/consolidation.py user plan.json --memory facts.db --home editions [--out user.json]

``scaling`` finds the targets of the same edits in this process and on Ray, in turns, and compares results and times.
``user`` takes a plan whose job has run: it asks everything that the plan was to print, through memory and weights as
they are then, before promotion, after it, after the probation and after a rollback, and compares weights bit by bit.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch

from corrigenda.edit import Edit
from corrigenda.eval.normalise import matches
from corrigenda.lm.fingerprint import fingerprint
from corrigenda.lm.loading import LanguageModel, load
from corrigenda.lm.scoring import greedy
from corrigenda.memory.memory import Memory
from corrigenda.middleware.generate import EditedModel
from corrigenda.param_editors.consolidation.editions import Editions
from corrigenda.param_editors.consolidation.engine import Engine, LocalEngine, in_order, pieces_of
from corrigenda.param_editors.consolidation.job import read_result
from corrigenda.param_editors.consolidation.plan import Plan
from corrigenda.param_editors.consolidation.printing import Piece, targets_task
from corrigenda.param_editors.consolidation.probation import Probation, Terms
from corrigenda.param_editors.consolidation.promotion import promote, rollback
from corrigenda.param_editors.consolidation.ray_engine import RayEngine
from corrigenda.param_editors.sampling import sample_contexts

TOKENS = 12


def scaling(plan: Plan, workers: int, count: int, rounds: int) -> dict[str, Any]:
    """Time the target stage here and on Ray, in turns."""
    lm = load(plan.model)
    params = plan.editor_params()
    contexts = sample_contexts(lm, params.contexts, plan.seed)  # type: ignore[attr-defined]
    pieces = [Piece(plan.editor, part, contexts, params) for part in pieces_of(plan.edits, plan.piece)[:count]]
    local, ray = LocalEngine(lm), RayEngine(lm, plan.model, workers=workers)
    first = Piece(plan.editor, plan.edits[:1], contexts, params)
    for engine in (local, ray):  # load the model everywhere
        in_order(engine.run(targets_task, [first] * workers * 2, {}))
    spent: dict[str, list[float]] = {"local": [], "ray": []}
    found: dict[str, list[dict[str, torch.Tensor]]] = {}
    for _ in range(rounds):
        for engine in (local, ray):
            seconds, found[engine.name] = _timed(engine, pieces)
            spent[engine.name].append(seconds)
    ray.close()
    pairs = zip(found["local"], found["ray"], strict=True)
    apart = max(float((here[name] - there[name]).abs().max()) for here, there in pairs for name in here)
    here, there = median(spent["local"]), median(spent["ray"])
    return {
        "edits": sum(len(piece.edits) for piece in pieces),
        "workers": workers,
        "local_s": [round(value, 2) for value in spent["local"]],
        "ray_s": [round(value, 2) for value in spent["ray"]],
        "speedup": round(here / there, 2),
        "largest_difference": apart,
    }


def _timed(engine: Engine, pieces: Sequence[Piece]) -> tuple[float, list[dict[str, torch.Tensor]]]:
    began = time.perf_counter()
    found = in_order(engine.run(targets_task, pieces, {}))
    return time.perf_counter() - began, found


def user(plan: Plan, memory_file: Path, home: Path) -> dict[str, Any]:
    """Go from the base model to a promotion, through its probation, and back; ask everything at each step."""
    editions = Editions.of(home, plan.model, plan.fingerprint)
    result = read_result(editions, plan.id)
    base = load(plan.model)
    before = fingerprint(base.model)
    printed = [edit for edit in plan.edits if edit.id in set(result.kept)]
    report: dict[str, Any] = {"edits": len(plan.edits), "promoted": len(printed)}
    with Memory.open(memory_file) as memory:
        report["user_before"] = _seen(base, memory, plan.edits)
        change = promote(editions, result.job, memory, lm=base)
        assert change.path is not None
        edition = load(change.path)
        report["alone_of_promoted"] = _alone(edition, printed)
        report["user_during"] = _seen(edition, memory, plan.edits)
        probation = Probation(editions, memory)
        probation.check(edition)
        report["retired"] = len(probation.retire(Terms(days=0, asked=1)))
        report["live_after"] = len(memory)
        report["user_after"] = _seen(edition, memory, plan.edits)
        rollback(editions, change.promotions[-1], memory, lm=base)
        again = load(plan.model)
        report["bit_identical_after_rollback"] = fingerprint(again.model) == before == fingerprint(base.model)
        report["user_after_rollback"] = _seen(again, memory, plan.edits)
    return report


def _seen(lm: LanguageModel, memory: Memory, edits: Sequence[Edit]) -> float:
    """Return the share of edits that are answered right by memory and weights together."""
    replies = EditedModel(lm, memory).complete_batch([edit.prompt for edit in edits], max_new_tokens=TOKENS)
    return _right([reply.text for reply in replies], edits)


def _alone(lm: LanguageModel, edits: Sequence[Edit]) -> float:
    """Return the share that the weights alone answer right."""
    return _right(greedy(lm, [edit.prompt for edit in edits], max_new_tokens=TOKENS), edits)


def _right(answers: Sequence[str], edits: Sequence[Edit]) -> float:
    good = sum(
        matches(answer, (edit.target, *edit.target_aliases)) for answer, edit in zip(answers, edits, strict=True)
    )
    return round(good / max(len(edits), 1), 4)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("scaling", "user"))
    parser.add_argument("plan", type=Path)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--pieces", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--memory", type=Path, default=Path("corrigenda.db"))
    parser.add_argument("--home", type=Path, default=Path("corrigenda.editions"))
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    plan = Plan.read(given.plan)
    if given.what == "scaling":
        report = scaling(plan, given.workers, given.pieces, given.rounds)
    else:
        report = user(plan, given.memory, given.home)
    text = json.dumps(report, indent=2)
    print(text)
    if given.out is not None:
        given.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
