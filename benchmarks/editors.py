"""Editors of weights side by side: single edits, batches and sequences, teacher-forced and free.

    python benchmarks/editors.py known DATA/counterfact.json known.json
    python benchmarks/editors.py measure known.json out/memit.json --method memit --edits 37
    python benchmarks/editors.py measure known.json out/memit-100.json --method memit --edits 100 --batch 100
    python benchmarks/editors.py measure known.json out/seq.json --method alphaedit --edits 500 --batch 50 --sequential

``known`` keeps the facts that the model knows: its greedy answer begins with the true object; of the relations that it
knows, which are those where it does so for one fact in ten. ``measure`` may be killed: started again with the same
arguments it goes on where it stopped; with others it refuses, or begins anew with ``--fresh``.

``--reword`` gives each edit up to four other wordings of its relation from the package's own table, as ``corrigenda
edit expand --reword`` does; none that any record of the file asks as a paraphrase or edits by.

Locality is given twice: the neighbours' answers begin with the same word as before, and all eight tokens are the same.
All scores are taken after the last of the edits that are live together.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import resource
import time
from collections import Counter
from pathlib import Path
from statistics import fmean, median
from typing import Any

import torch

from corrigenda.cli.expanding import rewording
from corrigenda.edit import Edit
from corrigenda.errors import InvalidEdit
from corrigenda.eval import datasets
from corrigenda.eval.journal import Journal
from corrigenda.eval.normalise import matches
from corrigenda.eval.wordings import Asked
from corrigenda.lm.loading import LanguageModel, load
from corrigenda.lm.packed import packed
from corrigenda.lm.scoring import greedy, score_targets
from corrigenda.param_editors.anatomy import Anatomy
from corrigenda.param_editors.editable import EditedWeights
from corrigenda.param_editors.editor import editor
from corrigenda.param_editors.keeping import Keep
from corrigenda.param_editors.memit import Spread
from corrigenda.param_editors.targets import ValueParams, value_targets

TOKENS = 8
"""Tokens of an answer."""
KNOWN = 0.1
"""Share of a relation's facts from which it counts as known."""
NAMES = ("reliability", "generalization", "locality", "locality_exact", "forced_reliability", "forced_generalization")


def known(source: Path, target: Path, lm: LanguageModel) -> None:
    """Write the facts of ``source`` that the model knows."""
    records = json.loads(source.read_text(encoding="utf-8"))
    answers = greedy(lm, [_edit(record).prompt for record in records], max_new_tokens=TOKENS)
    relation = [record["requested_rewrite"]["relation_id"] for record in records]
    right = [
        matches(answer, [record["requested_rewrite"]["target_true"]["str"]])
        for record, answer in zip(records, answers, strict=True)
    ]
    total, hits = Counter(relation), Counter(name for name, hit in zip(relation, right, strict=True) if hit)
    wanted = {name for name in total if hits[name] >= KNOWN * total[name]}
    kept = [record for record, name, hit in zip(records, relation, right, strict=True) if hit and name in wanted]
    target.write_text(json.dumps(kept, ensure_ascii=False), encoding="utf-8")
    print(f"{len(kept)} of {len(records)}; relations: {', '.join(f'{name} {hits[name]}' for name in sorted(wanted))}")


