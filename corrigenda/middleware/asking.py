"""What the bare model says to requests, edits left out: for strategies that ask several times."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from corrigenda.chat import Chat
from corrigenda.lm.scoring import greedy
from corrigenda.lm.stopping import NATURAL
from corrigenda.middleware.answering import MAX_NEW_TOKENS, Job, Options, answer

if TYPE_CHECKING:
    from corrigenda.lm.loading import LanguageModel

_FAST = frozenset({"max_new_tokens", "stop"})
"""Options that the fast greedy loop knows."""


def bare_answers(lm: LanguageModel, requests: Sequence[Chat]) -> list[str]:
    """Answer ``requests``; those with equal options, and texts that begin alike, go together.

    The examples that stand before a question are most of its tokens. Where many questions share them, they run once.
    """
    groups: dict[tuple[str, str], list[int]] = {}
    for place, request in enumerate(requests):
        begun = request.query.rpartition("\n\n")[0] if _is_fast(request) else ""
        groups.setdefault((repr(sorted(request.options.items())), begun), []).append(place)
    texts = [""] * len(requests)
    for places in groups.values():
        for place, text in zip(places, _together(lm, [requests[place] for place in places]), strict=True):
            texts[place] = text
    return texts


def _together(lm: LanguageModel, requests: Sequence[Chat]) -> list[str]:
    settings = Options.of(requests[0].options)
    if _is_fast(requests[0]):
        longest = settings.passed.get("max_new_tokens", MAX_NEW_TOKENS)
        stop = settings.stop or NATURAL
        return greedy(lm, [request.query for request in requests], max_new_tokens=longest, stop=stop)
    return answer(lm, [Job.of(lm, request, None, settings.stop) for request in requests], settings)


def _is_fast(request: Chat) -> bool:
    return request.completion and set(request.options) <= _FAST
