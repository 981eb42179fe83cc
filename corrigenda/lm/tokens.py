"""Text → tokens: rendering conversations, batches with padding on the left, and where a subject ends.

Text from outside is data. A query that contains ``<|im_start|>system`` must not open a system turn, so plain
text is always encoded with its control-token look-alikes spelled out; only what the chat template itself
wrote counts as control (:class:`Rendered`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from corrigenda.errors import InvalidRequest
from corrigenda.lm.plain import continuation_ids, inside, plain_ids
from corrigenda.lm.rendering import Rendered, control_tokens, render
from corrigenda.lm.subjects import last_subject_token

if TYPE_CHECKING:
    from corrigenda.lm.loading import LanguageModel

__all__ = [
    "Batch",
    "Rendered",
    "check_length",
    "encode",
    "following_ids",
    "last_subject_token",
    "pad",
    "plain_ids",
    "render",
    "token_ids",
]


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows of tokens of different length, padded on the left.

    Attributes:
        input_ids: (rows, columns), long.
        attention_mask: (rows, columns), long; 1 for a token, 0 for padding.
        position_ids: (rows, columns), long; 0, 1, 2… from the first token of each row, 0 on padding.
    """

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    position_ids: torch.Tensor

    @property
    def lengths(self) -> list[int]:
        """Tokens per row, without padding."""
        lengths: list[int] = self.attention_mask.sum(1).tolist()
        return lengths

    def model_inputs(self) -> dict[str, torch.Tensor]:
        """Return the three tensors by the names of a decoder's ``forward``."""
        return {
            "input_ids": self.input_ids,
            "attention_mask": self.attention_mask,
            "position_ids": self.position_ids,
        }


def token_ids(lm: LanguageModel, text: str) -> list[int]:
    """Return the tokens of a prompt, beginning-of-text token included where the model has one.

    A conversation that :func:`render` made keeps its control tokens; in every other text, and in the messages
    of the conversation, strings that look like control tokens are spelled out.
    """
    tokenizer = lm.tokenizer
    if not isinstance(text, Rendered):
        ids = plain_ids(tokenizer, text, add_special_tokens=True)
        return ids if lm.is_encoder_decoder else _without_end(lm, ids)
    if not text.hostile:
        return list(tokenizer(str(text), add_special_tokens=False).input_ids)
    return _disarmed(tokenizer, text)


def _disarmed(tokenizer: Any, text: Rendered) -> list[int]:
    """Return the tokens of a conversation in which only the look-alikes of control tokens are encoded apart."""
    control = control_tokens(tokenizer)
    pieces = [""]  # by turns what the tokenizer may read as it stands, and look-alikes
    for run, is_control in text.runs:
        parts = [run] if is_control or control is None else control.split(run)
        pieces[-1] += parts[0]
        pieces += parts[1:]

    def ids_of(piece: str) -> list[int]:
        return list(tokenizer(piece, add_special_tokens=False).input_ids)

    ids = ids_of(pieces[0])
    for look_alike, rest in zip(pieces[1::2], pieces[2::2], strict=True):
        ids += continuation_ids(tokenizer, look_alike) + inside(ids_of, rest)
    return ids


def following_ids(lm: LanguageModel, prompt: str, ids: Sequence[int], text: str) -> list[int]:
    """Return the tokens of ``text`` as data that follows ``prompt``, whose tokens are ``ids``.

    An encoder-decoder's answer begins with it. Where the boundary would fall inside a token, it is tokenised by itself:
    what the model is given is kept.
    """
    # A conversation of one token is a beginning-of-text token, behind which a text begins.
    if lm.is_encoder_decoder or (isinstance(prompt, Rendered) and len(ids) == 1):
        return plain_ids(lm.tokenizer, text)
    whole = token_ids(lm, prompt + text)
    return whole[len(ids) :] if whole[: len(ids)] == ids else continuation_ids(lm.tokenizer, text)


def encode(lm: LanguageModel, texts: Sequence[str]) -> Batch:
    """Return prompts as one batch on the model's device, padded on the left.

    Raises:
        InvalidRequest: A prompt without tokens, or longer than the context.
    """
    rows = [token_ids(lm, text) for text in texts]
    for row in rows:
        check_length(lm, row)
    return pad(lm, rows)


def pad(lm: LanguageModel, rows: Sequence[Sequence[int]]) -> Batch:
    """Return rows of tokens as one batch on the model's device, padded on the left."""
    width = max(len(row) for row in rows)
    ids = torch.full((len(rows), width), lm.pad_id, dtype=torch.long)
    mask = torch.zeros((len(rows), width), dtype=torch.long)
    for place, row in enumerate(rows):
        if row:
            ids[place, width - len(row) :] = torch.tensor(row)
            mask[place, width - len(row) :] = 1
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    return Batch(ids.to(lm.device), mask.to(lm.device), positions.to(lm.device))


def check_length(lm: LanguageModel, ids: Sequence[int], *, room: int = 1) -> None:
    """Refuse a prompt that has no tokens or leaves less than ``room`` tokens of the context for an answer.

    Raises:
        InvalidRequest: Names the number of tokens and the context length.
    """
    if not ids:
        raise InvalidRequest("the prompt has no tokens", remedy="Give some text.")
    if len(ids) + room > lm.context_length:
        raise InvalidRequest(
            f"the prompt has {len(ids):,} tokens; {lm.name} reads {lm.context_length:,}, the answer included",
            remedy="Shorten the prompt, or use a model with a longer context.",
        )


def _without_end(lm: LanguageModel, ids: list[int]) -> list[int]:
    # Some tokenizers close every text with an end token; a prompt that is to be continued must stay open.
    while len(ids) > 1 and ids[-1] in lm.eos_ids:
        ids = ids[:-1]
    return ids
