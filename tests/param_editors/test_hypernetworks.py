"""MEND and KE: gradients in factors, networks by hand, training that learns and resumes, exact undo."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny_editing import EDITS, same, weights

from corrigenda.edit import Edit
from corrigenda.errors import DatasetError, InvalidParams, MissingTraining, ModelDamaged, SubjectNotFound
from corrigenda.lm.loading import LanguageModel
from corrigenda.param_editors.anatomy import Anatomy
from corrigenda.param_editors.editor import editor
from corrigenda.param_editors.gradients import Factors, edited_by_row, gradient_factors
from corrigenda.param_editors.hyper_recipe import Recipe, TrainingFact, lay_out, split
from corrigenda.param_editors.hyper_training import train
from corrigenda.param_editors.hypernetwork import HyperParams, default_path, written_modules
from corrigenda.param_editors.ke import KE
from corrigenda.param_editors.mend import MEND, Normaliser
from corrigenda.param_editors.passes import updates_in_passes
from corrigenda.param_editors.update import Consolidation
from corrigenda.param_editors.upper import Text, Upper

PARAMS = HyperParams(layers=(0, 1), rank=8, max_norm_ratio=1e6)
PLACES = ["France", "Kenya", "Ghana", "Brazil", "Norway", "Japan", "Spain", "Italy", "Chile", "Peru", "Egypt", "Iran"]
ANSWERS = ["Rome", "Oslo", "Lima", "Paris", "Tokyo", "Cairo", "Madrid", "Quito", "Bern", "Riga", "Doha", "Kyiv"]
FACTS = [
    TrainingFact(
        f"The capital of {place}",
        answer,
        (f"What is the capital of {place}",),
        (f"The colour of {place}",),
        place,
        place,
    )
    for place, answer in zip(PLACES, ANSWERS, strict=True)
]
QUICK = Recipe(steps=40, batch_size=4, held_out=0.2, check_every=20, lr=1e-2, step_lr=1e-2)


def upper_of(lm: LanguageModel, first: int = 0) -> Upper:
    return Upper(Anatomy(lm), [Text.of(lm, edit.prompt, edit.target) for edit in EDITS], first)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gptj", "opt", "phi3", "t5"])
def test_the_factors_sum_to_the_gradient(fresh: Callable[[str], LanguageModel], kind: str) -> None:
    lm = fresh(kind)
    anatomy = Anatomy(lm)
    modules = list(written_modules(anatomy, [0, 1]))
    upper = upper_of(lm)
    found = gradient_factors(upper, [0, 1, 2], modules)
    for place in range(3):
        for name in modules:
            site = anatomy.linear(name)
            site.weight.requires_grad_(True)
            with torch.enable_grad():
                (true,) = torch.autograd.grad(upper.nll([place]).sum(), [site.weight])
            site.weight.requires_grad_(False)
            true = true.T if site.transposed else true
            torch.testing.assert_close(found[name].matrix()[place], true, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gptj", "gemma2", "qwen2"])
def test_texts_run_from_a_block_on_give_what_the_whole_model_gives(
    fresh: Callable[[str], LanguageModel], kind: str
) -> None:
    lm = fresh(kind)
    whole, part = upper_of(lm, 0), upper_of(lm, 1)
    torch.testing.assert_close(part.nll([2, 0, 1]), whole.nll([2, 0, 1]), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "opt", "t5"])
def test_rows_are_edited_each_by_its_own_update(fresh: Callable[[str], LanguageModel], kind: str) -> None:
    lm = fresh(kind)
    anatomy = Anatomy(lm)
    shapes = written_modules(anatomy, [1])
    generator = torch.Generator().manual_seed(0)
    updates = {
        name: Factors(
            torch.randn(3, 2, d_out, generator=generator), 0.05 * torch.randn(3, 2, d_in, generator=generator)
        )
        for name, (d_out, d_in) in shapes.items()
    }
    upper = upper_of(lm)
    with edited_by_row(lm.model, updates), torch.no_grad():
        together = upper.nll([0, 1, 2])
    for place in range(3):
        before = weights(lm)
        for name, factors in updates.items():
            site = anatomy.linear(name)
            site.matrix.add_(factors.matrix()[place])
        with torch.no_grad():
            alone = upper.nll([place])
        lm.model.load_state_dict(before)
        torch.testing.assert_close(alone[0], together[place], atol=1e-4, rtol=1e-3)


def test_mend_at_the_start_steps_down_the_normalised_gradient(llama: LanguageModel) -> None:
    network = MEND().build(llama, PARAMS)
    name, *_ = network.modules_written
    d_out, d_in = network.shapes[name]
    generator = torch.Generator().manual_seed(0)
    x, delta = torch.randn(2, 3, d_in, generator=generator), torch.randn(2, 3, d_out, generator=generator)
    x[1, 2] = 0.0  # padding
    gradients = {
        each: Factors(delta, x) if each == name else _zeros(network.shapes[each]) for each in network.modules_written
    }
    with torch.no_grad():
        found = network.updates(gradients, [], learn=False)[name]
    # U is zero: both layers add nothing, and no statistics were taken in yet.
    torch.testing.assert_close(found.right[0], x[0])
    torch.testing.assert_close(found.left[0], -1e-4 * delta[0] / delta[0].norm())
    assert float(found.left[1, 2].abs().max()) == 0.0


def _zeros(shape: tuple[int, int]) -> Factors:
    return Factors(torch.zeros(2, 3, shape[0]), torch.zeros(2, 3, shape[1]))


def test_mends_layers_are_those_of_the_paper(llama: LanguageModel) -> None:
    network: Any = MEND().build(llama, PARAMS)
    layer = network.first[0]
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for part in layer.parameters():
            part.copy_(torch.randn(part.shape, generator=generator))
    z = torch.randn(4, layer.v.shape[1], generator=generator)
    inner = layer.u @ (layer.v @ z.T) + layer.bias[:, None]
    change = (layer.scale[1][:, None] * inner + layer.shift[1][:, None]).T
    torch.testing.assert_close(layer(z, 1), z + torch.relu(change))
    layer.last = True
    torch.testing.assert_close(layer(z, 1), z + change)
    assert network.second[0].last  # which ends in no relu


def test_both_of_mends_layers_learn_from_the_first_step(llama: LanguageModel) -> None:
    network: Any = MEND().build(llama, PARAMS)
    gradients = gradient_factors(upper_of(llama), [0, 1], network.modules_written)
    found = network.updates(gradients, [], learn=True).values()
    torch.autograd.backward([part.left.square().sum() + part.right.sum() for part in found])
    for layer in (network.first[0], network.second[0]):
        assert float(layer.u.grad.abs().max()) > 0


@pytest.mark.parametrize("kind", ["llama", "opt"])
def test_of_a_text_with_a_subject_its_last_tokens_gradient_is_read(
    fresh: Callable[[str], LanguageModel], kind: str
) -> None:
    lm = fresh(kind)
    modules = list(written_modules(Anatomy(lm), [0, 1], "down"))
    assert len(modules) == 2
    texts = [Text.of(lm, edit.prompt, edit.target, edit.subject) for edit in EDITS]
    focused = gradient_factors(Upper(Anatomy(lm), texts, 0), [0, 1, 2], modules)
    full = gradient_factors(upper_of(lm), [0, 1, 2], modules)
    for name in modules:
        width = full[name].left.shape[1]
        for place, text in enumerate(texts):
            assert text.focus is not None
            column = width - len(text.row) + text.focus
            for side in ("left", "right"):
                found = getattr(focused[name], side)
                assert found.shape[1] == 1
                torch.testing.assert_close(found[place, 0], getattr(full[name], side)[place, column])


def test_networks_that_read_the_subject_are_trained_and_saved(llama: LanguageModel, tmp_path: Path) -> None:
    params = PARAMS.replace(tokens="subject", matrices="down")
    out = tmp_path / "networks.safetensors"
    train(MEND(), llama, FACTS, out, params=params, recipe=replace(QUICK, steps=4))
    saved = load_file(out)
    assert saved["outputs.0.square"].dtype == torch.float32  # squares of gradients are nothing in half precision
    assert float(saved["outputs.0.count"]) == 2 * (len(FACTS) - 3)  # all facts of training, once for each matrix
    assert saved["first.0.u"].dtype == torch.float16
    params = params.replace(weights=str(out))
    before = weights(llama)
    done = MEND().apply(llama, EDITS[:2], params=params)
    assert [update.name.endswith("down_proj.weight") for update in done.updates] == [True, True]
    done.revert()
    assert same(llama, before)
    with pytest.raises(SubjectNotFound):
        MEND().apply(llama, [Edit("The capital of France is", "Rome")], params=params)


def test_long_wordings_are_left_out_but_for_the_shortest(llama: LanguageModel) -> None:
    long = " and".join(["word"] * 30)
    texts: list[Text] = []
    fact = TrainingFact("The capital of France", "Rome", (long, "Short"), ("One", "Two", "Three"))
    placed = lay_out(llama, fact, texts, False, Recipe(max_tokens=20, unrelated=2))
    assert (len(placed.wordings), len(placed.unrelated), len(texts)) == (2, 2, 4)
    placed = lay_out(llama, replace(fact, wordings=(long,)), texts, False, Recipe(max_tokens=20))
    assert len(placed.wordings) == 2


def test_the_normaliser_knows_mean_and_deviation_of_all_it_saw() -> None:
    rows = torch.randn(50, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 5.0, 0.1]) + 2
    normaliser = Normaliser(3)
    for part in (rows[:7], rows[7:7], rows[7:30], rows[30:]):
        normaliser.take_in(part)
    torch.testing.assert_close(normaliser.mean, rows.mean(0))
    torch.testing.assert_close(normaliser.square, rows.var(0, unbiased=False))
    torch.testing.assert_close(normaliser(rows).std(0, unbiased=False), torch.ones(3), atol=1e-4, rtol=1e-4)


def test_kes_mask_is_the_papers(llama: LanguageModel) -> None:
    network: Any = KE().build(llama, PARAMS)
    with torch.no_grad():
        for head in network.heads:
            head.weight.normal_(std=0.1, generator=torch.Generator().manual_seed(1))
    upper = upper_of(llama)
    gradients = gradient_factors(upper, [0, 1], network.modules_written)
    texts = upper.texts[:2]
    with torch.no_grad():
        found = network.updates(gradients, texts)
        state = network.read(texts)
        for place, name in enumerate(network.modules_written):
            d_out, d_in = network.shapes[name]
            alpha, beta, gamma, delta, eta = network.heads[place](state)[1].split([d_in, d_out, d_out, d_in, 1])
            gradient = gradients[name].matrix()[1] / gradients[name].left[1].norm()
            mask = torch.outer(beta, d_in * alpha.softmax(0))
            expected = -torch.sigmoid(eta) * (mask * gradient + torch.outer(gamma, delta.softmax(0)))
            torch.testing.assert_close(found[name].matrix()[1], expected, atol=1e-5, rtol=1e-3)


def test_ke_reads_the_whole_edit_and_its_order(llama: LanguageModel) -> None:
    network: Any = KE().build(llama, PARAMS)
    one, two = Text((5, 6, 7), (8,)), Text((5, 6, 7), (9,))
    states = network.read([one, two, Text((7, 6, 5), (8,)), one])
    assert not torch.allclose(states[0], states[1])
    assert not torch.allclose(states[0], states[2])
    torch.testing.assert_close(states[0], states[3])
    assert not any("embeddings" in name for name in network.state_dict())


@pytest.mark.parametrize("kind", ["llama", "t5"])
@pytest.mark.parametrize("method", ["mend", "ke"])
def test_training_learns_and_the_trained_editor_edits(
    fresh: Callable[[str], LanguageModel], tmp_path: Path, kind: str, method: str
) -> None:
    lm = fresh(kind)
    before = weights(lm)
    own: Any = editor(method)
    seen: list[dict[str, float]] = []
    recipe = replace(QUICK, constrained=method == "ke")
    out = tmp_path / "networks.safetensors"
    about = train(own, lm, FACTS, out, params=PARAMS, recipe=recipe, report=seen.append)
    assert same(lm, before)
    first, last = seen[0]["edit"], sum(row["edit"] for row in seen[-5:]) / 5
    assert last < first
    assert about["held_out"]["score"] >= 0
    edit = Edit(FACTS[0].prompt, FACTS[0].target)
    done = own.apply(lm, [edit, EDITS[1]], params=PARAMS.replace(weights=str(out)))
    assert not same(lm, before)
    assert len(done.updates) == len(written_modules(Anatomy(lm), (0, 1)))
    Consolidation.load(done.save(tmp_path / "done"), lm).revert()
    assert same(lm, before)


def test_a_batch_of_edits_is_the_sum_of_its_edits(llama: LanguageModel, tmp_path: Path) -> None:
    out = tmp_path / "networks.safetensors"
    train(MEND(), llama, FACTS, out, params=PARAMS, recipe=replace(QUICK, steps=20))
    params, changes = PARAMS.replace(weights=str(out)), []
    before = weights(llama)
    for edits in (EDITS[:1], EDITS[1:2], EDITS[:2]):
        done = MEND().apply(llama, edits, params=params)
        changes.append(
            {update.name: llama.model.state_dict()[update.name] - before[update.name] for update in done.updates}
        )
        done.revert()
    for name, change in changes[2].items():
        torch.testing.assert_close(change, changes[0][name] + changes[1][name], atol=1e-5, rtol=1e-3)


def test_a_further_pass_lowers_the_loss_of_each_edit_by_itself(llama: LanguageModel, tmp_path: Path) -> None:
    out = tmp_path / "networks.safetensors"
    train(MEND(), llama, FACTS, out, params=PARAMS, recipe=replace(QUICK, steps=8))
    params = PARAMS.replace(weights=str(out))
    network, upper = MEND().load(llama, params), upper_of(llama)
    before = weights(llama)
    once = updates_in_passes(network, upper, [0, 1, 2])
    assert once.losses is None
    more = updates_in_passes(network, upper, [0, 1, 2], passes=4, enough=0.0)
    assert same(llama, before)
    with torch.no_grad():
        with edited_by_row(llama.model, once.updates):
            first = upper.nll([0, 1, 2])
        with edited_by_row(llama.model, more.updates):
            last = upper.nll([0, 1, 2])
    assert more.losses == pytest.approx(last.tolist(), rel=1e-4)
    assert bool((last <= first + 1e-5).all())
    assert float(last.sum()) < float(first.sum())
    alone = updates_in_passes(network, upper, [1], passes=4, enough=0.0)
    assert alone.losses == pytest.approx([last[1].item()], rel=1e-3)
    reached = updates_in_passes(network, upper, [0, 1], lengths=(0.01, 1.0, 2.0), enough=1e9)
    for name, part in reached.updates.items():  # the shortest is enough
        torch.testing.assert_close(part.left, 0.01 * once.updates[name].left[:2], atol=1e-6, rtol=1e-3)
    done = MEND().apply(llama, EDITS[:2], params=params.replace(passes=4, enough=0.0))
    assert done.details["losses"] == pytest.approx(last[:2].tolist(), rel=1e-3)
    done.revert()
    with pytest.raises(ModelDamaged, match="was trained for"):
        MEND().apply(llama, EDITS[:2], params=params.replace(tokens="subject"))


def test_a_killed_training_goes_on_where_it_was(llama: LanguageModel, tmp_path: Path) -> None:
    def finish(name: str, stop_after: int | None) -> dict[str, torch.Tensor]:
        out = tmp_path / name

        def report(figures: dict[str, float]) -> None:
            if figures["step"] == stop_after:
                raise KeyboardInterrupt

        arguments: dict[str, Any] = {"params": PARAMS, "recipe": QUICK}
        if stop_after is not None:
            with pytest.raises(KeyboardInterrupt):
                train(MEND(), llama, FACTS, out, report=report, **arguments)
            assert not out.exists()
        train(MEND(), llama, FACTS, out, **arguments)
        assert not out.with_name(f"{name}.part").exists()
        return load_file(out)

    through, killed = finish("through", None), finish("killed", 30)
    assert all(torch.equal(tensor, killed[name]) for name, tensor in through.items())


def test_a_killed_training_on_other_facts_or_another_model_begins_anew(
    llama: LanguageModel, fresh: Callable[[str], LanguageModel], tmp_path: Path
) -> None:
    other = fresh("llama")
    other.model.get_output_embeddings().weight.data.mul_(1.5)
    corrected = [replace(fact, target=ANSWERS[place - 1]) for place, fact in enumerate(FACTS)]
    for name, lm, facts in (("facts", llama, corrected), ("model", other, FACTS), ("same", llama, FACTS)):
        seen: list[float] = []

        def report(figures: dict[str, float], seen: list[float] = seen) -> None:
            seen.append(figures["step"])
            if figures["step"] == 21:
                raise KeyboardInterrupt

        for whose, what in ((llama, FACTS), (lm, facts)):
            seen.clear()
            with pytest.raises(KeyboardInterrupt):
                train(MEND(), whose, what, tmp_path / name, report=report, params=PARAMS, recipe=QUICK)
        assert seen[0] == (21 if name == "same" else 1)


def test_facts_of_one_subject_stay_together() -> None:
    facts = [TrainingFact(f"{n}", "x", ("a",), ("b",), f"group {n % 5}") for n in range(50)]
    kept, held = split(facts, Recipe(held_out=0.2))
    assert {fact.group for fact in kept}.isdisjoint(fact.group for fact in held)
    assert len(held) == 10
    with pytest.raises(DatasetError, match="too few"):
        split(facts[:3], Recipe())
    with pytest.raises(DatasetError, match="no other wordings"):
        split([TrainingFact("x", "y", (), ("z",))], Recipe())


def test_untrained_damaged_and_foreign_networks_are_refused(
    fresh: Callable[[str], LanguageModel], llama: LanguageModel, tmp_path: Path
) -> None:
    with pytest.raises(MissingTraining, match="corrigenda mend train"):
        MEND().apply(llama, EDITS, params=PARAMS)
    with pytest.raises(MissingTraining, match="no file"):
        MEND().apply(llama, EDITS, params=PARAMS.replace(weights=str(tmp_path / "none")))
    out = default_path("mend", llama)
    train(MEND(), llama, FACTS, out, params=PARAMS, recipe=replace(QUICK, steps=4))
    MEND().apply(llama, EDITS[:1], params=PARAMS).revert()  # found in the cache
    assert MEND().apply(llama, [], params=PARAMS).updates == ()
    with pytest.raises(ModelDamaged, match="no networks of ke"):
        KE().apply(llama, EDITS, params=PARAMS.replace(weights=str(out)))
    with pytest.raises(ModelDamaged, match="cannot be used"):
        MEND().apply(fresh("gptj"), EDITS, params=PARAMS.replace(weights=str(out)))
    out.write_bytes(out.read_bytes()[:100])
    with pytest.raises(ModelDamaged, match="cannot be used"):
        MEND().apply(llama, EDITS, params=PARAMS)
    draft = tmp_path / "x.safetensors.part"
    draft.write_bytes(b"nothing")
    with pytest.raises(ModelDamaged, match="Delete it"):
        train(MEND(), llama, FACTS, tmp_path / "x.safetensors", params=PARAMS, recipe=QUICK)


def test_recipes_are_checked() -> None:
    with pytest.raises(InvalidParams, match="held_out"):
        Recipe(held_out=0.6)
    with pytest.raises(InvalidParams, match="lr"):
        Recipe(lr=0)
    with pytest.raises(InvalidParams, match="tokens must be one of all, subject"):
        HyperParams(layers=(0,), tokens="last")
    with pytest.raises(InvalidParams, match="lengths must ascend"):
        HyperParams(layers=(0,), lengths=(1.0, 0.5))
    with pytest.raises(InvalidParams, match="weights"):
        HyperParams(layers=(0,), weights=3)  # type: ignore[arg-type]
