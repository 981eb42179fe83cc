"""Tokens → the text that they add to what stands before them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from corrigenda.lm.rendering import Rendered

if TYPE_CHECKING:
    from corrigenda.lm.loading import LanguageModel


def text_after(tokenizer: Any, before: Sequence[int], said: Sequence[int]) -> str:
    """Return the text of ``said`` as it goes on after ``before``, control tokens left out.

    Tokenizers of SentencePiece's kind drop the space of the first token that they decode, so the last tokens of
    ``before`` are decoded as well: one, or as many as it takes to begin and end with a whole character.
    """
    size = 1
    while "�" in (context := _decoded(tokenizer, before[-size:])) and size < len(before):
        size *= 2
    whole = _decoded(tokenizer, [*before[-size:], *said])
    # Half a character at the end of ``said`` may spoil, with tokens of single bytes, the whole ones before it.
    return whole[len(context) :] if whole.startswith(context) else _decoded(tokenizer, said)


def continues(lm: LanguageModel, prompt: str) -> bool:
    """Tell whether an answer goes on with the text of ``prompt``, rather than being a turn or an encoder-decoder's."""
    return not lm.is_encoder_decoder and not isinstance(prompt, Rendered)


def _decoded(tokenizer: Any, ids: Sequence[int]) -> str:
    text: str = tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return text
