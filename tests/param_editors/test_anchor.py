"""Norm anchors: values of a long chain keep the length that they had at its beginning."""

from __future__ import annotations

import pytest
import torch
from tiny_editing import EDITS, quick, random_statistics, weights

from corrigenda.edit import Edit
from corrigenda.errors import InvalidParams
from corrigenda.param_editors import anchor as module
from corrigenda.param_editors.anatomy import Anatomy
from corrigenda.param_editors.anchor import Anchor
from corrigenda.param_editors.editable import EditedWeights
from corrigenda.param_editors.editor import editor
from corrigenda.param_editors.keys import subject_keys
from corrigenda.param_editors.update import Consolidation

CONTEXTS = (("",),)


def test_the_first_edits_make_the_anchor_and_later_ones_are_held_to_it():
    base, shift = torch.tensor([[3.0, 0.0]] * 20), torch.tensor([[0.0, 4.0]] * 20)
    same, anchor = Anchor().hold(base, shift)
    assert torch.equal(same, shift)
    assert (anchor.norm, anchor.edits) == (5.0, 20)
    longer, again = anchor.hold(2 * base, 2 * shift)
    assert again == anchor
    torch.testing.assert_close((2 * base + longer).norm(dim=1), torch.full((20,), 5.0))
    torch.testing.assert_close(longer[0], torch.tensor([-3.0, 4.0]))  # the direction of v* is kept, its length is not


def test_too_few_edits_make_no_anchor():
    _, anchor = Anchor().hold(torch.ones(module.ENOUGH - 1, 2), torch.ones(module.ENOUGH - 1, 2))
    assert anchor.norm is None
    _, anchor = anchor.hold(torch.ones(1, 2), torch.ones(1, 2))
    assert anchor.norm == pytest.approx(8**0.5)


@pytest.mark.parametrize("name", ["rome", "memit", "alphaedit", "pmet"])
def test_an_anchor_belongs_to_the_chain_and_travels_with_it(name, llama, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "ENOUGH", 2)
    model = EditedWeights(llama, name, params=quick(name, norm_anchor=True), stats=random_statistics(llama))
    first, second = model.edit(EDITS[:2]).consolidation, model.edit(EDITS[2:]).consolidation
    carried = second.carry[module.CARRIED]
    assert torch.equal(carried, first.carry[module.CARRIED])
    assert carried[1] == 2
    kept = Consolidation.load(second.save(tmp_path / "second.safetensors"))
    assert Anchor.of(kept) == Anchor.of(second)
    assert (
        module.CARRIED
        not in editor(name)
        .apply(llama, EDITS[:1], params=quick(name), stats=random_statistics(llama), contexts=CONTEXTS)
        .carry
    )


def test_romes_value_has_the_length_of_the_anchor(llama, monkeypatch):
    monkeypatch.setattr(module, "ENOUGH", 1)
    before = weights(llama)
    anatomy, stats, params = Anatomy(llama), random_statistics(llama), quick("rome", norm_anchor=True)
    first = editor("rome").apply(llama, EDITS[:1], params=params, stats=stats, contexts=CONTEXTS)
    second = editor("rome").apply(llama, EDITS[1:2], params=params, stats=stats, contexts=CONTEXTS, previous=first)
    key = subject_keys(anatomy, EDITS[1:2], CONTEXTS, 1, flat=True).bare[0]
    value = anatomy.mlp_out(1).matrix.double() @ key
    assert float(value.norm()) == pytest.approx(Anchor.of(first).norm, rel=1e-4)
    second.revert()
    first.revert()
    assert torch.equal(before["lm_head.weight"], llama.model.lm_head.weight)


def test_it_is_off_unless_asked_for_and_takes_true_or_false(llama):
    assert not quick("memit").norm_anchor
    with pytest.raises(InvalidParams, match="norm_anchor"):
        quick("memit", norm_anchor=3)


def test_a_long_chain_stays_smaller_with_an_anchor(fresh, monkeypatch):
    monkeypatch.setattr(module, "ENOUGH", 3)
    edits = [Edit(f"The friend of Person {place}", "Dutch", subject=f"Person {place}") for place in range(12)]

    def growth(on: bool) -> float:
        lm = fresh("llama")
        params = quick("rome", norm_anchor=on, v_steps=6)
        site = Anatomy(lm).mlp_out(1)
        before = float(site.matrix.norm())
        model = EditedWeights(lm, "rome", params=params, stats=random_statistics(lm))
        for edit in edits:
            model.edit([edit])
        return float(site.matrix.norm()) / before

    assert growth(True) < growth(False)