class Measurement:
    """One method on some facts.

    Args:
        lm: The model.
        given: The command's arguments.
    """

    def __init__(self, lm: LanguageModel, given: argparse.Namespace) -> None:
        self.lm, self.given = lm, given
        records = json.loads(given.data.read_text(encoding="utf-8"))
        random.Random(given.seed).shuffle(records)
        self.records = [
            record | {"neighborhood_prompts": record["neighborhood_prompts"][: given.near]}
            for record in records[: given.edits]
        ]
        edits = [_edit(record) for record in self.records]
        if given.reword:
            edits = rewording(Asked(datasets.load(given.data).cases).allows)(edits)
        self.edits = {record["case_id"]: edit for record, edit in zip(self.records, edits, strict=True)}
        self.keep = Keep(given.out.parent / "kept", lm)
        self.model = _editable(lm, given, seed=given.seed, keep=self.keep.folder, progress=_progress)
        self.ratio = 0.0
        self.before = self._unedited()

    def run(self) -> dict[str, Any]:
        """Edit, score, undo; return everything, JSON-ready."""
        size = self.given.batch
        parts = [self.records[start : start + size] for start in range(0, len(self.records), size)]
        rows: list[dict[str, float]] = []
        tasks: dict[str, float] = {}
        if self.given.sequential:
            for part in parts:
                self._make(part)
            rows = self._score(self.records)
            tasks = self._task()
            for done in reversed(self.model.chain):
                done.revert()
        else:
            rows = self._apart(parts)
        means = {name: round(fmean(row[name] for row in rows), 4) for name in NAMES}
        return {
            "method": self.given.method,
            "edits": len(self.records),
            "batch": size,
            "sequential": self.given.sequential,
            "neighbours": self.given.near,
            "data": self.given.data.name,
            "reworded": self.given.reword,
            **means,
            "largest_ratio": round(self.ratio, 4),
            **tasks,
            "params": self.model.params.to_dict(),
            "seed": self.given.seed,
        }

    def _apart(self, parts: list[list[dict[str, Any]]]) -> list[dict[str, float]]:
        """Make each part alone; what is scored goes into a journal, so that a killed run goes on."""
        journal = Journal.open(self.given.out.with_suffix(".rows.jsonl"), self._settings(), fresh=self.given.fresh)
        rows = {row["case"]: row for row in journal.rows}
        if self.given.batch == 1:
            self._look_ahead()
        for part in parts:
            if all(record["case_id"] in rows for record in part):
                continue
            try:
                undo = self._make(part)
            except InvalidEdit as error:  # counts as an edit that changed nothing
                print(f"refused: {error}", flush=True)
                undo = None
            found = self._score(part)
            if undo is not None:
                undo.revert()
            rows |= {row["case"]: row for row in found}  # a kill may have left a part of the part
            journal.append(found)
        return [rows[record["case_id"]] for part in parts for record in part]

    def _settings(self) -> dict[str, Any]:
        """Return what the scores of parts depend on: a journal of anything else is not taken up."""
        names = ("method", "edits", "batch", "near", "reword", "seed")
        return {
            "data": hashlib.sha256(self.given.data.read_bytes()).hexdigest(),
            "model": self.lm.fingerprint,
            "params": self.model.params.to_dict(),
            **{name: getattr(self.given, name) for name in names},
        }

    def _look_ahead(self) -> None:
        """Find the values of all edits side by side: each gets what it would get alone, several times sooner."""
        made, model = self.model.editor, self.model
        if not isinstance(model.params, ValueParams):
            return
        model.prepare()
        assert model.contexts is not None
        keep, anatomy = self.keep.values([]), Anatomy(self.lm)
        edits = list(self.edits.values())
        with keep.used():
            if isinstance(made, Spread):
                made.targets(anatomy, edits, model.contexts, model.params, _progress)
            else:
                (layer,) = model.params.layers
                module = anatomy.mlp_out(layer).module
                value_targets(
                    anatomy, edits, model.contexts, model.params, first=layer, modules=[module], progress=_progress
                )

    def _make(self, part: list[dict[str, Any]]) -> Any:
        undo = self.model.edit([self.edits[record["case_id"]] for record in part])
        self.ratio = max(self.ratio, undo.consolidation.max_ratio)
        return undo

    def _unedited(self) -> dict[str, str]:
        """Return what the unedited model says to the neighbours; kept, for all methods are compared with it."""
        kept = self.given.out.parent / f"unedited-{self.lm.fingerprint[:12]}.json"
        answers: dict[str, str] = json.loads(kept.read_text(encoding="utf-8")) if kept.is_file() else {}
        new = [prompt for record in self.records for prompt in record["neighborhood_prompts"] if prompt not in answers]
        new = list(dict.fromkeys(new))
        if new:
            answers |= dict(zip(new, greedy(self.lm, new, max_new_tokens=TOKENS), strict=True))
            kept.parent.mkdir(parents=True, exist_ok=True)
            kept.write_text(json.dumps(answers, ensure_ascii=False), encoding="utf-8")
        return answers

    def _score(self, records: list[dict[str, Any]]) -> list[dict[str, float]]:
        prompts, forced = [], []
        for record in records:
            edit = self.edits[record["case_id"]]
            prompts += [edit.prompt, *record["paraphrase_prompts"], *record["neighborhood_prompts"]]
            forced += [(prompt, edit.target) for prompt in (edit.prompt, *record["paraphrase_prompts"])]
        with packed(self.lm.model):
            answers = iter(greedy(self.lm, prompts, max_new_tokens=TOKENS))
            scores = iter(score_targets(self.lm, [prompt for prompt, _ in forced], [target for _, target in forced]))
        rows = []
        for record in records:
            target = [self.edits[record["case_id"]].target]
            own, others = next(answers), [next(answers) for _ in record["paraphrase_prompts"]]
            near = [(self.before[prompt], next(answers)) for prompt in record["neighborhood_prompts"]]
            row = {
                "case": record["case_id"],
                "reliability": float(matches(own, target)),
                "generalization": fmean(matches(answer, target) for answer in others),
                "locality": fmean(_first(old) == _first(new) for old, new in near),
                "locality_exact": fmean(old == new for old, new in near),
                "forced_reliability": next(scores).accuracy,
                "forced_generalization": fmean(next(scores).accuracy for _ in others),
            }
            rows.append(row)
        return rows

    def _task(self) -> dict[str, float]:
        """Return how much of PIQA the edited and the unedited model get right (the likelier of two solutions)."""
        if self.given.piqa is None:
            return {}
        lines = self.given.piqa.read_text(encoding="utf-8").splitlines()[: self.given.piqa_limit]
        questions = [json.loads(line) for line in lines]
        edited = self._piqa(questions)
        for done in reversed(self.model.chain):
            done.revert()
        unedited = self._piqa(questions)
        for done in self.model.chain:
            done.write()
        return {"piqa": edited, "piqa_unedited": unedited, "piqa_questions": len(questions)}

    def _piqa(self, questions: list[dict[str, Any]]) -> float:
        prompts = [f"Question: {row['goal']}\nAnswer:" for row in questions for _ in range(2)]
        answers = [row[name] for row in questions for name in ("sol1", "sol2")]
        with packed(self.lm.model):
            scores = [score.log_prob for score in score_targets(self.lm, prompts, answers)]
        pairs = zip(scores[::2], scores[1::2], questions, strict=True)
        return round(fmean((second > first) == bool(int(row["label"])) for first, second, row in pairs), 4)


