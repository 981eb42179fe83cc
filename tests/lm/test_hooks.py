from __future__ import annotations

import threading
from collections import namedtuple
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from transformers.modeling_outputs import BaseModelOutputWithPast

from corrigenda.errors import CorrigendaError, UnknownName
from corrigenda.lm.hooks import Override, Tap, first_tensor, with_first_tensor
from corrigenda.lm.loading import LanguageModel
from corrigenda.lm.tokens import encode

Pair = namedtuple("Pair", ["states", "other"])


class Half(nn.Module):
    def forward(self, states: torch.Tensor) -> torch.Tensor:
        return states / 2


class Packed(nn.Module):
    """Returns its input within something."""

    def __init__(self, wrap: Any) -> None:
        super().__init__()
        self.wrap = wrap

    def forward(self, *, hidden_states: torch.Tensor) -> Any:
        return self.wrap(hidden_states)


def hooks_of(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


@pytest.fixture
def model() -> nn.Sequential:
    return nn.Sequential(Half(), Half(), Half())


ONE = torch.ones(1, 2)


def test_tap_reads_inputs_and_outputs(model: nn.Sequential) -> None:
    with Tap(model, ["0", "2", "2"]) as tap:
        model(8 * ONE)
    assert torch.equal(tap.inputs["0"], 8 * ONE)
    assert torch.equal(tap.outputs["2"], ONE)
    assert hooks_of(model) == 0
    with Tap(model, ["1"], inputs=False) as outputs, Tap(model, ["1"], outputs=False) as inputs:
        model(8 * ONE)
    assert not outputs.inputs
    assert not inputs.outputs
    assert torch.equal(outputs.outputs["1"], 2 * ONE)


def test_tap_keeps_gradients_when_asked(model: nn.Sequential) -> None:
    start = ONE.clone().requires_grad_()
    with Tap(model, ["1"]) as plain, Tap(model, ["1"], detach=False) as live:
        model(start)
    assert not plain.outputs["1"].requires_grad
    live.outputs["1"].sum().backward()
    assert torch.equal(start.grad, ONE / 4)


def test_a_wrong_second_name_leaves_no_hook(model: nn.Sequential) -> None:
    for hooks in (Tap(model, ["0", "nope"]), Override(model, {"0": torch.neg, "nope": torch.neg})):
        with pytest.raises(UnknownName, match="nope"), hooks:
            pass
        assert hooks_of(model) == 0


def test_leaving_without_a_forward_pass_is_clean(model: nn.Sequential) -> None:
    with Tap(model, ["0"]) as tap, Override(model, {"1": torch.neg}):
        assert hooks_of(model) == 2
    assert tap.outputs == {}
    assert hooks_of(model) == 0


def test_constructing_attaches_nothing(model: nn.Sequential) -> None:
    Tap(model, ["0"])
    Override(model, {"0": torch.neg})
    assert hooks_of(model) == 0


def test_an_error_inside_removes_the_hooks(model: nn.Sequential) -> None:
    def fail(states: torch.Tensor) -> torch.Tensor:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), Tap(model, ["0"]), Override(model, {"1": fail}):
        model(ONE)
    assert hooks_of(model) == 0


@pytest.mark.parametrize("side", ["output", "input"])
def test_override_and_nesting(model: nn.Sequential, side: Any) -> None:
    change = {"1": lambda states: states + 4}
    with Override(model, change, side=side):
        once = model(8 * ONE)
        with Override(model, change, side=side), Tap(model, ["1"]) as tap:
            twice = model(8 * ONE)
        assert torch.equal(model(8 * ONE), once)
    assert torch.equal(model(8 * ONE), ONE)
    assert torch.equal(once, (3 if side == "output" else 2) * ONE)
    assert torch.equal(twice, (5 if side == "output" else 3) * ONE)
    assert torch.equal(tap.inputs["1"], (4 if side == "output" else 12) * ONE)


def test_one_object_may_be_entered_twice(model: nn.Sequential) -> None:
    both = Override(model, {"1": torch.neg})
    with both:
        with both:
            assert torch.equal(model(8 * ONE), ONE)
        assert torch.equal(model(8 * ONE), -ONE)
    assert hooks_of(model) == 0


