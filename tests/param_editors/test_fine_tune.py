from __future__ import annotations

import pytest
import torch
from tiny_editing import EDITS, quick, same, tiny_models, weights

from corrigenda.errors import InvalidParams
from corrigenda.lm.scoring import score_targets
from corrigenda.param_editors.anatomy import Anatomy
from corrigenda.param_editors.editor import editor
from corrigenda.param_editors.fine_tune import FTLParams, _losses
from corrigenda.param_editors.upper import Text, Upper


def test_no_element_leaves_the_box(llama):
    before = weights(llama)
    done = editor("ft-l").apply(llama, EDITS, params=quick("ft-l", box=1e-3, epochs=6, lr=0.01))
    (update,) = done.updates
    assert (update.edited - before[update.name]).abs().max() <= 1e-3 * (1 + 1e-4)
    assert (update.edited - before[update.name]).abs().max() > 0.9e-3
    assert update.rank is None
    assert update.left is None


def test_ft_l_without_a_box_is_refused():
    with pytest.raises(InvalidParams, match="ft-m"):
        FTLParams(layers=(0,), box=0.0)
    with pytest.raises(InvalidParams, match="loss"):
        FTLParams(layers=(0,), loss="prompt")


def test_the_losses_are_what_they_say(llama):
    """The published baseline takes every target token from where the first is predicted; ours follows the paper."""
    edit = EDITS[2]
    texts = [Text.of(llama, each.prompt, each.target) for each in (edit, EDITS[0])]
    upper = Upper(Anatomy(llama), texts, 1)
    prompt, target = texts[0].source, texts[0].target
    assert len(target) > 1
    score = score_targets(llama, [edit.prompt], [edit.target])[0]
    found = {kind: float(_losses(upper, [0, 1], kind)[0]) for kind in ("sequence", "token")}
    assert found["sequence"] == pytest.approx(-score.log_prob, rel=1e-4)
    assert found["token"] == pytest.approx(-score.mean_log_prob, rel=1e-4)
    with torch.no_grad():
        first = llama.model(torch.tensor([prompt])).logits[0, -1].log_softmax(-1)
    wrong = -first[torch.tensor(target)].mean()
    assert float(_losses(upper, [0], "last-token")[0]) == pytest.approx(float(wrong), rel=1e-4)
    assert float(wrong) != pytest.approx(found["token"], rel=1e-2)


def test_a_target_of_several_tokens_is_learnt_whole(llama):
    params = quick("ft-m", layers=(1, 2), epochs=150, lr=0.05, stop_loss=0.5)
    done = editor("ft-m").apply(llama, EDITS[2:], params=params)
    assert score_targets(llama, [EDITS[2].prompt], [EDITS[2].target])[0].is_greedy
    assert done.details["epochs"] < 150  # stopped when the loss was small
    assert len(done.updates) == 2


@pytest.mark.parametrize("name", ["ft-l", "ft-m"])
@pytest.mark.parametrize("architecture", ["t5", "t5-gated"])
def test_encoder_decoders_are_edited_in_the_decoder(name, architecture, fresh):
    lm = fresh(architecture)
    before = weights(lm)
    edit = EDITS[0].replace(prompt="What is the capital of Kazakhstan?")
    was = score_targets(lm, [edit.prompt], [edit.target])[0].log_prob
    done = editor(name).apply(lm, [edit], params=quick(name, box=0.1 if name == "ft-l" else 0.0))
    assert score_targets(lm, [edit.prompt], [edit.target])[0].log_prob > was
    assert done.updates[0].name == Anatomy(lm).mlp_out(1).name
    done.revert()
    assert same(lm, before)


def test_half_precision_is_trained_in_float32(fresh):
    lm = fresh("llama")
    lm.model.to(torch.bfloat16)
    before = weights(lm)
    done = editor("ft-m").apply(lm, EDITS[:1], params=quick("ft-m", epochs=8))
    assert done.updates[0].edited.dtype == torch.bfloat16
    done.revert()
    assert same(lm, before)


def test_small_batches_are_steps_of_their_own():
    lm = tiny_models.tiny("llama")
    told = []
    editor("ft-m").apply(
        lm, EDITS, params=quick("ft-m", batch_size=1, epochs=2), progress=lambda *args: told.append(args)
    )
    assert told == [("epochs", 1, 2), ("epochs", 2, 2)]
