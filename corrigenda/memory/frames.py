"""FrameTable: the frame vectors of edits, each kept once: a million edits share a few thousand relations."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]


class FrameTable:
    """Vectors by slot; equal ones share a row.

    Args:
        dimension: Length d of a vector.
    """

    def __init__(self, dimension: int) -> None:
        self._rows: Vectors = np.zeros((0, dimension), dtype=np.float32)
        self._uses: list[int] = []
        self._free: list[int] = []
        self._places: dict[bytes, int] = {}  # vector -> row
        self._of: NDArray[np.int32] = np.zeros(0, dtype=np.int32)  # slot -> row, -1 for none

    @property
    def nbytes(self) -> int:
        """Bytes in use, without Python's own."""
        return self._rows.nbytes + self._of.nbytes

    @classmethod
    def restore(cls, rows: Vectors, of: NDArray[np.int32]) -> FrameTable:
        """Build the table that :meth:`dump` described.

        Raises:
            ValueError: The parts do not fit each other.
        """
        if rows.ndim != 2 or of.ndim != 1 or (len(of) and not -1 <= of.min() <= of.max() < len(rows)):
            raise ValueError("frames and their places do not fit")
        table = cls(rows.shape[1])
        table._rows, table._of = rows, of
        table._uses = np.bincount(of[of >= 0], minlength=len(rows)).tolist()
        table._free = [row for row, uses in enumerate(table._uses) if not uses]
        table._places = {rows[row].tobytes(): row for row, uses in enumerate(table._uses) if uses}
        if len(table._places) + len(table._free) != len(rows):
            raise ValueError("a frame is there twice")
        return table

    def dump(self, slots: int) -> tuple[Vectors, NDArray[np.int32]]:
        """Return a copy of the rows, and for each of the first ``slots`` slots its row, for :meth:`restore`."""
        of = np.full(slots, -1, dtype=np.int32)
        known = min(slots, len(self._of))
        of[:known] = self._of[:known]
        return self._rows[: len(self._uses)].copy(), of

    def set(self, slots: Sequence[int], vectors: Vectors) -> None:
        """Let ``slots``, which have none, have ``vectors``, (n, d)."""
        if not len(slots):
            return
        if (most := max(slots) + 1) > len(self._of):
            grown = np.full(max(256, 2 * most), -1, dtype=np.int32)
            grown[: len(self._of)] = self._of
            self._of = grown
        for slot, vector in zip(slots, np.ascontiguousarray(vectors, dtype=np.float32), strict=True):
            self._of[slot] = self._row(vector)

    def drop(self, slots: Sequence[int]) -> None:
        """Let ``slots`` have none any more."""
        for slot in slots:
            row = int(self._of[slot])
            self._of[slot] = -1
            self._uses[row] -= 1
            if not self._uses[row]:
                del self._places[self._rows[row].tobytes()]
                self._free.append(row)

    def get(self, slots: Sequence[int]) -> Vectors:
        """Return the vectors of ``slots``, (n, d)."""
        return self._rows[self._of[np.asarray(slots, dtype=np.int64)]]

    def _row(self, vector: NDArray[np.float32]) -> int:
        key = vector.tobytes()
        row = self._places.get(key)
        if row is None:
            row = self._free.pop() if self._free else len(self._uses)
            if row == len(self._uses):
                self._uses.append(0)
                if row >= len(self._rows):
                    grown = np.zeros((max(256, row + row // 2), len(vector)), dtype=np.float32)
                    grown[: len(self._rows)] = self._rows
                    self._rows = grown
            self._rows[row] = vector
            self._places[key] = row
        self._uses[row] += 1
        return row
