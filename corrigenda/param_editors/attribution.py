"""Which neurons a fact hangs on: integrated gradients over feed-forward activations (Dai et al., ACL 2022, eq. 2–3).

For neuron i of a block, with activation wᵢ at the prompt's last token and P the probability of the answer's first token
as a function of all activations of the block there::

    Attr(wᵢ) = wᵢ · ∫₀¹ ∂P(α·w)/∂wᵢ dα

so that the attributions of a block add up to P(w) − P(0). The integral is a midpoint sum, which is more exact than the
paper's right-hand sum for the same number of steps. Activations are what the down-projection reads, after the gate
where there is one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from corrigenda.errors import InvalidRequest
from corrigenda.lm.tokens import check_length, token_ids
from corrigenda.param_editors.forwards import Resumed, last_states

if TYPE_CHECKING:
    from corrigenda.param_editors.anatomy import Anatomy


@dataclass(frozen=True, slots=True)
class KnowledgeNeuron:
    """A neuron of a feed-forward block.

    Attributes:
        layer: The block, from 0.
        index: Its place among the block's activations, 0…d_ff − 1.
        attribution: Share of the answer's probability that is due to it, mean over the prompts.
        prompts: Share of the prompts in which it passed the threshold, 0…1.
    """

    layer: int
    index: int
    attribution: float
    prompts: float


def attributions(
    anatomy: Anatomy,
    prompt: str,
    token: int,
    *,
    layers: Sequence[int] | None = None,
    steps: int = 20,
    progress: Callable[[int, int], None] | None = None,
) -> torch.Tensor:
    """Return the attribution of every neuron to the probability of ``token`` after ``prompt``: (layers, d_ff) float32.

    Args:
        anatomy: The model.
        prompt: Any text.
        token: Whose probability is explained.
        layers: Blocks; all by default.
        steps: Points of the path from 0 to the activations, ≥ 1.
        progress: Told (blocks done, of how many).
    """
    if steps < 1:
        raise InvalidRequest(f"steps={steps} is below 1")
    lm = anatomy.lm
    ids = token_ids(lm, prompt)
    check_length(lm, ids)
    layers = range(anatomy.map.count) if layers is None else layers
    rows = torch.arange(steps, device=lm.device)
    last = torch.full_like(rows, -1)
    alphas = ((rows + 0.5) / steps)[:, None]
    found = []
    for done, layer in enumerate(layers, 1):
        site = anatomy.mlp_out(layer)
        active = last_states(anatomy, [ids], layer, inputs=[site.module])[site.module][0]  # (d_ff,)
        resumed = Resumed(anatomy, [ids], [len(ids) - 1], layer, [site.module])
        resumed.keep(torch.zeros(steps, dtype=torch.long, device=lm.device))  # the same row at every point of the path
        points = (alphas * active).requires_grad_()
        with torch.enable_grad():
            shift = (points - active) @ site.matrix.float().T  # the down-projection is linear
            chance = resumed.logits([shift], rows, last).float().softmax(-1)[:, token]
        (gradient,) = torch.autograd.grad(chance.sum(), points)
        found.append(active * gradient.mean(0))
        if progress is not None:
            progress(done, len(layers))
    return torch.stack(found)


def refine(
    tables: Sequence[torch.Tensor],
    layers: Sequence[int],
    *,
    threshold: float = 0.2,
    share: float = 0.7,
    most: int = 5,
    least: int = 2,
) -> list[KnowledgeNeuron]:
    """Return the neurons that several prompts for one fact have in common, the strongest first.

    A neuron passes in a prompt if its attribution exceeds ``threshold`` times the largest there; it stays if it passes
    in ``share`` of the prompts. As in the paper's code the share is moved in steps of 0.05 until between ``least``
    and ``most`` neurons stay; should it never come to that, the ``most`` strongest do.

    Args:
        tables: (layers, d_ff) for each prompt, from :func:`attributions`.
        layers: Which blocks the rows are.
        threshold: Share of the largest attribution, 0…1.
        share: Share of the prompts, 0…1.
        most: How many neurons are wanted at most.
        least: How many at least.
    """
    if not tables:
        return []
    passed: Counter[tuple[int, int]] = Counter()
    for table in tables:
        passed.update((int(row), int(column)) for row, column in (table > threshold * table.max()).nonzero())
    mean = torch.stack(list(tables)).mean(0)

    def of(wanted: float) -> list[tuple[int, int]]:
        return [place for place, count in passed.items() if count >= wanted * len(tables)]

    kept = of(share)
    while len(kept) < least and share > 0:
        share = round(share - 0.05, 2)
        kept = of(share)
    while len(kept) > most and share < 1:
        share = round(share + 0.05, 2)
        kept = of(share)
    kept = sorted(kept or passed, key=lambda place: -float(mean[place]))[:most]
    return [
        KnowledgeNeuron(layers[row], column, float(mean[row, column]), passed[row, column] / len(tables))
        for row, column in kept
    ]


def strongest(table: torch.Tensor, layers: Sequence[int], count: int) -> list[KnowledgeNeuron]:
    """Return the ``count`` neurons with the largest attribution in a table (layers, d_ff)."""
    values, places = table.flatten().topk(min(count, table.numel()))
    width = table.shape[1]
    return [
        KnowledgeNeuron(layers[place // width], place % width, value, 1.0)
        for value, place in zip(values.tolist(), places.tolist(), strict=True)
    ]