def in_a_thread(work: Callable[[], torch.Tensor]) -> Callable[[], torch.Tensor]:
    """Begin ``work`` in another thread; what is returned waits for its result."""
    said: list[torch.Tensor] = []
    thread = threading.Thread(target=lambda: said.append(work()), daemon=True)
    thread.start()

    def result() -> torch.Tensor:
        thread.join(20)
        return said[0]

    return result


@pytest.mark.parametrize("side", ["output", "input"])
def test_passes_of_other_threads_are_neither_read_nor_changed(model: nn.Sequential, side: Any) -> None:
    with Override(model, {"1": torch.neg}, side=side), Tap(model, ["1"]) as tap:
        assert torch.equal(in_a_thread(lambda: model(8 * ONE))(), ONE)
        assert tap.inputs == tap.outputs == {}
        assert torch.equal(model(8 * ONE), -ONE)
    assert torch.equal(tap.outputs["1"], -2 * ONE)


@pytest.mark.parametrize("kind", ["tap", "input"])
def test_hooks_that_go_in_the_middle_of_another_thread_s_pass(model: nn.Sequential, kind: str) -> None:
    reached, gone = threading.Event(), threading.Event()

    def wait(*_: Any) -> None:
        """Stand before ours: torch has looked up by then which hooks it calls."""
        reached.set()
        assert gone.wait(20)

    before = kind == "input"
    handle = (model[1].register_forward_pre_hook if before else model[1].register_forward_hook)(wait)
    with Override(model, {"1": torch.neg}, side="input") if before else Tap(model, ["1"]):
        result = in_a_thread(lambda: model(8 * ONE))
        assert reached.wait(20)
    gone.set()
    assert torch.equal(result(), ONE)
    handle.remove()


@pytest.mark.parametrize(
    "wrap",
    [
        lambda states: (states, "other"),
        lambda states: [states, "other"],
        lambda states: Pair(states, "other"),
        lambda states: ((states,), "other"),
        lambda states: BaseModelOutputWithPast(last_hidden_state=states, past_key_values="other"),
    ],
)
def test_outputs_that_hold_the_states(wrap: Any) -> None:
    model = nn.ModuleDict({"part": Packed(wrap)})
    with Override(model, {"part": torch.neg}), Tap(model, ["part"]) as tap:
        out = model["part"](hidden_states=ONE)
    assert type(out) is type(wrap(ONE))
    assert torch.equal(first_tensor(out), -ONE)
    assert out[1] == "other"
    assert torch.equal(tap.inputs["part"], ONE)
    assert torch.equal(tap.outputs["part"], -ONE)
    with Override(model, {"part": torch.neg}, side="input"):
        assert torch.equal(first_tensor(model["part"](hidden_states=ONE)), -ONE)


def test_values_without_a_tensor() -> None:
    for value in (None, (), {"a": 1}):
        with pytest.raises(CorrigendaError, match=type(value).__name__):
            first_tensor(value)
    assert torch.equal(with_first_tensor(ONE, -ONE), -ONE)

    class Named(nn.Module):
        def forward(self, flag: int = 0, states: torch.Tensor | None = None) -> torch.Tensor | None:
            return states

    model = nn.ModuleDict({"part": Named()})
    with Tap(model, ["part"]) as tap:
        model["part"](flag=1, states=ONE)
        assert torch.equal(tap.inputs["part"], ONE)
        with pytest.raises(CorrigendaError, match="without a tensor"), Tap(model, ["part"], outputs=False):
            model["part"](flag=1)


def test_blocks_of_every_architecture(any_lm: LanguageModel) -> None:
    """A block may return a tensor or a tuple: reading and replacing works either way."""
    name = any_lm.layers.block(1)
    ids = encode(any_lm, ["The capital of"]).input_ids
    extra = {"decoder_input_ids": ids} if any_lm.is_encoder_decoder else {}
    with torch.no_grad():
        before = any_lm.model(input_ids=ids, **extra).logits
        with Override(any_lm.model, {name: lambda states: states + 1}), Tap(any_lm.model, [name]) as tap:
            changed = any_lm.model(input_ids=ids, **extra).logits
        with Override(any_lm.model, {name: lambda states: states}):
            same = any_lm.model(input_ids=ids, **extra).logits
    assert tap.outputs[name].shape == (*ids.shape, 32)
    assert not torch.allclose(before, changed)
    assert torch.equal(before, same)
