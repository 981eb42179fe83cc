"""One forward pass at a time with a key-value cache, for decoders and for encoder-decoders alike.

transformers' ``generate`` would do, but it carries the sampling defaults of the checkpoint, keeps finished
rows in the batch, and cannot share the cache of a common beginning. This loop is plain: last-position logits,
rows leave when done.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
from transformers import DynamicCache, EncoderDecoderCache

from corrigenda.lm.kv_cache import new_cache, spread
from corrigenda.lm.supported import parameters
from corrigenda.lm.tokens import pad

if TYPE_CHECKING:
    from corrigenda.lm.loading import LanguageModel


class Decoder(Protocol):
    """Rows that are being continued."""

    def logits(self, tokens: torch.Tensor | None) -> torch.Tensor:
        """Append ``tokens`` (rows,), nothing at first, and return logits (rows, vocabulary)."""
        ...

    def keep(self, rows: torch.Tensor) -> None:
        """Go on with these ``rows`` (places, long) only."""
        ...


@dataclass(frozen=True, slots=True)
class SharedPrefix:
    """The cache of a beginning that several rows have in common.

    Attributes:
        ids: Its tokens.
        cache: Keys and values of one row.
    """

    ids: tuple[int, ...]
    cache: DynamicCache

    @classmethod
    def of(cls, lm: LanguageModel, ids: Sequence[int]) -> SharedPrefix:
        """Run ``ids`` through the model once."""
        cache = new_cache(lm.model.config, room=0)
        batch = pad(lm, [ids])
        forward(lm, batch.input_ids, batch.attention_mask, batch.position_ids, cache, keep=1)
        return cls(tuple(ids), cache)

    def expanded(self, rows: int, room: int = 0) -> DynamicCache:
        """Return a cache of its own for ``rows`` rows that all begin like this, with ``room`` columns to spare."""
        return spread(self.cache, rows, room)


def forward(
    lm: LanguageModel,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    position_ids: torch.Tensor,
    cache: DynamicCache | None,
    *,
    keep: int,
) -> torch.Tensor:
    """Run a decoder and return the logits of the last ``keep`` positions: (rows, keep, vocabulary)."""
    names = parameters(type(lm.model).forward)
    extra: dict[str, Any] = {"use_cache": cache is not None, "past_key_values": cache}
    if "position_ids" in names:
        extra["position_ids"] = position_ids
    if "logits_to_keep" in names:
        extra["logits_to_keep"] = keep
    logits: torch.Tensor = lm.model(input_ids=input_ids, attention_mask=attention_mask, **extra).logits
    return logits[:, -keep:]


class CausalDecoder:
    """Rows continued by a decoder-only model.

    Args:
        lm: The model.
        rows: Tokens of each row, without what ``shared`` holds.
        shared: A beginning that all rows have in common and that has been run already.
        room: Tokens that will probably be appended.
    """

    def __init__(
        self, lm: LanguageModel, rows: Sequence[Sequence[int]], shared: SharedPrefix | None = None, room: int = 64
    ) -> None:
        self.lm = lm
        batch = pad(lm, rows)
        before = len(shared.ids) if shared else 0
        ones = batch.attention_mask.new_ones((len(rows), before))
        self.mask = torch.cat([ones, batch.attention_mask], dim=1)  # (rows, columns so far)
        self.positions = batch.position_ids + before
        self.ids = batch.input_ids
        self.cache = shared.expanded(len(rows), room) if shared else new_cache(lm.model.config, room)

    def logits(self, tokens: torch.Tensor | None) -> torch.Tensor:
        """See :class:`Decoder`."""
        if tokens is not None:
            self.ids = tokens[:, None]
            self.mask = torch.cat([self.mask, self.mask.new_ones((len(tokens), 1))], dim=1)
            self.positions = self.positions[:, -1:] + 1
        return forward(self.lm, self.ids, self.mask, self.positions, self.cache, keep=1)[:, -1]

    def keep(self, rows: torch.Tensor) -> None:
        """See :class:`Decoder`."""
        self.mask, self.positions = self.mask[rows], self.positions[rows]
        self.cache.reorder_cache(rows)


class EncoderDecoder:
    """Rows answered by an encoder-decoder: the encoder runs once, the decoder starts from its start token.

    Args:
        lm: The model.
        rows: Tokens of each prompt.
        begun: Tokens that each answer begins with.
    """

    def __init__(self, lm: LanguageModel, rows: Sequence[Sequence[int]], begun: Sequence[Sequence[int]]) -> None:
        self.lm = lm
        batch = pad(lm, rows)
        self.source_mask = batch.attention_mask
        self.states = lm.model.get_encoder()(
            input_ids=batch.input_ids, attention_mask=batch.attention_mask
        ).last_hidden_state  # (rows, columns, hidden)
        start = decoder_start(lm)
        answers = pad(lm, [[start, *tokens] for tokens in begun])
        self.ids, self.mask = answers.input_ids, answers.attention_mask
        self.cache = EncoderDecoderCache(DynamicCache(), DynamicCache())

    def logits(self, tokens: torch.Tensor | None) -> torch.Tensor:
        """See :class:`Decoder`."""
        if tokens is not None:
            self.ids = tokens[:, None]
            self.mask = torch.cat([self.mask, self.mask.new_ones((len(tokens), 1))], dim=1)
        done = self.lm.model(
            encoder_outputs=(self.states,),
            attention_mask=self.source_mask,
            decoder_input_ids=self.ids,
            decoder_attention_mask=self.mask,
            past_key_values=self.cache,
            use_cache=True,
        )
        logits: torch.Tensor = done.logits[:, -1]
        return logits

    def keep(self, rows: torch.Tensor) -> None:
        """See :class:`Decoder`."""
        self.mask, self.source_mask, self.states = self.mask[rows], self.source_mask[rows], self.states[rows]
        self.cache.reorder_cache(rows)


def answer_logits(
    lm: LanguageModel, sources: Sequence[Sequence[int]], targets: Sequence[Sequence[int]]
) -> torch.Tensor:
    """Run an encoder-decoder on prompts and answers once, the right tokens before each given; keeps gradients.

    Args:
        lm: An encoder-decoder.
        sources: Tokens for the encoder, one row a prompt.
        targets: Tokens of the answers; the last one of each is predicted and not read.

    Returns:
        Logits (rows, columns, vocabulary); each row ends with those that predict its target.
    """
    source = pad(lm, sources)
    answer = pad(lm, [[decoder_start(lm), *target[:-1]] for target in targets])
    logits: torch.Tensor = lm.model(
        input_ids=source.input_ids,
        attention_mask=source.attention_mask,
        decoder_input_ids=answer.input_ids,
        decoder_attention_mask=answer.attention_mask,
    ).logits
    return logits


def decoder_start(lm: LanguageModel) -> int:
    """Return the token that an encoder-decoder's answers start from."""
    for holder in (lm.model.generation_config, lm.model.config):
        token = getattr(holder, "decoder_start_token_id", None)
        if token is not None:
            return int(token)
    return lm.pad_id
