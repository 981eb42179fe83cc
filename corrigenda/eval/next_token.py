"""How probable the next token is, before and after an edit.

The whole distribution is as long as the vocabulary. What is kept is the :data:`KEPT` most probable tokens of the
unedited model; everything else counts as one more outcome. The Kullback–Leibler divergence over these outcomes is
never larger than the one over the vocabulary (grouping outcomes cannot add information), and hardly smaller: a drift
among tokens that neither model would say is all that it misses.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from corrigenda.eval.editable import NextToken

if TYPE_CHECKING:
    from corrigenda.lm.loading import LanguageModel

KEPT = 100
"""Tokens of a distribution that are kept by themselves."""
FLOOR = 1e-12
"""Least probability of an outcome, so that divergences stay finite: at most ln 10¹² = 27.6 nats."""


def next_tokens(
    lm: LanguageModel,
    prompts: Sequence[str],
    among: Sequence[Sequence[int]] | None = None,
    *,
    batch_size: int = 32,
) -> list[NextToken]:
    """Return the distribution of ``lm`` after each prompt.

    Args:
        lm: The model.
        prompts: Texts, or rendered conversations.
        among: Tokens to look up, one list a prompt; the :data:`KEPT` most probable ones by default.
        batch_size: Most rows of a forward pass.

    Raises:
        InvalidRequest: A prompt without tokens, or longer than the context.
    """
    import torch

    from corrigenda.lm.decoding import decoder_start, forward
    from corrigenda.lm.tokens import check_length, pad, token_ids

    rows = [token_ids(lm, prompt) for prompt in prompts]
    for row in rows:
        check_length(lm, row)
    order = sorted(range(len(rows)), key=lambda place: -len(rows[place]))
    found: dict[int, NextToken] = {}
    with torch.inference_mode():
        for start in range(0, len(order), batch_size):
            places = order[start : start + batch_size]
            batch = pad(lm, [rows[place] for place in places])
            if lm.is_encoder_decoder:
                begun = batch.input_ids.new_full((len(places), 1), decoder_start(lm))
                logits = lm.model(
                    input_ids=batch.input_ids, attention_mask=batch.attention_mask, decoder_input_ids=begun
                ).logits[:, -1]
            else:
                logits = forward(lm, batch.input_ids, batch.attention_mask, batch.position_ids, None, keep=1)[:, -1]
            log_probs = logits.float().log_softmax(-1)  # (rows, vocabulary)
            for own, place in zip(log_probs, places, strict=True):
                if among is None:
                    chosen = own.topk(min(KEPT, len(own))).indices
                else:
                    chosen = torch.tensor(list(among[place]), dtype=torch.long, device=own.device)
                found[place] = NextToken(tuple(chosen.tolist()), tuple(own[chosen].tolist()), int(own.argmax()))
    return [found[place] for place in range(len(rows))]


def certain(token: int, among: Sequence[int] | None = None) -> NextToken:
    """Return the distribution of an answer that is made to begin with ``token``."""
    ids = tuple(among) if among is not None else (token,)
    return NextToken(ids, tuple(0.0 if kept == token else math.log(FLOOR) for kept in ids), token)


def divergence(before: NextToken, after: NextToken) -> float:
    """Return the Kullback–Leibler divergence D(before ‖ after) in nats, over the tokens of ``before`` and the rest.

    Both must list the same tokens. 0 when nothing changed; see the module's docstring for what it leaves out.

    Raises:
        ValueError: They list different tokens, or hold NaN.
    """
    if before.ids != after.ids:
        raise ValueError("the distributions list different tokens")
    # max(0.0, nan) is 0.0: a broken model would agree with everything.
    if any(math.isnan(value) for item in (before, after) for value in item.log_probs):
        raise ValueError("a log-probability is not a number")
    p, q = ([math.exp(value) for value in item.log_probs] for item in (before, after))
    p.append(max(0.0, 1.0 - math.fsum(p)))
    q.append(max(0.0, 1.0 - math.fsum(q)))
    total = math.fsum(a * (math.log(a) - math.log(max(b, FLOOR))) for a, b in zip(p, q, strict=True) if a > FLOOR)
    return max(0.0, total)
