from __future__ import annotations

import json
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from logging import root
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers.utils import logging

from corrigenda.errors import ModelDamaged, ModelError, UnknownModel, UnknownName, UnsupportedArchitecture
from corrigenda.lm import loading, packages
from corrigenda.lm.fingerprint import fingerprint
from corrigenda.lm.loading import LanguageModel, load
from corrigenda.lm.quiet import quiet
from corrigenda.memory import encoder

Fresh = Callable[[str], LanguageModel]


@pytest.fixture
def checkpoint(fresh: Fresh, tmp_path: Path) -> Path:
    return save(fresh("llama"), tmp_path / "checkpoint")


def save(lm: LanguageModel, folder: Path) -> Path:
    with quiet():
        lm.model.save_pretrained(folder)
        lm.tokenizer.save_pretrained(folder)
    return folder


def test_a_folder(checkpoint: Path, fresh: Fresh, capfd: pytest.CaptureFixture[str]) -> None:
    lm = load(checkpoint)
    assert lm.name == "checkpoint"
    assert (lm.dtype, lm.device) == (torch.float32, torch.device("cpu"))
    assert not lm.model.training
    assert not any(weight.requires_grad for weight in lm.model.parameters())
    assert torch.equal(lm.model.lm_head.weight, fresh("llama").model.lm_head.weight)
    assert capfd.readouterr() == ("", "")
    assert repr(lm) == "LanguageModel(name='checkpoint')"


def test_an_encoder_decoder(fresh: Fresh, tmp_path: Path) -> None:
    lm = load(save(fresh("t5"), tmp_path / "t5"))
    assert lm.is_encoder_decoder
    assert lm.name == "t5"


def test_float32_is_asked_for_whatever_was_saved(fresh: Fresh, tmp_path: Path) -> None:
    lm = fresh("llama")
    lm.model.to(torch.bfloat16)
    folder = save(lm, tmp_path / "half")
    assert load(folder).dtype == torch.float32
    assert load(folder, dtype="bfloat16").dtype == torch.bfloat16


def test_a_tokenizer_without_padding_gets_one(fresh: Fresh, tmp_path: Path) -> None:
    lm = fresh("llama")
    lm.tokenizer.pad_token = None
    assert lm.pad_id == 0
    assert load(save(lm, tmp_path / "bare")).tokenizer.pad_token == "<|end|>"


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_folder_names_what_it_lacks(checkpoint: Path, missing: str) -> None:
    (checkpoint / missing).unlink()
    (checkpoint / "tokenizer_config.json").unlink()
    with pytest.raises(UnknownModel, match=missing):
        load(checkpoint)


def test_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(UnknownModel, match=r"config\.json, model\.safetensors, tokenizer\.json missing"):
        load(str(tmp_path))


def test_truncated_weights(checkpoint: Path) -> None:
    weights = checkpoint / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ModelDamaged, match="cannot be read"):
        load(checkpoint)


def test_garbage_as_configuration(checkpoint: Path) -> None:
    (checkpoint / "config.json").write_text("{")
    with pytest.raises(ModelDamaged, match="cannot be read"):
        load(checkpoint)


def test_missing_tensors(checkpoint: Path) -> None:
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 4}))
    with pytest.raises(ModelDamaged, match=r"lacks 9 tensor\(s\), 'model\.layers\.3"):
        load(checkpoint)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_not_finite(fresh: Fresh, tmp_path: Path, value: float) -> None:
    lm = fresh("llama")
    lm.model.model.layers[1].mlp.up_proj.weight[3, 4] = value
    with pytest.raises(ModelDamaged, match=r"model\.layers\.1\.mlp\.up_proj\.weight"):
        load(save(lm, tmp_path / "bad"))


def test_weights_whose_sum_overflows_are_fine(fresh: Fresh, tmp_path: Path) -> None:
    lm = fresh("llama")
    lm.model.lm_head.weight[:2] = 3e38
    assert load(save(lm, tmp_path / "large")).model.lm_head.weight[0, 0] == 3e38


def test_a_model_that_does_not_generate(fresh: Fresh, tmp_path: Path) -> None:
    config = transformers.ViTConfig(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1)
    with quiet():
        transformers.ViTModel(config).save_pretrained(tmp_path)
        fresh("llama").tokenizer.save_pretrained(tmp_path)
    with pytest.raises(UnsupportedArchitecture, match="vit"):
        load(tmp_path)


