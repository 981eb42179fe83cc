"""Who is let through: from trials of sets of edits to the edits that may go together.

Pure: what a trial costs, and how it is made, is the caller's business.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from corrigenda.edit import Edit, EditId


@dataclass(frozen=True)
class Trial:
    """What came of printing a set of edits together.

    Attributes:
        failed: Edits that did not hold, with the reason.
        faults: Why the set as a whole must not pass: thresholds that it misses. Empty when it may.
        share: Which share of the set would have passed if all edits did the same harm, 0…1; ``None`` where that cannot
            be told.
    """

    failed: dict[EditId, str] = field(default_factory=dict)
    faults: tuple[str, ...] = ()
    share: float | None = None


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


CAUTION = 0.9
"""Of the size at which a set is reckoned to pass, so much is tried: harm grows a little slower than sets do."""
AMPLE = 1.5
"""Sets so many times as large as what is reckoned to pass, or has passed, are parted without a trial."""


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
    that held go before those that did not, and what cannot be told apart like that is cut: where it would pass if harm
    added up evenly, as far as trials tell, else in the middle. Each part is tried on top of what has passed, down to
    the edits to blame. One bad edit among n costs about 2·log₂(n) trials.

    Args:
        edits: What is wanted in.
        attempt: Prints a set on a copy and looks at it; must be deterministic.
        suspicion: The higher, the likelier to blame. Suspects are kept together when a set is halved, so that many of
            them cost few more trials than one.
        most: Trials, at most; then the largest set that has passed stands. Where all edits do a little harm, and not a
            few of them all of it, there is nobody to find, and looking would cost about two trials an edit.
        tolerance: Share of a set that may fail and the set be let in all the same, 0…1.
    """
    search = _Search(edits, attempt, most, tolerance)
    try:
        kept = {edit.id for edit in search.grow([], sorted(edits, key=suspicion))}
    except _Spent:
        kept = {edit.id for edit in search.best}
        for edit in edits:
            if edit.id not in kept:
                search.dropped.setdefault(edit.id, f"not let in within {most} trials")
    dropped = {edit_id: why for edit_id, why in search.dropped.items() if edit_id not in kept}
    return Admission(tuple(edit for edit in edits if edit.id in kept), dropped, len(search.tried))


class _Search:
    """The trials so far, and what they say about the next one."""

    def __init__(self, edits: Sequence[Edit], attempt: Try, most: int | None, tolerance: float) -> None:
        self.edits, self.attempt, self.most, self.tolerance = edits, attempt, most, tolerance
        self.tried: dict[frozenset[EditId], Trial] = {}
        self.dropped: dict[EditId, str] = {}
        self.best: list[Edit] = []
        self.weak: Mapping[EditId, str] = {}
        self.room = math.inf
        """Edits that are reckoned to pass together."""

    def grow(self, base: list[Edit], new: list[Edit]) -> list[Edit]:
        """Return ``base`` and those of ``new`` that pass on top of it."""
        while new:
            both = [*base, *new]
            if len(new) > 1 and len(both) > AMPLE * max(self.room, len(self.best)):
                base, new = self._part(base, new)
                continue
            trial = self._look(both)
            if trial.faults:
                self.weak = trial.failed
                self.room = math.inf if trial.share is None else CAUTION * trial.share * len(both)
                if len(new) == 1:
                    self.dropped[new[0].id] = "; ".join(trial.faults)
                    return base
                base, new = self._part(base, new)
            elif len(trial.failed) <= self.tolerance * len(both):
                self.best = max(self.best, both, key=len)
                return both
            else:
                base, new = self._without_failed(base, new, trial.failed)
        return base

    def _part(self, base: list[Edit], new: list[Edit]) -> tuple[list[Edit], list[Edit]]:
        """Return what the first part of ``new`` makes of ``base``, and the other part, which is next."""
        first, second = _parted(new, self.weak, self.room - len(base))
        return self.grow(base, first), second

    def _without_failed(
        self, base: list[Edit], new: list[Edit], failed: Mapping[EditId, str]
    ) -> tuple[list[Edit], list[Edit]]:
        """Drop those that ``failed``, and return what is to be tried next."""
        self.dropped |= {edit.id: failed[edit.id] for edit in (*base, *new) if edit.id in failed}
        # An edit that held before and fails beside the new ones goes, too: the memory still answers it.
        held, left = ([edit for edit in some if edit.id not in failed] for some in (base, new))
        # What is left of the base has not been tried without those that fell.
        return (held, left) if len(held) == len(base) else ([], [*held, *left])

    def _look(self, some: Sequence[Edit]) -> Trial:
        key = frozenset(edit.id for edit in some)
        if key not in self.tried:
            if len(self.tried) == self.most:
                raise _Spent
            # In the given order always: a set has one result, however it was arrived at.
            self.tried[key] = self.attempt(tuple(edit for edit in self.edits if edit.id in key))
        return self.tried[key]


def _parted(edits: list[Edit], failed: Mapping[EditId, str], room: float) -> tuple[list[Edit], list[Edit]]:
    """Return those that held and those that did not, or a part of the former where there is room for no more.

    Where there is only one kind, and nobody knows how much room there is: halves. No cut is nearer to an end than a
    quarter, so that few steps lead to an edit that does all the harm.
    """
    held, weak = ([e for e in edits if (e.id in failed) == kind] for kind in (False, True))
    ordered, cut = [*held, *weak], len(edits) // 2
    if room < math.inf:
        cut = max(1, min(round(room), len(edits) - len(edits) // 4 - 1), len(edits) // 4)
    elif held and weak:
        cut = len(held)
    if held and weak:
        cut = min(cut, len(held))
    return ordered[:cut], ordered[cut:]
