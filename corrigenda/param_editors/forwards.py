"""Forward passes of which only a part is run: up to a block, or from a block on.

Editing asks the model the same question again and again with one thing changed at the subject's last token. What lies
before that token, or below the changed block, stays as it is and is run once: :class:`Resumed`.

Shapes: R rows, S columns, d hidden size, V vocabulary.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import DynamicCache

from corrigenda.lm.tokens import Batch, pad

if TYPE_CHECKING:
    from corrigenda.lm.loading import LanguageModel

BATCH_TOKENS = 4_096
"""Most tokens of one forward pass without gradients, padding included."""


def call(
    lm: LanguageModel, batch: Batch, *, mask: torch.Tensor | None = None, cache: Any = None, keep: int = 1
) -> torch.Tensor:
    """Run a decoder and return the logits of the last ``keep`` columns: (R, keep, V).

    Args:
        lm: The model.
        batch: Tokens and positions.
        mask: (R, columns of the cache + S); by default that of the batch.
        cache: Keys and values of what comes before; extended in place.
        keep: Columns wanted; the head is not run on others where the architecture allows.
    """
    names = _parameters(type(lm.model).forward)
    extra: dict[str, Any] = {"use_cache": cache is not None, "past_key_values": cache}
    if "position_ids" in names:
        extra["position_ids"] = batch.position_ids
    if "logits_to_keep" in names:
        extra["logits_to_keep"] = keep
    mask = batch.attention_mask if mask is None else mask
    logits: torch.Tensor = lm.model(input_ids=batch.input_ids, attention_mask=mask, **extra).logits
    return logits[:, -keep:]


@lru_cache(maxsize=64)
def _parameters(function: Callable[..., Any]) -> frozenset[str]:
    return frozenset(inspect.signature(function).parameters)


def hidden(output: Any) -> torch.Tensor:
    """Return the states in what a block or module returned: a tensor, or the first of a tuple."""
    state: torch.Tensor = output[0] if isinstance(output, tuple) else output
    return state


def _like(output: Any, state: torch.Tensor) -> Any:
    """Return ``state`` in the form of ``output``; whatever else a block returns is not used in these passes."""
    return (state, *(None for _ in output[1:])) if isinstance(output, tuple) else state


@contextmanager
def replaced(forwards: Mapping[nn.Module, Callable[..., Any]]) -> Iterator[None]:
    """Let modules run other functions inside the block; restores what was there before, also after an error."""
    before = {module: module.__dict__.get("forward") for module in forwards}
    try:
        for module, function in forwards.items():
            module.__dict__["forward"] = function
        yield
    finally:
        for module, own in before.items():
            if own is None:
                module.__dict__.pop("forward", None)
            else:
                module.__dict__["forward"] = own


@contextmanager
def tapped(
    inputs: Sequence[nn.Module], outputs: Sequence[nn.Module]
) -> Iterator[tuple[dict[nn.Module, Any], dict[nn.Module, Any]]]:
    """Record what goes into and comes out of modules: two dicts, filled by each forward pass inside the block."""
    into: dict[nn.Module, Any] = {}
    out: dict[nn.Module, Any] = {}
    handles = []
    try:
        for module in inputs:
            handles.append(module.register_forward_pre_hook(lambda m, args: into.__setitem__(m, args[0])))
        for module in outputs:
            handles.append(module.register_forward_hook(lambda m, args, result: out.__setitem__(m, result)))
        yield into, out
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def ended_after(blocks: Sequence[nn.Module], last: int) -> Iterator[None]:
    """Skip the blocks behind block ``last``: for passes whose logits nobody wants."""
    tail = list(blocks[last + 1 :])
    if not tail or last < 0:
        yield
        return
    with tapped([], [blocks[last]]) as (_, out):

        def through(*args: Any, **kwargs: Any) -> Any:
            return _like(out[blocks[last]], _identity(*args, **kwargs))

        with replaced(dict.fromkeys(tail, through)):
            yield


def _identity(*args: Any, **kwargs: Any) -> Any:
    return args[0] if args else kwargs["hidden_states"]


def batches(lengths: Sequence[int], most: int = BATCH_TOKENS) -> Iterator[list[int]]:
    """Yield places of rows of similar length, at most ``most`` tokens together, padding included."""
    places = sorted(range(len(lengths)), key=lambda place: -lengths[place])
    while places:
        size = max(1, most // max(lengths[places[0]], 1))
        yield places[:size]
        places = places[size:]


@torch.no_grad()
def last_states(
    lm: LanguageModel,
    rows: Sequence[Sequence[int]],
    blocks: Sequence[nn.Module],
    last: int,
    *,
    inputs: Sequence[nn.Module] = (),
    outputs: Sequence[nn.Module] = (),
) -> tuple[dict[nn.Module, torch.Tensor], dict[nn.Module, torch.Tensor]]:
    """Return what goes into and comes out of modules at the last token of each row: (R, width) float32 each.

    Args:
        lm: The model.
        rows: Tokens; a state depends on what comes before it only, so rows end where it is wanted.
        blocks: The model's blocks.
        last: The highest block that is needed; those above are skipped.
        inputs: Modules whose input is wanted.
        outputs: Modules whose output is wanted.
    """
    found: tuple[dict[Any, dict[int, torch.Tensor]], ...] = ({m: {} for m in inputs}, {m: {} for m in outputs})
    with tapped(inputs, outputs) as taps, ended_after(blocks, last):
        for places in batches([len(row) for row in rows]):
            call(lm, pad(lm, [rows[place] for place in places]))
            for store, tap in zip(found, taps, strict=True):
                for module in store:
                    states = hidden(tap[module])[:, -1].float()
                    store[module].update(zip(places, states, strict=True))
    stacked = [{m: torch.stack([got[p] for p in range(len(rows))]) for m, got in store.items()} for store in found]
    return stacked[0], stacked[1]


class Resumed:
    """Rows that were run once, to be run on from block ``first`` with something added at the subject.

    Args:
        lm: The model.
        blocks: Its blocks.
        rows: Tokens of each row.
        subjects: Place of the subject's last token in each row.
        first: The first block to run again, 0…number of blocks. Blocks below keep their result.
        modules: Modules in blocks ≥ ``first`` whose output is to be shifted at the subject. Without any, it is the
            state that enters block ``first``.

    Attributes:
        base: What is going to be shifted, unshifted: a (R, d) float32 for each module, or one for the state.
        last_logits: (R, V) float32 at the last token of each row, unshifted.
    """

    def __init__(
        self,
        lm: LanguageModel,
        blocks: Sequence[nn.Module],
        rows: Sequence[Sequence[int]],
        subjects: Sequence[int],
        first: int,
        modules: Sequence[nn.Module] = (),
    ) -> None:
        self.lm, self.blocks, self.first, self.modules = lm, blocks, first, tuple(modules)
        self.cache = self._prefixes([row[:place] for row, place in zip(rows, subjects, strict=True)])
        batch = pad(lm, [row[place:] for row, place in zip(rows, subjects, strict=True)])
        before = self.prefix_mask.sum(1, keepdim=True)
        self.batch = Batch(batch.input_ids, batch.attention_mask, batch.position_ids + before)
        self.mask = torch.cat([self.prefix_mask, batch.attention_mask], 1)
        width = batch.input_ids.shape[1]
        lengths = torch.tensor(batch.lengths, device=lm.device)
        self.subject = width - lengths  # (R,) column of the subject's last token
        self._run_once()

    @torch.no_grad()
    def _prefixes(self, rows: Sequence[Sequence[int]]) -> Any:
        """Run what lies before the subject's last token; it sees no change there, so its keys and values are final."""
        batch = pad(self.lm, rows)
        self.prefix_mask = batch.attention_mask
        if batch.input_ids.shape[1] == 0:
            return None
        cache = DynamicCache(config=self.lm.model.config)
        call(self.lm, batch, cache=cache)
        return cache

    @torch.no_grad()
    def _run_once(self) -> None:
        state_of = [self.blocks[self.first - 1]] if self.first else []
        with tapped([], [*self.modules, *state_of]) as (_, out):
            self.last_logits = call(self.lm, self.batch, mask=self.mask, cache=self._cache())[:, -1].float()
        output = out[state_of[0]] if state_of else None
        self.state = hidden(output) if state_of else None
        self._form = (None,) * len(output) if isinstance(output, tuple) else None
        rows = torch.arange(len(self.subject), device=self.subject.device)
        if self.modules:
            self.base = [hidden(out[module])[rows, self.subject].float() for module in self.modules]
        elif self.state is not None:
            self.base = [self.state[rows, self.subject].float()]

    def _cache(self) -> Any:
        """Return a cache that can be extended: the tensors are shared, the lists of them are not."""
        cache = copy.copy(self.cache)
        if cache is not None:
            cache.layers = [copy.copy(layer) for layer in cache.layers]
        return cache

    def keep(self, places: torch.Tensor) -> None:
        """Go on with these rows only (long, on the model's device)."""
        self.batch = Batch(*(getattr(self.batch, n)[places] for n in Batch.__slots__))
        self.mask, self.subject = self.mask[places], self.subject[places]
        self.last_logits = self.last_logits[places]
        self.base = [base[places] for base in self.base]
        self.state = None if self.state is None else self.state[places]
        if self.cache is not None:
            self.cache = self._cache()
            for layer in self.cache.layers:
                layer.keys, layer.values = layer.keys[places], layer.values[places]

    def logits(self, shifts: Sequence[torch.Tensor], keep: int) -> torch.Tensor:
        """Return logits (R, keep, V) of the last columns with ``shifts`` added, (R, d) for each thing to shift."""
        added = [self._spread(shift) for shift in shifts]  # (R, S, d), zero but at the subject
        forwards: dict[nn.Module, Callable[..., Any]] = {}
        if self.state is not None:
            state = self.state if self.modules else self.state + added[0].to(self.state.dtype)
            forwards[self.blocks[0]] = lambda *args, **kwargs: self._formed(state)
            for block in self.blocks[1 : self.first]:
                forwards[block] = lambda *args, **kwargs: self._formed(_identity(*args, **kwargs))
        handles = []
        try:
            for module, shift in zip(self.modules, added, strict=False):
                handles.append(module.register_forward_hook(_shift_by(shift)))
            with replaced(forwards):
                return call(self.lm, self.batch, mask=self.mask, cache=self._cache(), keep=keep)
        finally:
            for handle in handles:
                handle.remove()

    def _formed(self, state: torch.Tensor) -> Any:
        return state if self._form is None else _like(self._form, state)

    def _spread(self, shift: torch.Tensor) -> torch.Tensor:
        width = self.batch.input_ids.shape[1]
        here = torch.arange(width, device=shift.device)[None] == self.subject[:, None]  # (R, S)
        return here[..., None] * shift[:, None]


def _shift_by(shift: torch.Tensor) -> Callable[..., Any]:
    def hook(module: nn.Module, args: Any, output: Any) -> Any:
        state = hidden(output)
        moved = state + shift.to(state.dtype).reshape(state.shape)
        return (moved, *output[1:]) if isinstance(output, tuple) else moved

    return hook
