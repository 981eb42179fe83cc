"""Codebook: the keys, values and deferral radii of GRACE (Hartvigsen et al. 2023, "Aging with GRACE", algorithm 1).

A key is what a layer is given at the end of an edit's prompt, a value what it should return there. A query within a
key's deferral radius gets the value; every other is deferred to the model. The codebook is a fold over the entries in
the order of their edits, so that taking one out is building it without: nothing of it is left.

Legend: n entries, k width of a key, d width of a value. Distances are Euclidean, in the units of the layer.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from corrigenda.edit import Edit, EditId, fold

Vector = NDArray[np.float32]

_GAP = 1e-5
"""What two neighbouring radii of different labels leave between them (paper, algorithm 1)."""
_HEAD = struct.Struct("<II")


@dataclass(frozen=True, eq=False)
class Entry:
    """What the codebook keeps of one edit.

    Attributes:
        edit_id: The edit.
        statement: The edit as a sentence.
        label: Its target, folded; equal labels want equal answers.
        key: (k,) float32.
        value: (d,) float32.
    """

    edit_id: EditId
    statement: str
    label: str
    key: Vector = field(repr=False)
    value: Vector = field(repr=False)

    def to_bytes(self) -> bytes:
        """Return key and value; edit and label are known to whoever asks for them."""
        parts = [np.ascontiguousarray(part, dtype="<f4") for part in (self.key, self.value)]
        return _HEAD.pack(len(self.key), len(self.value)) + b"".join(part.tobytes() for part in parts)

    @classmethod
    def from_bytes(cls, edit: Edit, data: bytes) -> Entry | None:
        """Return the entry that :meth:`to_bytes` wrote for ``edit``; ``None`` when ``data`` is not whole and finite."""
        if len(data) < _HEAD.size:
            return None
        k, d = _HEAD.unpack_from(data)
        if len(data) != _HEAD.size + 4 * (k + d):
            return None
        both = np.frombuffer(data, dtype="<f4", offset=_HEAD.size).astype(np.float32)
        return cls.of(edit, both[:k], both[k:]) if np.isfinite(both).all() else None

    @classmethod
    def of(cls, edit: Edit, key: Vector, value: Vector) -> Entry:
        """Return the entry of ``edit``."""
        return cls(edit.id, edit.statement, fold(edit.target), key, value)


@dataclass(frozen=True, slots=True)
class Found:
    """An entry within whose radius a query lies.

    Attributes:
        entry: The entry.
        distance: From its key, 0 and more.
        radius: Its deferral radius; never smaller than ``distance``.
    """

    entry: Entry
    distance: float
    radius: float


class Codebook:
    """Entries and their radii.

    Args:
        entries: n entries, in the order of their edits; keys of one width.
        radius: The initial deferral radius ε, > 0.

    Each entry in turn meets the nearest key there is, at distance δ, with radius ε′:

    * δ > ε + ε′: it becomes a key of its own, with radius ε (*add*);
    * same label: the key's radius grows to δ if it was less (*expand*); the entry is covered by it;
    * another label: it becomes a key, and both radii shrink to δ/2 (*split*).

    The paper lets a later split uncover what an earlier expansion covered. Here whatever is no longer answered by an
    entry of its label becomes a key of its own, so that every edit's own prompt gets its own answer, in any order.
    """

    def __init__(self, entries: Sequence[Entry], radius: float) -> None:
        self.entries = tuple(entries)
        self.radius = radius
        self._keys = np.stack([entry.key for entry in entries]).astype(np.float64) if entries else np.empty((0, 0))
        self._squares = (self._keys**2).sum(1)  # (n,)
        self._centres: list[int] = []  # places of the entries that are keys
        self._radii = np.zeros(len(self.entries))  # (n,), 0 for what is covered
        for place in range(len(self.entries)):
            self._meet(place)
        self._uncovered()

    def __len__(self) -> int:
        """Count the keys; entries that another key covers are none."""
        return len(self._centres)

    def radii(self) -> dict[EditId, float]:
        """Return the deferral radius of each key, by its edit."""
        return {self.entries[place].edit_id: float(self._radii[place]) for place in self._centres}

    def find(self, queries: NDArray[Any]) -> list[Found | None]:
        """Return for each of ``queries``, (m, k), the nearest key if the query lies within its radius."""
        if not self._centres or not len(queries):
            return [None] * len(queries)
        centres = np.array(self._centres)
        found: list[Found | None] = []
        for distances in self._distances(np.asarray(queries, dtype=np.float64), centres):
            nearest = int(distances.argmin())
            place, distance = int(centres[nearest]), float(distances[nearest])
            radius = float(self._radii[place])
            found.append(Found(self.entries[place], distance, radius) if distance <= radius else None)
        return found

    def _meet(self, place: int) -> None:
        if not self._centres:
            self._add(place, self.radius)
            return
        distances = self._distances(self._keys[place : place + 1], np.array(self._centres))[0]
        nearest = int(distances.argmin())
        other, distance = self._centres[nearest], float(distances[nearest])
        if distance > self.radius + self._radii[other]:
            self._add(place, self.radius)
        elif self.entries[other].label == self.entries[place].label:
            self._radii[other] = max(self._radii[other], distance)
        else:
            self._split(place, other, distance)

    def _add(self, place: int, radius: float) -> None:
        self._centres.append(place)
        self._radii[place] = radius

    def _split(self, place: int, other: int, distance: float) -> None:
        half = distance / 2
        self._radii[other] = min(self._radii[other], max(half - _GAP, 0.0))
        self._add(place, half)

    def _uncovered(self) -> None:
        """Make keys of the entries that are not answered by one of their label, until all are."""
        while True:
            missing = [
                place
                for place, found in enumerate(self.find(self._keys))
                if found is None or found.entry.label != self.entries[place].label
            ]
            fresh = [place for place in missing if place not in self._centres]
            if not fresh:
                return
            for place in fresh:
                distances = self._distances(self._keys[place : place + 1], np.array(self._centres))[0]
                nearest = int(distances.argmin())
                other, distance = self._centres[nearest], float(distances[nearest])
                if self.entries[other].label == self.entries[place].label:
                    self._add(place, min(self.radius, distance / 2))
                else:
                    self._split(place, other, distance)

    def _distances(self, queries: NDArray[np.float64], places: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return (m, len(places)) distances between ``queries`` and keys."""
        products = queries @ self._keys[places].T
        squares = (queries**2).sum(1)[:, None] + self._squares[places][None] - 2 * products
        distances: NDArray[np.float64] = np.sqrt(np.maximum(squares, 0.0))
        return distances


def initial_radius(groups: Sequence[Vector], scale: float) -> float:
    """Return the initial deferral radius for keys like these: ``scale`` of how near different prompts come.

    The radius of the paper, 1.0, means nothing to another model or layer. Distances between prompts that must not be
    taken for one another are its unit: the smallest between any two prompts of a group, which differ in little but the
    subject.

    Args:
        groups: Keys (m, k) of prompts of one wording with m ≥ 2 different subjects.
        scale: Share of it, 0…1; higher takes more queries in.
    """
    nearest = []
    for keys in groups:
        rows = np.asarray(keys, dtype=np.float64)
        gaps = np.linalg.norm(rows[:, None] - rows[None], axis=-1)
        gaps[np.diag_indices(len(rows))] = np.inf
        nearest.append(gaps.min())
    return scale * float(min(nearest))
