"""What each method computes, against solutions of our own, and the traps that published code fell into."""

from __future__ import annotations

from contextlib import nullcontext

import numpy as np
import pytest
import torch
from tiny_editing import EDITS, quick, random_statistics, tiny_models, weights

from corrigenda.edit import Edit
from corrigenda.lm import packed
from corrigenda.lm.hooks import Override
from corrigenda.param_editors import fine_tune, targets
from corrigenda.param_editors.anatomy import Anatomy
from corrigenda.param_editors.editor import editor
from corrigenda.param_editors.forwards import Resumed
from corrigenda.param_editors.keys import subject_keys, values_at
from corrigenda.param_editors.rows import essence_rows, key_rows, target_ids, target_rows, wordings
from corrigenda.param_editors.sampling import sample_contexts
from corrigenda.param_editors.targets import laid_out, value_targets

CONTEXTS = (("",), ("Who did it? ", "In about 1600. "))


def targets_of(lm, edits, params, first, modules=(), contexts=CONTEXTS):
    return value_targets(Anatomy(lm), edits, contexts, params, first=first, modules=modules)


@pytest.mark.parametrize("name", ["rome", "r-rome"])
@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_rome_maps_its_key_to_its_value(name, architecture, fresh):
    """k*, W·k* and u come from the same contexts: the bare prompt (rome) or the average (r-rome), never mixed."""
    lm = fresh(architecture)
    stats, params, edit = random_statistics(lm), quick(name), EDITS[:1]
    anatomy = Anatomy(lm)
    site = anatomy.mlp_out(1)
    keys = subject_keys(anatomy, edit, CONTEXTS, 1, flat=True)
    key = (keys.bare if name == "rome" else keys.mean)[0].numpy()
    shift = targets_of(lm, edit, params, 1, [site.module]).shifts[0][0].double().numpy()
    old = site.matrix.double().numpy().copy()
    editor(name).apply(lm, edit, params=params, stats=stats, contexts=CONTEXTS)
    new = site.matrix.double().numpy()
    wanted = old @ key + shift
    assert np.linalg.norm(new @ key - wanted) / np.linalg.norm(wanted) < 1e-4
    # And it is the update of least change on old keys: independently, by NumPy.
    direction = np.linalg.solve(stats.moment(1).matrix.numpy(), key)
    np.testing.assert_allclose(new - old, np.outer(shift, direction) / (direction @ key), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", ["memit", "pmet"])
def test_memit_is_the_normal_equations_layer_by_layer(name, fresh):
    """Lower layers first; keys and what is missing measured anew in the model as it has become; equal shares left."""
    lm, twin = fresh("llama"), fresh("llama")
    stats, params = random_statistics(lm), quick(name, moment_weight=5.0)
    method = editor(name)
    anatomy = Anatomy(lm)
    found = method.targets(anatomy, EDITS, CONTEXTS, params, None)
    goal = (found.base[-1] + found.shifts[-1]).double()
    for left, layer in ((2, 0), (1, 1)):
        keys = subject_keys(anatomy, EDITS, CONTEXTS, layer).mean.numpy().T
        module = anatomy.block_name(1) if name == "memit" else anatomy.mlp_out(1).module
        share = left if name == "memit" else np.sqrt(left)
        residual = (goal - values_at(anatomy, EDITS, module, 1)).numpy().T / share
        moment = stats.moment(layer).matrix.numpy()
        delta = np.linalg.solve(5.0 * moment + keys @ keys.T, keys @ residual.T).T
        anatomy.mlp_out(layer).weight.data += torch.from_numpy(delta).float()
    method.apply(twin, EDITS, params=params, stats=stats, contexts=CONTEXTS)
    for layer in (0, 1):
        mine, theirs = anatomy.mlp_out(layer).matrix, Anatomy(twin).mlp_out(layer).matrix
        torch.testing.assert_close(theirs, mine, rtol=1e-3, atol=1e-4)


def test_more_edits_than_key_dimensions_take_the_direct_form(llama):
    edits = [Edit(f"Person {place} likes", "Rome", subject=f"Person {place}") for place in range(50)]
    params = quick("memit", layers=(1,), v_steps=1)
    done = editor("memit").apply(llama, edits, params=params, stats=random_statistics(llama), contexts=(("",),))
    assert done.updates[0].rank == 50 > 48


def test_keys_average_groups_then_contexts(llama):
    anatomy = Anatomy(llama)
    bare, first, second = (subject_keys(anatomy, EDITS, ((context,),), 1).mean for context in ("", *CONTEXTS[1]))
    torch.testing.assert_close(
        subject_keys(anatomy, EDITS, CONTEXTS, 1).mean, bare / 2 + (first + second) / 4, rtol=1e-4, atol=1e-5
    )
    flat = subject_keys(anatomy, EDITS, CONTEXTS, 1, flat=True)
    torch.testing.assert_close(flat.mean, (bare + first + second) / 3, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(flat.bare, bare, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("where", ["module", "state", "both"])
def test_a_batch_gives_each_edit_what_it_would_get_alone(where, llama):
    anatomy = Anatomy(llama)
    first = {"module": 1, "state": 2, "both": 1}[where]
    modules = {"module": [anatomy.mlp_out(1).module], "state": []}.get(
        where, [anatomy.attention_out(1).module, anatomy.mlp_out(1).module]
    )
    params = quick("rome", v_steps=6, stop_loss=5.0)  # some edits stop before others
    together = targets_of(llama, EDITS, params, first, modules)
    assert len(set(together.steps)) > 1
    for place, edit in enumerate(EDITS):
        alone = targets_of(llama, [edit], params, first, modules)
        assert alone.steps[0] == together.steps[place]
        for one, many in zip(alone.shifts, together.shifts, strict=True):
            torch.testing.assert_close(one[0], many[place], rtol=2e-3, atol=2e-3)


def test_large_batches_are_cut_into_chunks_without_a_difference(llama, monkeypatch):
    params = quick("memit", v_steps=3)
    whole = targets_of(llama, EDITS, params, 2)
    monkeypatch.setattr("corrigenda.param_editors.targets.CHUNK_TOKENS", 8)
    seen = []
    cut = value_targets(Anatomy(llama), EDITS, CONTEXTS, params, first=2, progress=lambda *told: seen.append(told))
    torch.testing.assert_close(cut.shifts[0], whole.shifts[0], rtol=2e-3, atol=2e-3)
    assert len(seen) > 1
    assert seen[-1] == ("values", 3, 3)


def test_the_shift_is_clamped_and_no_steps_mean_no_shift(llama):
    found = targets_of(llama, EDITS, quick("memit", clamp=0.1), 2)
    ratio = found.shifts[0].norm(dim=1) / found.base[0].norm(dim=1)
    assert ratio.max() <= 0.1 + 1e-5
    assert ratio.max() > 0.09
    assert targets_of(llama, EDITS, quick("memit", v_steps=0), 2).shifts[0].norm() == 0


def test_the_value_loss_is_the_papers(llama):
    """One step of Adam moves every element by the learning rate against the sign of the gradient of that loss."""
    anatomy = Anatomy(llama)
    params = quick("rome", v_steps=1, v_lr=0.01, kl_factor=0.0, v_decay=0.0, kl_at="end")
    site = anatomy.mlp_out(1).module
    found = targets_of(llama, EDITS[2:], params, 1, [site]).shifts[0][0]
    shift = torch.zeros(anatomy.map.hidden_size, requires_grad=True)
    loss = torch.zeros(())
    for context in ("", *CONTEXTS[1]):
        source, answer = target_ids(llama, context + EDITS[2].prompt, EDITS[2].target)
        assert len(answer) > 1  # each token is asked for behind those before it
        place = target_rows(llama, EDITS[2:], (context,))[0].subject
        spread = torch.nn.functional.one_hot(torch.tensor(place), len(source + answer) - 1)[:, None] * shift
        with Override(llama.model, {site: lambda state, spread=spread: state + spread}):
            logits = llama.model(torch.tensor([source + answer[:-1]])).logits[0, -len(answer) :]
        loss = loss + torch.nn.functional.cross_entropy(logits, torch.tensor(answer)) / 3
    loss.backward()
    torch.testing.assert_close(found, -0.01 * shift.grad.sign(), rtol=1e-3, atol=1e-5)


def test_targets_bring_their_space_and_no_token_that_begins_a_text(llama):
    source, answer = target_ids(llama, "The capital of Kazakhstan is", "German")
    assert llama.tokenizer.decode(answer) == " German"
    assert llama.tokenizer.decode(source + answer) == "The capital of Kazakhstan is German"
    assert target_ids(llama, "It is ", "German")[1] == llama.tokenizer("German", add_special_tokens=False).input_ids


def test_a_tokenizer_with_a_first_token_puts_it_before_the_prompt_only(fresh):
    from tokenizers.processors import TemplateProcessing

    lm = fresh("llama")
    lm.tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|end|> $A", special_tokens=[("<|end|>", 0)]
    )
    source, answer = target_ids(lm, "The capital of Kazakhstan is", "German")
    assert source[0] == 0
    assert 0 not in answer
    (row,) = target_rows(lm, EDITS[:1], ("",))
    assert row.ids[0] == 0
    assert lm.tokenizer.decode(row.ids[1 : row.subject + 1]) == "The capital of Kazakhstan"


def test_the_subject_is_found_where_tokens_straddle_its_parts(llama):
    """Tokens of parts, summed, miss the place when a token spans the boundary."""
    edit = Edit("Danielle Darrieux's mother tongue is", "Dutch", subject="Danielle Darrieux")
    for context in ("", "Dr. Smith lives. "):
        (row,) = target_rows(llama, [edit], (context,))
        text = llama.tokenizer.decode(row.ids[: row.subject + 1])
        assert text.startswith(context + "Danielle Darrieux")
        assert key_rows(llama, [edit], (context,)) == [row.ids[: row.subject + 1]]


def test_contexts_take_turns_with_the_edits_own_wordings(llama):
    """As many rows as without; the bare prompt stays first, and a paraphrase without the subject has no place."""
    said = ("Kazakhstan is governed from", "Its capital is", "In Kazakhstan, the capital is")
    edit = EDITS[0].replace(paraphrases=said)
    contexts = ("", *CONTEXTS[1], "Well. ", "So. ")
    assert wordings(llama, edit) == (edit.prompt, said[0], said[2])
    rows = target_rows(llama, [edit], contexts, reworded=True)
    texts = [llama.tokenizer.decode(row.ids[: len(row.ids) - len(row.target) + 1]) for row in rows]
    turns = [edit.prompt, said[0], said[2], edit.prompt, said[0]]
    assert texts == [context + turn for context, turn in zip(contexts, turns, strict=True)]
    for row in rows:
        assert llama.tokenizer.decode(row.ids[: row.subject + 1]).endswith("Kazakhstan")
    assert target_rows(llama, [edit], contexts) == target_rows(llama, EDITS[:1], contexts, reworded=True)


def test_values_are_searched_in_the_edits_own_wordings(llama):
    edit, other = EDITS[0], EDITS[0].replace(paraphrases=("Kazakhstan is governed from",))
    params = quick("rome", v_steps=3)
    site = Anatomy(llama).mlp_out(1).module
    plain, worded = (targets_of(llama, [one], params, 1, [site]).shifts[0] for one in (edit, other))
    assert not torch.equal(plain, worded)
    ignored = targets_of(llama, [other], params.replace(paraphrases=False), 1, [site]).shifts[0]
    assert torch.equal(ignored, plain)


def test_the_essence_prompt_ends_where_it_is_read(llama):
    (end,) = essence_rows(llama, EDITS[:1], "{} is a", at_subject=False)
    (subject,) = essence_rows(llama, EDITS[:1], "{} is a", at_subject=True)
    assert llama.tokenizer.decode(end.ids) == "Kazakhstan is a"
    assert llama.tokenizer.decode(subject.ids) == "Kazakhstan"
    assert end.subject == subject.subject == len(subject.ids) - 1
    assert targets_of(llama, EDITS, quick("rome", kl_at="end", v_steps=2), 2).shifts[0].isfinite().all()


def test_contexts_come_from_the_model_at_hand_and_its_seed(llama):
    first = sample_contexts(llama, ((3, 2), (4, 1)), 0)
    assert [len(group) for group in first] == [1, 2, 1]
    assert first[0] == ("",)
    assert first == sample_contexts(llama, ((3, 2), (4, 1)), 0)
    assert first != sample_contexts(llama, ((3, 2), (4, 1)), 1)
    assert first[1:] != sample_contexts(tiny_models.cached("qwen2"), ((3, 2), (4, 1)), 0)[1:]
    assert all(text.endswith(". ") for group in first[1:] for text in group)
    assert sample_contexts(llama, (), 0) == (("",),)


def test_value_targets_are_never_reused_after_an_edit(llama):
    """Published code caches them by case id, stale as soon as any other edit is made."""
    params, stats = quick("memit"), random_statistics(llama)
    done = [editor("memit").apply(llama, EDITS[:1], params=params, stats=stats, contexts=CONTEXTS) for _ in range(2)]
    assert done[1].details["edits"][0]["nll"] < done[0].details["edits"][0]["nll"]


def test_one_subject_twice_keeps_both_edits_bounded(llama):
    twins = [EDITS[0], Edit("The king of Kazakhstan", "Dutch", subject="Kazakhstan")]
    for name in ("memit", "emmet", "alphaedit"):
        before = weights(llama)
        done = editor(name).apply(llama, twins, params=quick(name), stats=random_statistics(llama), contexts=CONTEXTS)
        assert done.max_ratio < 5
        done.revert()
        assert torch.equal(before["lm_head.weight"], llama.model.lm_head.weight)


def test_pmet_shifts_the_linear_modules_and_writes_the_feed_forward_only(fresh):
    lm = fresh("gpt_neox")
    anatomy = Anatomy(lm)
    found = editor("pmet").targets(anatomy, EDITS, CONTEXTS, quick("pmet"), None)
    ids = target_rows(lm, EDITS, ("",))
    modules = [anatomy.attention_out(1).module, anatomy.mlp_out(1).module]
    base = Resumed(anatomy, [row.ids for row in ids], [row.subject for row in ids], 1, modules).base
    for mine, theirs in zip(base, found.base, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)
    assert all(shift.norm() > 0 for shift in found.shifts)
    done = editor("pmet").apply(lm, EDITS, params=quick("pmet"), stats=random_statistics(lm), contexts=CONTEXTS)
    assert [update.name for update in done.updates] == [anatomy.mlp_out(layer).name for layer in (0, 1)]


def test_pmet_eases_off_once_the_target_is_first_and_little_else_moved(llama):
    easy = quick("pmet", v_steps=30, stop_kl=1e9, v_lr=0.5)
    assert max(editor("pmet").targets(Anatomy(llama), EDITS[:1], CONTEXTS, easy, None).steps) < 30
    hard = quick("pmet", v_steps=3, stop_kl=0.0)
    assert editor("pmet").targets(Anatomy(llama), EDITS[:1], CONTEXTS, hard, None).steps == (3,)


def test_what_is_laid_out_once_leaves_the_matrix_that_changes_alone(llama):
    anatomy = Anatomy(llama)
    site = anatomy.mlp_out(1)
    rows = torch.tensor([llama.tokenizer(EDITS[0].prompt).input_ids])
    with torch.no_grad():
        before = llama.model(rows).logits
        kept = site.weight.data.clone()
        with laid_out(anatomy, 1, but=[site]):
            torch.testing.assert_close(llama.model(rows).logits, before, rtol=1e-4, atol=1e-4)
            site.weight.data.mul_(2)
            inside = llama.model(rows).logits
        outside = llama.model(rows).logits
        site.weight.data.copy_(kept)
    torch.testing.assert_close(inside, outside, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(inside, before, atol=1e-3)


@pytest.mark.parametrize("name", ["rome", "memit", "ft-m"])
def test_a_batch_in_bfloat16_or_laid_out_is_what_it_would_be_plainly(name, fresh, monkeypatch):
    """On processors without such instructions the same is computed plainly, and this shows nothing."""
    found = []
    monkeypatch.setattr(packed, "_processor_gains", lambda: True)
    for tokens, half in ((10**9, False), (0, name != "ft-m")):
        monkeypatch.setattr(targets, "PACKED_TOKENS", tokens)
        monkeypatch.setattr(fine_tune, "PACKED_TOKENS", tokens)
        lm = fresh("llama")
        changes = {"v_half": True} if half else {}
        done = editor(name).apply(lm, EDITS[:2], params=quick(name, **changes), stats=random_statistics(lm))
        found.append(torch.cat([update.result(update.original) - update.original for update in done.updates]))
    plain, fast = found
    # Adam follows signs, so small gradients of a search in bfloat16 turn into other small steps.
    assert (plain - fast).norm() < (1e-3 if name == "ft-m" else 0.2) * plain.norm()


def test_what_is_read_of_the_model_stays_in_float32_in_a_search_in_bfloat16(llama, monkeypatch):
    """Keys, and the values that δ is added to: an error there would not be noise of a search, but a wrong update."""
    monkeypatch.setattr(packed, "_processor_gains", lambda: True)
    anatomy, params = Anatomy(llama), quick("rome", v_steps=1)
    site = anatomy.mlp_out(1)

    def read(half):
        with laid_out(anatomy, 1, half=half, but=[site]) if half else nullcontext():
            keys = subject_keys(anatomy, EDITS[:1], CONTEXTS, 1, flat=True)
            made = targets_of(llama, EDITS[:1], params.replace(v_half=half), 1, [site.module])
        return keys.mean, made.base[0]

    for plain, fast in zip(read(False), read(True), strict=True):
        torch.testing.assert_close(plain, fast, rtol=1e-4, atol=1e-5)
