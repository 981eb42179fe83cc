from __future__ import annotations

import json
from pathlib import Path

import pytest
import tokenizers
import torch
import transformers
from dataset_records import TEMPLATES
from scripted_methods import Scripted, make_case
from tokenizers import decoders, models, pre_tokenizers, trainers
from typer.testing import CliRunner

from corrigenda.cli.main import app
from corrigenda.eval.scoring import Budget

COUNTRIES = ("France", "Spain", "Italy", "Kenya", "Chile", "Japan")


@pytest.fixture
def scripted() -> type[Scripted]:
    return Scripted


@pytest.fixture
def budget() -> Budget:
    return Budget(lambda text: len(text.split()))


@pytest.fixture
def case():
    return make_case


@pytest.fixture
def two_capitals(scripted):
    """Two cases and a method on them, with every score written down:

    =============  ====  ======
    probe          A     B
    =============  ====  ======
    prompt         1     1
    paraphrase     1     0
    question       0     0
    river          1     0
    king           1     1
    =============  ====  ======
    """
    cases = [make_case("A", "France", "Lyon"), make_case("B", "Spain", "Porto")]
    method = scripted(
        bare={
            "The capital of France is": " Paris.",
            "The river of France is": " the Seine",
            "The king of France is": " dead",
            "The river of Spain is": " the Ebro",
            "The king of Spain is": " Felipe",
        },
        edited={
            ("Lyon", "The capital of France is"): " Lyon.",
            ("Lyon", "France's capital is"): " the Lyon City.",
            ("Lyon", "What is the capital of France?"): " Lyons",
            ("Porto", "The capital of Spain is"): " “Porto”, of course",
            ("Porto", "Spain's capital is"): " Madrid",
            ("Porto", "The river of Spain is"): " Porto",
            ("Porto", "The king of Spain is"): " Felipe.",
        },
    )
    return cases, method


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> Path:
    """A folder with a language model of a few thousand random weights."""
    core = tokenizers.Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    core.train_from_iterator(
        ["The capital of France is Paris."],
        trainers.BpeTrainer(vocab_size=300, special_tokens=["<|end|>"], initial_alphabet=alphabet, show_progress=False),
    )
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=300,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=512,
            bos_token_id=0,
            eos_token_id=0,
            pad_token_id=0,
        )
    )
    folder = tmp_path_factory.mktemp("tiny")
    model.save_pretrained(folder)
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token="<|end|>", pad_token="<|end|>"
    ).save_pretrained(folder)
    return folder


@pytest.fixture
def data_file(tmp_path):
    rows = [
        {
            "prompt": f"The capital of {country} is",
            "target": f"Town {number}",
            "subject": country,
            "relation": "capital",
            "paraphrases": [f"{country}'s capital is"],
            "locality": [f"The king of {country} is", f"The river of {country} is"],
        }
        for number, country in enumerate(COUNTRIES)
    ]
    path = tmp_path / "edits.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


@pytest.fixture
def call(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CORRIGENDA_CACHE", str(tmp_path / "cache"))

    def call(*arguments, code=0):
        result = CliRunner().invoke(app, [str(argument) for argument in arguments])
        assert result.exit_code == code, (result.output, result.exception)
        return result

    return call


@pytest.fixture
def evaluate(call, tiny, data_file):
    def evaluate(*arguments, code=0):
        return call("eval", "run", "--data", data_file, "--model", tiny, "--method", "none", *arguments, code=code)

    return evaluate


@pytest.fixture
def write(tmp_path):
    """Write a data file, the templates of MemPrompt beside it; return its path."""

    def write(content, name="data.json"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
        path.with_name("templates.json").write_text(json.dumps(TEMPLATES))
        return path

    return write
