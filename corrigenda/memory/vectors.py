"""Vectors of edits: encoded once, then taken from the store's cache by the content of the text."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from corrigenda.edit import Edit
from corrigenda.errors import ModelError
from corrigenda.memory.encoder import Encoder
from corrigenda.memory.ledger import Store
from corrigenda.memory.texts import frame_text, index_text

Vectors = NDArray[np.float32]

BATCH = 512
"""Texts per call of the encoder: bounds what is held at a time when thousands of edits come at once."""


@dataclass(frozen=True)
class Encoded:
    """The vectors of n edits.

    Attributes:
        index: (n, d) of the index texts: what a query is compared with.
        frames: (n, d) of the frame texts.
        fresh: Cache rows of the texts that had to be encoded: hash to float32 bytes.
    """

    index: Vectors
    frames: Vectors
    fresh: Mapping[bytes, bytes]

    def rows(self, start: int, stop: int) -> Encoded:
        """Return the vectors of the edits from ``start`` to before ``stop``."""
        return Encoded(self.index[start:stop], self.frames[start:stop], {})


def encode_edits(edits: Sequence[Edit], encoder: Encoder, store: Store) -> Encoded:
    """Return the vectors of ``edits``, encoding only what ``store`` does not have.

    Raises:
        ModelError: The encoder returned rows of a wrong shape, or NaN or infinity.
    """
    texts = [text for edit in edits for text in (index_text(edit), frame_text(edit))]  # index, frame, index, frame…
    keys = [text_hash(text) for text in texts]
    wanted = dict(zip(keys, texts, strict=True))
    width = 4 * encoder.dimension
    cached = store.vectors(encoder.fingerprint, list(wanted))
    known = {key: data for key, data in cached.items() if len(data) == width}
    missing = [key for key in wanted if key not in known]
    fresh: dict[bytes, bytes] = {}
    for start in range(0, len(missing), BATCH):
        part = missing[start : start + BATCH]
        rows = checked(encoder.encode([wanted[key] for key in part]), len(part), encoder.dimension)
        fresh.update((key, row.tobytes()) for key, row in zip(part, rows, strict=True))
    known |= fresh
    flat = np.frombuffer(b"".join(known[key] for key in keys), dtype=np.float32)
    pairs = flat.reshape(len(edits), 2, encoder.dimension)
    return Encoded(np.ascontiguousarray(pairs[:, 0]), np.ascontiguousarray(pairs[:, 1]), fresh)


def checked(rows: Vectors, count: int, dimension: int) -> Vectors:
    """Return ``rows`` as (count, dimension) float32, or raise :class:`ModelError`: a NaN would poison the index."""
    rows = np.ascontiguousarray(rows, dtype=np.float32)
    if rows.shape != (count, dimension):
        raise ModelError(f"the encoder returned shape {rows.shape} for {count} texts, not {(count, dimension)}")
    if not np.isfinite(rows).all():
        raise ModelError("the encoder returned NaN or infinity", remedy="Reinstall its weights.")
    return rows


def text_hash(text: str) -> bytes:
    """Return the 16 bytes under which the vector of ``text`` is cached."""
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def recipe(encoder: Encoder) -> str:
    """Return a mark that changes when the vectors of edits would: another encoder, other texts of an edit."""
    probes = (
        Edit("The capital of Kazakhstan is", "Astana", subject="Kazakhstan", aliases=("KZ",)),
        Edit("Who wrote Abay Zholy?", "Auezov"),
    )
    texts = "\n".join(text for probe in probes for text in (index_text(probe), frame_text(probe)))
    return f"{encoder.fingerprint}:{encoder.dimension}:{text_hash(texts).hex()}"
