from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import pytest
from learned import SUBJECTS, colour, edit
from learned_consolidation import EDITED, good_edits, same, weights_of

from corrigenda.errors import GateClosed, InvalidRequest, ModelDamaged, PlanOutdated, UnknownName
from corrigenda.lm.loading import load
from corrigenda.lm.scoring import greedy
from corrigenda.memory.memory import Memory
from corrigenda.param_editors.consolidation import marks
from corrigenda.param_editors.consolidation.promotion import promote, rollback
from corrigenda.param_editors.consolidation.publishing import verify
from corrigenda.param_editors.consolidation.selection import Selection
from corrigenda.testing import FixedEncoder


def promoted(world, **more):
    result = world.run(world.plan(**more))
    return promote(world.editions, result.job, world.memory)


def first_words(lm, prompts):
    return [text.split(".")[0].strip() for text in greedy(lm, prompts, max_new_tokens=3)]


def test_the_promoted_checkpoint_answers_and_leaves_the_neighbours_alone(world):
    change = promoted(world)
    lm = load(change.path)
    assert first_words(lm, [one.prompt for one in good_edits()]) == [one.target for one in good_edits()]
    near = [place for place in range(len(SUBJECTS)) if place not in EDITED]
    kept = first_words(lm, [f"The colour of {SUBJECTS[place]}" for place in near])
    assert sum(word == colour(SUBJECTS[place]) for word, place in zip(kept, near, strict=True)) >= 0.85 * len(near)
    assert all(marks.editions_of(one) == [change.edition] for one in world.memory.live())
    history = world.memory.history(good_edits()[0].id)
    assert [event.kind for event in history] == ["added", "amended"]
    assert change.edition in (history[-1].reason or "")


def test_rolling_back_brings_the_base_model_and_plain_edits(world):
    change = promoted(world)
    back = rollback(world.editions, change.edition, world.memory)
    assert back.edition is None
    assert back.promotions == ()
    assert world.memory.live() == tuple(good_edits())
    assert world.editions.path() is None


def test_any_promotion_can_be_taken_out_and_the_rest_is_as_if_it_had_never_been(world, tmp_path):
    ids = [one.id for one in good_edits()]
    first = promoted(world, selection=Selection(ids=tuple(ids[:4])))
    second = promoted(world, selection=Selection(ids=tuple(ids[4:])))
    assert second.promotions == (first.edition, second.edition)
    both = weights_of(second.path)
    only_first = weights_of(first.path)
    assert marks.retire(world.memory, ids, second.edition) == ids[4:]
    alone = rollback(world.editions, first.edition, world.memory)
    assert alone.promotions == (second.edition,)
    assert verify(alone.path)["promotions"] == [second.edition]
    # What the second printed was found with the first in place; only its sum with the base is another.
    base = weights_of(world.model)
    assert not same(weights_of(alone.path), both)
    assert not same(weights_of(alone.path), base)
    live = {one.id: one for one in world.memory.live()}
    assert all(marks.editions_of(live[one]) == [] for one in ids[:4])
    assert all(marks.editions_of(live[one]) == [second.edition] for one in ids[4:])  # on probation again
    assert rollback(world.editions, second.edition, world.memory).edition is None
    assert {one.id for one in world.memory.live()} == set(ids)
    assert all(one.tags == () for one in world.memory.live())
    assert not same(only_first, base)


def test_rolling_back_the_last_of_two_finds_the_edition_before_bit_for_bit(world):
    ids = [one.id for one in good_edits()]
    first = promoted(world, selection=Selection(ids=tuple(ids[:4])))
    before = weights_of(first.path)
    second = promoted(world, selection=Selection(ids=tuple(ids[4:])))
    back = rollback(world.editions, second.edition, world.memory)
    assert back.edition == first.edition
    assert same(weights_of(back.path), before)


def test_a_rolled_back_promotion_can_follow_another(world):
    ids = [one.id for one in good_edits()]
    first = promoted(world, selection=Selection(ids=tuple(ids[:4])))
    rollback(world.editions, first.edition, world.memory)
    again = promoted(world, selection=Selection(ids=tuple(ids[:4]), limit=3))
    assert again.edition != first.edition
    assert "-v2-" in again.edition


def test_a_memory_that_never_held_the_edits_is_refused(world, tmp_path):
    plan = world.plan()
    result = world.run(plan)
    with Memory.open(tmp_path / "another.db", encoder=FixedEncoder()) as other:
        with pytest.raises(InvalidRequest, match="has never held"):
            promote(world.editions, result.job, other)
        change = promote(world.editions, result.job, world.memory)
        with pytest.raises(InvalidRequest, match="has never held"):
            rollback(world.editions, change.edition, other)
        assert world.editions.current().edition == change.edition
        unsettled = replace(world.editions.current(), unsettled=change.edition)
        world.editions.switch(unsettled)  # as a kill between the switch and the ledger leaves it
        with pytest.raises(InvalidRequest, match="has never held"):
            promote(world.editions, result.job, other)
        assert world.editions.current() == unsettled
    assert rollback(world.editions, change.edition, world.memory).edition is None


