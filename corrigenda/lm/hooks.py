"""Reading and replacing what flows through named modules, for the length of a ``with`` block.

::

    with Tap(model, ["model.layers.3.mlp.down_proj"]) as tap:
        model(**batch)
    keys = tap.inputs["model.layers.3.mlp.down_proj"]

    with Override(model, {"model.layers.3": lambda states: states + shift}):
        model(**batch)

Hooks attach when the block is entered, all or none, and go when it is left, whatever happened inside. Blocks nest: the
inner one sees what the outer one made of a value. Modules that return tuples or output objects are seen by their first
element, the hidden states. A block concerns the thread that entered it: passes of other threads through the same
modules are neither read nor changed.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Literal, Self

import torch
from transformers.utils import ModelOutput

from corrigenda.errors import CorrigendaError, UnknownName

Change = Callable[[torch.Tensor], torch.Tensor]
"""A function from hidden states to hidden states of the same shape."""


class _Hooks:
    """What both kinds share: attach all or none, remove always, nest."""

    def __init__(self, model: Any, names: Iterable[str]) -> None:
        self.model = model
        self.names = tuple(dict.fromkeys(names))
        self._stacks: list[ExitStack] = []

    def __enter__(self) -> Self:
        modules = dict(self.model.named_modules())
        for name in self.names:
            if name not in modules:
                raise UnknownName.among("module", name, list(modules))
        with ExitStack() as stack:
            for name in self.names:
                for handle in self._attach(name, modules[name]):
                    stack.callback(handle.remove)
            self._stacks.append(stack.pop_all())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stacks.pop().close()

    def _attach(self, name: str, module: Any) -> list[Any]:
        raise NotImplementedError


class Tap(_Hooks):
    """Reads the inputs and outputs of modules.

    Args:
        model: Any torch module.
        names: Modules, as ``model.named_modules()`` names them.
        inputs, outputs: What to keep.
        detach: Keep the values without their gradients.

    Attributes:
        inputs: Module name → its first input at its last forward pass; empty before the first.
        outputs: Module name → its output, or the first element of it.

    Raises:
        UnknownName: On entering, when a module does not exist; nothing is attached then.
    """

    def __init__(
        self, model: Any, names: Iterable[str], *, inputs: bool = True, outputs: bool = True, detach: bool = True
    ) -> None:
        super().__init__(model, names)
        self.inputs: dict[str, torch.Tensor] = {}
        self.outputs: dict[str, torch.Tensor] = {}
        self._wanted = (inputs, outputs)
        self._detach = detach

    def _attach(self, name: str, module: Any) -> list[Any]:
        def read(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            # Read after the pass, so that an input that another hook replaced is seen as it was used.
            if self._wanted[0]:
                self.inputs[name] = self._kept(_first_input(args, kwargs))
            if self._wanted[1]:
                self.outputs[name] = self._kept(first_tensor(output))

        return [module.register_forward_hook(_of_this_thread(read), with_kwargs=True)]

    def _kept(self, value: torch.Tensor) -> torch.Tensor:
        return value.detach() if self._detach else value


class Override(_Hooks):
    """Replaces the outputs, or the inputs, of modules.

    Args:
        model: Any torch module.
        changes: Module name → function that returns the new hidden states; it may keep gradients.
        side: Which end of the module is replaced.

    Raises:
        UnknownName: On entering, when a module does not exist; nothing is attached then.
    """

    def __init__(
        self, model: Any, changes: Mapping[str, Change], *, side: Literal["output", "input"] = "output"
    ) -> None:
        super().__init__(model, changes)
        self.changes = dict(changes)
        self.side = side

    def _attach(self, name: str, module: Any) -> list[Any]:
        change = self.changes[name]

        def replace_output(_: Any, args: Any, output: Any) -> Any:
            return with_first_tensor(output, change(first_tensor(output)))

        def replace_input(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            if args:
                return (change(args[0]), *args[1:]), kwargs
            key = _input_name(kwargs)
            return args, kwargs | {key: change(kwargs[key])}

        if self.side == "input":
            return [module.register_forward_pre_hook(_of_this_thread(replace_input), with_kwargs=True)]
        return [module.register_forward_hook(_of_this_thread(replace_output))]


def _of_this_thread(hook: Callable[..., Any]) -> Callable[..., Any]:
    """Return ``hook`` so that it does nothing in passes of other threads than the one that attaches it."""
    owner = threading.get_ident()

    # Whatever the arguments: a pass of another thread may still call a hook that was just removed, and torch has
    # forgotten by then that this one is given named arguments as well.
    def own(module: Any, *rest: Any) -> Any:
        return hook(module, *rest) if threading.get_ident() == owner else None

    return own


def first_tensor(output: Any) -> torch.Tensor:
    """Return the hidden states of a module's output: the tensor itself, or the first element of what holds it."""
    while not isinstance(output, torch.Tensor):
        if not isinstance(output, tuple | list | ModelOutput) or len(output) == 0:
            raise CorrigendaError(f"a module returned {type(output).__name__}, which holds no hidden states")
        output = output[0]
    return output


def with_first_tensor(output: Any, new: torch.Tensor) -> Any:
    """Return ``output`` with its hidden states replaced by ``new``; its other elements stay."""
    if isinstance(output, torch.Tensor):
        return new
    if isinstance(output, ModelOutput):
        key = next(iter(output.keys()))
        return type(output)(**{**output, key: with_first_tensor(output[key], new)})
    items = [with_first_tensor(output[0], new), *output[1:]]
    if hasattr(output, "_fields"):
        return type(output)(*items)
    return type(output)(items)


def _first_input(args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.Tensor:
    return first_tensor(args[0] if args else kwargs[_input_name(kwargs)])


def _input_name(kwargs: dict[str, Any]) -> str:
    """Name of the first tensor among named arguments; transformers calls it ``hidden_states``."""
    if isinstance(kwargs.get("hidden_states"), torch.Tensor):
        return "hidden_states"
    for key, value in kwargs.items():
        if isinstance(value, torch.Tensor):
            return key
    raise CorrigendaError("a module was called without a tensor: there is no input to read or replace")
