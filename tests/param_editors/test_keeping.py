"""A run that is killed goes on where it stopped, and nothing found in one state of the weights is used in another."""

from __future__ import annotations

import pytest
import torch
from tiny_editing import EDITS, quick, random_statistics, same, weights

from corrigenda.errors import ModelDamaged
from corrigenda.param_editors import targets
from corrigenda.param_editors.editable import EditedWeights
from corrigenda.param_editors.hypernetwork import HyperParams
from corrigenda.param_editors.mend import MEND
from corrigenda.param_editors.t_patcher import TPatcherParams
from corrigenda.param_editors.update import Consolidation


@pytest.fixture
def optimised(monkeypatch):
    """Counts the chunks whose values are really looked for."""
    seen = []
    real = targets._Chunk.optimise
    monkeypatch.setattr(targets._Chunk, "optimise", lambda self, early: seen.append(self.n) or real(self, early))
    return seen


def edited(lm, name, keep, **changes):
    return EditedWeights(lm, name, params=quick(name, **changes), stats=random_statistics(lm), keep=keep)


@pytest.mark.parametrize("name", ["rome", "alphaedit", "pmet", "ft-m"])
def test_a_chain_is_made_again_from_what_was_kept(name, fresh, tmp_path, optimised):
    first = edited(fresh("llama"), name, tmp_path)
    for edit in EDITS:
        first.edit([edit])
    wanted, looked = weights(first.lm), len(optimised)
    again = edited(fresh("llama"), name, tmp_path)
    before = weights(again.lm)
    undos = [again.edit([edit]) for edit in EDITS]
    assert len(optimised) == looked
    assert same(again.lm, wanted)
    for mine, theirs in zip(first.chain, again.chain, strict=True):
        assert {key: value.tolist() for key, value in mine.carry.items()} == {
            key: value.tolist() for key, value in theirs.carry.items()
        }
    for undo in reversed(undos):
        undo.revert()
    assert same(again.lm, before)


def test_what_other_statistics_gave_is_not_taken_up_again(fresh, tmp_path, optimised):
    """They may bear the same name: a corpus that has grown, another of the same file's name."""
    lm = fresh("llama")
    first, second = (random_statistics(lm, seed=seed) for seed in (3, 4))
    assert first.source == second.source
    made = []
    for stats in (first, second, first):
        model = EditedWeights(lm, "rome", params=quick("rome"), stats=stats, keep=tmp_path)
        undo = model.edit(EDITS[:1])
        made.append(weights(lm))
        undo.revert()
    assert not all(torch.equal(made[0][name], made[1][name]) for name in made[0])
    assert all(torch.equal(made[0][name], made[2][name]) for name in made[0])
    assert len(optimised) == 1  # values do not depend on them


def test_neurons_trained_alone_are_not_taken_for_those_of_a_chain(fresh, tmp_path):
    lm = fresh("llama")
    last = lm.layers.count - 1
    params = TPatcherParams(layers=(last,), steps=5, check_every=5, memory_tokens=16, memory_top=4, others=0, sure=0.0)
    alone, chain = (EditedWeights(lm, "t-patcher", params=params, keep=tmp_path) for _ in range(2))
    for edit in EDITS[:2]:
        alone.edit([edit]).revert()
    undos = [chain.edit([edit]) for edit in EDITS[:2]]
    queries = [len(done.carry["queries"]) for done in chain.chain]
    assert queries[1] > queries[0]  # the second one knows of the first
    for undo in reversed(undos):
        undo.revert()


def test_a_batch_that_was_interrupted_keeps_the_values_found_so_far(fresh, tmp_path, optimised, monkeypatch):
    monkeypatch.setattr(targets, "CHUNK_TOKENS", 8)

    def killed(stage, done, total):
        if done == 1:
            raise KeyboardInterrupt

    lm = fresh("llama")
    model = EditedWeights(
        lm, "memit", params=quick("memit"), stats=random_statistics(lm), keep=tmp_path, progress=killed
    )
    with pytest.raises(KeyboardInterrupt):
        model.edit(EDITS)
    assert optimised == [1]
    edited(lm, "memit", tmp_path).edit(EDITS)
    assert optimised == [1, 2]  # the first of them was not looked for again


def test_methods_with_the_same_values_share_them_and_others_do_not(fresh, tmp_path, optimised):
    lm = fresh("llama")
    edited(lm, "memit", tmp_path).edit(EDITS).revert()
    edited(lm, "emmet", tmp_path).edit(EDITS).revert()
    assert len(optimised) == 1
    edited(lm, "emmet", tmp_path, v_lr=0.4).edit(EDITS).revert()
    edited(lm, "pmet", tmp_path).edit(EDITS).revert()
    assert len(optimised) == 3


def test_values_of_one_state_are_not_used_in_another(fresh, tmp_path, optimised):
    lm = fresh("llama")
    model = edited(lm, "memit", tmp_path)
    model.edit(EDITS[:1])
    model.edit(EDITS[:1])
    assert optimised == [1, 1]


def test_what_is_torn_or_foreign_is_not_taken(fresh, tmp_path, optimised):
    model = edited(fresh("llama"), "memit", tmp_path)
    model.edit(EDITS).revert()
    values, *_ = tmp_path.glob("value-*")
    (kept,) = tmp_path.glob("edits-*")
    values.write_bytes(values.read_bytes()[:40])
    whole = kept.read_bytes()
    kept.unlink()
    model.edit(EDITS).revert()
    assert len(optimised) == 2
    kept.write_bytes(whole)
    with pytest.raises(ModelDamaged, match="lacks the original"):
        Consolidation.load(kept)
    kept.write_bytes(whole[:100])
    with pytest.raises(ModelDamaged):
        model.edit(EDITS)
    assert torch.isfinite(model.lm.model.lm_head.weight).all()


@pytest.mark.parametrize("name", ["rome", "r-rome"])
def test_values_found_inside_a_sequence_are_not_taken_for_those_of_its_beginning(name, fresh, tmp_path):
    """A batch of ROME is a sequence: its second value belongs to weights that hold its first edit."""
    lm = fresh("llama")
    model = edited(lm, name, tmp_path)
    model.edit(EDITS[:2]).revert()
    alone = model.edit(EDITS[1:2])
    found = weights(lm)
    alone.revert()
    EditedWeights(lm, name, params=quick(name), stats=random_statistics(lm)).edit(EDITS[1:2])
    assert same(lm, found)


def test_an_edit_that_cannot_be_kept_has_not_happened(fresh, tmp_path, monkeypatch):
    model = edited(fresh("llama"), "rome", tmp_path)
    before = weights(model.lm)

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(model._keep.__class__, "put", full)
    with pytest.raises(OSError, match="No space"):
        model.edit(EDITS[:1])
    assert same(model.lm, before)
    assert model.chain == []


def test_what_other_networks_did_is_not_taken_up_again(fresh, tmp_path):
    """The file of trained networks may be written over by another training."""
    lm, path = fresh("llama"), tmp_path / "networks"
    params = HyperParams(layers=(0, 1), rank=4, max_norm_ratio=1e6, weights=str(path))
    ratios = []
    for longer in (1.0, 50.0):
        network = MEND().build(lm, params)
        network.lengthen(longer)
        MEND().save(network, path, {name: getattr(params, name) for name in ("rank", "layers", "tokens", "matrices")})
        undo = EditedWeights(lm, "mend", params=params, keep=tmp_path / "kept").edit(EDITS[:1])
        ratios.append(undo.consolidation.max_ratio)
        undo.revert()
    assert ratios[1] == pytest.approx(50 * ratios[0], rel=0.05)
