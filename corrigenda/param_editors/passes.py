"""Trained networks asked more than once: each pass reads the gradient under what the passes before have written.

One pass of one length is MEND's and KE's method. How far an update has to go differs from edit to edit, and what is
longer than it need be is paid for by others: of several lengths an edit gets the shortest that is enough. A further
pass is made where none was, and is half as long after one in which nothing helped. Edits do not see each other: a batch
of edits stays the sum of its edits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from corrigenda.param_editors.gradients import Factors, edited_by_row, gradient_factors
from corrigenda.param_editors.silence import silenced

if TYPE_CHECKING:
    from corrigenda.param_editors.hypernetwork import Hypernetwork
    from corrigenda.param_editors.upper import Upper


@dataclass(frozen=True, slots=True)
class Passed:
    """What came of E edits.

    Attributes:
        updates: Name of a module → factors.
        losses: Mean loss of a target token under the edit alone, (E,); not known after a single pass.
    """

    updates: dict[str, Factors]
    losses: list[float] | None


@torch.no_grad()
def updates_in_passes(
    network: Hypernetwork,
    upper: Upper,
    places: Sequence[int],
    *,
    passes: int = 1,
    lengths: Sequence[float] = (1.0,),
    enough: float = 0.1,
    others: Sequence[Mapping[str, torch.Tensor]] | None = None,
) -> Passed:
    """Return the updates of some edits, each by itself.

    Args:
        network: Trained networks.
        upper: Texts with targets.
        places: Which of them are the edits.
        passes: Most passes, ≥ 1.
        lengths: What the update of a pass is multiplied by, ascending: the first that is enough, or else the best.
        enough: The loss at which an edit is done.
        others: For each edit, inputs that shall not feel it; see :mod:`.silence`.
    """
    model, names = upper.lm.model, network.modules_written
    texts = [upper.texts[place] for place in places]
    total: dict[str, Factors] = {}
    losses = torch.full((len(places),), float("inf"), device=upper.lm.device)
    reach = torch.ones_like(losses)
    for _ in range(passes):
        with edited_by_row(model, total):
            found = network.updates(gradient_factors(upper, places, names), texts)
        found = found if others is None else silenced(found, others)
        if passes == len(lengths) == 1:
            return Passed(_times(found, lengths[0] * reach), None)
        taken = torch.zeros_like(losses)
        for length in lengths:
            with edited_by_row(model, _together(total, _times(found, length * reach))):
                after = upper.nll(places)
            better = (after < losses) & (losses > enough)
            taken = torch.where(better, length * reach, taken)
            losses = torch.where(better, after, losses)
        total = _together(total, _times(found, taken))
        reach = torch.where(taken > 0, reach, reach / 2)
        if bool((losses <= enough).all()):
            break
    return Passed(total, losses.tolist())


def _times(updates: Mapping[str, Factors], weights: torch.Tensor) -> dict[str, Factors]:
    return {name: Factors(weights[:, None, None] * part.left, part.right) for name, part in updates.items()}


def _together(first: Mapping[str, Factors], second: Mapping[str, Factors]) -> dict[str, Factors]:
    """Return the sum: the ranks of both, side by side."""
    found = dict(second)
    for name, part in first.items():
        other = second[name]
        found[name] = Factors(torch.cat([part.left, other.left], 1), torch.cat([part.right, other.right], 1))
    return found
