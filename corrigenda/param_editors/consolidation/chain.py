"""The algebra of promotions: an edition is the base plus what each promotion printed, in order.

An update of low rank adds to whatever is there, so any promotion can be taken out from among such. An update of full
rank (fine-tuning) replaces a weight as a whole, with all that was printed into it before; what lies below it cannot
leave before it does.
"""

from __future__ import annotations

from collections.abc import MutableMapping, Sequence
from typing import TYPE_CHECKING

import torch

from corrigenda.errors import ModelDamaged, NotRevertible
from corrigenda.param_editors.consolidation.durable import sha256
from corrigenda.param_editors.consolidation.editions import Editions
from corrigenda.param_editors.update import Consolidation

if TYPE_CHECKING:
    from corrigenda.lm.loading import LanguageModel


def promoted_updates(editions: Editions, names: Sequence[str]) -> list[Consolidation]:
    """Return what the promotions ``names`` printed, in order.

    Raises:
        UnknownName: No such promotion.
        ModelDamaged: A file is not what was promoted.
    """
    found = []
    for name in names:
        for file, digest in editions.promotion(name)["batches"]:
            path = editions.promotions / name / file
            if not path.is_file() or sha256(path) != digest:
                raise ModelDamaged(
                    f"{path} is missing, or is not what was promoted", remedy="Restore it from a backup."
                )
            found.append(Consolidation.load(path))
    return found


def write_chain(editions: Editions, names: Sequence[str], lm: LanguageModel) -> list[Consolidation]:
    """Print the promotions ``names`` into ``lm``, which holds the base weights; return what was printed."""
    chain = promoted_updates(editions, names)
    state: dict[str, torch.Tensor] = {name: weight.data for name, weight in lm.model.named_parameters()}
    apply_chain(chain, state)
    with torch.no_grad():
        for name, weight in lm.model.named_parameters():
            if state[name] is not weight.data:
                weight.data.copy_(state[name])
    return chain


def apply_chain(chain: Sequence[Consolidation], state: MutableMapping[str, torch.Tensor]) -> None:
    """Add every consolidation to the weights in ``state``, in order."""
    for done in chain:
        done.merge_into(state)


def require_removable(editions: Editions, name: str, promotions: Sequence[str]) -> None:
    """Refuse to take ``name`` out from below updates of full rank of the same weights.

    Raises:
        NotRevertible: Names the promotion that has to go first.
    """
    place = list(promotions).index(name)
    own = {update.name for done in promoted_updates(editions, [name]) for update in done.updates}
    for later in reversed(promotions[place + 1 :]):
        for done in promoted_updates(editions, [later]):
            whole = own & {update.name for update in done.updates if update.left is None}
            if whole:
                raise NotRevertible(
                    f"{later} rewrote {min(whole)} as a whole, with what {name} had printed into it",
                    remedy=f"Roll back {later} first.",
                )
