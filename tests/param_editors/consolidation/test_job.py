from __future__ import annotations

import json
import shutil

import pytest
import torch
from learned import edit, facts
from learned_consolidation import EDITED, PARAMS, good_edits, poison, same, weights_of

from corrigenda.edit import Edit
from corrigenda.errors import (
    InvalidEdit,
    InvalidParams,
    InvalidRequest,
    MissingStatistics,
    ModelLocked,
    NothingToPrint,
    PlanOutdated,
)
from corrigenda.lm.loading import load
from corrigenda.param_editors.consolidation import job
from corrigenda.param_editors.consolidation.editions import Editions
from corrigenda.param_editors.consolidation.engine import LocalEngine
from corrigenda.param_editors.consolidation.job import run
from corrigenda.param_editors.consolidation.plan import Plan
from corrigenda.param_editors.consolidation.promotion import promote
from corrigenda.param_editors.consolidation.result import read_result
from corrigenda.param_editors.consolidation.selection import Selection
from corrigenda.param_editors.files import read_tensors, write_tensors
from corrigenda.param_editors.hypernetwork import HyperParams
from corrigenda.param_editors.memit import MEMIT
from corrigenda.param_editors.mend import MEND
from corrigenda.param_editors.update import Consolidation
from corrigenda.paths import cache_dir


def test_a_plan_written_by_hand_and_read_again_is_the_same_job(world, tmp_path):
    plan = world.plan()
    plan.write(tmp_path / "plan.json")
    again = Plan.read(tmp_path / "plan.json")
    assert again == plan
    assert again.id == plan.id
    row = json.loads((tmp_path / "plan.json").read_text())
    row["gate"]["minimums"]["neighbours"] = 0.5
    assert Plan.from_dict(row).id != plan.id
    row["edits"] = row["edits"][:2]
    assert len(Plan.from_dict(row).edits) == 2
    for broken in ({**row, "format": "x"}, {**row, "batch_size": 0}, {**row, "surprise": 1}, {**row, "statistics": {}}):
        with pytest.raises(InvalidParams):
            Plan.from_dict(broken)
    (tmp_path / "plan.json").write_text("[]")
    with pytest.raises(InvalidParams, match="no plan"):
        Plan.read(tmp_path / "plan.json")


def test_a_job_leaves_the_model_as_it_was_and_is_done_once(world):
    lm = load(world.model)
    before = weights_of(lm)
    plan = world.plan()
    result = world.run(plan, lm=lm)
    assert result.passed
    assert result.kept == tuple(one.id for one in good_edits())
    assert result.figures["edits"] == {"before": 0.0, "after": 1.0, "asked": 8}
    assert result.figures["neighbours"]["after"] >= 0.85
    assert same(weights_of(lm), before)
    folder = world.editions.jobs / plan.id
    stamp = (folder / "result.json").stat().st_mtime_ns
    assert world.run(plan, lm=lm) == result
    assert (folder / "result.json").stat().st_mtime_ns == stamp


def test_batches_are_printed_on_top_of_each_other(world):
    plan = world.plan(batch_size=4)
    result = world.run(plan)
    assert len(result.batches) == 2
    assert result.figures["edits"]["asked"] == 8
    change = promote(world.editions, result.job, world.memory)
    job = world.editions.jobs / plan.id
    chain = [Consolidation.load(job / name) for name, _ in result.batches]
    assert [len(done.edits) for done in chain] == [4, 4]
    lm = load(change.path)
    weights = lm.model.state_dict()
    for update in chain[-1].updates:
        from corrigenda.param_editors.update import digest

        assert digest(weights[update.name]) == update.after  # what was judged is what is in force


def test_a_plan_that_differs_in_what_is_solved_finds_the_targets_again(world):
    said = []
    world.run(world.plan(), say=lambda stage, done, total: said.append(stage))
    assert any("targets" in stage for stage in said)
    said.clear()
    other = world.plan(params={**PARAMS, "moment_weight": 120.0})
    world.run(other, say=lambda stage, done, total: said.append(stage))
    assert not any("targets" in stage for stage in said)


def test_poison_is_found_by_halving_and_the_good_edits_go_through(world_of):
    bad = [poison(number) for number in (0, 4, 8, 12)]
    world = world_of([*good_edits()[:3], *bad[:2], *good_edits()[3:], *bad[2:]])
    said = []
    plan = world.plan(gate={"minimums": {"edits": 0.9, "neighbours": 0.9}})
    result = world.run(plan, say=lambda stage, done, total: said.append(stage))
    assert len({one.id for one in good_edits()} & set(result.kept)) >= 7  # one may be blamed for what bad ones began
    assert result.dropped.keys() & {one.id for one in bad}
    assert all("neighbours" in reason for reason in result.dropped.values())
    assert result.figures["neighbours"]["after"] >= 0.9
    assert 3 <= result.trials <= 20
    assert any("neighbours" in stage for stage in said)


