"""Added neurons: attached, taken off, kept in a file, made part of a checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tiny_editing import EDITS, same, weights
from transformers import AutoModelForCausalLM

from corrigenda.errors import InvalidRequest, NotRevertible, UnsupportedArchitecture
from corrigenda.lm.loading import LanguageModel
from corrigenda.param_editors.export import export_checkpoint, export_delta, export_lora
from corrigenda.param_editors.neurons import Neurons, activation_name, attach, detach, is_attached, takes_bias
from corrigenda.param_editors.update import Consolidation
from corrigenda.param_editors.widening import widened

PROMPTS = ["The capital of France", "Who wrote Hamlet"]


def random_neurons(lm: LanguageModel, n: int = 3, layer: int = 1, seed: int = 0) -> Neurons:
    generator = torch.Generator().manual_seed(seed)
    d = lm.layers.hidden_size

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    return Neurons(
        layer,
        up=draw(n, d),
        down=draw(d, n),
        activation=activation_name(lm),
        gate=draw(n, d) if lm.layers.gated else None,
        bias=draw(n) if takes_bias(lm, layer) else None,
    )


@torch.no_grad()
def logits(model: object, lm: LanguageModel) -> torch.Tensor:
    ids = lm.tokenizer(PROMPTS[0], return_tensors="pt").input_ids
    found: torch.Tensor = model(input_ids=ids).logits  # type: ignore[operator]
    return found


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gptj", "gpt_neox", "opt", "phi", "phi3", "qwen2", "gemma2"])
def test_attached_they_add_what_they_say_and_taken_off_nothing_is_left(
    fresh: Callable[[str], LanguageModel], kind: str
) -> None:
    lm = fresh(kind)
    before, bare = weights(lm), logits(lm.model, lm)
    neurons = random_neurons(lm)
    seen: dict[str, torch.Tensor] = {}
    names = (lm.layers.mlp_in(1)[0], lm.layers.mlp_out(1))
    modules = dict(lm.model.named_modules())
    attach(lm, neurons)
    handles = [
        modules[names[0]].register_forward_pre_hook(lambda m, args: seen.update(x=args[0])),
        modules[names[1]].register_forward_hook(lambda m, args, out: seen.update(into=args[0], out=out)),
    ]
    with_them = logits(lm.model, lm)
    for handle in handles:
        handle.remove()
    detach(lm, neurons)
    with torch.no_grad():
        own = modules[names[1]](seen["into"])
    torch.testing.assert_close(seen["out"], own + neurons(seen["x"]))
    assert not torch.allclose(with_them, bare)
    assert torch.equal(logits(lm.model, lm), bare)
    assert same(lm, before)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gptj", "gpt_neox", "opt", "phi", "phi3", "qwen2", "gemma2"])
def test_a_widened_checkpoint_loads_in_plain_transformers_and_says_the_same(
    fresh: Callable[[str], LanguageModel], tmp_path: Path, kind: str
) -> None:
    lm = fresh(kind)
    groups = (random_neurons(lm), random_neurons(lm, n=2, layer=0, seed=1))
    done = Consolidation("t-patcher", tuple(EDITS), (), neurons=groups, model=lm)
    done.write()
    expected = logits(lm.model, lm)
    folder = export_checkpoint(lm, tmp_path / "out", chain=[done])
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    torch.testing.assert_close(logits(plain, lm), expected, atol=2e-4, rtol=1e-4)
    done.revert()


def test_an_encoder_decoder_is_not_widened(fresh: Callable[[str], LanguageModel]) -> None:
    lm = fresh("t5")
    with pytest.raises(UnsupportedArchitecture, match="cannot be widened"):
        widened(lm, [random_neurons(lm)])


def test_they_have_no_low_rank_form(llama: LanguageModel, tmp_path: Path) -> None:
    done = Consolidation("t-patcher", tuple(EDITS), (), neurons=(random_neurons(llama),), model=llama)
    with pytest.raises(InvalidRequest, match="no low-rank"):
        export_lora([done], tmp_path / "lora", base="base")
    with pytest.raises(InvalidRequest, match="no low-rank"):
        export_delta([done], tmp_path / "delta")
    with pytest.raises(InvalidRequest, match="added neurons"):
        done.merge_into(llama.model.state_dict())


def test_saved_loaded_and_reverted_in_either_object(llama: LanguageModel, tmp_path: Path) -> None:
    bare = logits(llama.model, llama)
    done = Consolidation("t-patcher", tuple(EDITS), (), neurons=(random_neurons(llama),), model=llama)
    done.write()
    expected = logits(llama.model, llama)
    again = Consolidation.load(done.save(tmp_path / "done"), llama)
    again.revert()  # the same neurons, read from the file
    assert torch.equal(logits(llama.model, llama), bare)
    again.write()
    assert torch.equal(logits(llama.model, llama), expected)
    with pytest.raises(NotRevertible, match="are attached"):
        again.write()
    again.revert()
    with pytest.raises(NotRevertible, match="not attached"):
        done.revert()


def test_misfits_are_refused(fresh: Callable[[str], LanguageModel]) -> None:
    lm, other = fresh("llama"), fresh("gpt2")
    with pytest.raises(InvalidRequest, match="do not fit"):
        attach(lm, random_neurons(other))
    neurons = random_neurons(lm)
    attach(lm, neurons)
    assert is_attached(lm, neurons)
    with pytest.raises(InvalidRequest, match="already"):
        attach(lm, neurons)
    detach(lm, neurons)
    with pytest.raises(NotRevertible, match="not attached"):
        detach(lm, neurons)
