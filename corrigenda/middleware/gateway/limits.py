"""Rate limits: one bucket of tokens a caller."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable

_MOST = 10_000
"""Most callers remembered; who was quiet the longest is forgotten, with a full bucket."""


class Buckets:
    """Lets each caller do ``burst`` things at once and ``rate`` a second in the long run.

    Args:
        rate: Per second, above 0.
        burst: 1 and more.
        clock: Seconds, monotonic.
    """

    def __init__(self, rate: float, burst: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.rate, self.burst, self._clock = rate, burst, clock
        self._callers: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def wait(self, caller: str, cost: float = 1.0) -> float:
        """Take ``cost`` tokens of ``caller``; return 0, or the seconds until there are enough (nothing is taken)."""
        now = self._clock()
        tokens, then = self._callers.pop(caller, (float(self.burst), now))
        tokens = min(self.burst, tokens + (now - then) * self.rate)
        short = cost - tokens
        self._callers[caller] = (tokens if short > 0 else tokens - cost, now)
        while len(self._callers) > _MOST:
            self._callers.popitem(last=False)
        return short / self.rate if short > 0 else 0.0
