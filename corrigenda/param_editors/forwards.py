"""Forward passes of which only a part is run: up to a block, or from a block on.

Editing asks the model the same question again and again with one thing changed at the subject's last token. What lies
before that token, or below the changed block, stays as it is and is run once: :class:`Resumed`.

Shapes: R rows, S columns, d hidden size, V vocabulary.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import DynamicCache

from corrigenda.lm.hooks import Override, Tap, first_tensor, with_first_tensor
from corrigenda.lm.packed import WORTHWHILE_TOKENS, packed
from corrigenda.lm.tokens import Batch, pad

if TYPE_CHECKING:
    from corrigenda.lm.loading import LanguageModel
    from corrigenda.param_editors.anatomy import Anatomy

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
    return logits[:, -keep:] if logits.ndim == 3 else logits  # under `headed`: picked already


@lru_cache(maxsize=64)
def _parameters(function: Callable[..., Any]) -> frozenset[str]:
    return frozenset(inspect.signature(function).parameters)


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
def headed(anatomy: Anatomy, pick: Callable[[torch.Tensor], torch.Tensor] | None) -> Iterator[None]:
    """Let the head see what ``pick`` makes of the last states (R, S, d): rows (T, d) give logits (T, V).

    The head is a large matrix and most places are wanted by nobody; a slice of (R, S, d) is slow besides. Without
    ``pick`` the head is not run, for passes whose logits nobody wants.
    """
    head = anatomy.head
    own = head.forward
    with replaced({head: _identity if pick is None else lambda states: own(pick(states))}):
        yield


@contextmanager
def ended_after(blocks: Sequence[nn.Module], last: int) -> Iterator[None]:
    """Let the blocks behind block ``last`` pass on what it returned: for passes whose logits nobody wants."""
    returned: Any = None

    def seen(module: nn.Module, args: Any, output: Any) -> None:
        nonlocal returned
        returned = output

    def through(*args: Any, **kwargs: Any) -> Any:
        return with_first_tensor(returned, _identity(*args, **kwargs))

    handle = blocks[last].register_forward_hook(seen)
    try:
        with replaced(dict.fromkeys(blocks[last + 1 :], through)):
            yield
    finally:
        handle.remove()


@dataclass(frozen=True)
class BlockForm:
    """The form in which blocks return their states: bare, or first in a tuple.

    What else is in the tuple is not used in passes over the upper blocks only; it just has to be as long.

    Attributes:
        length: Of the tuple; ``None`` for bare states.
    """

    length: int | None = None

    @classmethod
    def of(cls, returned: Any) -> BlockForm:
        """Return the form of what a block returned."""
        return cls(len(returned) if isinstance(returned, tuple) else None)

    def forwards(self, blocks: Sequence[nn.Module], state: torch.Tensor) -> dict[nn.Module, Callable[..., Any]]:
        """Return forwards for the lowest ``blocks``, which are not run: they hand ``state`` up to the next block."""
        found: dict[nn.Module, Callable[..., Any]] = {
            block: lambda *args, **kwargs: self._around(_identity(*args, **kwargs)) for block in blocks
        }
        found[blocks[0]] = lambda *args, **kwargs: self._around(state)
        return found

    def _around(self, state: torch.Tensor) -> Any:
        return state if self.length is None else (state, *(None,) * (self.length - 1))


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
    anatomy: Anatomy,
    rows: Sequence[Sequence[int]],
    last: int,
    *,
    inputs: Sequence[str] = (),
    outputs: Sequence[str] = (),
) -> dict[str, torch.Tensor]:
    """Return what goes into or comes out of modules at the last token of each row: (R, width) float32 by name.

    Args:
        anatomy: The model and its blocks.
        rows: Tokens; a state depends on what comes before it only, so rows end where it is wanted.
        last: The highest block that is needed; those above are skipped.
        inputs: Modules whose input is wanted.
        outputs: Modules whose output is wanted, none of them in ``inputs``.
    """
    lm = anatomy.lm
    found: dict[str, dict[int, torch.Tensor]] = {name: {} for name in (*inputs, *outputs)}
    fast = packed(lm.model, anatomy.blocks[: last + 1]) if sum(map(len, rows)) >= WORTHWHILE_TOKENS else nullcontext()
    with fast, Tap(lm.model, found) as tap, ended_after(anatomy.blocks, last), headed(anatomy, None):
        for places in batches([len(row) for row in rows]):
            call(lm, pad(lm, [rows[place] for place in places]))
            for name, states in found.items():
                seen = (tap.inputs if name in inputs else tap.outputs)[name].float()
                seen = seen.view(len(places), -1, seen.shape[-1])  # OPT's feed-forward has rows and columns in one
                # A copy: a view would keep the states of all other tokens as long as itself.
                states.update(zip(places, seen[:, -1].clone(), strict=True))
    return {name: torch.stack([states[place] for place in range(len(rows))]) for name, states in found.items()}


class Resumed:
    """Rows that were run once, to be run on from block ``first`` with something added at the subject.

    Args:
        anatomy: The model and its blocks.
        rows: Tokens of each row.
        subjects: Place of the subject's last token in each row.
        first: The first block to run again, 0…number of blocks. Blocks below keep their result.
        modules: Names of modules in blocks ≥ ``first`` whose output is to be shifted at the subject. Without any, it is
            the state that enters block ``first``.

    Attributes:
        base: What is going to be shifted, unshifted: a (R, d) float32 for each module, or one for the state.
        last_logits: (R, V) float32 at the last token of each row, unshifted.
    """

    def __init__(
        self,
        anatomy: Anatomy,
        rows: Sequence[Sequence[int]],
        subjects: Sequence[int],
        first: int,
        modules: Sequence[str] = (),
    ) -> None:
        self.anatomy, self.first, self.modules = anatomy, first, tuple(modules)
        lm = self.lm = anatomy.lm
        self.blocks = anatomy.blocks
        # A window counts columns, and batches put padding between prefix and rest: then whole rows are run again.
        window = getattr(lm.model.config, "sliding_window", None)
        whole = isinstance(window, int) and window < 2 * max(map(len, rows))
        starts = [0 if whole else place for place in subjects]
        self.cache = self._prefixes([row[:start] for row, start in zip(rows, starts, strict=True)])
        batch = pad(lm, [row[start:] for row, start in zip(rows, starts, strict=True)])
        before = self.prefix_mask.sum(1, keepdim=True)
        self.batch = Batch(batch.input_ids, batch.attention_mask, batch.position_ids + before)
        self.mask = torch.cat([self.prefix_mask, batch.attention_mask], 1)
        width = batch.input_ids.shape[1]
        # (R,) column of the subject's last token
        self.subject = torch.tensor(
            [width - len(row) + place for row, place in zip(rows, subjects, strict=True)], device=lm.device
        )
        self._run_once()

    @torch.no_grad()
    def _prefixes(self, rows: Sequence[Sequence[int]]) -> Any:
        """Run what lies before the subject's last token; it sees no change there, so its keys and values are final."""
        batch = pad(self.lm, rows)
        self.prefix_mask = batch.attention_mask
        if batch.input_ids.shape[1] == 0:
            return None
        cache = DynamicCache(config=self.lm.model.config)
        with headed(self.anatomy, None):
            call(self.lm, batch, cache=cache)
        return cache

    @torch.no_grad()
    def _run_once(self) -> None:
        under = self.anatomy.block_name(self.first - 1) if self.first else None
        kept: list[Any] = []
        with ExitStack() as stack:
            tap = stack.enter_context(Tap(self.lm.model, self.modules, inputs=False))
            stack.enter_context(headed(self.anatomy, lambda states: states[:, -1].contiguous()))
            if under is not None:
                block = self.blocks[self.first - 1]
                stack.callback(block.register_forward_hook(lambda m, args, output: kept.append(output)).remove)
            self.last_logits = call(self.lm, self.batch, mask=self.mask, cache=self._cache()).float()
        width = self.batch.input_ids.shape
        rows = torch.arange(len(self.subject), device=self.subject.device)
        self.state = first_tensor(kept[0]) if kept else None
        self._form = BlockForm.of(kept[0] if kept else None)
        shifted = [tap.outputs[name] for name in self.modules]
        if self.state is not None and not shifted:
            shifted = [self.state]
        self.base = [state.view(*width, -1)[rows, self.subject].float() for state in shifted]

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

    def logits(self, shifts: Sequence[torch.Tensor], rows: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        """Return logits (T, V) with ``shifts`` added.

        Args:
            shifts: (R, d) for each thing to shift.
            rows: Rows of the T places that are wanted, (T,).
            places: Their columns, counted from the last: −1 is the last one, (T,).
        """
        added = [self._spread(shift) for shift in shifts]  # (R, S, d), zero but at the subject
        forwards: dict[nn.Module, Callable[..., Any]] = {}
        if self.state is not None:
            state = self.state if self.modules else self.state + added[0].to(self.state.dtype)
            forwards = self._form.forwards(self.blocks[: self.first], state)
        changes = {name: _adder(shift) for name, shift in zip(self.modules, added, strict=False)}
        keep = int(-places.min())
        picked = headed(self.anatomy, lambda states: states[rows, places])
        with replaced(forwards), Override(self.lm.model, changes), picked:
            return call(self.lm, self.batch, mask=self.mask, cache=self._cache(), keep=keep)

    def _spread(self, shift: torch.Tensor) -> torch.Tensor:
        width = self.batch.input_ids.shape[1]
        here = torch.arange(width, device=shift.device)[None] == self.subject[:, None]  # (R, S)
        return here[..., None] * shift[:, None]


def _adder(shift: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
    # OPT's feed-forward sees rows and columns as one dimension.
    return lambda state: state + shift.to(state.dtype).reshape(state.shape)
