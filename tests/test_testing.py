from __future__ import annotations

import numpy as np

from corrigenda.memory.encoder import Encoder
from corrigenda.testing import FixedEncoder


def test_the_fixed_encoder_is_an_encoder() -> None:
    encoder = FixedEncoder(16)
    assert isinstance(encoder, Encoder)
    texts = ["the capital of Peru", "Peru's capital", "a red fish", ""]
    rows = encoder.encode(texts)
    assert rows.shape == (4, 16)
    assert rows.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-6)
    np.testing.assert_array_equal(rows, FixedEncoder(16).encode(texts))
    assert rows[0] @ rows[1] > rows[0] @ rows[2]
    assert encoder.encode([]).shape == (0, 16)
    assert FixedEncoder(8).fingerprint != encoder.fingerprint != FixedEncoder(16, "mine").fingerprint
