"""Which architectures can be run as this package runs them: in batches padded on the left, with a key-value cache.

transformers can run more. What is refused here would be answered wrongly without a word: with others in its batch
differently than alone, or without the tokens that came before.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from corrigenda.errors import UnsupportedArchitecture

NO_CODE = {"trust_remote_code": False}
"""For every ``from_pretrained``: without it transformers asks on the terminal whether a checkpoint's code may run."""

_WITHOUT_COLUMNS = frozenset({"t5", "mt5", "umt5", "m2m_100"})
"""Encoder-decoders whose positions are relative, or counted from the first token that is no padding."""

_REFUSED = {
    "minimax": "its linear attention takes only a cache of its own",
    "recurrent_gemma": "its recurrence reads padding, so that prompts in one batch change each other's answers",
}


def check_supported(source: str, config: Any, kind: type) -> None:
    """Refuse a model that could not be asked reliably.

    Args:
        source: What it is loaded from, for the message.
        config: Its configuration.
        kind: The class that would run it.

    Raises:
        UnsupportedArchitecture: Says why.
    """
    reason = _REFUSED.get(config.model_type, "")
    local = config.model_type == "longt5" and config.encoder_attention_type == "local"
    if config.is_encoder_decoder and config.model_type not in _WITHOUT_COLUMNS and not local:
        reason = "it is not known to pass over padding, so that prompts in one batch may change each other's answers"
    elif "past_key_values" not in parameters(kind.forward):  # type: ignore[attr-defined] # every model has one
        reason = "it takes no key-value cache"
    if reason:
        raise UnsupportedArchitecture(
            f"{source} holds a {config.model_type!r} model, which cannot be used here: {reason}",
            remedy="Give a model of another architecture: Llama, Qwen, Gemma, GPT-2, T5 and most others will do.",
        )


@lru_cache(maxsize=64)
def parameters(function: Callable[..., Any]) -> frozenset[str]:
    """Return the names of the parameters of ``function``: architectures differ in what they take."""
    return frozenset(inspect.signature(function).parameters)
