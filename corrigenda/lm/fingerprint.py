"""One hash for a model: same configuration and same weights, same fingerprint, on every machine."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import torch

_VOLATILE = frozenset(
    ("_name_or_path", "architectures", "dtype", "quantization_config", "torch_dtype", "transformers_version")
)


def fingerprint(model: Any) -> str:
    """Return the sha256 (64 hexadecimal digits) over the configuration and every weight as it is now.

    File names, versions, settings at their default and tied copies do not count; the number format of the weights
    does. About 1 s per GB.
    """
    settings = {key: value for key, value in model.config.to_diff_dict().items() if key not in _VOLATILE}
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
    seen: set[tuple[int, tuple[int, ...]]] = set()
    for name, weight in sorted(model.state_dict().items()):
        if weight.numel() == 0 or (place := (weight.data_ptr(), tuple(weight.shape))) in seen:
            continue  # a tied copy: the head of a model that shares it with its embeddings
        seen.add(place)
        digest.update(f"\n{name} {weight.dtype} {tuple(weight.shape)}\n".encode())
        data = weight.detach().cpu().contiguous().flatten().view(torch.uint8)
        digest.update(memoryview(data.numpy()))
    return digest.hexdigest()
