"""What other processes and threads do in their own time is waited for, not slept for."""

from __future__ import annotations

import time
from collections.abc import Callable


def until(condition: Callable[[], bool], seconds: float = 60.0) -> float:
    """Wait for ``condition``; return how long it took.

    Raises:
        TimeoutError: Longer than ``seconds``; those in which this process was stopped do not count.
    """
    began = last = time.monotonic()
    left = seconds
    while not condition():
        now = time.monotonic()
        left -= min(now - last, 1.0)
        last = now
        if left < 0:
            raise TimeoutError
        time.sleep(0.002)
    return time.monotonic() - began
