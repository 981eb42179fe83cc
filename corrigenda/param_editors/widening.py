"""Making added neurons part of a checkpoint: every feed-forward grows to the same new width.

Transformers knows one ``intermediate_size`` for all blocks. So the block with neurons gets them as further rows and
columns, the others get as many rows and columns of zeros, which add nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from transformers.initialization import no_init_weights

from corrigenda.errors import UnsupportedArchitecture
from corrigenda.param_editors.anatomy import oriented
from corrigenda.param_editors.neurons import Neurons

if TYPE_CHECKING:
    from corrigenda.lm.loading import LanguageModel

_WIDTHS = {
    "gpt2": "n_inner",
    "gptj": "n_inner",
    "opt": "ffn_dim",
    "t5": None,  # encoder and decoder share d_ff
}
"""Where a configuration keeps the inner width, if not in ``intermediate_size``; ``None`` where it cannot be changed."""


def widened(lm: LanguageModel, neurons: Sequence[Neurons]) -> tuple[dict[str, torch.Tensor], Any]:
    """Return the state dict and the configuration of ``lm`` with ``neurons`` inside its matrices.

    Args:
        lm: The model; not changed. Whether the neurons are attached to it makes no difference.
        neurons: Added neurons, of any blocks.

    Raises:
        UnsupportedArchitecture: One whose blocks cannot be widened alone.
    """
    kind = lm.layers.architecture
    key = _WIDTHS.get(kind, "intermediate_size")
    if key is None:
        raise UnsupportedArchitecture(
            f"the feed-forwards of a {kind} model cannot be widened: its encoder shares the width of its decoder",
            remedy="Keep the neurons as a file (Consolidation.save) and attach them with write(lm).",
        )
    by_layer: dict[int, list[Neurons]] = {}
    for group in neurons:
        by_layer.setdefault(group.layer, []).append(group)
    more = max((sum(map(len, groups)) for groups in by_layer.values()), default=0)
    state = {name: tensor.detach().cpu() for name, tensor in lm.model.state_dict().items()}
    for layer in range(lm.layers.count):
        state |= _wider(lm, state, layer, _joined(lm, by_layer.get(layer, []), more))
    config = type(lm.model.config).from_dict(lm.model.config.to_dict())
    setattr(config, key, lm.layers.intermediate_size + more)
    return state, config


def with_neurons(lm: LanguageModel, neurons: Sequence[Neurons]) -> Any:
    """Return a new transformers model with ``neurons`` inside its matrices; raises as :func:`widened`."""
    state, config = widened(lm, neurons)
    with no_init_weights():
        model = type(lm.model)(config)
    model.load_state_dict(state, assign=True)
    model.generation_config = lm.model.generation_config
    return model.eval()


def _joined(lm: LanguageModel, groups: Sequence[Neurons], n: int) -> dict[str, torch.Tensor]:
    """Return up, gate, down and bias of ``groups``, filled up with zeros to ``n`` neurons."""
    width, have = lm.layers.hidden_size, sum(map(len, groups))
    zeros = torch.zeros(n - have, width)
    biases = [torch.zeros(len(group)) if group.bias is None else group.bias.cpu() for group in groups]
    return {
        "up": torch.cat([*(group.up.cpu() for group in groups), zeros]),
        "gate": torch.cat([*(group.gate.cpu() for group in groups if group.gate is not None), zeros]),
        "down": torch.cat([*(group.down.cpu() for group in groups), zeros.T], 1),
        "bias": torch.cat([*biases, torch.zeros(n - have)]),
    }


def _wider(
    lm: LanguageModel, state: Mapping[str, torch.Tensor], layer: int, new: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    names, flip = lm.layers.mlp_in(layer), lm.layers.transposed
    found: dict[str, torch.Tensor] = {}

    def put(name: str, *parts: torch.Tensor, dim: int) -> None:
        found[name] = torch.cat([part.to(state[name].dtype) for part in parts], dim).contiguous()

    if not lm.layers.gated:
        rows = oriented(state[f"{names[0]}.weight"], flip)
        put(f"{names[0]}.weight", oriented(rows, flip), oriented(new["up"], flip), dim=1 if flip else 0)
        if f"{names[0]}.bias" in state:
            put(f"{names[0]}.bias", state[f"{names[0]}.bias"], new["bias"], dim=0)
    elif len(names) == 2:  # gate and up
        put(f"{names[0]}.weight", state[f"{names[0]}.weight"], new["gate"], dim=0)
        put(f"{names[1]}.weight", state[f"{names[1]}.weight"], new["up"], dim=0)
    else:  # one matrix, the gate's rows first
        gate, up = state[f"{names[0]}.weight"].chunk(2)
        put(f"{names[0]}.weight", gate, new["gate"], up, new["up"], dim=0)
    if lm.layers.gated:
        for name in names:
            if f"{name}.bias" in state:  # one part for each of gate and up, behind the part of either
                zeros, pieces = torch.zeros(len(new["bias"])), state[f"{name}.bias"].chunk(3 - len(names))
                put(f"{name}.bias", *(part for piece in pieces for part in (piece, zeros)), dim=0)
    out = f"{lm.layers.mlp_out(layer)}.weight"
    put(out, state[out], oriented(new["down"], flip), dim=0 if flip else 1)
    return found
