"""Where each architecture keeps its parts: module names, sizes, and which way round its weights lie.

Editors and hooks ask a :class:`LayerMap`; nobody else spells module names. A map is checked against the model when it
is built, so that a wrong one fails here and not in the middle of an edit.

Legend: d hidden size, d_ff intermediate size.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from transformers.pytorch_utils import Conv1D

from corrigenda.errors import InvalidRequest, UnsupportedArchitecture


@dataclass(frozen=True, slots=True)
class Names:
    """Module names of one architecture; ``{}`` stands for the number of the block.

    Attributes:
        block: A decoder block.
        mlp: Its feed-forward part, a module of its own or, where there is none, the output projection.
        mlp_in: What reads the residual stream, (d) → (d_ff): one projection, or gate and up. A single one of a gated
            feed-forward holds both, gate first.
        mlp_out: What writes it back, (d_ff) → (d).
        attention: The self-attention.
        attention_out: Its output projection.
        embeddings: Token embeddings, (vocabulary, d).
        positions: Learned position embeddings, where there are.
        final_norm: The last normalisation before the head.
        head: d → vocabulary.
        gated: Whether the feed-forward multiplies a gate with what goes up.
    """

    block: str
    mlp: str
    mlp_in: tuple[str, ...]
    mlp_out: str
    attention: str
    attention_out: str
    embeddings: str
    final_norm: str
    positions: str | None = None
    head: str = "lm_head"
    gated: bool = False


_LLAMA = Names(
    block="model.layers.{}",
    mlp="model.layers.{}.mlp",
    mlp_in=("model.layers.{}.mlp.gate_proj", "model.layers.{}.mlp.up_proj"),
    mlp_out="model.layers.{}.mlp.down_proj",
    attention="model.layers.{}.self_attn",
    attention_out="model.layers.{}.self_attn.o_proj",
    embeddings="model.embed_tokens",
    final_norm="model.norm",
    gated=True,
)
_GPT2 = Names(
    block="transformer.h.{}",
    mlp="transformer.h.{}.mlp",
    mlp_in=("transformer.h.{}.mlp.c_fc",),
    mlp_out="transformer.h.{}.mlp.c_proj",
    attention="transformer.h.{}.attn",
    attention_out="transformer.h.{}.attn.c_proj",
    embeddings="transformer.wte",
    positions="transformer.wpe",
    final_norm="transformer.ln_f",
)
_GPTJ = Names(
    block="transformer.h.{}",
    mlp="transformer.h.{}.mlp",
    mlp_in=("transformer.h.{}.mlp.fc_in",),
    mlp_out="transformer.h.{}.mlp.fc_out",
    attention="transformer.h.{}.attn",
    attention_out="transformer.h.{}.attn.out_proj",
    embeddings="transformer.wte",
    final_norm="transformer.ln_f",
)
_NEOX = Names(
    block="gpt_neox.layers.{}",
    mlp="gpt_neox.layers.{}.mlp",
    mlp_in=("gpt_neox.layers.{}.mlp.dense_h_to_4h",),
    mlp_out="gpt_neox.layers.{}.mlp.dense_4h_to_h",
    attention="gpt_neox.layers.{}.attention",
    attention_out="gpt_neox.layers.{}.attention.dense",
    embeddings="gpt_neox.embed_in",
    final_norm="gpt_neox.final_layer_norm",
)
_OPT = Names(
    block="model.decoder.layers.{}",
    mlp="model.decoder.layers.{}.fc2",
    mlp_in=("model.decoder.layers.{}.fc1",),
    mlp_out="model.decoder.layers.{}.fc2",
    attention="model.decoder.layers.{}.self_attn",
    attention_out="model.decoder.layers.{}.self_attn.out_proj",
    embeddings="model.decoder.embed_tokens",
    positions="model.decoder.embed_positions",
    final_norm="model.decoder.final_layer_norm",
)
_PHI = Names(
    block="model.layers.{}",
    mlp="model.layers.{}.mlp",
    mlp_in=("model.layers.{}.mlp.fc1",),
    mlp_out="model.layers.{}.mlp.fc2",
    attention="model.layers.{}.self_attn",
    attention_out="model.layers.{}.self_attn.dense",
    embeddings="model.embed_tokens",
    final_norm="model.final_layernorm",
)
_PHI3 = Names(
    block="model.layers.{}",
    mlp="model.layers.{}.mlp",
    mlp_in=("model.layers.{}.mlp.gate_up_proj",),
    mlp_out="model.layers.{}.mlp.down_proj",
    attention="model.layers.{}.self_attn",
    attention_out="model.layers.{}.self_attn.o_proj",
    embeddings="model.embed_tokens",
    final_norm="model.norm",
    gated=True,
)


def _t5(gated: bool) -> Names:
    feed_forward = "decoder.block.{}.layer.2.DenseReluDense"
    return Names(
        block="decoder.block.{}",
        mlp=feed_forward,
        mlp_in=(f"{feed_forward}.wi_0", f"{feed_forward}.wi_1") if gated else (f"{feed_forward}.wi",),
        mlp_out=f"{feed_forward}.wo",
        attention="decoder.block.{}.layer.0.SelfAttention",
        attention_out="decoder.block.{}.layer.0.SelfAttention.o",
        embeddings="shared",
        final_norm="decoder.final_layer_norm",
        gated=gated,
    )


ARCHITECTURES: Mapping[str, Names] = MappingProxyType(
    {
        "gemma": _LLAMA,
        "gemma2": _LLAMA,
        "gemma3_text": _LLAMA,
        "gpt2": _GPT2,
        "gpt_neox": _NEOX,
        "gptj": _GPTJ,
        "llama": _LLAMA,
        "mistral": _LLAMA,
        "opt": _OPT,
        "phi": _PHI,
        "phi3": _PHI3,
        "qwen2": _LLAMA,
        "qwen3": _LLAMA,
        "t5": _t5(gated=False),
    }
)
"""Known architectures by ``config.model_type``; T5 stands for its decoder, gated or not as its configuration says."""


@dataclass(frozen=True, slots=True)
class LayerMap:
    """The parts of one model, checked to be there.

    Attributes:
        architecture: Its ``config.model_type``.
        names: Module names, ``{}`` for the block.
        count: Number of blocks.
        hidden_size: Width of the residual stream, d.
        intermediate_size: Width inside the feed-forward, d_ff.
        transposed: Whether projection weights are (d_in, d_out), as in GPT-2, rather than (d_out, d_in).
    """

    architecture: str
    names: Names
    count: int
    hidden_size: int
    intermediate_size: int
    transposed: bool

    def block(self, layer: int) -> str:
        """Return the name of block ``layer``, 0…count − 1."""
        return self._at(self.names.block, layer)

    def mlp(self, layer: int) -> str:
        """Return the name of the feed-forward of block ``layer``."""
        return self._at(self.names.mlp, layer)

    def mlp_in(self, layer: int) -> tuple[str, ...]:
        """Return the names of the projections into the feed-forward: one, or gate and up."""
        return tuple(self._at(name, layer) for name in self.names.mlp_in)

    def mlp_out(self, layer: int) -> str:
        """Return the name of the projection out of the feed-forward, the weight that ROME and MEMIT change."""
        return self._at(self.names.mlp_out, layer)

    def attention(self, layer: int) -> str:
        """Return the name of the self-attention of block ``layer``."""
        return self._at(self.names.attention, layer)

    def attention_out(self, layer: int) -> str:
        """Return the name of the output projection of the self-attention."""
        return self._at(self.names.attention_out, layer)

    @property
    def embeddings(self) -> str:
        """Name of the token embeddings."""
        return self.names.embeddings

    @property
    def positions(self) -> str | None:
        """Name of the learned position embeddings; ``None`` where positions are rotary or relative."""
        return self.names.positions

    @property
    def final_norm(self) -> str:
        """Name of the normalisation before the head."""
        return self.names.final_norm

    @property
    def head(self) -> str:
        """Name of the projection to the vocabulary."""
        return self.names.head

    @property
    def gated(self) -> bool:
        """Whether the feed-forward is gated."""
        return self.names.gated

    def _at(self, name: str, layer: int) -> str:
        if not 0 <= layer < self.count:
            raise InvalidRequest(
                f"there is no layer {layer} in this {self.architecture} model",
                remedy=f"Give a layer from 0 to {self.count - 1}.",
            )
        return name.format(layer)


def layer_map(model: Any) -> LayerMap:
    """Return the map of a transformers model, after checking that every part is where it should be.

    Raises:
        UnsupportedArchitecture: Its ``config.model_type`` is not in :data:`ARCHITECTURES`, or the model is not built as
            that type says (wrapped by an adapter library, remote code).
    """
    kind = str(model.config.model_type)
    names = ARCHITECTURES.get(kind)
    if names is None:
        raise UnsupportedArchitecture(
            f"no layer map for {kind!r} models", remedy=f"Supported: {', '.join(sorted(ARCHITECTURES))}."
        )
    if kind == "t5":
        names = _t5(gated=bool(model.config.is_gated_act))
    modules = dict(model.named_modules())
    count = _count(names, modules)
    first = modules.get(names.mlp_out.format(0))
    if first is None:
        raise _not_as_expected(kind, names.mlp_out.format(0))
    transposed = isinstance(first, Conv1D)
    d_out, d_in = first.weight.shape[::-1] if transposed else first.weight.shape
    found = LayerMap(kind, names, count, int(d_out), int(d_in), transposed)
    _check(found, modules)
    return found


def _count(names: Names, modules: Mapping[str, Any]) -> int:
    holder = modules.get(names.block.removesuffix(".{}"))
    return len(holder) if isinstance(holder, torch.nn.ModuleList) else 0


def _check(found: LayerMap, modules: Mapping[str, Any]) -> None:
    width, inner = found.hidden_size, found.intermediate_size
    wide = 2 * inner if found.gated and len(found.names.mlp_in) == 1 else inner
    expected: dict[str, tuple[int, ...] | None] = {found.head: None, found.final_norm: None, found.embeddings: None}
    if found.positions is not None:
        expected[found.positions] = None
    for layer in range(found.count):
        for name in (found.block(layer), found.mlp(layer), found.attention(layer), found.attention_out(layer)):
            expected.setdefault(name, None)
        expected |= dict.fromkeys(found.mlp_in(layer), (wide, width))
        expected[found.mlp_out(layer)] = (width, inner)
    for name, shape in expected.items():
        module = modules.get(name)
        if module is None:
            raise _not_as_expected(found.architecture, name)
        if shape is not None and tuple(module.weight.shape) != (shape[::-1] if found.transposed else shape):
            raise _not_as_expected(found.architecture, name)


def _not_as_expected(kind: str, name: str) -> UnsupportedArchitecture:
    return UnsupportedArchitecture(
        f"this {kind!r} model has no {name!r} as its type would have",
        remedy="Pass the plain transformers model: merge or unload adapters first.",
    )
