"""Activity: what happened lately, namespace by namespace, for the charts of the admin page. Counts only, in memory."""

from __future__ import annotations

import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable
from typing import Any

MINUTES = 60
"""How far back requests are counted minute by minute."""
_MOST_SPACES = 1_000
_MOST_EDITS = 10_000


class Activity:
    """Counts requests per minute and how often edits fired. Used on the event loop only.

    Args:
        clock: Seconds since some beginning, for instance the epoch.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._spaces: OrderedDict[str, _Space] = OrderedDict()

    def record(self, namespace: str, outcome: str, fired: Iterable[str] = ()) -> None:
        """Count a request of ``namespace`` and the edits that fired for it."""
        space = self._spaces.get(namespace)
        if space is None:
            space = self._spaces[namespace] = _Space()
            while len(self._spaces) > _MOST_SPACES:
                self._spaces.popitem(last=False)
        space.record(int(self._clock() // 60), outcome, fired)

    def rows(self, namespace: str) -> dict[str, Any]:
        """Return the last hour of ``namespace``, oldest minute first, and the edits that fired most, as JSON."""
        now = int(self._clock() // 60)
        space = self._spaces.get(namespace) or _Space()
        minutes = [space.minutes.get(minute, Counter()) for minute in range(now - MINUTES + 1, now + 1)]
        outcomes = sorted({outcome for minute in minutes for outcome in minute})
        return {
            "minutes": {outcome: [minute[outcome] for minute in minutes] for outcome in outcomes},
            "fired": [{"edit": edit, "times": times} for edit, times in space.fired.most_common(10)],
        }


class _Space:
    """One namespace."""

    def __init__(self) -> None:
        self.minutes: dict[int, Counter[str]] = {}
        self.fired: Counter[str] = Counter()

    def record(self, minute: int, outcome: str, fired: Iterable[str]) -> None:
        if minute not in self.minutes:
            self.minutes[minute] = Counter()
            for old in [known for known in self.minutes if known <= minute - MINUTES]:
                del self.minutes[old]
        self.minutes[minute][outcome] += 1
        for edit in fired:
            self.fired[edit] += 1
        if len(self.fired) > _MOST_EDITS:  # those that fired least are forgotten
            self.fired = Counter(dict(self.fired.most_common(_MOST_EDITS // 2)))
