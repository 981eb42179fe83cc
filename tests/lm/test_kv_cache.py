from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers

from corrigenda.lm.decoding import CausalDecoder, SharedPrefix
from corrigenda.lm.kv_cache import RoomyLayer, longest_shareable, new_cache
from corrigenda.lm.loading import LanguageModel
from corrigenda.lm.scoring import greedy
from corrigenda.lm.stopping import UNTIL_EOS


def states(rows: int, columns: int, start: int = 0) -> torch.Tensor:
    count = torch.arange(start, start + rows * 2 * columns * 3, dtype=torch.float32)
    return count.reshape(rows, 2, columns, 3)


def test_a_roomy_layer_holds_what_a_plain_one_holds() -> None:
    roomy, plain = RoomyLayer(2), transformers.cache_utils.DynamicLayer()
    for columns in (4, 1, 1, 1, 5):
        new = states(3, columns, columns)
        for mine, theirs in zip(roomy.update(new, -new), plain.update(new, -new), strict=True):
            assert torch.equal(mine, theirs)
        assert roomy.get_seq_length() == plain.get_seq_length()
    rows = torch.tensor([2, 0])
    roomy.reorder_cache(rows)
    plain.reorder_cache(rows)
    new = states(2, 1)
    for mine, theirs in zip(roomy.update(new, new), plain.update(new, new), strict=True):
        assert torch.equal(mine, theirs)


def test_an_empty_layer() -> None:
    layer = RoomyLayer(2)
    layer.reorder_cache(torch.tensor([0]))
    assert layer.get_seq_length() == 0


def shareable(config: Any) -> int:
    return longest_shareable(transformers.AutoModelForCausalLM.from_config(config))


def test_how_long_a_beginning_may_be_shared() -> None:
    small = {"hidden_size": 8, "num_attention_heads": 2, "vocab_size": 9}
    assert shareable(transformers.LlamaConfig(num_hidden_layers=2, **small)) > 1 << 30
    assert shareable(transformers.MistralConfig(num_hidden_layers=2, sliding_window=99, **small)) == 98
    assert shareable(lfm2()) == 0
    assert shareable(transformers.BloomConfig(vocab_size=9, n_layer=1, hidden_size=8, n_head=2)) > 1 << 30
    assert shareable(transformers.MptConfig(vocab_size=9, d_model=8, n_layers=1, n_heads=2)) == 0
    turns = [[["global", "local"], 1]]
    neo = transformers.GPTNeoConfig(
        vocab_size=9, hidden_size=8, num_heads=2, num_layers=2, attention_types=turns, window_size=99
    )
    assert shareable(neo) == 98
    kinds = {type(layer) for layer in new_cache(transformers.Gemma2Config(num_hidden_layers=4), 8).layers}
    assert len(kinds) == 2


SIZES = {
    "vocab_size": 400,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


def lfm2() -> Any:
    """A hybrid: a layer with a state of its own, then one with attention."""
    return transformers.Lfm2Config(
        **SIZES,
        max_position_embeddings=256,
        layer_types=["conv", "full_attention"],
        block_multiple_of=8,
    )


def falcon_h1() -> Any:
    """A hybrid with both in one layer."""
    return transformers.FalconH1Config(
        **SIZES,
        head_dim=8,
        mamba_d_ssm=64,
        mamba_n_heads=8,
        mamba_d_head=8,
        mamba_d_state=8,
        mamba_n_groups=1,
    )


@pytest.mark.parametrize("config", [lfm2, falcon_h1])
def test_rows_of_a_hybrid_go_on_as_if_alone_when_others_are_over(
    fresh: Callable[[str], LanguageModel], config: Callable[[], Any]
) -> None:
    torch.manual_seed(3)
    model = transformers.AutoModelForCausalLM.from_config(config()).eval().requires_grad_(False)
    lm = LanguageModel("hybrid", model, fresh("llama").tokenizer)
    rows = [[5, 6, 7, 8], [9, 10]]
    together, alone = CausalDecoder(lm, rows), CausalDecoder(lm, rows[1:])
    with torch.inference_mode():
        together.logits(None)
        together.keep(torch.tensor([1]))
        alone.logits(None)
        for token in (11, 12):
            said = torch.tensor([token])
            assert torch.allclose(together.logits(said), alone.logits(said), atol=1e-5)


@pytest.mark.parametrize("name", ["mistral", "gemma2", "gemma3"])
def test_a_beginning_is_shared_inside_a_wide_window(
    fresh: Callable[[str], LanguageModel], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(3)
    config = fresh(name).model.config
    config.sliding_window = 120
    model = transformers.AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)
    for weight in model.parameters():
        if weight.dim() > 1:
            weight.normal_(std=0.3)
    lm = LanguageModel(name, model, fresh(name).tokenizer)
    shared = "Dr. Smith lives in St. Louis, U.S.A., with 12.5 cats. They speak German, Dutch and English! "
    prompts = [shared + end for end in ("Who", "The capital of", "I")]
    plain = greedy(lm, prompts, max_new_tokens=8, stop=UNTIL_EOS, share_prefix=False)
    seen = []
    expanded = SharedPrefix.expanded
    monkeypatch.setattr(SharedPrefix, "expanded", lambda *args: seen.append(1) or expanded(*args))
    assert greedy(lm, prompts, max_new_tokens=8, stop=UNTIL_EOS) == plain
    assert seen
