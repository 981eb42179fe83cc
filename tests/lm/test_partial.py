from __future__ import annotations

import pytest
import torch
import transformers as t

from corrigenda.lm.hooks import Tap
from corrigenda.lm.loading import LanguageModel
from corrigenda.lm.partial import from_block, up_to

SIZES = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4}
CONFIGS = {
    "llama": t.LlamaConfig(**SIZES, intermediate_size=48, num_key_value_heads=2),
    "gpt2": t.GPT2Config(vocab_size=50, n_embd=32, n_layer=4, n_head=4, bos_token_id=1, eos_token_id=1),
    "gptj": t.GPTJConfig(vocab_size=50, n_embd=32, n_layer=4, n_head=4, rotary_dim=4, bos_token_id=1, eos_token_id=1),
    "gpt_neox": t.GPTNeoXConfig(**SIZES, intermediate_size=48, bos_token_id=1, eos_token_id=1),
    "opt": t.OPTConfig(**SIZES, ffn_dim=48, word_embed_proj_dim=32),
}


@pytest.fixture(params=CONFIGS, scope="module")
def lm(request):
    torch.manual_seed(3)
    model = t.AutoModelForCausalLM.from_config(CONFIGS[request.param]).eval().requires_grad_(False)
    return LanguageModel(request.param, model, None)


@torch.no_grad()
def test_a_part_does_what_the_whole_does(lm):
    ids = torch.randint(2, 50, (2, 5))
    mlp, block = lm.layers.mlp(2), lm.layers.block(1)
    with Tap(lm.model, [mlp, block]) as whole:
        logits = lm.model(input_ids=ids).logits
    below = up_to(lm, 2)
    with Tap(below, [mlp]) as part:
        below(input_ids=ids)
    assert torch.equal(part.inputs[mlp], whole.inputs[mlp])
    above = from_block(lm, 2, whole.outputs[block])
    assert torch.allclose(above(input_ids=torch.zeros_like(ids)).logits, logits, atol=1e-6)
    assert torch.equal(lm.model(input_ids=ids).logits, logits)
    assert from_block(lm, 0, logits) is lm.model


def test_a_view_shares_the_weights_and_nothing_else(lm):
    view = up_to(lm, 1)
    assert {id(weight) for weight in view.parameters()} == {id(weight) for weight in lm.model.parameters()}
    name = lm.layers.block(3)
    assert dict(view.named_modules())[name] is not dict(lm.model.named_modules())[name]
    assert "forward" not in vars(dict(lm.model.named_modules())[name])
