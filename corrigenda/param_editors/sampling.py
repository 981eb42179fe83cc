"""Text from the model itself: contexts for keys, and a corpus for users who have none.

Sampling draws from a generator of its own on the CPU: the global random state is neither used nor changed, and the
same seed gives the same text on every device (up to rounding).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from transformers import DynamicCache

from corrigenda.errors import UnstableUpdate, UnsupportedArchitecture
from corrigenda.lm.tokens import Batch, pad, token_ids
from corrigenda.param_editors.forwards import call

if TYPE_CHECKING:
    from corrigenda.lm.loading import LanguageModel

STARTS = ("The", "Therefore", "Because", "I", "You")
"""What sampled contexts begin with, in turn; from the ROME paper's code."""
CONTEXT_TOP_K = 5

Contexts = tuple[tuple[str, ...], ...]
"""Groups of beginnings to put in front of a prompt; the first group is the bare prompt."""


def every(contexts: Contexts) -> list[str]:
    """Return the beginnings of all groups, in order; the bare prompt is the first."""
    return [context for group in contexts for context in group]


@torch.no_grad()
def sample(
    lm: LanguageModel,
    starts: Sequence[Sequence[int]],
    tokens: int,
    *,
    top_k: int,
    generator: torch.Generator,
    on_step: Callable[[int], None] | None = None,
) -> list[list[int]]:
    """Continue rows of tokens by ``tokens`` sampled ones, from the ``top_k`` most probable; 0 is all."""
    batch = pad(lm, starts)
    cache = DynamicCache(config=lm.model.config)
    mask, positions = batch.attention_mask, batch.position_ids
    rows = [list(start) for start in starts]
    ids = batch.input_ids
    for step in range(tokens):
        logits = call(lm, Batch(ids, mask, positions), mask=mask, cache=cache)[:, -1].float().cpu()
        if top_k:
            least = logits.topk(min(top_k, logits.shape[1])).values[:, -1:]
            logits = logits.masked_fill(logits < least, -torch.inf)
        if bool(logits.isnan().any()):
            raise UnstableUpdate(f"the logits of {lm.name} are not finite", remedy="Check the weights.")
        drawn = torch.multinomial(logits.softmax(-1), 1, generator=generator)  # (rows, 1)
        for row, token in zip(rows, drawn[:, 0].tolist(), strict=True):
            row.append(token)
        ids = drawn.to(lm.device)
        mask = torch.cat([mask, mask.new_ones((len(rows), 1))], 1)
        positions = positions[:, -1:] + 1
        if on_step is not None:
            on_step(step + 1)
    return rows


def sample_contexts(lm: LanguageModel, groups: Sequence[tuple[int, int]], seed: int) -> Contexts:
    """Return the bare prompt and groups of sampled beginnings, each ending in a full stop and a space.

    Args:
        lm: The model.
        groups: (length in tokens, how many) of each group.
        seed: Of the sampling.
    """
    if lm.is_encoder_decoder:
        raise UnsupportedArchitecture(f"{lm.name} is an encoder-decoder; contexts are sampled from decoders")
    generator = torch.Generator().manual_seed(seed)
    found: list[tuple[str, ...]] = [("",)]
    for length, count in groups:
        starts = [token_ids(lm, STARTS[place % len(STARTS)]) for place in range(count)]
        if not starts:
            continue
        rows = sample(lm, starts, length, top_k=CONTEXT_TOP_K, generator=generator)
        texts = lm.tokenizer.batch_decode(rows, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        found.append(tuple(" ".join(text.split()).rstrip(".") + ". " for text in texts))
    return tuple(found)
