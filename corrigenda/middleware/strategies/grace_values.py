"""GRACE's keys and values: what a feed-forward is given at the end of a prompt, and what it should return there.

A value is found by gradient descent (Adam) on the negative log-likelihood of the target, the model's weights at rest.
It is laid over the output of the feed-forward at the prompt's last token, and nowhere else: what comes before cannot
see it, and what comes after sees it through the attention of the blocks above. So keys and values of the tokens before
are computed once, the blocks below are run once, and a step costs the target's tokens in the blocks above.

Each value depends on the model and its edit alone, not on other edits, their order, or the batch it was trained in.

Shapes: R rows, S columns (last prompt token, then the target), d hidden size, k width of a key, V vocabulary.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from transformers import DynamicCache

from corrigenda.errors import UnsupportedArchitecture
from corrigenda.lm.hooks import Override, Tap
from corrigenda.lm.partial import from_block, up_to
from corrigenda.lm.supported import parameters
from corrigenda.lm.tokens import Batch, pad

if TYPE_CHECKING:
    from corrigenda.lm.loading import LanguageModel

ROWS = 16
"""Values that are trained side by side."""
BATCH_TOKENS = 4_096
"""Most tokens of a forward pass without gradients, padding included."""
Progress = Callable[[int, int], None]
"""Called with (values done, values in total)."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How values are trained.

    Attributes:
        steps: Most steps of Adam.
        lr: Its learning rate, in units of the root mean square of the output that is replaced.
        enough: A value is done when no token of its target has a negative log-likelihood above this, ≥ 0.
    """

    steps: int = 60
    lr: float = 0.33
    enough: float = 0.1


@torch.no_grad()
def last_states(lm: LanguageModel, rows: Sequence[Sequence[int]], layer: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what the feed-forward of block ``layer`` is given and returns at the last token of each row.

    Returns:
        (R, k) and (R, d), float32; blocks above ``layer`` are not run.
    """
    module = lm.layers.mlp(layer)
    view = up_to(lm, layer)
    found: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
    places = sorted(range(len(rows)), key=lambda place: -len(rows[place]))
    while places:
        size = max(1, BATCH_TOKENS // max(len(rows[places[0]]), 1))
        chosen, places = places[:size], places[size:]
        batch = pad(lm, [rows[place] for place in chosen])
        with Tap(view, [module]) as tap:
            _run(view, batch, batch.attention_mask, None)
        ends = [states[module].view(len(chosen), -1, states[module].shape[-1])[:, -1].float() for states in _both(tap)]
        found.update((place, (ends[0][at], ends[1][at])) for at, place in enumerate(chosen))
    keys, outputs = zip(*(found[place] for place in range(len(rows))), strict=True)
    return torch.stack(keys), torch.stack(outputs)


def _both(tap: Tap) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    return tap.inputs, tap.outputs


@torch.inference_mode(False)  # whoever asks may be in it, and its tensors can never be trained with
def values(
    lm: LanguageModel,
    prompts: Sequence[Sequence[int]],
    targets: Sequence[Sequence[int]],
    layer: int,
    recipe: Recipe,
    progress: Progress | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Train a value for each prompt and target.

    Args:
        lm: A decoder-only model.
        prompts: Tokens, none empty.
        targets: Tokens, none empty.
        layer: The block whose feed-forward is edited.
        recipe: How.
        progress: Told after each batch.

    Returns:
        (R, d) float32, and (R,) the largest negative log-likelihood of a target token with it.
    """
    order = sorted(range(len(prompts)), key=lambda place: len(targets[place]))
    _, start = last_states(lm, prompts, layer)
    found: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
    for first in range(0, len(order), ROWS):
        places = order[first : first + ROWS]
        job = _Training(lm, [prompts[p] for p in places], [targets[p] for p in places], layer)
        trained, worst = job.train(start[places], recipe)
        found.update(zip(places, zip(trained, worst, strict=True), strict=True))
        if progress is not None:
            progress(len(found), len(order))
    rows = [found[place] for place in range(len(prompts))]
    return torch.stack([row[0] for row in rows]), torch.stack([row[1] for row in rows])


class _Training:
    """Values that are trained side by side, from block ``layer`` on."""

    def __init__(
        self, lm: LanguageModel, prompts: Sequence[Sequence[int]], targets: Sequence[Sequence[int]], layer: int
    ) -> None:
        self.module = lm.layers.mlp(layer)
        self.rows = len(prompts)
        before = pad(lm, [prompt[:-1] for prompt in prompts])
        self.cache = self._prefix(lm, before)
        rows = [[prompt[-1], *target[:-1]] for prompt, target in zip(prompts, targets, strict=True)]
        width = max(map(len, rows))
        # Padding on the right: every row begins with the last token of its prompt, where the value goes.
        ids = torch.tensor([row + [lm.pad_id] * (width - len(row)) for row in rows], device=lm.device)  # (R, S)
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows], device=lm.device)
        wanted = [list(target) + [0] * (width - len(target)) for target in targets]
        self.targets = torch.tensor(wanted, device=lm.device)  # (R, S)
        self.real = mask.bool()
        positions = before.attention_mask.sum(1, keepdim=True) + torch.arange(width, device=lm.device)[None]
        self.batch = Batch(ids, mask, positions)
        self.mask = torch.cat([before.attention_mask, mask], 1)
        self.upper = self._upper(lm, layer)

    @torch.no_grad()
    def _prefix(self, lm: LanguageModel, before: Batch) -> Any:
        if before.input_ids.shape[1] == 0:
            return None
        cache = DynamicCache(config=lm.model.config)
        _run(lm.model, before, before.attention_mask, cache)
        return cache

    @torch.no_grad()
    def _upper(self, lm: LanguageModel, layer: int) -> Any:
        """Return a view of the model that begins with what block ``layer`` is given."""
        if layer == 0:
            return lm.model
        under = lm.layers.block(layer - 1)
        with Tap(lm.model, [under], inputs=False) as tap:
            _run(lm.model, self.batch, self.mask, _branch(self.cache))
        return from_block(lm, layer, tap.outputs[under])

    @torch.enable_grad()
    def train(self, start: torch.Tensor, recipe: Recipe) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the values, (R, d), and how far they are: see :func:`values`."""
        # Adam's steps are as long as its learning rate whatever the gradient: they are taken in units of what is there.
        unit = start.square().mean(1, keepdim=True).sqrt().clamp(min=1e-6)  # (R, 1)
        shift = torch.zeros_like(start).requires_grad_()
        optimiser = torch.optim.Adam([shift], lr=recipe.lr)
        best, least = start.clone(), torch.full((self.rows,), torch.inf, device=start.device)
        worst = least.clone()
        for step in range(recipe.steps + 1):
            value = start + unit * shift
            losses = self._losses(value)  # (R, S)
            # A value that is done stays as it is: what the others still need must make no difference to it.
            better = (losses.detach().sum(1) < least) & (worst > recipe.enough)
            least = torch.where(better, losses.detach().sum(1), least)
            worst = torch.where(better, losses.detach().amax(1), worst)
            best[better] = value.detach()[better]
            if step == recipe.steps or bool((worst <= recipe.enough).all()):
                break
            going = (worst > recipe.enough)[:, None]
            (shift.grad,) = torch.autograd.grad((losses * going).sum(), [shift])
            optimiser.step()
        return best, worst

    def _losses(self, value: torch.Tensor) -> torch.Tensor:
        """Return the negative log-likelihood of each target token, (R, S), 0 on padding."""
        width = self.batch.input_ids.shape[1]

        def replace(states: torch.Tensor) -> torch.Tensor:
            whole = states.view(self.rows, width, -1)
            return torch.cat([value[:, None].to(states.dtype), whole[:, 1:]], 1).view_as(states)

        with Override(self.upper, {self.module: replace}):
            logits = _run(self.upper, self.batch, self.mask, _branch(self.cache), keep=width)
        losses = torch.nn.functional.cross_entropy(logits.float().transpose(1, 2), self.targets, reduction="none")
        return losses * self.real


def _branch(cache: Any) -> Any:
    """Return a cache that can be extended: the tensors are shared, the lists of them are not."""
    if cache is None:
        return None
    branch = copy.copy(cache)
    branch.layers = [copy.copy(layer) for layer in cache.layers]
    return branch


def _run(model: Any, batch: Batch, mask: torch.Tensor, cache: Any, *, keep: int = 1) -> torch.Tensor:
    names = parameters(type(model).forward)
    extra: dict[str, Any] = {"use_cache": cache is not None, "past_key_values": cache}
    if "position_ids" in names:
        extra["position_ids"] = batch.position_ids
    if "logits_to_keep" in names:
        extra["logits_to_keep"] = keep
    logits: torch.Tensor = model(input_ids=batch.input_ids, attention_mask=mask, **extra).logits
    return logits


def check_supported(lm: LanguageModel) -> None:
    """Refuse models that GRACE cannot be laid into here.

    Raises:
        UnsupportedArchitecture: An encoder-decoder, or no layer map.
    """
    if lm.is_encoder_decoder:
        raise UnsupportedArchitecture(
            f"GRACE is laid into decoder-only models; {lm.name} is an encoder-decoder",
            remedy="Use the strategy 'auto' or 'ike' with it.",
        )
    _ = lm.layers
