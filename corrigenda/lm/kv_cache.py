"""Key-value caches with room to grow, and the cache of a beginning that several rows have in common.

The cache of transformers copies everything at each token. With a long common beginning that costs several times the
rest of the work; here the room is allocated once and filled in place.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from corrigenda.lm.supported import parameters


class RoomyLayer(DynamicLayer):  # type: ignore[misc] # transformers is not typed
    """Keys and values of one layer, written in place into a buffer with ``room`` spare columns."""

    def __init__(self, room: int = 64) -> None:
        super().__init__()
        self.room = room
        self.keys: torch.Tensor
        self.values: torch.Tensor
        self.buffers: list[torch.Tensor] = []

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append (rows, heads, columns, width) and return all keys and values so far."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        used = self.get_seq_length()
        total = used + key_states.shape[-2]
        if not self.buffers or total > self.buffers[0].shape[-2]:
            self.buffers = [
                self._grown(states, used, old, total)
                for states, old in ((key_states, self.keys), (value_states, self.values))
            ]
        for buffer, states in zip(self.buffers, (key_states, value_states), strict=True):
            buffer[:, :, used:total] = states
        self.keys, self.values = (buffer[:, :, :total] for buffer in self.buffers)
        return self.keys, self.values

    def _grown(self, states: torch.Tensor, used: int, old: torch.Tensor, total: int) -> torch.Tensor:
        rows, heads, _, width = states.shape
        buffer = states.new_empty((rows, heads, total + self.room, width))
        if used:
            buffer[:, :, :used] = old  # one row of a shared beginning spreads over all rows
        return buffer

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        """Keep these rows only; of the ways to say so, this is the one that every kind of layer has."""
        if self.buffers:
            length = self.get_seq_length()
            self.buffers = [buffer[beam_idx] for buffer in self.buffers]
            self.keys, self.values = (buffer[:, :, :length] for buffer in self.buffers)


def new_cache(config: Any, room: int) -> DynamicCache:
    """Return an empty cache for a decoder, with ``room`` columns to spare after the first pass.

    Layers with a sliding window or a state of their own keep transformers' kind of cache.
    """
    cache = DynamicCache(config=config)
    cache.layers = [RoomyLayer(room) if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


def longest_shareable(model: Any) -> int:
    """Return the most columns for which a cache may begin with a shared beginning and go on with padding.

    Windows are counted in columns, padding included, so a layer with a window must not have to drop any; layers that
    carry a state, and models that count columns as positions, cannot skip padding at all.
    """
    config = model.config
    if config.model_type != "bloom" and "position_ids" not in parameters(type(model).forward):
        return 0  # BLOOM reads positions off the mask
    limits = [_UNLIMITED]
    if "local" in getattr(config, "attention_layers", ()):
        limits.append(config.window_size - 1)  # GPT-Neo, which masks by itself
    for layer in DynamicCache(config=config).layers:
        if type(layer) is DynamicSlidingWindowLayer:
            limits.append(layer.sliding_window - 1)
        elif type(layer) is not DynamicLayer:
            limits.append(0)
    return min(limits)


_UNLIMITED = 1 << 62


def spread(cache: DynamicCache, rows: int, room: int) -> DynamicCache:
    """Return a cache for ``rows`` rows that all begin with what the one row of ``cache`` holds.

    The original is not changed. Full-attention layers copy nothing before their first update.
    """
    layers = []
    for layer in cache.layers:
        if type(layer) is RoomyLayer:
            fresh = RoomyLayer(room)
            fresh.lazy_initialization(layer.keys, layer.values)
            fresh.keys, fresh.values = layer.keys, layer.values
        else:
            fresh = copy.deepcopy(layer)
            fresh.batch_repeat_interleave(rows)
        layers.append(fresh)
    result = copy.copy(cache)
    result.layers = layers
    return result
