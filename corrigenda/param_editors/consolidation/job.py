"""A job: the plan carried out on a copy of the model, up to the point where it may be promoted.

Nothing outside the job's folder changes. Killed at any moment and run again, it goes on where it was.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from corrigenda.edit import Edit, EditId
from corrigenda.errors import InvalidEdit, InvalidRequest, PlanOutdated, UnstableUpdate
from corrigenda.param_editors.anatomy import Anatomy
from corrigenda.param_editors.consolidation.admission import Admission, Trial, admit
from corrigenda.param_editors.consolidation.asking import Asking
from corrigenda.param_editors.consolidation.chain import promoted_updates, write_chain
from corrigenda.param_editors.consolidation.durable import sha256, write_json
from corrigenda.param_editors.consolidation.editions import Editions
from corrigenda.param_editors.consolidation.engine import Engine, in_order, pieces_of, start_engine
from corrigenda.param_editors.consolidation.gate import CHECKS, Figure, Gate
from corrigenda.param_editors.consolidation.moments import moments_for
from corrigenda.param_editors.consolidation.notebook import Notebook, content_key
from corrigenda.param_editors.consolidation.plan import Plan, adds_neurons, require_current, require_weights
from corrigenda.param_editors.consolidation.printing import Known, Piece, is_staged, keys_task, staged, targets_task
from corrigenda.param_editors.consolidation.result import Result, read_result
from corrigenda.param_editors.editor import Editor, editor, files_read
from corrigenda.param_editors.sampling import Contexts, sample_contexts
from corrigenda.param_editors.update import Consolidation
from corrigenda.paths import sync

if TYPE_CHECKING:
    from corrigenda.lm.loading import LanguageModel

COLLAPSED = 0.5
"""Share of edits that must hold for the others to be dropped one by one; below, they spoil each other as a set."""

SOLVING = frozenset({"moment_weight", "ridge", "null_threshold", "relative", "max_norm_ratio", "norm_anchor"})
"""Hyper-parameters that value targets do not depend on: a plan with others finds what an earlier one found in the same
weights."""

Say = Callable[[str, int, int], None]
"""Told (stage, done, total)."""


def run(
    plan: Plan,
    home: Path,
    *,
    lm: LanguageModel | None = None,
    engine: str = "local",
    address: str | None = None,
    say: Say | None = None,
) -> Result:
    """Carry ``plan`` out, or go on with it.

    Args:
        plan: What to do.
        home: Where editions are kept.
        lm: The base model, unedited, loaded by the caller; it comes back as it was. Loaded here by default.
        engine: ``local``, or ``ray``.
        address: Of a Ray cluster.
        say: Told how it goes.

    Raises:
        PlanOutdated: The base model, or what is in force, is not what the plan was made for.
        ModelLocked: Another job works on this model.
        MissingStatistics: The editor needs some and the plan names none.
    """
    from corrigenda.lm.loading import load

    editions = Editions.of(home, plan.model, plan.fingerprint)
    with editions.locked(f"run {plan.id}"):
        require_current(plan, editions)
        require_weights(plan.editor)
        path = editions.jobs / plan.id / "result.json"
        if path.is_file():
            return read_result(editions, plan.id)
        model = lm if lm is not None else load(plan.model)
        if model.fingerprint != plan.fingerprint:
            raise PlanOutdated(
                f"{plan.model} is not the model that the plan was made for: its weights differ",
                remedy="Make a new plan.",
            )
        editions.settle(plan.model, plan.fingerprint)
        plan.write(_made(path.parent) / "plan.json")
        worker = start_engine(engine, model, plan.model, address=address)
        job = _Job(plan, editions, model, worker, say or (lambda stage, done, total: None))
        try:
            result = job.run()
        finally:
            job.undo()
            worker.close()
        write_json(path, {**vars(result), "kept": list(result.kept), "faults": list(result.faults)})
    return result


class _Job:
    """One run of a plan."""

    def __init__(self, plan: Plan, editions: Editions, lm: LanguageModel, engine: Engine, say: Say) -> None:
        self.plan, self.editions, self.lm, self.engine, self.say = plan, editions, lm, engine, say
        self.folder = editions.jobs / plan.id
        self.targets, self.answers = Notebook(editions.folder / "targets"), Notebook(editions.folder / "answers")
        self.params = plan.editor_params()
        self.stats: Any = None
        self.contexts: Contexts = ()
        self.seconds: dict[str, float] = {}
        self.kept: list[EditId] = []
        self.chain: list[Consolidation] = []
        self._latest: tuple[str, Any] = ("", None)
        self.originals: dict[str, torch.Tensor] = {}
        self.last_row: dict[str, Any] = {}

    def run(self) -> Result:
        """Do everything that is not noted yet."""
        self._touch(update.name for done in promoted_updates(self.editions, self.plan.onto) for update in done.updates)
        # Printed one after the other, the keys of the next layer being collected in between.
        self._touch(Anatomy(self.lm).mlp_out(layer).name for layer in self.params.layers)
        made = editor(self.plan.editor)
        if made.needs_statistics:
            # Of the base model: what its old memories look like is not asked of an edited one.
            self.stats = self._timed("statistics", self._statistics)
        self.notes = Notebook(self.folder / "notes" / self._inputs())
        earlier = write_chain(self.editions, self.plan.onto, self.lm)
        self.previous = earlier[-1] if earlier and earlier[-1].method == self.plan.editor else None
        if hasattr(self.params, "contexts"):
            drawn = self.notes.value(
                "contexts",
                lambda: sample_contexts(self.lm, self.params.contexts, self.plan.seed),  # type: ignore[attr-defined]
            )
            self.contexts = tuple(tuple(group) for group in drawn)
        self.gate = Gate(self.plan.gate, self.plan.edits, self.lm)
        self.asking = Asking(self.gate.questions, self.engine, self._changed, self.say)
        base = [self.plan.fingerprint, list(self.plan.onto)]
        self.before = self._timed("before", lambda: self.asking.unprinted(base, self.answers))
        dropped: dict[EditId, str] = {}
        trials = 0
        files = []
        for number, batch in enumerate(self.plan.batches()):
            admission = self._batch(number, batch)
            dropped |= admission.dropped
            trials += admission.trials
            if admission.kept:
                files.append(self._write_batch(number, admission.kept))
                self.kept += [edit.id for edit in admission.kept]
        lost = {i: f"held when it was printed, but {why}" for i, why in self.last_row.get("lost", {}).items()}
        return self._result(dropped | lost, files, trials)

    def _inputs(self) -> str:
        """Name what the plan refers to but does not hold; when that changes, nothing is taken from earlier runs."""
        networks = files_read(editor(self.plan.editor), self.lm, self.params)
        asked = [_digest(source) for source in (*self.plan.gate.cases, *self.plan.gate.tasks)]
        return content_key(self.stats and self.stats.digest, networks, asked)

    def undo(self) -> None:
        """Put the model back as it was."""
        weights = dict(self.lm.model.named_parameters())
        for name, original in self.originals.items():
            weights[name].data.copy_(original)

    # One batch

    def _batch(self, number: int, batch: Sequence[Edit]) -> Admission:
        known = Known()
        if is_staged(self.plan.editor):
            self._timed("targets", lambda: self._find_targets(number, batch, known))
            made = staged(self.plan.editor, known, self._keys)
        else:
            made = editor(self.plan.editor)
        self._made = made
        accepted: dict[frozenset[EditId], dict[str, Any]] = {}

        def attempt(edits: tuple[Edit, ...]) -> Trial:
            key = content_key([edit.id for edit in edits])
            row = self.notes.value(f"batch-{number}-trial-{key}", lambda: self._try(number, key, edits, made))
            accepted[frozenset(edit.id for edit in edits)] = row
            self.say(f"batch {number}: {len(edits)} edits tried, {_in_words(row)}", 1, 1)
            return Trial(row["failed"], tuple(row["faults"]), self.plan.gate.share(row["figures"]))

        admission = admit(
            batch, attempt, suspicion=known.suspicion, most=self.plan.trials, tolerance=self.plan.tolerance
        )
        if admission.kept:
            self.last_row = accepted[frozenset(edit.id for edit in admission.kept)]
        return admission

    def _try(self, number: int, key: str, edits: tuple[Edit, ...], made: Editor) -> dict[str, Any]:
        """Print ``edits``, ask the gate's questions, and put the model back."""
        try:
            done = self._timed("print", lambda: self._print(made, edits))
        except (UnstableUpdate, InvalidEdit, InvalidRequest) as error:
            if isinstance(error, InvalidRequest) and error.edit is None:
                raise  # it is wrong with the plan, not with an edit
            return {"failed": {}, "lost": {}, "faults": [error.message], "figures": {}, "after": []}
        try:
            return self._judged(number, key, edits, done)
        finally:
            done.revert()
            self._latest = key, done  # most often what is admitted is what was tried last

    def _judged(self, number: int, key: str, edits: Sequence[Edit], done: Consolidation) -> dict[str, Any]:
        """Take the gate's figures, with which weights they are of."""
        after = _after([done])
        self._touch_printed(done)
        name = f"after-{key}-{content_key(after)}"
        row: dict[str, Any] = self._timed("gate", lambda: self._examine(f"batch-{number}", name, edits))
        return row | {"after": after}

    def _examine(self, stage: str, name: str, edits: Sequence[Edit]) -> dict[str, Any]:
        """Take the gate's figures; what costs most only when nothing is wrong so far."""
        own = {edit.id for edit in edits}
        ids = frozenset(own | set(self.kept))
        figures: list[Figure] = []
        failed: dict[EditId, str] = {}
        faults: list[str] = []
        for check in self.gate.checks:
            if faults or (check not in CHECKS and own & failed.keys()):
                break
            places = self.gate.asked(check, ids)
            if not places:
                continue
            after = self.asking.printed(stage, f"{stage}-{name}-{check}", places, self.notes)
            taken = self.gate.figures(check, places, self.before, after)
            figures += taken
            if check == "edits":
                failed = self.gate.failed(self.before, after)
                if len(own) > 1 and len(own & failed.keys()) > COLLAPSED * len(own):
                    faults.append(f"{len(own & failed.keys())} of {len(own)} edits do not hold together")
            else:
                faults += self.gate.faults(taken)
        return {
            "failed": {i: why for i, why in failed.items() if i in own},
            "lost": {i: why for i, why in failed.items() if i not in own},
            "faults": faults,
            "figures": {figure.name: figure.to_dict() for figure in figures},
        }

    def _print(self, made: Editor, edits: Sequence[Edit]) -> Consolidation:
        done = made.apply(
            self.lm,
            edits,
            params=self.params,
            stats=self.stats,
            seed=self.plan.seed,
            previous=self.chain[-1] if self.chain else self.previous,
            contexts=self.contexts or None,
        )
        if done.neurons:
            done.revert()
            raise adds_neurons(self.plan.editor)  # one that did not say so
        return done

    def _write_batch(self, number: int, edits: Sequence[Edit]) -> tuple[str, str]:
        """Print what was admitted for good, into the job's copy and into a file."""
        key = content_key([edit.id for edit in edits])
        path = self.folder / f"batch-{number}-{content_key(key, self.notes.folder.name)}.safetensors"
        if path.is_file():
            done = Consolidation.load(path, self.lm)
            done.write()
        else:
            latest, done = self._latest
            if latest == key:
                done.write()
            else:
                done = self._timed("print", lambda: self._print(self._made, edits))
            if _after([done]) != self.last_row["after"]:
                self._judge_again(number, key, edits, done)
            done.save(path)
            sync(path)
            sync(path.parent)
        self.chain.append(done)
        self._touch_printed(done)
        return path.name, sha256(path)

    def _judge_again(self, number: int, key: str, edits: Sequence[Edit], done: Consolidation) -> None:
        """Judge weights that came out otherwise than those that passed: another machine or library adds otherwise."""
        row = self._judged(number, key, edits, done)
        if row["faults"] or row["failed"].keys() - self.last_row["failed"].keys():
            done.revert()
            raise PlanOutdated(
                f"printed again, batch {number} came out differently and does not pass: {_in_words(row)}",
                remedy="Go on where the job was begun, or make a new plan.",
            )
        self.last_row = row

    # Tasks

    def _find_targets(self, number: int, batch: Sequence[Edit], known: Known) -> None:
        parts = pieces_of(batch, self.plan.piece)
        names = [self._targets_name(part) for part in parts]
        missing = []
        for place, part in enumerate(parts):
            found = self.targets.tensors(names[place])
            if found is None:
                missing.append(place)
            else:
                known.add(part, found)
        pieces = [Piece(self.plan.editor, parts[place], self.contexts, self.params) for place in missing]
        done = len(parts) - len(missing)
        for n, tensors in self.engine.run(targets_task, pieces, self._changed()):
            self.targets.keep_tensors(names[missing[n]], tensors)
            known.add(pieces[n].edits, tensors)
            done += 1
            self.say(f"batch {number}: targets", done, len(parts))

    def _targets_name(self, edits: Sequence[Edit]) -> str:
        """Name targets by everything that decides them: another plan may ask for the same."""
        params = {name: value for name, value in self.params.to_dict().items() if name not in SOLVING}
        here = [self.plan.fingerprint, list(self.plan.onto), _after(self.chain)]
        return content_key(here, self.plan.editor, params, self.contexts, [edit.to_dict() for edit in edits])

    def _keys(self, edits: Sequence[Edit], contexts: Contexts, layer: int) -> torch.Tensor:
        pieces = [
            Piece(self.plan.editor, part, contexts, self.params, layer) for part in pieces_of(edits, self.plan.piece)
        ]
        return torch.cat(in_order(self.engine.run(keys_task, pieces, self._changed())))

    def _statistics(self) -> Any:
        return moments_for(self.plan.statistics, self.lm, self.params.layers, self.engine, say=self.say)

    def _changed(self) -> dict[str, torch.Tensor]:
        weights = dict(self.lm.model.named_parameters())
        return {name: weights[name].data for name in self.originals}

    # Bookkeeping

    def _touch(self, names: Iterable[str]) -> None:
        """Keep the originals of weights that are going to be written."""
        weights = dict(self.lm.model.named_parameters())
        for name in names:
            if name not in self.originals:
                self.originals[name] = weights[name].data.clone()

    def _touch_printed(self, done: Consolidation) -> None:
        """Keep the originals of weights that were printed into: an editor may write more than the layers' outputs."""
        for update in done.updates:
            self.originals.setdefault(update.name, update.original)

    def _timed(self, stage: str, work: Callable[[], Any]) -> Any:
        began = time.perf_counter()
        try:
            return work()
        finally:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - began

    def _result(self, dropped: dict[EditId, str], files: list[tuple[str, str]], trials: int) -> Result:
        figures = self.last_row.get("figures", {})
        kept = tuple(edit.id for edit in self.plan.edits if edit.id in set(self.kept) - dropped.keys())
        verdict = self.gate.thresholds.check(
            {name: row["after"] for name, row in figures.items()},
            {name: row["before"] for name, row in figures.items()},
        )
        missed = [str(check).removeprefix("FAIL").strip() for check in verdict.failures if kept]
        seconds = {stage: round(spent, 2) for stage, spent in self.seconds.items()}
        return Result(self.plan.id, kept, dropped, tuple(files), figures, tuple(missed), trials, seconds)


def _digest(source: str) -> str:
    """Return the hash of a file of questions, which may be given as NAME=FILE; of a built-in set, its name."""
    files = [path for name in (source, source.partition("=")[2]) if name and (path := Path(name)).is_file()]
    return sha256(files[0]) if files else source


def _after(chain: Sequence[Consolidation]) -> list[str]:
    """Return what names the weights that ``chain`` left behind."""
    return [update.after for done in chain for update in done.updates]


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _in_words(row: Mapping[str, Any]) -> str:
    if row["faults"]:
        return "; ".join(row["faults"])
    return f"{len(row['failed'])} do not hold" if row["failed"] else "all hold"
