from __future__ import annotations

import pytest
import torch
from tiny_editing import tiny_models

from corrigenda.edit import Edit
from corrigenda.lm.hooks import Override
from corrigenda.param_editors.anatomy import Anatomy
from corrigenda.param_editors.forwards import Resumed, batches, ended_after, last_states, replaced
from corrigenda.param_editors.rows import target_rows

EDITS = [
    Edit("The capital of Kazakhstan is", "Berlin", subject="Kazakhstan"),
    Edit("Danielle Darrieux speaks", "Dutch", subject="Danielle Darrieux"),
    Edit("Hamlet was written by", "Dr. Smith", subject="Hamlet"),
]


def rows_of(lm):
    return target_rows(lm, EDITS, ("", "Who did it? "))


def at_the_end(resumed, shift):
    """Logits at the last token of each row."""
    rows = torch.arange(len(shift))
    return resumed.logits([shift], rows, torch.full_like(rows, -1))


@pytest.mark.parametrize("name", tiny_models.DECODERS)
def test_what_is_resumed_is_what_a_whole_pass_says(name):
    lm = tiny_models.cached(name)
    anatomy = Anatomy(lm)
    rows = rows_of(lm)
    ids, subjects = [row.ids for row in rows], [row.subject for row in rows]
    torch.manual_seed(0)
    for first, modules in ((1, [anatomy.mlp_out(1).module]), (2, []), (3, []), (0, [anatomy.mlp_out(0).module])):
        resumed = Resumed(anatomy, ids, subjects, first, modules)
        shift = torch.randn(len(rows), anatomy.map.hidden_size)
        places = torch.arange(len(rows))
        found = resumed.logits([shift], places.repeat(2), torch.tensor([-2, -1]).repeat_interleave(len(rows)))
        found = torch.stack(found.split(len(rows)), 1)
        module = modules[0] if modules else anatomy.block_name(first - 1)
        for place, row in enumerate(rows):

            def moved(state, row=row, place=place, shift=shift):
                state = state.clone()
                state.view(1, len(row.ids), -1)[0, row.subject] += shift[place]
                return state

            with torch.no_grad(), Override(lm.model, {module: moved}):
                whole = lm.model(torch.tensor([row.ids])).logits[0, -2:]
            torch.testing.assert_close(found[place], whole, rtol=1e-4, atol=1e-4)


def test_without_a_shift_nothing_changes_and_rows_can_leave(llama):
    anatomy = Anatomy(llama)
    rows = rows_of(llama)
    resumed = Resumed(anatomy, [row.ids for row in rows], [row.subject for row in rows], 2)
    zero = torch.zeros(len(rows), anatomy.map.hidden_size)
    torch.testing.assert_close(at_the_end(resumed, zero), resumed.last_logits)
    before = resumed.last_logits[[4, 1]].clone()
    resumed.keep(torch.tensor([4, 1]))
    torch.testing.assert_close(at_the_end(resumed, zero[:2]), before)


def test_a_subject_that_is_the_first_token_has_no_prefix(llama):
    anatomy = Anatomy(llama)
    ids = [[40, 41, 42], [50, 51]]
    resumed = Resumed(anatomy, ids, [0, 0], 1, [anatomy.mlp_out(1).module])
    assert resumed.cache is None
    zero = torch.zeros(2, anatomy.map.hidden_size)
    with torch.no_grad():
        whole = llama.model(torch.tensor([ids[0]])).logits[0, -1]
    torch.testing.assert_close(at_the_end(resumed, zero)[0], whole, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["llama", "gptj", "opt"])
def test_states_of_a_pass_that_ends_early_are_those_of_a_whole_one(name):
    lm = tiny_models.cached(name)
    anatomy = Anatomy(lm)
    rows = [[30, 31, 32, 33], [40, 41]]
    site, block = anatomy.mlp_out(1).module, anatomy.block_name(1)
    found = last_states(anatomy, rows, 1, inputs=[site], outputs=[block])
    for place, row in enumerate(rows):
        whole = last_states(anatomy, [row], anatomy.map.count - 1, inputs=[site], outputs=[block])
        for key in (site, block):
            torch.testing.assert_close(found[key][place], whole[key][0], rtol=1e-4, atol=1e-5)


def test_replaced_forwards_come_back_after_an_error_and_nest(llama):
    block = Anatomy(llama).blocks[0]
    with pytest.raises(RuntimeError), ended_after(Anatomy(llama).blocks, 0):
        raise RuntimeError
    with replaced({block: len}):
        with replaced({block: max}):
            assert block.forward is max
        assert block.forward is len
    assert "forward" not in block.__dict__
    assert not block._forward_hooks


def test_batches_hold_every_row_once_and_bound_the_tokens():
    lengths = [5, 1, 9, 9, 2, 30]
    groups = list(batches(lengths, most=20))
    assert sorted(place for group in groups for place in group) == list(range(6))
    assert all(len(group) == 1 or len(group) * max(lengths[p] for p in group) <= 20 for group in groups)
