"""KN: attributions against a closed form and the path's ends; what is written, and its undo."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tiny_editing import EDITS, same, weights

from corrigenda.edit import Edit
from corrigenda.errors import InvalidEdit, InvalidParams, InvalidRequest, UnsupportedArchitecture
from corrigenda.lm.hooks import Override, Tap
from corrigenda.lm.loading import LanguageModel
from corrigenda.param_editors.anatomy import Anatomy
from corrigenda.param_editors.attribution import attributions, refine, strongest
from corrigenda.param_editors.knowledge_neurons import KN, KNParams, find_neurons, old_token
from corrigenda.param_editors.rows import target_ids
from corrigenda.param_editors.update import Consolidation

PARAMS = KNParams(layers=(0, 1), contexts=((3, 1),), steps=8, max_norm_ratio=1e6)


@torch.no_grad()
def chance(lm: LanguageModel, prompt: str, token: int, module: str, scale: float) -> float:
    """P(token) with what goes into ``module`` scaled at the last place, by a forward pass of the whole model."""

    def scaled(states: torch.Tensor) -> torch.Tensor:
        states = states.clone()
        states.view(1, -1, states.shape[-1])[:, -1] *= scale
        return states

    ids = torch.tensor([lm.tokenizer(prompt).input_ids])
    with Override(lm.model, {module: scaled}, side="input"):
        return float(lm.model(input_ids=ids).logits[0, -1].softmax(-1)[token])


@pytest.mark.parametrize("kind", ["llama", "gpt2", "opt", "phi3"])
def test_attributions_add_up_to_the_difference_between_the_ends_of_the_path(
    fresh: Callable[[str], LanguageModel], kind: str
) -> None:
    lm = fresh(kind)
    prompt, token = EDITS[0].prompt, 7
    table = attributions(Anatomy(lm), prompt, token, steps=20)
    for layer in range(lm.layers.count):
        module = lm.layers.mlp_out(layer)
        difference = chance(lm, prompt, token, module, 1.0) - chance(lm, prompt, token, module, 0.0)
        assert float(table[layer].sum()) == pytest.approx(difference, rel=0.01, abs=1e-6)


def test_a_single_attribution_is_the_activation_times_the_mean_slope_along_the_path(llama: LanguageModel) -> None:
    lm, prompt, token, layer, neuron = llama, EDITS[0].prompt, 7, 1, 3
    table = attributions(Anatomy(lm), prompt, token, layers=[layer], steps=4)
    module, ids = lm.layers.mlp_out(layer), torch.tensor([lm.tokenizer(prompt).input_ids])
    with Tap(lm.model, [module]) as tap, torch.no_grad():
        lm.model(input_ids=ids)
    active = tap.inputs[module][0, -1]
    slopes, nudge = [], 1e-2

    def at(alpha: float, more: float) -> float:
        def moved(states: torch.Tensor) -> torch.Tensor:
            states = states.clone()
            states[0, -1] = alpha * active
            states[0, -1, neuron] += more
            return states

        with Override(lm.model, {module: moved}, side="input"), torch.no_grad():
            return float(lm.model(input_ids=ids).logits[0, -1].double().softmax(-1)[token])

    for alpha in (0.125, 0.375, 0.625, 0.875):
        slopes.append((at(alpha, nudge) - at(alpha, -nudge)) / (2 * nudge))
    expected = float(active[neuron]) * sum(slopes) / 4
    assert float(table[0, neuron]) == pytest.approx(expected, rel=0.05, abs=1e-7)


def test_neurons_that_prompts_have_in_common_stay() -> None:
    one = torch.tensor([[1.0, 0.9, 0.0, 0.1]])
    two = torch.tensor([[1.0, 0.0, 0.8, 0.1]])
    three = torch.tensor([[1.0, 0.5, 0.0, 0.1]])
    found = refine([one, two, three], [4], share=1.0, least=1)
    assert [(neuron.layer, neuron.index) for neuron in found] == [(4, 0)]
    assert found[0].attribution == pytest.approx(1.0)
    wider = refine([one, two, three], [4], share=1.0, least=2)  # the share falls until two stay
    assert [neuron.index for neuron in wider] == [0, 1]
    assert wider[1].prompts == pytest.approx(2 / 3)
    assert len(refine([torch.rand(2, 50) + 1], [0, 1], most=3)) == 3
    assert refine([], [0]) == []
    assert strongest(two, [4], 2)[1].index == 2


@pytest.mark.parametrize("mode", ["update", "suppress"])
def test_what_is_written_is_what_the_paper_says(llama: LanguageModel, mode: str, tmp_path: Path) -> None:
    lm, edit = llama, Edit("The capital of Kazakhstan", "German", subject="Kazakhstan", old_answer="Dutch")
    params = PARAMS.replace(mode=mode)
    old, neurons = find_neurons(Anatomy(lm), edit, params)
    before = weights(lm)
    done = KN().apply(lm, [edit], params=params, contexts=(("",),))
    table = lm.model.get_output_embeddings().weight
    assert old == target_ids(lm, edit.prompt, "Dutch")[1][0]
    change = 8 * table[target_ids(lm, edit.prompt, "German")[1][0]] - table[old]
    assert neurons
    touched = {(neuron.layer, neuron.index) for neuron in neurons}
    for layer in (0, 1):
        matrix, was = Anatomy(lm).mlp_out(layer).matrix, before[f"{lm.layers.mlp_out(layer)}.weight"]
        for column in range(matrix.shape[1]):
            expected = was[:, column]
            if (layer, column) in touched:
                expected = torch.zeros_like(expected) if mode == "suppress" else expected + change
            torch.testing.assert_close(matrix[:, column], expected, atol=1e-5, rtol=1e-5)
    Consolidation.load(done.save(tmp_path / "done"), lm).revert()
    assert same(lm, before)


def test_without_an_old_answer_the_models_own_first_choice_is_rewritten(llama: LanguageModel) -> None:
    edit = Edit("The capital of Kazakhstan", "German", subject="Kazakhstan")
    with torch.no_grad():
        ids = torch.tensor([llama.tokenizer(edit.prompt).input_ids])
        assert old_token(llama, edit) == int(llama.model(input_ids=ids).logits[0, -1].argmax())


def test_refusals(fresh: Callable[[str], LanguageModel], llama: LanguageModel) -> None:
    before = weights(llama)
    twins = Edit("The capital of Kazakhstan", "German", subject="Kazakhstan", old_answer="German shepherd")
    with pytest.raises(InvalidEdit, match="same token"):
        KN().apply(llama, [twins], params=PARAMS)
    assert same(llama, before)
    with pytest.raises(InvalidParams, match="mode"):
        PARAMS.replace(mode="delete")
    with pytest.raises(UnsupportedArchitecture):
        KN().apply(fresh("t5"), EDITS, params=PARAMS)
    with pytest.raises(InvalidRequest, match="steps"):
        attributions(Anatomy(llama), "x", 0, steps=0)
    assert KN().apply(llama, [], params=PARAMS).updates == ()
