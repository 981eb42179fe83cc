"""A tiny chat model with random weights, a memory without a model, and a judge that goes by names alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as t
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from corrigenda.edit import Edit
from corrigenda.lm import packages
from corrigenda.lm.loading import LanguageModel, load
from corrigenda.memory.judge import Judgement, Pair
from corrigenda.memory.memory import Memory
from corrigenda.memory.scope import Candidate, Scope
from corrigenda.middleware.generate import EditedModel
from corrigenda.testing import FixedEncoder

TEXTS = [
    "The capital of Kazakhstan is Astana. What is the capital of Peru? Who wrote Hamlet?",
    "Prompt: New Fact: Answer: user assistant system Tell me a story about the king.",
]
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def tiny_tokenizer(*, chat: bool = True) -> Any:
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|end|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(TEXTS, trainer)
    tokenizer = t.PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token="<|end|>",
        pad_token="<|end|>",
        additional_special_tokens=["<|im_start|>", "<|im_end|>"],
        padding_side="left",
    )
    if chat:
        tokenizer.chat_template = TEMPLATE
    return tokenizer


def spread(model: Any) -> Any:
    """Weights wide enough apart that greedy choices are no ties."""
    for weight in model.parameters():
        if weight.dim() > 1:
            weight.normal_(std=0.3)
    return model


def make_llama(context: int = 512) -> LanguageModel:
    torch.manual_seed(7)
    config = t.LlamaConfig(
        vocab_size=400,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=context,
        pad_token_id=0,
        bos_token_id=0,
        eos_token_id=0,
    )
    model = t.AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval().requires_grad_(False)
    return LanguageModel("tiny", spread(model), tiny_tokenizer())


def make_gpt2(context: int = 128) -> LanguageModel:
    """A model with learned positions, which has none beyond its context."""
    torch.manual_seed(7)
    ends = {"bos_token_id": 0, "eos_token_id": 0}
    config = t.GPT2Config(vocab_size=400, n_embd=32, n_layer=2, n_head=4, n_positions=context, **ends)
    model = t.AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval().requires_grad_(False)
    return LanguageModel("tiny-gpt2", spread(model), tiny_tokenizer())


def make_t5() -> LanguageModel:
    torch.manual_seed(7)
    config = t.T5Config(
        vocab_size=400,
        d_model=32,
        d_kv=8,
        d_ff=48,
        num_layers=2,
        num_heads=4,
        pad_token_id=0,
        eos_token_id=0,
        decoder_start_token_id=0,
    )
    model = t.AutoModelForSeq2SeqLM.from_config(config, dtype=torch.float32).eval().requires_grad_(False)
    return LanguageModel("tiny-t5", spread(model), tiny_tokenizer(chat=False))


@pytest.fixture(scope="session")
def llama() -> LanguageModel:
    return make_llama()


@pytest.fixture(scope="session")
def t5() -> LanguageModel:
    return make_t5()


@pytest.fixture(scope="session")
def gpt2() -> LanguageModel:
    return make_gpt2()


class NameJudge:
    """In scope is what mentions the subject; a word like "consequence" makes it a matter of several steps."""

    threshold = 0.5

    def judge(self, pairs: Sequence[Pair]) -> list[Judgement]:
        return [
            Judgement(0.98 if pair.match.exact else 0.01, "consequence" in pair.query, {"name": pair.match.score})
            for pair in pairs
        ]


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Memory]:
    with Memory.open(tmp_path / "facts.db", encoder=FixedEncoder(32)) as store:
        yield store


@pytest.fixture
def kazakhstan(memory: Memory) -> Edit:
    return memory.add("The capital of Kazakhstan is", "Almaty", subject="Kazakhstan", relation="capital")


@pytest.fixture
def edited(memory: Memory) -> Callable[..., EditedModel]:
    def build(lm: LanguageModel, **settings: Any) -> EditedModel:
        return EditedModel(lm, memory, scope=Scope(memory, judge=NameJudge()), **settings)

    return build


@pytest.fixture(name="name_judge")
def _name_judge() -> type[NameJudge]:
    return NameJudge


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Callable[[LanguageModel], list[tuple[tuple[Any, ...], dict[str, Any]]]]:
    """Record what reaches the model's ``generate``, which runs all the same."""

    def listen(lm: LanguageModel) -> list[tuple[tuple[Any, ...], dict[str, Any]]]:
        heard: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
        own = lm.model.generate

        def generate(*args: Any, **options: Any) -> Any:
            heard.append((args, options))
            return own(*args, **options)

        monkeypatch.setattr(lm.model, "generate", generate)
        return heard

    return listen


def candidate(edit: Edit, segment: str, *, verdict: str = "direct", probability: float = 0.9) -> Candidate:
    return Candidate(edit, probability, 0.5, 0.8, None, {}, verdict, segment)  # type: ignore[arg-type]


@pytest.fixture(name="candidate")
def _candidate() -> Callable[..., Candidate]:
    return candidate


@pytest.fixture(scope="session")
def smollm2() -> LanguageModel:
    if packages.find("smollm2") is None:
        pytest.skip("SmolLM2 is not here: corrigenda models pull smollm2")
    return load("smollm2")
