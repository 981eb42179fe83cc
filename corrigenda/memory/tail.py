"""Tail: a thread that waits for what others append to a distant ledger, and takes it into the replica at once."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Protocol

from corrigenda.errors import StoreUnavailable, brief
from corrigenda.memory.ledger import Event, Store
from corrigenda.memory.replica import Replica

log = logging.getLogger(__name__)

_WAIT_SECONDS = 0.5
_PAUSES = (0.05, 0.1, 0.2, 0.4)  # seconds between attempts on a server that is away


class Followed(Store, Protocol):
    """A store whose end can be waited for."""

    def wait(self, after: int, seconds: float) -> list[Event]:
        """Return events after ``after``, waiting up to ``seconds`` for one, or less."""
        ...


class Tail:
    """Keeps ``replica`` in step with ``store`` until :meth:`stop`.

    Args:
        replica: To be kept in step.
        store: The same as the replica's.
        reached: Called, in the thread, when the server answers (again), and about twice a second while it does.
    """

    def __init__(self, replica: Replica, store: Followed, reached: Callable[[], None] = lambda: None) -> None:
        self._replica = replica
        self._store = store
        self._reached = reached
        self._stopping = threading.Event()
        self._in_touch = time.monotonic()
        self._failures = 0
        self._broken = False
        self._thread = threading.Thread(target=self._run, name="corrigenda-tail", daemon=True)
        self._thread.start()

    @property
    def stale_for(self) -> float:
        """Seconds since the replica is known to have been in step; 0.0 while it is followed without trouble."""
        return time.monotonic() - self._in_touch if self._failures or self._broken else 0.0

    def stop(self) -> None:
        """End the thread; returns when it has ended."""
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        quiet, asked = True, 0.0
        while not self._stopping.is_set():
            try:
                # A ledger that was put back to an earlier state stays silent, and one that others keep writing to never
                # does: ask when connected anew, and twice a second at least.
                if quiet or time.monotonic() - asked >= _WAIT_SECONDS:
                    self._replica.confirm()
                    if quiet:
                        self._replica.sync()
                    self._reached()
                    asked = time.monotonic()
                events = self._store.wait(self._replica.place[0], _WAIT_SECONDS)
                self._replica.take(events)
                quiet = not events
                self._in_touch, self._failures = time.monotonic(), 0
            except StoreUnavailable as error:
                quiet = True
                self._missed(error)
            except Exception as error:  # whatever it is: a thread that ended would leave the replica behind unseen
                if not self._failures:
                    log.exception("following the ledger failed")
                quiet = self._broken = True
                self._missed(error)
            else:
                self._broken = False

    def _missed(self, error: Exception) -> None:
        if self._stopping.is_set():
            return
        if not self._failures:
            self._replica.note(
                f"the ledger cannot be followed, answers are from version {self._replica.place[0]}: {brief(error)}"
            )
        self._failures += 1
        self._stopping.wait(_PAUSES[min(self._failures, len(_PAUSES)) - 1])
