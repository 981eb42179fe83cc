from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch

from corrigenda.lm import packed as module
from corrigenda.lm.loading import LanguageModel
from corrigenda.lm.packed import packed
from corrigenda.lm.tokens import encode

available = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


@pytest.fixture
def gains(monkeypatch: pytest.MonkeyPatch) -> None:
    if not available:
        pytest.skip("PyTorch was built without oneDNN")
    monkeypatch.setattr(module, "_processor_gains", lambda: True)


@pytest.mark.usefixtures("gains")
def test_same_logits_and_nothing_left_behind(any_lm: LanguageModel) -> None:
    ids = encode(any_lm, ["The capital of Kazakhstan is"]).input_ids
    extra = {"decoder_input_ids": ids} if any_lm.is_encoder_decoder else {}
    head = any_lm.model.get_submodule(any_lm.layers.head)
    with torch.no_grad():
        before = any_lm.model(input_ids=ids, **extra).logits
        with packed(any_lm.model):
            assert "forward" in vars(head)
            with packed(any_lm.model):
                inside = any_lm.model(input_ids=ids, **extra).logits
            assert "forward" in vars(head)
        assert "forward" not in vars(head)
        assert torch.equal(any_lm.model(input_ids=ids, **extra).logits, before)
    torch.testing.assert_close(inside, before, atol=1e-4, rtol=1e-4)


@pytest.mark.usefixtures("gains")
def test_a_change_before_the_block_is_seen_whatever_way_it_was_made(fresh: Any) -> None:
    lm: LanguageModel = fresh("llama")
    ids = encode(lm, ["The capital of"]).input_ids
    with torch.no_grad():
        with packed(lm.model):
            lm.model(ids)
        lm.model.lm_head.weight.data.mul_(2)
        plain = lm.model(ids).logits
        with packed(lm.model):
            torch.testing.assert_close(lm.model(ids).logits, plain, atol=1e-4, rtol=1e-4)


@pytest.mark.usefixtures("gains")
def test_other_threads_see_the_weights_as_they_are(fresh: Any) -> None:
    lm: LanguageModel = fresh("llama")
    head, states = lm.model.lm_head, torch.ones(1, 32)
    with packed(lm.model), ThreadPoolExecutor(1) as pool:
        head.weight.data.mul_(2)
        assert torch.equal(pool.submit(head, states).result(), states @ head.weight.T)
        assert torch.allclose(head(states), states @ head.weight.T / 2, atol=1e-4)


@pytest.mark.usefixtures("gains")
def test_restored_after_an_error(llama: LanguageModel) -> None:
    with pytest.raises(ZeroDivisionError), packed(llama.model):
        raise ZeroDivisionError
    assert "forward" not in vars(llama.model.lm_head)


@pytest.mark.usefixtures("gains")
def test_other_number_formats_and_large_models_are_left_alone(fresh: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    lm: LanguageModel = fresh("llama")
    with packed(lm.model.to(torch.bfloat16)):
        assert "forward" not in vars(lm.model.lm_head)
    lm.model.to(torch.float32)
    monkeypatch.setattr(module, "MAX_WEIGHTS", 10)
    with packed(lm.model):
        assert "forward" not in vars(lm.model.lm_head)


@pytest.mark.parametrize(
    ("text", "expected"), [("vendor_id : GenuineIntel", False), ("vendor_id : AuthenticAMD", True)]
)
def test_the_vendor_decides(text: str, expected: bool, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cpuinfo").write_text(text)
    monkeypatch.setattr(module, "Path", lambda _: tmp_path / "cpuinfo")
    assert module._processor_gains.__wrapped__() == (expected and available)
    monkeypatch.setattr(module, "Path", lambda _: tmp_path / "missing")
    assert not module._processor_gains.__wrapped__()


@pytest.mark.usefixtures("gains")
@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_gradients_pass_through_to_what_goes_in(fresh: Any, name: str) -> None:
    lm: LanguageModel = fresh(name)
    states = lm.model.get_input_embeddings()(encode(lm, ["The capital of"]).input_ids).detach().requires_grad_()
    wanted = torch.autograd.grad(lm.model(inputs_embeds=states).logits.square().sum(), states)[0]
    with packed(lm.model, gradients=True):
        found = torch.autograd.grad(lm.model(inputs_embeds=states).logits.square().sum(), states)[0]
    torch.testing.assert_close(found, wanted, atol=1e-3, rtol=1e-3)


@pytest.mark.usefixtures("gains")
def test_parts_can_be_chosen(fresh: Any) -> None:
    lm: LanguageModel = fresh("llama")
    first, second = (lm.model.get_submodule(lm.layers.block(layer)) for layer in (0, 1))
    with packed(lm.model, [second]):
        assert not any("forward" in vars(module) for module in first.modules())
        assert any("forward" in vars(module) for module in second.modules())


@pytest.mark.usefixtures("gains")
@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_half_precision_is_near_and_keeps_the_number_format(
    fresh: Any, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        pytest.skip("no bfloat16 on this processor")
    monkeypatch.setattr(module, "_has_bfloat16", lambda: True)
    lm: LanguageModel = fresh(name)
    states = lm.model.get_input_embeddings()(encode(lm, ["The capital of"]).input_ids).detach().requires_grad_()
    plain = lm.model(inputs_embeds=states).logits
    wanted = torch.autograd.grad(plain.square().sum(), states)[0]
    with packed(lm.model, gradients=True, half=True):
        near = lm.model(inputs_embeds=states).logits
        found = torch.autograd.grad(near.square().sum(), states)[0]
    assert near.dtype == found.dtype == torch.float32
    assert 0 < float((near - plain).detach().norm()) < 0.03 * float(plain.detach().norm())
    assert float((found - wanted).norm()) < 0.1 * float(wanted.norm())
