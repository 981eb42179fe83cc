"""The frame network: MiniLM with its last layers tuned to tell what is asked, apart from about whom.

Two frames ("The capital of X is", "What city governs X?") get vectors; their product says whether they ask the same
thing. A second, turned vector of the edit's frame meets the frames of questions that need the edit as one step. Only
the tuned layers are shipped, in half precision; the rest is MiniLM's. Only training and the one-time export need torch.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from corrigenda.errors import ModelDamaged
from corrigenda.memory.encoder import quiet

MAX_TOKENS = 64
"""Longest frame, in tokens; more does not count."""


class FrameNetwork(nn.Module):
    """Turns frames into vectors. Legend: n texts, t tokens, d 384.

    Args:
        base: A BERT encoder without a pooler.
        tuned: How many of its last layers are tuned.
    """

    def __init__(self, base: Any, tuned: int = 2) -> None:
        super().__init__()
        layers = base.encoder.layer
        self.embeddings = base.embeddings.requires_grad_(False)
        self.low = layers[: len(layers) - tuned].requires_grad_(False)
        self.untuned = layers[len(layers) - tuned :].requires_grad_(False)
        self.top = copy.deepcopy(self.untuned).requires_grad_(True)
        width = base.config.hidden_size
        self.turn = nn.Linear(width, width)
        nn.init.eye_(self.turn.weight)
        nn.init.zeros_(self.turn.bias)
        # Logit of "direct" and of "needs" is scale·cosine + bias; "out" has logit 0.
        self.scale = nn.Parameter(torch.tensor([10.0, 8.0]))
        self.bias = nn.Parameter(torch.tensor([-6.0, -6.0]))

    @classmethod
    def load(cls, source: Path, weights: Path | None = None) -> FrameNetwork:
        """Build the network from the encoder in folder ``source``, with the tuned ``weights`` where given.

        Raises:
            ModelDamaged: Either cannot be read.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file
        from transformers import AutoModel

        try:
            with quiet():  # transformers reports that the pooler's weights were left out
                base = AutoModel.from_pretrained(
                    source,
                    local_files_only=True,
                    dtype=torch.float32,
                    attn_implementation="eager",
                    add_pooling_layer=False,
                )
            network = cls(base)
            if weights is not None:
                tuned = {name: value.float() for name, value in load_file(weights).items()}
                if wrong := set(network.tuned()) ^ set(tuned):
                    raise ModelDamaged(f"{weights} has other parameters than expected: {', '.join(sorted(wrong)[:3])}")
                network.load_state_dict(tuned, strict=False)
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            if isinstance(error, ModelDamaged):
                raise
            raise ModelDamaged(f"the scope classifier in {weights or source} cannot be read: {error}") from error
        return network.eval()

    def tuned(self) -> dict[str, Tensor]:
        """Return the tuned parameters by name: all that is not MiniLM's."""
        return {
            name: value
            for name, value in self.state_dict().items()
            if not name.startswith(("embeddings.", "low.", "untuned."))
        }

    def save(self, path: Path) -> None:
        """Write the tuned parameters to ``path``, in half precision."""
        from safetensors.torch import save_file

        save_file({name: value.half().contiguous() for name, value in self.tuned().items()}, path)

    def lower(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Return the states after the frozen layers, (n, t, d), for token ids and mask, (n, t)."""
        return self._through(self.low, self.embeddings(input_ids=ids), mask)

    def upper(self, states: Tensor, mask: Tensor) -> Tensor:
        """Return unit vectors (n, d) for the states after the frozen layers."""
        return self._pooled(self._through(self.top, states, mask), mask)

    def plain(self, states: Tensor, mask: Tensor) -> Tensor:
        """Return MiniLM's own unit vectors (n, d) for the states after the frozen layers."""
        return self._pooled(self._through(self.untuned, states, mask), mask)

    def turned(self, vectors: Tensor) -> Tensor:
        """Return the turned unit vectors (n, d) of edits: what questions that need them are compared with."""
        return normalize(self.turn(vectors), dim=-1)

    def logits(self, edits: Tensor, queries: Tensor) -> Tensor:
        """Return logits (n, 3) for out, direct and needs, of edit and query vectors (n, d)."""
        cosines = torch.stack([(edits * queries).sum(-1), (self.turned(edits) * queries).sum(-1)], dim=-1)  # (n, 2)
        inside = self.scale * cosines + self.bias
        return torch.cat([torch.zeros_like(inside[:, :1]), inside], dim=-1)

    def forward(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the vectors, the turned vectors and MiniLM's own, (n, d) each."""
        states = self.lower(ids, mask)
        vectors = self.upper(states, mask)
        return vectors, self.turned(vectors), self.plain(states, mask)

    @staticmethod
    def _pooled(states: Tensor, mask: Tensor) -> Tensor:
        kept = mask.unsqueeze(-1).to(states.dtype)  # (n, t, 1)
        return normalize(((states * kept).sum(1) / kept.sum(1)).float(), dim=-1)

    @staticmethod
    def _through(layers: Any, states: Tensor, mask: Tensor) -> Tensor:
        bias = (1 - mask[:, None, None, :].to(states.dtype)) * -1e4  # (n, 1, 1, t)
        for layer in layers:
            found = layer(states, attention_mask=bias)
            states = found[0] if isinstance(found, tuple) else found  # a tuple in older transformers
        return states


def export(source: Path, weights: Path, graph: Path) -> None:
    """Write the network as the ONNX file ``graph``: ``ids``, ``mask`` (n, t) in; ``frame``, ``turned``, ``plain`` out.

    The outputs are (n, d); asked for ``plain`` only, the runtime leaves the tuned layers out.
    """
    names = ("frame", "turned", "plain")
    example = torch.ones(2, 9, dtype=torch.long)
    with torch.inference_mode():
        torch.onnx.export(
            FrameNetwork.load(source, weights),
            (example, example.clone()),
            str(graph),
            input_names=["ids", "mask"],
            output_names=list(names),
            dynamic_axes={"ids": {0: "n", 1: "t"}, "mask": {0: "n", 1: "t"}} | {name: {0: "n"} for name in names},
            opset_version=17,
            dynamo=False,  # see corrigenda.memory.encoder
        )
