from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch

from corrigenda.errors import ModelDamaged, UnsupportedArchitecture
from corrigenda.lm import gguf_model, packages
from corrigenda.lm.gguf_header import check_gguf
from corrigenda.lm.loading import LanguageModel, load
from corrigenda.lm.packages import PackagedModel
from corrigenda.lm.quiet import quiet
from corrigenda.lm.scoring import greedy
from corrigenda.lm.stopping import UNTIL_EOS

Q = gguf.GGMLQuantizationType
PLACES = {
    "token_embd": "model.embed_tokens",
    "output": "lm_head",
    "output_norm": "model.norm",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def llama_file(path: Path, lm: LanguageModel, *, architecture: str = "llama", leave_out: str = "") -> Path:
    """Write a tiny Llama as GGUF: the projections in Q8_0, the norms in float32."""
    writer = gguf.GGUFWriter(path, architecture)
    config = lm.model.config
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10_000.0)
    writer.add_vocab_size(config.vocab_size)
    core = lm.tokenizer.backend_tokenizer
    tokens = sorted(lm.tokenizer.get_vocab().items(), key=lambda item: item[1])
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list([token for token, _ in tokens])
    writer.add_token_types([3 if place == 0 else 1 for _, place in tokens])
    merges = json.loads(core.to_str())["model"]["merges"]
    writer.add_token_merges([" ".join(pair) for pair in merges])
    for add in (writer.add_bos_token_id, writer.add_eos_token_id, writer.add_unk_token_id, writer.add_pad_token_id):
        add(0)
    weights = lm.model.state_dict()
    names = ["token_embd", "output", "output_norm"]
    names += [f"blk.{n}.{part}" for n in range(config.num_hidden_layers) for part in list(PLACES)[3:]]
    for name in names:
        part = name.rpartition(".")[2]
        place = PLACES[part] if part == name else f"model.layers.{name.split('.')[1]}.{PLACES[part]}"
        if name == leave_out:
            continue
        value = weights[f"{place}.weight"]
        if part in ("attn_q", "attn_k"):  # llama.cpp keeps the two halves of each head interleaved
            heads = config.num_attention_heads if part == "attn_q" else config.num_key_value_heads
            value = value.reshape(heads, 2, -1, value.shape[1]).swapaxes(1, 2).reshape(value.shape)
        if value.dim() == 1 or value.shape[1] % 32:
            writer.add_tensor(f"{name}.weight", value.numpy())
        else:
            data = gguf.quantize(value.contiguous().numpy(), Q.Q8_0)
            writer.add_tensor(f"{name}.weight", data, raw_dtype=Q.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture
def file(fresh: Callable[[str], LanguageModel], tmp_path: Path) -> Path:
    return llama_file(tmp_path / "tiny.gguf", fresh("llama"))


def test_a_file_is_dequantised(file: Path, llama: LanguageModel, capfd: pytest.CaptureFixture[str]) -> None:
    lm = load(file)
    assert lm.name == "tiny"
    assert lm.dtype == torch.float32
    assert capfd.readouterr() == ("", "")
    for name, weight in llama.model.named_parameters():
        assert (lm.model.get_parameter(name) - weight).abs().max() < 0.01, name
    text = "The capital of Kazakhstan is 12."
    assert lm.tokenizer(text).input_ids == llama.tokenizer(text).input_ids
    assert lm.tokenizer.decode(lm.tokenizer(text).input_ids) == text


def test_what_was_loaded_can_be_saved_and_loaded_again(file: Path, tmp_path: Path) -> None:
    lm = load(file)
    with quiet():
        lm.model.save_pretrained(tmp_path / "again")
        lm.tokenizer.save_pretrained(tmp_path / "again")
    again = load(tmp_path / "again")
    assert again.fingerprint == lm.fingerprint
    prompts = ["The capital of", "Who"]
    assert greedy(again, prompts, stop=UNTIL_EOS) == greedy(lm, prompts, stop=UNTIL_EOS)


def test_a_truncated_file(file: Path) -> None:
    whole = file.read_bytes()
    for kept in (len(whole) - 1, len(whole) * 2 // 3, 5000, 30, 5):
        file.write_bytes(whole[:kept])
        with pytest.raises(ModelDamaged, match=r"truncated|cannot be read"):
            load(file)


def test_files_that_are_not_gguf(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    for content in (b"", b"PK\x03\x04 and more"):
        path.write_bytes(content)
        with pytest.raises(ModelDamaged, match="not a GGUF file"):
            load(path)


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        (struct.pack("<IQQ", 1, 0, 0), "version 1"),
        (struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 1 << 40) + b"key", "beyond the end"),
        (struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q3sI", 3, b"key", 99), "99"),
        (struct.pack("<IQQ", 3, 1, 0) + struct.pack("<Q1sIQIQ", 1, b"t", 1, 32, 999, 0), "tensor type 999"),
    ],
)
def test_headers_that_make_no_sense(tmp_path: Path, header: bytes, reason: str) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(b"GGUF" + header)
    with pytest.raises(ModelDamaged, match=reason):
        check_gguf(path)


def test_alignment_and_nested_arrays_are_read(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    pairs = struct.pack("<Q17sII", 17, b"general.alignment", 4, 64)
    nested = struct.pack("<Q1sI", 1, b"n", 9) + struct.pack("<IQ", 9, 1) + struct.pack("<IQ", 8, 1)
    pairs += nested + struct.pack("<Q2s", 2, b"hi")
    tensor = struct.pack("<Q1sIQIQ", 1, b"t", 1, 8, 0, 0)
    head = b"GGUF" + struct.pack("<IQQ", 3, 1, 2) + pairs + tensor
    start = -(-len(head) // 64) * 64
    path.write_bytes(head.ljust(start, b"\0") + bytes(32))
    check_gguf(path)
    path.write_bytes(head.ljust(start, b"\0") + bytes(31))
    with pytest.raises(ModelDamaged, match="truncated"):
        check_gguf(path)


def test_a_tensor_that_is_missing(fresh: Callable[[str], LanguageModel], tmp_path: Path) -> None:
    path = llama_file(tmp_path / "x.gguf", fresh("llama"), leave_out="blk.1.ffn_up")
    with pytest.raises(ModelDamaged, match=r"layers\.1\.mlp\.up_proj"):
        load(path)


def test_an_architecture_without_a_converter(fresh: Callable[[str], LanguageModel], tmp_path: Path) -> None:
    path = llama_file(tmp_path / "x.gguf", fresh("llama"), architecture="nonesuch")
    with pytest.raises(UnsupportedArchitecture, match="cannot be converted"):
        load(path)


@pytest.fixture
def packaged(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The tiny file as a packaged model in a cache of its own; returns the model's folder there."""
    monkeypatch.setenv("CORRIGENDA_CACHE", str(tmp_path / "cache"))
    model = PackagedModel("tiny", "tiny", "1", "tiny.whl", "0", "tiny_w", "tiny.gguf", file.stat().st_size, "MIT")
    monkeypatch.setattr(packages, "KNOWN", {"tiny": model})
    monkeypatch.setattr("corrigenda.lm.loading.KNOWN", {"tiny": model})
    home = packages.folder("tiny")
    home.mkdir(parents=True)
    shutil.copy2(file, home)
    return home


def copies(home: Path) -> list[Path]:
    return [path for path in home.iterdir() if path.is_dir()]


def test_a_packaged_model_keeps_a_converted_copy(packaged: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load("tiny")
    (copy,) = copies(packaged)
    assert copy.name.startswith("converted-")
    monkeypatch.setattr(gguf_model, "read", None)
    second = load("tiny")
    assert second.name == "tiny"
    assert second.fingerprint == first.fingerprint
    text = "Who? 12"
    assert second.tokenizer(text).input_ids == first.tokenizer(text).input_ids
    assert load("tiny", dtype="bfloat16").dtype == torch.bfloat16


def test_a_damaged_copy_is_made_anew_and_an_old_one_goes(packaged: Path) -> None:
    first = load("tiny")
    (copy,) = copies(packaged)
    (copy / "model.safetensors").write_bytes(b"short")
    (packaged / "converted-old").mkdir()
    assert load("tiny").fingerprint == first.fingerprint
    assert copies(packaged) == [copy]
    assert (copy / "model.safetensors").stat().st_size > 1000


def test_a_copy_that_cannot_be_kept_is_no_failure(packaged: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(gguf_model.os, "fsync", full)
    assert load("tiny").name == "tiny"
    assert copies(packaged) == []
    shutil.rmtree(packaged)
    packaged.parent.joinpath("elsewhere").mkdir()
    target: Any = packaged.parent / "elsewhere" / "file"
    target.touch()
    gguf_model._keep(None, None, target / "copy")
    assert target.is_file()
