"""T-Patcher: its losses by hand, its neurons on the edit and on the memory, chains, and exact removal."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tiny_editing import EDITS, same, weights

from corrigenda.edit import Edit
from corrigenda.errors import InvalidParams, UnsupportedArchitecture
from corrigenda.lm.loading import LanguageModel
from corrigenda.lm.scoring import greedy, score_targets
from corrigenda.param_editors.anatomy import Anatomy
from corrigenda.param_editors.neurons import is_attached
from corrigenda.param_editors.t_patcher import TPatcher, TPatcherParams, _Patch, feed_forward_inputs, memory_inputs
from corrigenda.param_editors.update import Consolidation

QUICK = TPatcherParams(layers=(1,), steps=150, lr=0.05, memory_tokens=64, memory_top=20, others=2, check_every=25)


def patched(lm: LanguageModel, params: TPatcherParams = QUICK) -> TPatcherParams:
    return params.replace(layers=(lm.layers.count - 1,))


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_the_losses_are_those_of_the_paper(fresh: Callable[[str], LanguageModel], kind: str) -> None:
    lm = fresh(kind)
    params = patched(lm).replace(memory_top=2, act_margin=3.0, gap=2.0, silence=1.0)
    d = lm.layers.hidden_size
    generator = torch.Generator().manual_seed(0)
    queries, memory = torch.randn(2, d, generator=generator), 0.1 * torch.randn(5, d, generator=generator)
    patch = _Patch(lm, params.layers[0], queries, params)
    answer, silence = (part.detach() for part in patch.losses(queries, memory))
    assert float(patch.excitement(queries).diagonal().detach().sub(1).abs().max()) < 1e-5  # k = q/‖q‖²: 1 on the query
    assert float(answer) == pytest.approx(math.exp(3.0 - 1.0), rel=1e-4)
    by_hand = []
    for neuron in range(2):
        key = queries[neuron] / queries[neuron].square().sum()
        seen = sorted((float(key @ row) for row in memory), reverse=True)[:2]
        by_hand.append([math.exp(s - 1.0 + 2.0) + math.exp(s + 1.0) for s in seen])
    assert float(silence) == pytest.approx(sum(map(sum, by_hand)) / 4, rel=1e-4)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gptj", "opt", "phi3"])
def test_edits_take_and_their_neurons_are_quiet_on_the_memory(fresh: Callable[[str], LanguageModel], kind: str) -> None:
    lm = fresh(kind)
    params, before = patched(lm), weights(lm)
    texts = [edit.prompt for edit in EDITS] + ["The weather in Rome today is"]
    said = greedy(lm, texts, max_new_tokens=6)
    editor = TPatcher()
    memory = memory_inputs(Anatomy(lm), params, 0)
    done = editor.apply(lm, EDITS, params=params, seed=0)
    assert same(lm, before)  # beside the weights, not in them
    scores = score_targets(lm, [edit.prompt for edit in EDITS], [edit.target for edit in EDITS])
    assert all(score.is_greedy for score in scores)
    (neurons,) = done.neurons
    rows = [list(lm.tokenizer(edit.prompt).input_ids) for edit in EDITS]
    queries = feed_forward_inputs(Anatomy(lm), rows, params.layers[0])
    keys = neurons.gate if neurons.gate is not None else neurons.up
    shift = 0.0 if neurons.bias is None else neurons.bias
    on_edits = (queries @ keys.T + shift).max(1).values
    on_memory = memory @ keys.T + shift
    assert float(on_edits.min()) > 0.5
    assert float(on_memory.mean()) < -0.5
    done.revert()
    assert greedy(lm, texts, max_new_tokens=6) == said


def test_a_chain_keeps_what_was_said_before_and_goes_off_in_any_order(llama: LanguageModel, tmp_path: Path) -> None:
    params, editor = patched(llama), TPatcher()
    chain: list[Consolidation] = []
    for edit in EDITS:
        chain.append(editor.apply(llama, [edit], params=params, previous=chain[-1] if chain else None))
    assert len(chain[-1].carry["queries"]) > len(chain[0].carry["queries"])
    scores = score_targets(llama, [edit.prompt for edit in EDITS], [edit.target for edit in EDITS])
    assert all(score.is_greedy for score in scores)
    again = Consolidation.load(chain[0].save(tmp_path / "first"), llama)
    again.revert()  # the first one, while the others stay
    assert not is_attached(llama, chain[0].neurons[0])
    scores = score_targets(llama, [edit.prompt for edit in EDITS[1:]], [edit.target for edit in EDITS[1:]])
    assert all(score.is_greedy for score in scores)
    for done in chain[1:]:
        done.revert()


def test_an_edit_that_holds_already_gets_no_neuron(llama: LanguageModel) -> None:
    first = TPatcher().apply(llama, EDITS[:1], params=patched(llama))
    second = TPatcher().apply(llama, EDITS[:1], params=patched(llama), previous=first)
    third = TPatcher().apply(llama, EDITS[:1] * 2, params=patched(llama), previous=second)
    assert second.details["edits"][0]["neurons"] == 0
    assert second.neurons == third.neurons == ()  # two groups of none would be the same group, attached twice
    assert len(third.carry["queries"]) > len(second.carry["queries"])  # it is remembered all the same
    third.revert()
    second.revert()
    first.revert()


def test_an_edit_that_does_not_take_is_said_to(llama: LanguageModel) -> None:
    done = TPatcher().apply(llama, EDITS[:1], params=patched(llama, QUICK.replace(steps=1)))
    assert "did not take" in done.notes[0]
    done.revert()


def test_refusals(fresh: Callable[[str], LanguageModel], llama: LanguageModel) -> None:
    with pytest.raises(InvalidParams, match="one block"):
        TPatcherParams(layers=(0, 1))
    with pytest.raises(InvalidParams, match="last block"):
        TPatcher().apply(llama, EDITS, params=QUICK.replace(layers=(0,)))
    with pytest.raises(UnsupportedArchitecture, match="encoder-decoder"):
        TPatcher().apply(fresh("t5"), EDITS, params=QUICK)
    assert TPatcher().apply(llama, [], params=patched(llama)).neurons == ()


def test_there_may_be_nothing_to_be_silent_on(llama: LanguageModel) -> None:
    alone = patched(llama, QUICK.replace(steps=2, memory_tokens=0, others=0))
    TPatcher().apply(llama, EDITS[:1], params=alone).revert()
    brazil = Edit("The capital of Brazil is", "Berlin", subject="Brazil")  # the first of the other subjects
    TPatcher().apply(llama, [brazil], params=alone.replace(others=1)).revert()