def speed(lm: LanguageModel, given: argparse.Namespace) -> None:
    """Print what edits cost, one at a time and together; contexts and statistics are there already."""
    records = json.loads(given.data.read_text(encoding="utf-8"))
    edits = [_edit(record) for record in records[: max(given.edits, given.alone)]]
    model = _editable(lm, given)
    model.prepare()
    size = sum(weight.numel() * weight.element_size() for weight in lm.model.parameters())
    model.edit(edits[:1]).revert()  # what is computed once and kept: factors of the statistics
    alone = []
    for edit in edits[: given.alone]:
        began = time.process_time()
        model.edit([edit]).revert()
        alone.append(time.process_time() - began)
    row: dict[str, Any] = {"method": given.method, "alone": round(median(alone), 2), "peak_alone": _peak() / size}
    if given.edits > 1:
        began = time.process_time()
        model.edit(edits[: given.edits]).revert()
        row |= {"edits": given.edits, "together": round((time.process_time() - began) / given.edits, 2)}
        row |= {"peak_together": _peak() / size}
    print(json.dumps({name: round(value, 2) if isinstance(value, float) else value for name, value in row.items()}))


def _editable(lm: LanguageModel, given: argparse.Namespace, **options: Any) -> EditedWeights:
    """Return the model to be edited by the method and the parameters that the command names."""
    made = editor(given.method)
    params = made.params_type.preset(given.method, lm).replace(**json.loads(given.params))
    return EditedWeights(lm, made, params=params, **options)


def _peak() -> float:
    """Return the most memory that the process has had, in bytes; the interpreter and its libraries included."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0


def _edit(record: dict[str, Any]) -> Edit:
    rewrite = record["requested_rewrite"]
    prompt = rewrite["prompt"].replace("{}", rewrite["subject"])
    return Edit(prompt, rewrite["target_new"]["str"], subject=rewrite["subject"])


def _first(answer: str) -> str:
    words = answer.casefold().split()
    return words[0].strip(".,;:!?\"'()") if words else ""


def _progress(stage: str, done: int, total: int) -> None:
    if total > 1:
        print(f"{stage} {done}/{total}", flush=True)


def main() -> None:
    """Read the command line and do it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    choose = commands.add_parser("known", help="keep the facts that the model knows")
    choose.add_argument("source", type=Path)
    choose.add_argument("target", type=Path)
    measure = commands.add_parser("measure", help="score one method")
    measure.add_argument("data", type=Path)
    measure.add_argument("out", type=Path)
    measure.add_argument("--method", required=True)
    measure.add_argument("--edits", type=int, default=37)
    measure.add_argument("--near", type=int, default=10, help="neighbours a fact")
    measure.add_argument("--batch", type=int, default=1, help="edits that are made in one call")
    measure.add_argument("--sequential", action="store_true", help="batches pile up; scored after the last one")
    measure.add_argument("--reword", action="store_true", help="add other wordings of the relation to each edit")
    measure.add_argument("--piqa", type=Path, help="score this task before and after (sequential)")
    measure.add_argument("--piqa-limit", type=int, default=400)
    measure.add_argument("--seed", type=int, default=0)
    measure.add_argument("--fresh", action="store_true", help="discard what a killed run has scored")
    timed = commands.add_parser("speed", help="CPU seconds an edit, alone and in a batch; peak memory")
    timed.add_argument("data", type=Path)
    timed.add_argument("--method", required=True)
    timed.add_argument("--edits", type=int, default=100, help="edits of the batch")
    timed.add_argument("--alone", type=int, default=5, help="edits made one at a time")
    for each in (choose, measure, timed):
        each.add_argument("--model", default="smollm2")
    for each in (measure, timed):
        each.add_argument("--params", default="{}", help="changes to the preset, JSON")
    given = parser.parse_args()
    torch.set_num_threads(1)
    lm = load(given.model)
    if given.command == "known":
        known(given.source, given.target, lm)
        return
    if given.command == "speed":
        speed(lm, given)
        return
    results = Measurement(lm, given).run()
    given.out.write_text(json.dumps(results, indent=2), encoding="utf-8")
    print(json.dumps({name: value for name, value in results.items() if name != "params"}))


if __name__ == "__main__":
    main()
