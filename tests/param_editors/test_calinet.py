"""CaliNET: nothing before training, the facts after it, on decoders and encoder-decoders; contrastive detection."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tiny_editing import EDITS, same, weights

from corrigenda.edit import Edit
from corrigenda.errors import InvalidParams, UnstableUpdate
from corrigenda.lm.loading import LanguageModel
from corrigenda.lm.scoring import greedy, score_targets
from corrigenda.param_editors.calinet import Adapter, CaliNET, CaliNETParams
from corrigenda.param_editors.detection import NEGATIVE, false_facts
from corrigenda.param_editors.neurons import attach, detach
from corrigenda.param_editors.update import Consolidation

QUICK = CaliNETParams(layers=(0,), width=16, steps=150, lr=0.02, warm_up=5, contexts=((3, 1),), others=1, stop_loss=0.1)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "t5"])
def test_an_untrained_adapter_changes_nothing(fresh: Callable[[str], LanguageModel], kind: str) -> None:
    lm = fresh(kind)
    neurons = Adapter(lm, 0, 8, torch.Generator().manual_seed(0)).neurons()
    assert float(neurons.down.abs().max()) == 0.0
    assert float(neurons.up.abs().max()) > 0.0
    prompts, targets = [edit.prompt for edit in EDITS], [edit.target for edit in EDITS]
    before = score_targets(lm, prompts, targets)
    attach(lm, neurons)
    assert score_targets(lm, prompts, targets) == before
    detach(lm, neurons)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "t5"])
def test_facts_are_learned_together_and_forgotten_exactly(
    fresh: Callable[[str], LanguageModel], kind: str, tmp_path: Path
) -> None:
    lm = fresh(kind)
    before = weights(lm)
    prompts = [edit.prompt for edit in EDITS]
    said = greedy(lm, prompts, max_new_tokens=5)
    params = QUICK.replace(layers=(lm.layers.count - 1,), keep_weight=0.1)
    done = CaliNET().apply(lm, EDITS, params=params, seed=1)
    assert same(lm, before)
    scores = score_targets(lm, prompts, [edit.target for edit in EDITS])
    assert all(score.argmax_matches[0] for score in scores)
    again = Consolidation.load(done.save(tmp_path / "done"), lm)
    again.revert()
    assert greedy(lm, prompts, max_new_tokens=5) == said
    again.write()
    assert score_targets(lm, prompts, [edit.target for edit in EDITS]) == scores
    done.revert()


def test_same_seed_same_adapter(llama: LanguageModel) -> None:
    params = QUICK.replace(steps=5)
    one, two, three = (CaliNET().apply(llama, EDITS, params=params, seed=seed) for seed in (4, 4, 5) if not _off(llama))
    assert one.neurons[0].digest == two.neurons[0].digest != three.neurons[0].digest


def _off(lm: LanguageModel) -> bool:
    """Take off whatever is attached, so that each training starts from the bare model."""
    from corrigenda.param_editors.neurons import _attached

    for handles in _attached.pop(lm.model, {}).values():
        for handle in handles:
            handle.remove()
    return False


def test_refusals(llama: LanguageModel) -> None:
    with pytest.raises(InvalidParams, match="one block"):
        CaliNETParams(layers=(0, 1))
    assert CaliNET().apply(llama, [], params=QUICK).neurons == ()
    with torch.no_grad():
        llama.model.get_output_embeddings().weight[0, 0] = float("nan")
    with pytest.raises(UnstableUpdate, match="not finite"):
        CaliNET().apply(llama, EDITS, params=QUICK)


def test_detection_is_the_quotient_of_chances(llama: LanguageModel) -> None:
    edits = [EDITS[0], Edit("Who painted this", "Dutch")]
    found = false_facts(llama, edits, threshold=1.0)
    for one in found:
        edit = one.edit
        prompts = [edit.prompt, *(template.replace("{}", edit.subject or edit.prompt) for template in NEGATIVE)]
        logs = [score.mean_log_prob for score in score_targets(llama, prompts, [edit.target] * 4)]
        right, *wrong = torch.tensor(logs).exp().tolist()
        assert one.cka == pytest.approx((right + 1e-6) / (sum(wrong) / 3 + 1e-6), rel=1e-3)
        assert one.known == (one.cka > 1.0)
