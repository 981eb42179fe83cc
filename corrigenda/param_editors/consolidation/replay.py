"""A new base model: what was printed into the old one is printed into the new one, from the ledger.

Weights do not carry over, edits do. Everything that is in the old model's weights and still holds goes back to being
live in memory, so that the new model answers right from its first day, and then goes the usual way: plan, run, gate,
promote.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from corrigenda.errors import InvalidRequest, NothingToPrint
from corrigenda.param_editors.consolidation import marks
from corrigenda.param_editors.consolidation.editions import Editions
from corrigenda.param_editors.consolidation.plan import Plan, make_plan
from corrigenda.param_editors.consolidation.selection import Selection

if TYPE_CHECKING:
    from corrigenda.lm.loading import LanguageModel
    from corrigenda.memory.memory import Memory


def replay_plan(
    old: Editions,
    memory: Memory,
    lm: LanguageModel,
    source: str,
    home: Path,
    *,
    include_live: bool = False,
    namespace: str = "default",
    **settings: Any,
) -> tuple[Plan, int]:
    """Return a plan that prints into a new base model what the old one has in its weights.

    Edits that retired return to memory first. The old model's edition stays in force for whoever still serves it; its
    edits are marked for both.

    Args:
        old: Editions of the model that is left behind.
        memory: Where the edits live.
        lm: The new base model.
        source: What it was loaded from.
        home: Where editions are kept.
        include_live: Whether to print all other live edits as well.
        namespace: Whose edits, for ``include_live``.
        **settings: As for :func:`~corrigenda.param_editors.consolidation.plan.make_plan`.

    Returns:
        The plan, and how many edits returned to memory.

    Raises:
        NothingToPrint: Nothing is printed in the old model that still holds.
        InvalidRequest: It is the same model.
    """
    if old.about()["fingerprint"] == lm.fingerprint:
        raise InvalidRequest(
            f"{source} is the model that the edits are printed in", remedy="Name the new one: --model."
        )
    promotions = old.current().promotions
    if not promotions and not include_live:
        raise NothingToPrint(f"nothing is printed in {old.model}", remedy="Replay --live edits, or make a plan.")
    back = sum(marks.back_on_probation(memory, name) for name in promotions)
    ids = {edit.id for name in promotions for edit in marks.shadows(memory, name)}
    if include_live:
        ids |= {edit.id for edit in memory.live(namespace)}
    if not ids:
        raise NothingToPrint("none of what was printed still holds", remedy="There is nothing to replay.")
    selection = Selection(namespace=namespace, ids=tuple(sorted(ids)), printed_too=True)
    plan = make_plan(memory, lm, source, home, selection=selection, **settings)
    return plan, back