def instead(checkpoint: Path, **facts: Any) -> None:
    path = checkpoint / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | facts))


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:aa\nsize 1\n"


@pytest.mark.parametrize("content", [POINTER, b""])
def test_weights_that_are_no_pickle(checkpoint: Path, content: bytes) -> None:
    (checkpoint / "model.safetensors").unlink()
    (checkpoint / "pytorch_model.bin").write_bytes(content)
    with pytest.raises(ModelDamaged, match="cannot be read"):
        load(checkpoint)


@pytest.mark.parametrize("facts", [{"hidden_size": "big"}, {"num_attention_heads": 5, "head_dim": None}])
def test_an_impossible_configuration(checkpoint: Path, facts: dict[str, Any]) -> None:
    instead(checkpoint, **facts)
    with pytest.raises(ModelDamaged, match=r"hidden[ _]size"):
        load(checkpoint)


def test_weights_that_need_a_package(checkpoint: Path) -> None:
    instead(checkpoint, quantization_config={"quant_method": "gptq", "bits": 4})
    with pytest.raises(UnsupportedArchitecture, match="package"):
        load(checkpoint)


@pytest.mark.parametrize("more", [{}, {"auto_map": {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"}}])
def test_an_architecture_that_nobody_knows_is_refused_without_a_question(
    checkpoint: Path, more: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("builtins.input", lambda *prompt: pytest.fail("asked"))
    instead(checkpoint, model_type="brandnew", **more)
    with pytest.raises(UnsupportedArchitecture, match="brandnew"):
        load(checkpoint)
    assert capfd.readouterr().out == ""


def test_code_that_comes_with_a_tokenizer_is_not_asked_about(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("builtins.input", lambda *prompt: pytest.fail("asked"))
    path = checkpoint / "tokenizer_config.json"
    own = {"tokenizer_class": "Brandnew", "auto_map": {"AutoTokenizer": ["own.Slow", "own.Fast"]}}
    path.write_text(json.dumps(json.loads(path.read_text()) | own))
    with pytest.raises(ModelDamaged, match="custom code"):
        load(checkpoint)


@pytest.mark.parametrize("name", ["~nosuchuser/x", "x" * 5000])
def test_names_that_no_path_can_have(name: str) -> None:
    with pytest.raises(UnknownModel, match="not a path"):
        load(name)


SIZES = {"vocab_size": 400, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (transformers.BartConfig(vocab_size=400, d_model=8, encoder_layers=1, decoder_layers=1), "padding"),
        (
            transformers.MambaConfig(vocab_size=400, hidden_size=8, num_hidden_layers=1, state_size=2),
            "no key-value cache",
        ),
        (transformers.RwkvConfig(vocab_size=400, hidden_size=8, num_hidden_layers=1), "no key-value cache"),
        (transformers.RecurrentGemmaConfig(**SIZES), "padding"),
        (transformers.MiniMaxConfig(**SIZES), "cache of its own"),
    ],
    ids=lambda value: getattr(value, "model_type", ""),
)
def test_a_model_that_batches_or_a_cache_would_make_answer_wrongly(
    fresh: Fresh, tmp_path: Path, config: Any, reason: str
) -> None:
    # It is refused before its weights are read: there is no more than a file of that name.
    with quiet():
        config.save_pretrained(tmp_path)
        fresh("llama").tokenizer.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(UnsupportedArchitecture, match=reason):
        load(tmp_path)


def test_neither_name_nor_path(tmp_path: Path) -> None:
    for source in ("smolm2", "./nowhere", "/no/where", "a/b/c", "~/nothing-here/at-all", "owner/"):
        with pytest.raises(UnknownModel, match="neither a known model") as error:
            load(source)
        assert "smollm2" in error.value.remedy
    (tmp_path / "notes.txt").touch()
    with pytest.raises(UnknownModel, match="not GGUF"):
        load(tmp_path / "notes.txt")


def test_a_hub_id_without_network() -> None:
    """In a process of its own, since the setting is read at import."""
    code = (
        "import os; os.environ['HF_HUB_OFFLINE'] = '1'\n"
        "from corrigenda.errors import UnknownModel\n"
        "from corrigenda.lm.loading import load\n"
        "try:\n    load('nobody/no-such-model')\n"
        "except UnknownModel as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "'nobody/no-such-model' could not be loaded from the model hub" in done.stdout
    assert "local folder" in done.stdout


def test_a_hub_id_goes_to_transformers(monkeypatch: pytest.MonkeyPatch, llama: LanguageModel) -> None:
    asked = []

    def answer(name: str, dtype: torch.dtype) -> tuple[Any, Any]:
        asked.append((name, dtype))
        if name == "owner/encoder":
            raise UnsupportedArchitecture("no")
        return llama.model, llama.tokenizer

    monkeypatch.setattr(loading, "_from_pretrained", answer)
    assert load("owner/name").name == "owner/name"
    with pytest.raises(UnsupportedArchitecture):
        load("owner/encoder")
    assert asked[0] == ("owner/name", torch.float32)


def test_a_known_model_that_is_not_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CORRIGENDA_CACHE", str(tmp_path))
    monkeypatch.setattr(packages, "find", lambda name: None)
    with pytest.raises(UnknownModel, match="not here yet") as error:
        load("smollm2")
    assert error.value.remedy == "corrigenda models pull smollm2"
    assert list(tmp_path.iterdir()) == []


def test_devices_and_dtypes(checkpoint: Path) -> None:
    assert load(checkpoint, device="auto").device.type in ("cpu", "cuda")
    with pytest.raises(ModelError, match="'toaster' cannot be used"):
        load(checkpoint, device="toaster")
    with pytest.raises(UnknownName, match="float23") as error:
        load(checkpoint, dtype="float23")
    assert "float32" in error.value.remedy


def test_quiet_restores_what_was_set() -> None:
    level = logging.get_verbosity()
    logging.disable_progress_bar()
    with quiet():
        assert not logging.is_progress_bar_enabled()
    assert not logging.is_progress_bar_enabled()
    logging.enable_progress_bar()
    with pytest.raises(ZeroDivisionError), quiet():
        raise ZeroDivisionError
    assert logging.is_progress_bar_enabled()
    assert logging.get_verbosity() == level


def test_quiet_blocks_that_overlap_restore_what_was_set_before_the_first() -> None:
    stderr, filters = sys.stderr, list(warnings.filters)
    first, second = quiet(), quiet()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert sys.stderr is not stderr
    second.__exit__(None, None, None)
    assert sys.stderr is stderr
    assert warnings.filters == filters
    assert logging.is_progress_bar_enabled()


def test_fingerprint_says_whether_two_models_are_equal(checkpoint: Path, tmp_path: Path, fresh: Fresh) -> None:
    lm = load(checkpoint)
    shutil.copytree(checkpoint, tmp_path / "elsewhere")
    assert load(tmp_path / "elsewhere").fingerprint == lm.fingerprint == fresh("llama").fingerprint
    assert len(lm.fingerprint) == 64
    assert load(checkpoint, dtype="bfloat16").fingerprint != lm.fingerprint
    lm.model.lm_head.weight.data[0, 0] += 1
    assert fingerprint(lm.model) != lm.fingerprint == fresh("llama").fingerprint
    other = fresh("llama")
    other.model.config.rms_norm_eps = 0.5
    assert other.fingerprint != fresh("llama").fingerprint


def test_fingerprint_of_every_architecture_is_stable(any_lm: LanguageModel) -> None:
    assert fingerprint(any_lm.model) == any_lm.fingerprint


@pytest.mark.real_model
def test_smollm2(smollm2: LanguageModel) -> None:
    assert smollm2.name == "smollm2"
    assert smollm2.has_chat_template
    assert smollm2.context_length == 8192
    assert smollm2.eos_ids == {0, 2}
    assert (smollm2.layers.count, smollm2.layers.hidden_size, smollm2.layers.intermediate_size) == (30, 576, 1536)
    assert smollm2.fingerprint == fingerprint(smollm2.model)


def test_an_export_that_overlaps_a_load_leaves_the_output_as_it_was() -> None:
    stdout, stderr, disabled = sys.stdout, sys.stderr, root.manager.disable
    loading, exporting = quiet(), encoder.quiet()
    loading.__enter__()
    exporting.__enter__()
    loading.__exit__(None, None, None)
    assert sys.stderr is not stderr
    exporting.__exit__(None, None, None)
    assert (sys.stdout, sys.stderr, root.manager.disable) == (stdout, stderr, disabled)
