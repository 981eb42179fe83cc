r"""Consolidation measured: how the target stage scales over workers, and what a user sees before, during and after.

    python benchmarks/consolidation.py remember known.json DATA/counterfact.json facts.db --edits 200
    python benchmarks/consolidation.py texts known.json DATA/counterfact_train.json DATA/corpus.txt texts.txt \
        --asked DATA/counterfact.json
    corrigenda consolidate plan --memory facts.db --corpus texts.txt --cases DATA/counterfact.json \
        --task DATA/piqa_valid.jsonl --max-drop piqa=0.01
    corrigenda consolidate run plan.json
    python benchmarks/consolidation.py user plan.json --memory facts.db --home corrigenda.editions [--out user.json]
    python benchmarks/consolidation.py scaling plan.json --workers 2 --pieces 8 --size 2 --rounds 2

``remember`` fills a memory with facts of the relations that the model knows (``known.json`` is what
``editors.py known`` writes): those that it knows first. ``texts`` writes what second moments are taken over. ``user``
takes a plan whose job has run: it asks everything that is live in memory, through memory and weights as they are then,
before promotion, after it, after the probation and after a rollback; asks the promoted edits and neighbours that the
gate did not ask of plain transformers; and compares weights bit by bit. ``scaling`` finds the targets of the same edits
in this process and on Ray, in turns, and compares results and times; it needs as many idle cores as workers.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, median
from typing import Any

import torch

from corrigenda.edit import Edit
from corrigenda.eval.normalise import begun_alike, matches, unchanged
from corrigenda.lm.fingerprint import fingerprint
from corrigenda.lm.loading import LanguageModel, load
from corrigenda.lm.scoring import greedy
from corrigenda.lm.stopping import cut
from corrigenda.memory.memory import Memory
from corrigenda.middleware.generate import EditedModel
from corrigenda.param_editors.consolidation.editions import Editions
from corrigenda.param_editors.consolidation.engine import Engine, LocalEngine, in_order, pieces_of
from corrigenda.param_editors.consolidation.gate import Gate
from corrigenda.param_editors.consolidation.plan import Plan
from corrigenda.param_editors.consolidation.printing import Piece, targets_task
from corrigenda.param_editors.consolidation.probation import Probation, Terms
from corrigenda.param_editors.consolidation.promotion import promote, rollback
from corrigenda.param_editors.consolidation.ray_engine import RayEngine
from corrigenda.param_editors.consolidation.result import read_result
from corrigenda.param_editors.sampling import sample_contexts

TOKENS = 12
"""Tokens of an answer."""
NEAR = 200
"""Neighbours that are asked besides the gate's."""
KINDS = (
    frozenset({"P103", "P101", "P106", "P108", "P136", "P1412", "P19", "P20", "P39"}),
    frozenset({"P17", "P30", "P36", "P37", "P131", "P138"}),
)
"""Relations whose subjects are alike: people, and places."""
PLAIN = """
import json, sys, torch, transformers as t
torch.set_num_threads(1)
words = t.AutoTokenizer.from_pretrained(sys.argv[1], padding_side="left")
words.pad_token = words.pad_token or words.eos_token
model = t.AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32)
prompts, answers = json.load(sys.stdin), []
for start in range(0, len(prompts), 32):
    batch = words(prompts[start : start + 32], return_tensors="pt", padding=True)
    out = model.generate(**batch, max_new_tokens=int(sys.argv[2]), do_sample=False, pad_token_id=words.pad_token_id)
    answers += words.batch_decode(out[:, batch.input_ids.shape[1] :], skip_special_tokens=True)
print(json.dumps(answers))
"""
"""Runs without this package: what anybody gets who loads the checkpoint."""


def scaling(plan: Plan, workers: int, count: int, size: int, rounds: int) -> dict[str, Any]:
    """Time the target stage here and on Ray, in turns: ``count`` pieces of ``size`` edits, one thread a worker."""
    lm = load(plan.model)
    params = plan.editor_params()
    contexts = sample_contexts(lm, params.contexts, plan.seed)  # type: ignore[attr-defined]
    pieces = [Piece(plan.editor, part, contexts, params) for part in pieces_of(plan.edits, size)[:count]]
    local, ray = LocalEngine(lm), RayEngine(lm, plan.model, workers=workers)
    first = Piece(plan.editor, plan.edits[:1], contexts, params)
    for engine, processes in ((local, 1), (ray, workers)):  # the model is loaded everywhere before the clock starts
        there: set[int] = set()
        while len(there) < processes:
            there.update(in_order(engine.run(_warm, [first] * processes * 2, {})))
    spent: dict[str, list[float]] = {"local": [], "ray": []}
    found: dict[str, list[dict[str, torch.Tensor]]] = {}
    for _ in range(rounds):
        for engine in (local, ray):
            seconds, found[engine.name] = _timed(engine, pieces)
            spent[engine.name].append(seconds)
    ray.close()
    pairs = zip(found["local"], found["ray"], strict=True)
    apart = max(float((one[name] - other[name]).abs().max()) for one, other in pairs for name in one)
    return {
        "edits": sum(len(piece.edits) for piece in pieces),
        "workers": workers,
        "local_s": [round(value, 2) for value in spent["local"]],
        "ray_s": [round(value, 2) for value in spent["ray"]],
        "speedup": round(median(spent["local"]) / median(spent["ray"]), 2),
        "largest_difference": apart,
    }


