"""Thresholds by namespace: what ``corrigenda scope calibrate`` found on a team's own traffic, kept beside the memory.

The file is JSON, ``<memory>.scope.json``, so that it can be read, reviewed and put under version control. A threshold
belongs to the classifier that it was found with: another one's probabilities mean something else, and it is left out.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from corrigenda.atomic import replacing
from corrigenda.edit import normal_form
from corrigenda.errors import StoreDamaged, StoreNotWritable

_KEPT = 1_000  # scores that are kept of a calibration, evenly over their ranks: enough to see traffic drift


@dataclass(frozen=True)
class Calibration:
    """A threshold and where it comes from.

    Attributes:
        threshold: Probability from which an edit fires, 0…1.
        rate: Share of out-of-scope queries that may fire, 0…1.
        n: How many queries it was found on.
        scores: Their highest probabilities, in order; of very many an even selection.
        classifier: Fingerprint of the classifier.
        at: When, ISO 8601.
    """

    threshold: float
    rate: float
    n: int
    scores: tuple[float, ...]
    classifier: str
    at: str


def selected(scores: Sequence[float]) -> tuple[float, ...]:
    """Return ``scores`` in order, at most a thousand of them, evenly over their ranks."""
    ordered = sorted(scores)
    if len(ordered) <= _KEPT:
        return tuple(ordered)
    return tuple(ordered[round(place * (len(ordered) - 1) / (_KEPT - 1))] for place in range(_KEPT))


class Thresholds:
    """The calibrations of a memory by namespace. Reads the file again when it has changed; safe between threads.

    Args:
        path: The file; it need not exist.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._read: dict[str, Calibration] = {}
        self._stamp: tuple[int, int] | None = None
        self._lock = threading.Lock()

    @classmethod
    def beside(cls, memory: str | Path) -> Thresholds:
        """Return the thresholds of the memory in the file ``memory``."""
        return cls(f"{memory}.scope.json")

    def get(self, namespace: str, classifier: str) -> Calibration | None:
        """Return the calibration of ``namespace`` with ``classifier``; ``None`` where there is none.

        Raises:
            StoreDamaged: The file is no such file.
        """
        found = self._current().get(normal_form(namespace))
        return found if found is not None and found.classifier == classifier else None

    def put(self, namespace: str, calibration: Calibration) -> None:
        """Keep ``calibration`` for ``namespace``.

        Raises:
            StoreDamaged: There is a file already, and it is no such file.
            StoreNotWritable: The folder or the disk refuses.
        """
        kept = {**self._current(), normal_form(namespace): calibration}
        text = json.dumps({name: asdict(of) for name, of in sorted(kept.items())}, indent=1)
        try:
            with replacing(self.path) as file:
                file.write(text.encode())
        except OSError as error:
            raise StoreNotWritable(f"{self.path} cannot be written: {error}") from error

    def _current(self) -> Mapping[str, Calibration]:
        with self._lock:
            try:
                state = os.stat(self.path)
            except OSError:
                self._read, self._stamp = {}, None
                return self._read
            if self._stamp != (state.st_mtime_ns, state.st_size):
                self._read = self._parsed()
                self._stamp = (state.st_mtime_ns, state.st_size)
            return self._read

    def _parsed(self) -> dict[str, Calibration]:
        try:
            rows: dict[str, dict[str, Any]] = json.loads(self.path.read_text(encoding="utf-8"))
            return {name: Calibration(**{**row, "scores": tuple(row["scores"])}) for name, row in rows.items()}
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise StoreDamaged(
                f"{self.path} holds no thresholds: {error}",
                remedy="Delete it and run corrigenda scope calibrate again.",
            ) from error
