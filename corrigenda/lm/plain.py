"""Text that is data → tokens: what looks like a control token is spelled out, whatever other threads ask meanwhile.

Tokenizers of the ``tokenizers`` library keep the switch for this in the object that all threads share, and set it in
a step of its own before they encode. So data has a copy of its own in which the switch is always on: nobody else's
call can open a control turn in it, and no call here spells out the control tokens of somebody else's conversation.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

_COPIES: WeakKeyDictionary[Any, tuple[Any, int, Any]] = WeakKeyDictionary()
"""Of each tokenizer: its backend and the number of its tokens when it was copied, and the copy."""


def plain_ids(tokenizer: Any, text: str, *, add_special_tokens: bool = False) -> list[int]:
    """Return the tokens of ``text`` as data: what looks like a control token is spelled out."""
    return list(plain_encoding(tokenizer, text, add_special_tokens=add_special_tokens).input_ids)


def plain_encoding(tokenizer: Any, text: str, **options: Any) -> Any:
    """Return what ``tokenizer`` makes of ``text`` as data; ``options`` are its own."""
    return _for_data(tokenizer)(text, split_special_tokens=True, **options)


def continuation_ids(tokenizer: Any, text: str) -> list[int]:
    """Return the tokens of ``text`` as data that goes on with another text: no space is put in front of it."""
    return inside(lambda whole: plain_ids(tokenizer, whole), text)


def inside(encode: Callable[[str], list[int]], text: str) -> list[int]:
    """Return what ``encode`` makes of ``text`` where it does not begin a text."""
    # SentencePiece puts a space in front of every text. A line break takes it, and keeps its own tokens otherwise.
    before, whole = encode("\n"), encode(f"\n{text}")
    return whole[len(before) :] if whole[: len(before)] == before else encode(text)


def _for_data(tokenizer: Any) -> Any:
    """Return the copy of ``tokenizer`` that reads every text as data; made anew when it has got more tokens."""
    if not tokenizer.is_fast:
        return tokenizer  # those written in Python share no switch
    backend, size = tokenizer.backend_tokenizer, len(tokenizer)
    known = _COPIES.get(tokenizer)
    if known is not None and known[0] is backend and known[1] == size:
        return known[2]
    made = copy.copy(tokenizer)
    made._tokenizer = copy.deepcopy(backend)
    made._tokenizer.encode_special_tokens = True
    _COPIES[tokenizer] = (backend, size, made)
    return made
