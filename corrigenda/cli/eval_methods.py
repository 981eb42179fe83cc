"""Editing methods by name, as the evaluation suite needs them: ``none``, and every registered strategy."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from corrigenda.chat import Chat
from corrigenda.errors import UnknownName
from corrigenda.eval.cache import Cached
from corrigenda.eval.editable import Editable, Undo

if TYPE_CHECKING:
    from corrigenda.edit import Edit
    from corrigenda.lm.loading import LanguageModel
    from corrigenda.lm.scoring import TargetScore
    from corrigenda.memory.encoder import Encoder
    from corrigenda.middleware.editable import EditableModel

NONE = "none"
"""The method that does nothing: the unedited model, the baseline of every table."""


@dataclass(frozen=True)
class Method:
    """A method, ready to be scored.

    Attributes:
        editable: The method.
        collecting: See :class:`corrigenda.eval.protocol.Run`.
        settings: What it was set to, for the results file.
    """

    editable: Editable
    collecting: Callable[[], AbstractContextManager[None]] | None
    settings: dict[str, Any]


def known_methods() -> list[str]:
    """Return the names of all methods."""
    from corrigenda.middleware.strategies.base import available

    return [NONE, *available()]


@contextmanager
def open_method(name: str, lm: LanguageModel, unedited: Cached, *, threshold: float | None = None) -> Iterator[Method]:
    """Open the method ``name``; what it keeps on disk is removed at the end.

    Raises:
        UnknownName: No such method.
    """
    if name not in (known := known_methods()):
        raise UnknownName.among("method", name, known)
    if name == NONE:
        yield Method(unedited, unedited.collecting, {})
        return
    from corrigenda.memory.encoder import MiniLM
    from corrigenda.middleware.editable import EditableModel

    encoder = Remembering(MiniLM.load())
    with EditableModel(lm, strategy=name, encoder=encoder, scope_threshold=threshold) as edited:
        settings = {
            "strategy": name,
            "scope_threshold": edited.model.scope.threshold,
            "encoder": encoder.fingerprint,
        }
        yield Method(PassingThrough(edited, unedited), unedited.collecting, settings)


class PassingThrough:
    """A memory in front of a model whose answers to untouched prompts are taken from a cache.

    A prompt that no edit concerns reaches the model as it is, so what the model said to it before is what it says now.
    """

    def __init__(self, edited: EditableModel, unedited: Cached) -> None:
        self.edited = edited
        self.unedited = unedited

    def edit(self, edits: Sequence[Edit]) -> Undo:
        """Put the edits into the memory."""
        return self.edited.edit(edits)

    def generate(self, prompts: Sequence[str], *, max_new_tokens: int) -> list[str]:
        """Continue the prompts in the light of the memory."""

        def touched(some: Sequence[int]) -> list[str]:
            if self.unedited.is_collecting:
                return [""] * len(some)  # to be thrown away; only what goes to the bare model is wanted
            return self.edited.generate([prompts[place] for place in some], max_new_tokens=max_new_tokens)

        def untouched(some: Sequence[int]) -> list[str]:
            return self.unedited.generate([prompts[place] for place in some], max_new_tokens=max_new_tokens)

        return self._split(prompts, touched, untouched)

    def score(self, prompts: Sequence[str], targets: Sequence[str]) -> list[TargetScore]:
        """Score the targets in the light of the memory."""

        def touched(some: Sequence[int]) -> list[TargetScore]:
            method = self.unedited if self.unedited.is_collecting else self.edited
            return method.score([prompts[place] for place in some], [targets[place] for place in some])

        def untouched(some: Sequence[int]) -> list[TargetScore]:
            return self.unedited.score([prompts[place] for place in some], [targets[place] for place in some])

        return self._split(prompts, touched, untouched)

    def _split(
        self,
        prompts: Sequence[str],
        touched: Callable[[Sequence[int]], list[Any]],
        untouched: Callable[[Sequence[int]], list[Any]],
    ) -> list[Any]:
        """Answer by place: prompts that an edit concerns one way, the rest the other."""
        decisions = self.edited.model.decide([Chat.of(prompt) for prompt in prompts])
        results: list[Any] = [None] * len(prompts)
        for fired, answer in ((True, touched), (False, untouched)):
            places = [place for place, item in enumerate(decisions) if (item.plan is not None) == fired]
            if places:
                for place, result in zip(places, answer(places), strict=True):
                    results[place] = result
        return results


class Remembering:
    """An encoder that encodes each text once: a suite asks the same prompts again and again."""

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder
        self.dimension = encoder.dimension
        self.fingerprint = encoder.fingerprint
        self._vectors: dict[str, np.ndarray] = {}

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Return unit vectors (n, d) float32 of ``texts``."""
        new = [text for text in dict.fromkeys(texts) if text not in self._vectors]
        if new:
            self._vectors.update(zip(new, self.encoder.encode(new), strict=True))
        if not texts:
            return np.empty((0, self.dimension), dtype=np.float32)
        return np.stack([self._vectors[text] for text in texts])
