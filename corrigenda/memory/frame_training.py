"""Tuning the frame network on pairs of frames. Repeatable: same pairs and seed, same network."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from corrigenda.memory import encoder
from corrigenda.memory.frame_network import MAX_TOKENS, FrameNetwork
from corrigenda.memory.scope_augmentation import FramePair

_BATCH = 96
_TOGETHER = 48  # texts that are encoded together
_DROPPED = 0.1  # share of tokens hidden while training: wordings must not be learnt by heart


def tune(
    pairs: Sequence[FramePair],
    *,
    epochs: int = 2,
    rate: float = 1e-4,
    seed: int = 0,
    source: Path | None = None,
    progress: Callable[[str], None] = lambda line: None,
) -> FrameNetwork:
    """Return a frame network tuned on ``pairs``; about 3 ms a pair and epoch on one thread.

    Args:
        pairs: Frames and classes.
        epochs: Passes over them.
        rate: Learning rate of the tuned layers, falling to nothing.
        seed: For the order and the dropout.
        source: Folder of MiniLM; the installed package by default.
        progress: Is told a line per epoch.
    """
    rng = random.Random(seed)
    torch.manual_seed(seed)
    network = FrameNetwork.load(source or encoder.package_folder())
    chosen = sorted(set(pairs))  # how often a wording occurs says nothing about what it means
    states = States(network, sorted({text for pair in chosen for text in pair[:2]}))
    optimiser = torch.optim.AdamW(
        [
            {"params": list(network.top.parameters()), "lr": rate},
            {"params": [*network.turn.parameters(), network.scale, network.bias], "lr": 10 * rate},
        ],
        weight_decay=0.01,
    )
    steps = max(1, epochs * (len(chosen) // _BATCH))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: min(1.0, (step + 1) / 60) * max(0.02, 1 - step / steps)
    )
    network.train()
    for epoch in range(epochs):
        rng.shuffle(chosen)
        total = 0.0
        for start in range(0, len(chosen) - _BATCH + 1, _BATCH):
            loss = _loss(network, states, chosen[start : start + _BATCH])
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimiser.step()
            schedule.step()
            total += float(loss.detach())
        progress(f"epoch {epoch + 1} of {epochs}: loss {total * _BATCH / max(1, len(chosen)):.4f}, {len(chosen)} pairs")
    return network.eval()


def frame_logits(network: FrameNetwork, pairs: Sequence[tuple[str, str]]) -> NDArray[np.float64]:
    """Return the logits (n, 2) of direct and needs for ``pairs`` of edit and query frames."""
    texts = sorted({text for pair in pairs for text in pair})
    states = States(network, texts)
    vectors: dict[str, Tensor] = {}
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        for start in range(0, len(texts), 256):
            part = texts[start : start + 256]
            vectors.update(zip(part, network.upper(*states.batch(part)), strict=True))
    if not pairs:
        return np.zeros((0, 2))
    with torch.inference_mode():
        edits, queries = (torch.stack([vectors[pair[side]] for pair in pairs]) for side in (0, 1))
        return network.logits(edits, queries)[:, 1:].double().numpy()


class States:
    """The states of texts after the frozen layers, computed once: they never change in training."""

    def __init__(self, network: FrameNetwork, texts: Sequence[str]) -> None:
        tokens = encoder.tokenizer(encoder.package_folder() / "tokenizer.json", MAX_TOKENS)
        self._states: dict[str, Tensor] = {}
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            for places, feed in encoder.batches(tokens, texts):
                mask = torch.from_numpy(feed["mask"])
                states = network.lower(torch.from_numpy(feed["ids"]), mask).bfloat16()
                for row, place in enumerate(places):
                    self._states[texts[place]] = states[row, : int(mask[row].sum())].clone()

    def length(self, text: str) -> int:
        """Return how many tokens ``text`` has."""
        return len(self._states[text])

    def batch(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Return the states (n, t, d) and mask (n, t) of ``texts``."""
        longest = max(len(self._states[text]) for text in texts)
        width = next(iter(self._states.values())).shape[1]
        states, mask = torch.zeros(len(texts), longest, width, dtype=torch.bfloat16), torch.zeros(len(texts), longest)
        for row, text in enumerate(texts):
            states[row, : len(self._states[text])] = self._states[text]
            mask[row, : len(self._states[text])] = 1
        return states, mask


def _loss(network: FrameNetwork, states: States, pairs: Sequence[FramePair]) -> Any:
    texts = sorted({text for pair in pairs for text in pair[:2]}, key=lambda text: (states.length(text), text))
    parts = []
    for start in range(0, len(texts), _TOGETHER):  # texts of one length together: little is spent on padding
        batch, mask = states.batch(texts[start : start + _TOGETHER])
        hidden = torch.rand_like(mask) < _DROPPED
        hidden[:, 0] = False
        with torch.autocast("cpu", torch.bfloat16):
            parts.append(network.upper(batch, mask * ~hidden))
    vectors = torch.cat(parts)
    place = {text: row for row, text in enumerate(texts)}
    edits, queries = [place[edit] for edit, _, _ in pairs], [place[query] for _, query, _ in pairs]
    logits = network.logits(vectors[edits], vectors[queries])
    labels = torch.tensor([label for _, _, label in pairs])
    return torch.nn.functional.cross_entropy(logits, labels, label_smoothing=0.02)
