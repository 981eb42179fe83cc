from __future__ import annotations

import json
import os
import warnings

import pytest
import torch
import transformers
from tiny_editing import EDITS, quick, random_statistics, weights

from corrigenda.edit import Edit
from corrigenda.errors import InvalidRequest, ModelDamaged
from corrigenda.lm.loading import load
from corrigenda.lm.scoring import greedy
from corrigenda.param_editors.editor import editor
from corrigenda.param_editors.export import (
    add_delta,
    export_checkpoint,
    export_delta,
    export_lora,
    export_name,
)

PROMPTS = [edit.prompt for edit in EDITS] + [f"Person {place} lives in" for place in range(47)]


def logits(model, tokenizer):
    with torch.no_grad():
        return torch.stack([model(torch.tensor([tokenizer(text).input_ids])).logits[0, -1] for text in PROMPTS])


def edited(lm):
    stats = random_statistics(lm)
    chain = [editor("memit").apply(lm, EDITS[:2], params=quick("memit"), stats=stats)]
    chain.append(editor("rome").apply(lm, EDITS[2:], params=quick("rome"), stats=stats))
    return chain


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gptj"])
def test_the_adapter_says_what_the_edited_model_says(architecture, fresh, tmp_path):
    peft = pytest.importorskip("peft")
    lm = fresh(architecture)
    chain = edited(lm)
    wanted = logits(lm.model, lm.tokenizer)
    folder = export_lora(chain, tmp_path / "adapter", base="tiny")
    plain = fresh(architecture)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adapted = peft.PeftModel.from_pretrained(plain.model, str(folder))
    assert (logits(adapted, lm.tokenizer) - wanted).abs().max() <= 1e-3
    config = json.loads((folder / "adapter_config.json").read_text())
    assert config["r"] == config["lora_alpha"] == 3  # layer 1 was written by both
    assert config["fan_in_fan_out"] == (architecture == "gpt2")
    about = json.loads((folder / "corrigenda.json").read_text())
    assert [Edit.from_dict(row).id for row in about["edits"]] == [edit.id for edit in EDITS]


def test_too_high_a_rank_is_refused(llama, tmp_path):
    with pytest.raises(InvalidRequest, match=r"rank 3, at most 2(.|\n)*--max-rank"):
        export_lora(edited(llama), tmp_path / "adapter", base="tiny", max_rank=2)
    assert not list(tmp_path.glob("*adapter*"))


def test_full_rank_and_empty_updates_have_no_adapter(llama, tmp_path):
    with pytest.raises(InvalidRequest, match="full checkpoint"):
        export_lora([editor("ft-m").apply(llama, EDITS, params=quick("ft-m"))], tmp_path / "adapter", base="tiny")
    with pytest.raises(InvalidRequest, match="nothing to export"):
        export_lora([], tmp_path / "adapter", base="tiny")


def test_nothing_is_ever_written_over(llama, tmp_path):
    chain = edited(llama)
    export_lora(chain, tmp_path / "adapter", base="tiny")
    with pytest.raises(InvalidRequest, match="never written over"):
        export_lora(chain, tmp_path / "adapter", base="tiny")
    export_delta(chain, tmp_path / "delta")
    with pytest.raises(InvalidRequest, match="never written over"):
        export_delta(chain, tmp_path / "delta")
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".")) == []


def test_a_failed_export_leaves_nothing(llama, tmp_path):
    llama.tokenizer = None
    with pytest.raises(AttributeError):
        export_checkpoint(llama, tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_of_the_same_number_left_is_no_obstacle(llama, tmp_path):
    (tmp_path / f".model.{os.getpid()}").mkdir()
    assert load(export_checkpoint(llama, tmp_path / "model")).fingerprint == llama.fingerprint
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_the_checkpoint_loads_with_plain_transformers_and_says_the_same(llama, tmp_path):
    chain = edited(llama)
    folder = export_checkpoint(llama, tmp_path / "model", chain=chain)
    again = load(folder)
    assert greedy(again, PROMPTS, max_new_tokens=6) == greedy(llama, PROMPTS, max_new_tokens=6)
    plain = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    assert torch.equal(logits(plain, llama.tokenizer), logits(llama.model, llama.tokenizer))


def test_the_delta_added_to_the_old_weights_gives_the_new_ones(fresh, tmp_path):
    lm = fresh("gpt2")
    state = weights(lm)
    chain = edited(lm)
    path = export_delta(chain, tmp_path / "delta.safetensors")
    add_delta(state, path)
    after = lm.model.state_dict()
    assert all(torch.allclose(state[name], after[name], atol=1e-6) for name in after)
    with pytest.raises(InvalidRequest, match="lack"):
        add_delta({}, path)
    with pytest.raises(ModelDamaged):
        add_delta(state, chain[0].save(tmp_path / "consolidation.safetensors"))
    with pytest.raises(ModelDamaged):
        add_delta(state, tmp_path / "absent")


def test_names_tell_methods_edits_and_content_apart(llama):
    first, second = edited(llama)
    assert export_name([first, second]).startswith("memit+rome-3-")
    assert export_name([first]) != export_name([second])
    assert export_name([first]) == export_name([first])
