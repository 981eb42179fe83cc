"""Who is let through: from trials of sets of edits to the edits that may go together.

Pure: what a trial costs, and how it is made, is the caller's business.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from corrigenda.edit import Edit, EditId


@dataclass(frozen=True)
class Trial:
    """What came of printing a set of edits together.

    Attributes:
        failed: Edits that did not hold, with the reason.
        faults: Why the set as a whole must not pass: thresholds that it misses. Empty when it may.
    """

    failed: dict[EditId, str] = field(default_factory=dict)
    faults: tuple[str, ...] = ()


Try = Callable[[tuple[Edit, ...]], Trial]


@dataclass
class Admission:
    """Edits that go together, and why the others do not.

    Attributes:
        kept: In the order in which they were given.
        dropped: The reasons, by id.
        trials: How many sets were tried.
    """

    kept: tuple[Edit, ...] = ()
    dropped: dict[EditId, str] = field(default_factory=dict)
    trials: int = 0


class _Spent(Exception):
    """No trials are left."""


def admit(
    edits: Sequence[Edit],
    attempt: Try,
    *,
    suspicion: Callable[[Edit], float] = lambda edit: 0.0,
    most: int | None = None,
    tolerance: float = 0.0,
) -> Admission:
    """Find out which of ``edits`` pass together.

    Edits that fail by themselves are dropped and the rest is tried again. A set that fails as a whole is parted: those
    that held go before those that did not, and what cannot be told apart like that is halved. Each part is tried on top
    of what has passed, down to the edits to blame. One bad edit among n costs about 2·log₂(n) trials.

    Args:
        edits: What is wanted in.
        attempt: Prints a set on a copy and looks at it; must be deterministic.
        suspicion: The higher, the likelier to blame. Suspects are kept together when a set is halved, so that many of
            them cost few more trials than one.
        most: Trials, at most; then the largest set that has passed stands. Where all edits do a little harm, and not a
            few of them all of it, there is nobody to find, and looking would cost about two trials an edit.
        tolerance: Share of a set that may fail and the set be let in all the same, 0…1.
    """
    found = Admission()
    tried: dict[frozenset[EditId], Trial] = {}
    best: list[Edit] = []

    def look(some: Sequence[Edit]) -> Trial:
        key = frozenset(edit.id for edit in some)
        if key not in tried:
            if found.trials == most:
                raise _Spent
            found.trials += 1
            # In the given order always: a set has one result, however it was arrived at.
            tried[key] = attempt(tuple(edit for edit in edits if edit.id in key))
        return tried[key]

    def grow(base: list[Edit], new: list[Edit]) -> list[Edit]:
        """Return ``base`` and those of ``new`` that pass on top of it."""
        while new:
            both = [*base, *new]
            trial = look(both)
            if trial.faults:
                if len(new) == 1:
                    found.dropped[new[0].id] = "; ".join(trial.faults)
                    return base
                first, second = _parted(new, trial.failed)
                base, new = grow(base, first), second
                continue
            if len(trial.failed) <= tolerance * len(both):
                best[:] = both if len(both) > len(best) else best
                return both
            found.dropped.update({edit.id: trial.failed[edit.id] for edit in both if edit.id in trial.failed})
            # An edit that held before and fails beside the new ones goes, too: the memory still answers it.
            held, base = base, [edit for edit in base if edit.id not in trial.failed]
            new = [edit for edit in new if edit.id not in trial.failed]
            if len(base) < len(held):  # what is left of them has not been tried without those that fell
                base, new = [], [*base, *new]
        return base

    try:
        kept = {edit.id for edit in grow([], sorted(edits, key=suspicion))}
    except _Spent:
        kept = {edit.id for edit in best}
        for edit in edits:
            if edit.id not in kept:
                found.dropped.setdefault(edit.id, f"not let in within {most} trials")
    found.kept = tuple(edit for edit in edits if edit.id in kept)
    found.dropped = {edit_id: why for edit_id, why in found.dropped.items() if edit_id not in kept}
    return found


def _parted(edits: list[Edit], failed: Mapping[EditId, str]) -> tuple[list[Edit], list[Edit]]:
    """Return those that held and those that did not; halves, where there is only one kind."""
    held, weak = ([e for e in edits if (e.id in failed) == kind] for kind in (False, True))
    if held and weak:
        return held, weak
    middle = len(edits) // 2
    return edits[:middle], edits[middle:]