def _warm(lm: LanguageModel, piece: Piece) -> int:
    """Do a piece, and tell in which process."""
    targets_task(lm, piece)
    return os.getpid()


def _timed(engine: Engine, pieces: Sequence[Piece]) -> tuple[float, list[dict[str, torch.Tensor]]]:
    began = time.perf_counter()
    found = in_order(engine.run(targets_task, pieces, {}))
    return time.perf_counter() - began, found


def remember(known: Path, source: Path, memory_file: Path, count: int) -> dict[str, Any]:
    """Fill a memory with ``count`` facts of the relations in ``known``: those in ``known`` first."""
    first = _records(known)
    relations = {_relation(record) for record in first}
    rest = [record for record in _records(source) if _relation(record) in relations]
    edits = list(dict.fromkeys(_edit(record) for record in [*first, *rest]))[:count]
    with Memory.open(memory_file) as memory:
        memory.add_many(edits)
        return {"live": len(memory), "relations": sorted(relations)}


def texts(
    known: Path, train: Path, corpus: Path, target: Path, asked: Sequence[Path], prompts: int, words: int
) -> dict[str, Any]:
    """Write text to take second moments over: the wordings of the relations in ``known``, about other subjects.

    An update moves most what shares the wording of its prompts, and prose has none of it: ``prompts`` of them a
    relation say to the editor what must stay. Their subjects are those of ``train`` that no fact of ``asked``, and no
    neighbour of one, is about. ``words`` words of ``corpus`` stand for everything else.
    """
    wanted = {_relation(record) for record in _records(known)}
    scored = [record for path in asked for record in _records(path) if _relation(record) in wanted]
    taken = "\n".join(text for r in scored for text in (_edit(r).prompt, *r["neighborhood_prompts"]))
    records = _records(train)
    free = [record for record in records if record["requested_rewrite"]["subject"] not in taken]
    generator = random.Random(0)
    found: list[str] = []
    for relation in sorted(wanted):
        kind = next((kind for kind in KINDS if relation in kind), frozenset({relation}))
        subjects = sorted({record["requested_rewrite"]["subject"] for record in free if _relation(record) in kind})
        wordings = sorted({r["requested_rewrite"]["prompt"] for r in records if _relation(r) == relation})
        pairs = [wording.replace("{}", subject) for wording in wordings for subject in subjects]
        found += generator.sample(pairs, min(prompts, len(pairs)))
    prose = corpus.read_text(encoding="utf-8").split()[:words]
    target.write_text("\n\n".join([*found, " ".join(prose)]), encoding="utf-8")
    return {"prompts": len(found), "words of prose": len(prose)}


def _records(path: Path) -> list[dict[str, Any]]:
    records: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
    return records


def _relation(record: dict[str, Any]) -> str:
    return str(record["requested_rewrite"]["relation_id"])


def _edit(record: dict[str, Any]) -> Edit:
    rewrite = record["requested_rewrite"]
    prompt = rewrite["prompt"].replace("{}", rewrite["subject"])
    return Edit(prompt, rewrite["target_new"]["str"], subject=rewrite["subject"], relation=rewrite["relation_id"])


def user(plan: Plan, memory_file: Path, home: Path) -> dict[str, Any]:
    """Go from the base model to a promotion, through its probation, and back; ask everything at each step."""
    editions = Editions.of(home, plan.model, plan.fingerprint)
    result = read_result(editions, plan.id)
    base = load(plan.model)
    before = fingerprint(base.model)
    printed = [edit for edit in plan.edits if edit.id in set(result.kept)]
    report: dict[str, Any] = {"planned": len(plan.edits), "promoted": len(printed), "gate": dict(result.figures)}
    with Memory.open(memory_file) as memory:
        edits = memory.live()
        report["live_before"] = len(edits)
        report["user_before"] = _seen(base, memory, edits)
        change = promote(editions, result.job, memory, lm=base)
        assert change.path is not None
        edition = load(change.path)
        report |= _alone(plan, printed, change.path, base)
        report["user_during"] = _seen(edition, memory, edits)
        probation = Probation(editions, memory)
        probation.check(edition)
        report["retired"] = len(probation.retire(Terms(days=0, asked=1)))
        report["live_after"] = len(memory)
        report["user_after"] = _seen(edition, memory, edits)
        rollback(editions, change.promotions[-1], memory, lm=base)
        again = load(plan.model)
        report["bit_identical_after_rollback"] = fingerprint(again.model) == before == fingerprint(base.model)
        report["live_after_rollback"] = len(memory)
        report["user_after_rollback"] = _seen(again, memory, edits)
    return report