def test_edits_that_do_not_take_stay_in_memory_only(world_of):
    rival = Edit(f"The colour of {good_edits()[0].subject}", "wide", subject=good_edits()[0].subject, relation="other")
    stubborn = Edit("The shape", "Kabar", subject="The", relation="z")
    world = world_of([*good_edits(4), rival, stubborn])
    plan = world.plan(gate={"minimums": {"edits": 0.9}})
    assert set(plan.left_out) == {rival.id, good_edits()[0].id}  # each contradicts the other
    assert "contradicts" in plan.left_out[rival.id]
    result = world.run(plan)
    assert set(result.kept) <= {one.id for one in good_edits(4)}
    assert stubborn.id in result.dropped
    assert result.passed


def test_fine_tuning_prints_in_one_go(world):
    params = {"layers": [1], "lr": 0.02, "epochs": 4, "max_norm_ratio": 50.0}
    plan = world.plan(method="ft-m", params=params, gate={"minimums": {"edits": 0.1}})
    result = world.run(plan)
    assert result.trials >= 1
    assert set(result.kept) | set(result.dropped) == {one.id for one in good_edits()}


def test_statistics_may_come_from_a_corpus_or_from_the_model(world, tmp_path, monkeypatch):
    monkeypatch.setenv("CORRIGENDA_CACHE", str(tmp_path / "empty"))
    small = Selection(ids=(good_edits()[0].id,))
    with pytest.raises(MissingStatistics):
        world.run(world.plan(selection=small))
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("\n\n".join(facts()))
    ample = {**PARAMS, "max_norm_ratio": 1e6}
    assert world.run(world.plan(selection=small, statistics={"corpus": str(corpus)}, params=ample)).trials == 1
    gate = {"minimums": {"edits": 0.8}}
    assert world.run(world.plan(selection=small, statistics={"from_model": 300}, params=ample, gate=gate)).trials >= 1
    with pytest.raises(InvalidParams, match="cannot be read"):
        world.run(world.plan(selection=small, statistics={"corpus": str(tmp_path / "absent")}))


def test_one_job_at_a_time_on_a_model(world):
    plan = world.plan()
    editions = Editions.of(world.home, plan.model, plan.fingerprint)
    with editions.locked("another"):
        assert "another" in (editions.holder() or "")
        with pytest.raises(ModelLocked, match="another"):
            world.run(plan)
    assert editions.holder() is None


def test_another_base_model_is_refused(world, tmp_path):
    plan = world.plan()
    lm = load(world.model)
    lm.model.model.layers[0].mlp.down_proj.weight.data.mul_(1.01)
    with pytest.raises(PlanOutdated, match="weights differ"):
        run(plan, world.home, lm=lm)
    editions = Editions.of(world.home, plan.model, plan.fingerprint)
    with pytest.raises(PlanOutdated, match="not finished"):
        read_result(editions, plan.id)


def test_empty_plans_and_odd_gates_are_refused(world, world_of):
    with pytest.raises(NothingToPrint, match="nothing to print"):
        world.plan(selection=Selection(tags=("absent",)))
    with pytest.raises(InvalidParams, match="no questions"):
        world.run(world.plan(gate={"max_drops": {"piqa": 0.01}}))
    with pytest.raises(InvalidParams, match="out of range"):
        world.plan(gate={"minimums": {"edits": 90}})
    with pytest.raises(InvalidParams, match="limit"):
        world.plan(gate={"limit": -1})


def test_tasks_and_paraphrases_are_asked(world_of, tmp_path):
    task = tmp_path / "choices.jsonl"
    rows = [{"prompt": "The shape of Kadell", "choices": ["flat", "short"], "answer": 0} for _ in range(3)]
    task.write_text("".join(json.dumps(row) + "\n" for row in rows))
    own = [one.replace(paraphrases=(f"The shape of Kabar round. {one.prompt}",)) for one in good_edits(4)]
    world = world_of(own)
    gate = {"tasks": (str(task),), "max_drops": {"choices": 0.01}, "own_wordings": 1.0}
    result = world.run(world.plan(gate=gate))
    assert result.figures["choices"]["before"] == 1.0
    assert result.figures["edits"]["asked"] >= len(result.kept)
    assert edit(EDITED[0]).id in {*result.kept, *result.dropped}


def test_targets_found_in_other_weights_are_not_taken(world, tmp_path):
    """From the second batch on, weights depend on what the first was solved with."""
    world.run(world.plan(batch_size=4))
    plan = world.plan(batch_size=4, params={**PARAMS, "moment_weight": 400.0})
    shared = written(world.editions, world.run(plan))
    elsewhere = tmp_path / "elsewhere"
    alone = written(Editions.of(elsewhere, plan.model, plan.fingerprint), run(plan, elsewhere))
    assert [done.updates[0].after for done in shared] == [done.updates[0].after for done in alone]


