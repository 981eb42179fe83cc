"""Tiny randomly initialised models of every architecture, and the real one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import transformers as t
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from corrigenda.lm import packages
from corrigenda.lm.loading import LanguageModel, load

TEXTS = [
    "The capital of Kazakhstan is Astana. The mother tongue of Danielle Darrieux is French.",
    "Who wrote Hamlet? William Shakespeare did, in about 1600; it was first printed in 1603.",
    "Dr. Smith lives in St. Louis, U.S.A., with 12.5 cats. They speak German, Dutch and English!",
]
VOCABULARY = 400


def tiny_tokenizer() -> Any:
    """A byte-level tokenizer with one control token, trained in a moment."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(TEXTS, trainer)
    return t.PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<|end|>", pad_token="<|end|>")


def _llama_like(config: type, **more: Any) -> Any:
    return config(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=256,
        pad_token_id=0,
        bos_token_id=0,
        eos_token_id=0,
        **more,
    )


def _config(name: str) -> Any:
    old = {"vocab_size": VOCABULARY, "bos_token_id": 0, "eos_token_id": 0}
    wide = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "max_position_embeddings": 256}
    if name in ("gpt2", "gptj"):
        kind = t.GPT2Config if name == "gpt2" else t.GPTJConfig
        rotary = {} if name == "gpt2" else {"rotary_dim": 4}
        return kind(n_embd=32, n_layer=3, n_head=4, n_positions=256, **rotary, **old)
    if name in ("t5", "t5-gated"):
        more = {"vocab_size": VOCABULARY, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4}
        ends = {"pad_token_id": 0, "eos_token_id": 0, "decoder_start_token_id": 0}
        act = {"feed_forward_proj": "gated-gelu"} if name == "t5-gated" else {}
        return t.T5Config(**more, **ends, **act)
    if name == "gpt_neox":
        return t.GPTNeoXConfig(intermediate_size=48, **wide, **old)
    if name == "opt":
        return t.OPTConfig(ffn_dim=48, word_embed_proj_dim=32, pad_token_id=0, **wide, **old)
    if name == "phi":
        return t.PhiConfig(intermediate_size=48, pad_token_id=0, **wide, **old)
    if name == "phi3":
        return t.Phi3Config(intermediate_size=48, pad_token_id=0, **wide, **old)
    kinds = {
        "llama": t.LlamaConfig,
        "mistral": t.MistralConfig,
        "qwen2": t.Qwen2Config,
        "qwen3": t.Qwen3Config,
        "gemma": t.GemmaConfig,
        "gemma2": t.Gemma2Config,
        "gemma3": t.Gemma3TextConfig,
    }
    windowed = {"sliding_window": 8} if name in ("mistral", "gemma2", "gemma3") else {}
    return _llama_like(kinds[name], **windowed)


DECODERS = ["gpt2", "gptj", "gpt_neox", "opt", "phi", "phi3", "llama", "mistral", "qwen2", "qwen3"]
DECODERS += ["gemma", "gemma2", "gemma3"]
ARCHITECTURES = [*DECODERS, "t5", "t5-gated"]


def tiny(name: str) -> LanguageModel:
    """A model of this architecture with random weights, wide enough apart that greedy choices are no ties."""
    torch.manual_seed(7)
    config = _config(name)
    auto = t.AutoModelForSeq2SeqLM if config.is_encoder_decoder else t.AutoModelForCausalLM
    model = auto.from_config(config, dtype=torch.float32).eval().requires_grad_(False)
    for weight in model.parameters():
        if weight.dim() > 1:
            weight.normal_(std=0.3)
    return LanguageModel(name, model, tiny_tokenizer())


_cache: dict[str, LanguageModel] = {}


def cached(name: str) -> LanguageModel:
    if name not in _cache:
        _cache[name] = tiny(name)
    return _cache[name]


@pytest.fixture(params=DECODERS)
def decoder(request: pytest.FixtureRequest) -> LanguageModel:
    """Each decoder-only architecture in turn; shared, so leave its weights alone."""
    return cached(request.param)


@pytest.fixture(params=ARCHITECTURES)
def any_lm(request: pytest.FixtureRequest) -> LanguageModel:
    """Each architecture in turn; shared, so leave its weights alone."""
    return cached(request.param)


@pytest.fixture
def fresh() -> Callable[[str], LanguageModel]:
    """Makes a model of a test's own, whose weights it may change."""
    return tiny


@pytest.fixture
def llama() -> LanguageModel:
    return cached("llama")


@pytest.fixture
def t5() -> LanguageModel:
    return cached("t5")


@pytest.fixture(scope="session")
def smollm2() -> LanguageModel:
    """The real model, where it has been pulled."""
    if packages.find("smollm2") is None:
        pytest.skip("SmolLM2 is not here: corrigenda models pull smollm2")
    return load("smollm2")


@pytest.fixture(autouse=True)
def unchanged() -> Iterator[None]:
    """No test may leave a hook or a replaced forward on a shared model."""
    yield
    for lm in _cache.values():
        for module in lm.model.modules():
            assert not module._forward_hooks
            assert not module._forward_pre_hooks
            assert "forward" not in vars(module)
