"""Files of tensors: what shares memory in the process is written out in full."""

from __future__ import annotations

import torch

from corrigenda.param_editors.files import read_tensors, write_tensors


def test_tensors_that_share_memory_come_back_each_on_its_own(tmp_path):
    column = torch.arange(4.0)[:, None]  # KN adds one change to a neuron of each of several layers
    tensors = {"0/left": column, "1/left": column, "2/left": column.view(2, 2), "3/left": torch.ones(2)}
    write_tensors(tmp_path / "file.safetensors", tensors, {"format": "test"})
    found, meta = read_tensors(tmp_path / "file.safetensors")
    assert meta == {"format": "test"}
    assert set(found) == set(tensors)
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())