def _alone(plan: Plan, printed: Sequence[Edit], checkpoint: Path, base: LanguageModel) -> dict[str, Any]:
    """Return what the checkpoint says in plain transformers: to what was promoted, and to neighbours not yet asked."""
    asked = {item.question.prompt for item in Gate(plan.gate, plan.edits, base).items}
    every = Gate(dataclasses.replace(plan.gate, limit=0, tasks=(), max_drops={}), printed, base).items
    near = [item.question.prompt for item in every if item.check == "neighbours"]
    near = [prompt for prompt in near if prompt not in asked]
    near = random.Random(plan.seed).sample(near, min(NEAR, len(near)))
    said = plain_answers(checkpoint, [*(edit.prompt for edit in printed), *near])
    was = greedy(base, near, max_new_tokens=TOKENS)
    pairs = list(zip(was, said[len(printed) :], strict=True))
    return {
        "alone_of_promoted": _right(said[: len(printed)], printed),
        "new_neighbours_asked": len(near),
        "new_neighbours_begun_alike": round(fmean(begun_alike(old, new) for old, new in pairs), 4),
        "new_neighbours_exact": round(fmean(unchanged(old, new) for old, new in pairs), 4),
    }


def plain_answers(checkpoint: Path, prompts: Sequence[str]) -> list[str]:
    """Return greedy continuations by transformers alone, in a process that does not know this package."""
    done = subprocess.run(
        [sys.executable, "-c", PLAIN, str(checkpoint), str(TOKENS)],
        input=json.dumps(prompts),
        capture_output=True,
        text=True,
        check=True,
        cwd="/",
    )
    return [cut(text) for text in json.loads(done.stdout)]


def _seen(lm: LanguageModel, memory: Memory, edits: Sequence[Edit]) -> float:
    """Return the share of edits that are answered right by memory and weights together."""
    replies = EditedModel(lm, memory).complete_batch([edit.prompt for edit in edits], max_new_tokens=TOKENS)
    return _right([reply.text for reply in replies], edits)


def _right(answers: Sequence[str], edits: Sequence[Edit]) -> float:
    good = sum(
        matches(answer, (edit.target, *edit.target_aliases)) for answer, edit in zip(answers, edits, strict=True)
    )
    return round(good / max(len(edits), 1), 4)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="what", required=True)
    filled = commands.add_parser("remember", help="fill a memory")
    filled.add_argument("known", type=Path)
    filled.add_argument("source", type=Path)
    filled.add_argument("memory", type=Path)
    filled.add_argument("--edits", type=int, default=200)
    written = commands.add_parser("texts", help="write text to take second moments over")
    for name in ("known", "train", "corpus", "target"):
        written.add_argument(name, type=Path)
    written.add_argument("--asked", type=Path, nargs="+", required=True, help="what is scored later")
    written.add_argument("--prompts", type=int, default=500, help="a relation")
    written.add_argument("--words", type=int, default=6_000, help="of prose")
    asked = commands.add_parser("user", help="before, during and after a promotion")
    asked.add_argument("plan", type=Path)
    asked.add_argument("--memory", type=Path, default=Path("corrigenda.db"))
    asked.add_argument("--home", type=Path, default=Path("corrigenda.editions"))
    timed = commands.add_parser("scaling", help="targets here and on Ray")
    timed.add_argument("plan", type=Path)
    timed.add_argument("--workers", type=int, default=2)
    timed.add_argument("--pieces", type=int, default=8)
    timed.add_argument("--size", type=int, default=2, help="edits of a piece")
    timed.add_argument("--rounds", type=int, default=2)
    for command in (filled, written, asked, timed):
        command.add_argument("--out", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.what == "remember":
        report = remember(given.known, given.source, given.memory, given.edits)
    elif given.what == "texts":
        files = (given.known, given.train, given.corpus, given.target, given.asked)
        report = texts(*files, given.prompts, given.words)
    elif given.what == "scaling":
        report = scaling(Plan.read(given.plan), given.workers, given.pieces, given.size, given.rounds)
    else:
        report = user(Plan.read(given.plan), given.memory, given.home)
    text = json.dumps(report, indent=2)
    print(text)
    if given.out is not None:
        given.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