def test_an_editor_that_writes_more_than_the_layers_outputs_leaves_the_model_as_it_was(world, tmp_path):
    lm = load(world.model)
    before = weights_of(lm)
    params = HyperParams(layers=(0, 1), rank=4, lengths=(20.0,), max_norm_ratio=1e9, weights=str(tmp_path / "networks"))
    about = {name: getattr(params, name) for name in ("rank", "layers", "tokens", "matrices")}
    MEND().save(MEND().build(lm, params), tmp_path / "networks", about)
    gate = {"minimums": {"edits": 0.0}}
    plan = world.plan(method="mend", params=params.to_dict(), layers=None, gate=gate, tolerance=1.0)
    sent = []

    class Watching(LocalEngine):
        def run(self, task, pieces, changed):
            now = {name: weight for name, weight in lm.model.named_parameters() if name not in changed}
            sent.append(all(torch.equal(weight, before[name]) for name, weight in now.items()))
            return super().run(task, pieces, changed)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(job, "start_engine", lambda name, lm, source, address=None: Watching(lm))
        result = world.run(plan, lm=lm)
    assert any(update.name.endswith("up_proj.weight") for update in written(world.editions, result)[0].updates)
    assert all(sent)  # what a worker does not get is as it loaded it
    assert same(weights_of(lm), before)


def test_a_verdict_on_other_weights_is_not_taken(world, monkeypatch):
    """Killed after the gate; then what the plan refers to as 'the cache' changes."""
    plan = world.plan()
    judged = []
    real = job._Job._judged
    monkeypatch.setattr(job._Job, "_judged", lambda self, *args: judged.append(real(self, *args)) or judged[-1])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(job._Job, "_write_batch", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            world.run(plan)
    lm = load(world.model)
    home = cache_dir() / "stats" / lm.fingerprint[:16]
    shutil.copytree(home / "facts-1000", home / "facts-2000")
    for path in (home / "facts-2000").glob("*.safetensors"):
        tensors, meta = read_tensors(path)
        write_tensors(path, {"moment": 2 * tensors["moment"]}, meta | {"tokens": "2000"})
    try:
        result = world.run(plan)
    finally:
        shutil.rmtree(home / "facts-2000")
    assert judged[0]["after"] != judged[-1]["after"]
    assert [update.after for done in written(world.editions, result) for update in done.updates] == judged[-1]["after"]


def test_weights_that_come_out_otherwise_are_judged_again(world, monkeypatch):
    """Killed after the gate, resumed where sums are rounded otherwise."""
    plan = world.plan()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(job._Job, "_write_batch", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            world.run(plan)
    real = MEMIT.factor
    monkeypatch.setattr(MEMIT, "factor", lambda *args: real(*args) * 1.0000001)
    asked = []
    judged = job._Job._judged
    monkeypatch.setattr(job._Job, "_judged", lambda self, *args: asked.append(1) or judged(self, *args))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            job._Job, "_examine", lambda *args: {"failed": {}, "lost": {}, "faults": ["worse"], "figures": {}}
        )
        with pytest.raises(PlanOutdated, match="worse"):
            world.run(plan)
    assert world.run(plan).passed
    assert len(asked) == 2


def test_editors_that_add_neurons_are_refused(world):
    with pytest.raises(InvalidParams, match="adds neurons"):
        world.plan(method="calinet", params={"layers": [0]})
    row = world.plan().to_dict() | {"editor": "t-patcher", "params": {"layers": [1]}}
    with pytest.raises(InvalidParams, match="adds neurons"):
        world.run(Plan.from_dict(row))


def test_what_an_editor_refuses_is_dropped_and_too_long_edits_are_never_planned(world_of, monkeypatch):
    bad = good_edits()[1]
    long = Edit("The colour of Kabar " + "and that " * 300 + "is", "red", subject="Kabar", relation="long")
    world = world_of([*good_edits(3), long])
    plan = world.plan()
    assert "tokens" in plan.left_out[long.id]
    real = job._Job._print

    def refusing(self, made, edits):
        if bad in edits:
            raise InvalidEdit("not this one")
        return real(self, made, edits)

    monkeypatch.setattr(job._Job, "_print", refusing)
    result = world.run(plan)
    assert result.dropped == {bad.id: "not this one"}
    assert len(result.kept) == 2


def test_what_is_wrong_with_the_plan_stops_the_job_with_its_remedy(world):
    def refusing(self, made, edits):
        raise InvalidRequest("the previous consolidation holds no keys of layer 5", remedy="Chain the same layers.")

    plan = world.plan()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(job._Job, "_print", refusing)
        with pytest.raises(InvalidRequest, match="no keys of layer 5"):
            world.run(plan)
    assert world.run(plan).kept


def written(editions, result):
    return [Consolidation.load(editions.jobs / result.job / name) for name, _ in result.batches]
