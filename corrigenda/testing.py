"""Doubles that ship: deterministic, without models to download. For tests of this package and of what builds on it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_WORD = re.compile(r"\w+")


class FixedEncoder:
    """An encoder without a model: the sum of one fixed random vector a word, so that texts sharing words are similar.

    Args:
        dimension: Length d of a vector, 1 and more.
        fingerprint: See :class:`corrigenda.memory.encoder.Encoder`; the dimension is part of the default.
    """

    def __init__(self, dimension: int = 64, fingerprint: str | None = None) -> None:
        self.dimension = dimension
        self.fingerprint = fingerprint or f"fixed-{dimension}"
        self.calls = 0
        """Texts encoded so far."""
        self._words: dict[str, NDArray[np.float32]] = {}

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return unit rows, (n, d) float32."""
        self.calls += len(texts)
        rows = np.zeros((len(texts), self.dimension), dtype=np.float32)
        for place, text in enumerate(texts):
            row = sum((self._word(word) for word in _WORD.findall(text.casefold())), self._word(""))
            rows[place] = row / np.linalg.norm(row)
        return rows

    def _word(self, word: str) -> NDArray[np.float32]:
        if word not in self._words:
            seed = int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "big")
            self._words[word] = np.random.default_rng(seed).standard_normal(self.dimension).astype(np.float32)
        return self._words[word]
