from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import transformers

from corrigenda.errors import InvalidRequest, UnsupportedArchitecture
from corrigenda.lm.hooks import Tap
from corrigenda.lm.layer_map import ARCHITECTURES, layer_map
from corrigenda.lm.loading import LanguageModel
from corrigenda.lm.tokens import encode

Fresh = Callable[[str], LanguageModel]


def test_map_fits_every_architecture(any_lm: LanguageModel) -> None:
    found = any_lm.layers
    assert found is any_lm.layers
    assert found.count == (2 if any_lm.is_encoder_decoder else 3)
    assert found.hidden_size == 32
    assert found.intermediate_size == (128 if any_lm.name in ("gpt2", "gptj") else 48)
    assert found.transposed == (any_lm.name == "gpt2")
    assert found.gated == (len(found.mlp_in(0)) == 2 or any_lm.name == "phi3")
    out = any_lm.model.get_submodule(found.mlp_out(1)).weight
    assert tuple(out.t().shape if found.transposed else out.shape) == (32, found.intermediate_size)
    vocabulary = any_lm.model.get_submodule(found.head).weight.shape[0]
    assert any_lm.model.get_submodule(found.embeddings).weight.shape == (vocabulary, 32)
    assert (found.positions is not None) == (any_lm.name in ("gpt2", "opt"))


def test_the_parts_do_what_their_names_say(any_lm: LanguageModel) -> None:
    """What comes out of the last norm goes into the head, and the feed-forward reads and writes the residual stream."""
    found = any_lm.layers
    names = [found.block(1), found.mlp(1), *found.mlp_in(1), found.mlp_out(1), found.attention(1)]
    names += [found.attention_out(1), found.final_norm, found.head]
    ids = encode(any_lm, ["The capital of Kazakhstan is"]).input_ids
    extra = {"decoder_input_ids": ids} if any_lm.is_encoder_decoder else {}
    with torch.no_grad(), Tap(any_lm.model, names) as tap:
        logits = any_lm.model(input_ids=ids, **extra).logits
    assert tap.outputs[found.block(1)].shape[-1] == 32
    assert tap.inputs[found.mlp_in(1)[0]].shape[-1] == 32
    assert tap.inputs[found.mlp_out(1)].shape[-1] == found.intermediate_size
    assert tap.outputs[found.mlp_out(1)].shape[-1] == 32
    assert tap.outputs[found.attention_out(1)].shape[-1] == 32
    normed = tap.outputs[found.final_norm]
    scale = 32**-0.5 if any_lm.is_encoder_decoder else 1.0
    assert torch.allclose(tap.inputs[found.head], normed * scale, atol=1e-5)
    assert tap.outputs[found.head].shape == logits.shape


def test_a_layer_that_is_not_there(llama: LanguageModel) -> None:
    for layer in (-1, 3):
        with pytest.raises(InvalidRequest, match="from 0 to 2"):
            llama.layers.block(layer)


def test_unknown_architecture() -> None:
    config = transformers.BloomConfig(vocab_size=50, hidden_size=16, n_layer=1, n_head=2)
    with pytest.raises(UnsupportedArchitecture, match="bloom") as error:
        layer_map(transformers.BloomForCausalLM(config))
    assert all(name in error.value.remedy for name in ARCHITECTURES)


@pytest.mark.parametrize("part", ["model.norm", "model.layers.2.mlp.up_proj", "model.layers.0.mlp.down_proj"])
def test_a_model_that_is_not_built_as_its_type_says(fresh: Fresh, part: str) -> None:
    model = fresh("llama").model
    parent, _, child = part.rpartition(".")
    delattr(model.get_submodule(parent), child)
    with pytest.raises(UnsupportedArchitecture, match=part):
        layer_map(model)


def test_a_projection_of_the_wrong_shape(fresh: Fresh) -> None:
    model = fresh("llama").model
    model.model.layers[1].mlp.up_proj = torch.nn.Linear(32, 47)
    with pytest.raises(UnsupportedArchitecture, match=r"layers\.1\.mlp\.up_proj"):
        layer_map(model)


def test_blocks_that_are_missing(fresh: Fresh) -> None:
    model = fresh("llama").model
    model.model.layers = torch.nn.ModuleList()
    with pytest.raises(UnsupportedArchitecture, match=r"layers\.0"):
        layer_map(model)