def test_edits_that_an_export_left_out_come_back_when_the_weights_forget_them(world, tmp_path):
    change = promoted(world)
    gone = good_edits()[0]
    marks.retire(world.memory, [gone.id], change.edition)
    world.memory.export_jsonl(tmp_path / "all.jsonl")
    with Memory.open(tmp_path / "moved.db", encoder=FixedEncoder()) as moved:
        moved.import_jsonl(tmp_path / "all.jsonl", on_conflict="coexist")
        assert gone.id not in {edit.id for edit in moved.live()}
        assert rollback(world.editions, change.edition, moved).edition is None
        assert gone.id in {edit.id for edit in moved.live()}


def test_what_cannot_be_promoted_is_refused(world):
    plan = world.plan()
    result = world.run(plan)
    world.memory.retract(good_edits()[0].id)
    with pytest.raises(PlanOutdated, match="no longer live"):
        promote(world.editions, result.job, world.memory)
    assert world.editions.current().edition is None
    with pytest.raises(PlanOutdated, match="not finished"):
        promote(world.editions, result.job[:-1] + "x", world.memory)
    world.memory.add(good_edits()[0])
    change = promote(world.editions, result.job, world.memory)
    with pytest.raises(InvalidRequest, match="promoted already"):
        promote(world.editions, result.job, world.memory)
    with pytest.raises(PlanOutdated, match="prints onto the base model; in force is"):
        world.run(plan)
    with pytest.raises(UnknownName, match="Did you mean"):
        rollback(world.editions, change.edition[:-1], world.memory)
    rollback(world.editions, change.edition, world.memory)
    with pytest.raises(InvalidRequest, match="not in force"):
        rollback(world.editions, change.edition, world.memory)


def test_nothing_is_promoted_when_nothing_held(world):
    result = world.run(
        world.plan(params={"layers": [0, 1], "v_steps": 0, "max_norm_ratio": 50.0}, gate={"minimums": {"edits": 0.9}})
    )
    assert not result.passed
    with pytest.raises(GateClosed, match="no edit held"):
        promote(world.editions, result.job, world.memory)


def test_the_adapter_loads_in_plain_peft_and_the_checkpoint_in_plain_transformers(world, tmp_path):
    pytest.importorskip("peft")
    result = world.run()
    checkpoint = promote(world.editions, result.job, world.memory)
    rollback(world.editions, checkpoint.edition, world.memory)
    adapter = promote(world.editions, result.job, world.memory, kind="lora")
    script = tmp_path / "plain.py"
    script.write_text(PLAIN)
    command = [sys.executable, "-I", str(script), str(world.model), str(checkpoint.path), str(adapter.path)]
    said = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    wanted = [one.target for one in good_edits()]
    assert said == {"corrigenda": False, "checkpoint": wanted, "adapter": wanted}
    card = (adapter.path / "README.md").read_text()
    assert "library_name: peft" in card
    assert all(one.id in card for one in good_edits())


PLAIN = """
import json, sys
sys.path = [path for path in sys.path if "wt-" not in path]
import builtins
real = builtins.__import__
def refuse(name, *rest, **more):
    if name.split(".")[0] == "corrigenda":
        raise ImportError(name)
    return real(name, *rest, **more)
builtins.__import__ = refuse
import torch, transformers, peft, warnings
base, checkpoint, adapter = sys.argv[1:]
words = transformers.AutoTokenizer.from_pretrained(base)
prompts = %r
def said(model):
    found = []
    for prompt in prompts:
        ids = words(prompt, return_tensors="pt").input_ids
        out = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=2, do_sample=False)
        found.append(words.decode(out[0, ids.shape[1]:]).split(".")[0].strip())
    return found
full = said(transformers.AutoModelForCausalLM.from_pretrained(checkpoint))
model = peft.PeftModel.from_pretrained(transformers.AutoModelForCausalLM.from_pretrained(base), adapter)
print(json.dumps({"corrigenda": "corrigenda" in sys.modules, "checkpoint": full, "adapter": said(model)}))
""" % [one.prompt for one in good_edits()]


def test_a_changed_file_of_an_edition_is_found(world):
    change = promoted(world)
    verify(change.path)
    with (change.path / "config.json").open("a") as file:
        file.write(" ")
    with pytest.raises(ModelDamaged, match=r"config\.json is not as it was written"):
        verify(change.path)


def test_an_edit_told_otherwise_since_does_not_come_back(world):
    change = promoted(world)
    ids = [one.id for one in good_edits()]
    marks.retire(world.memory, ids[:2], change.edition)
    newer = edit(EDITED[0], by=5)
    world.memory.add(newer)
    rollback(world.editions, change.edition, world.memory)
    live = {one.id for one in world.memory.live()}
    assert newer.id in live
    assert ids[0] not in live
    assert ids[1] in live
