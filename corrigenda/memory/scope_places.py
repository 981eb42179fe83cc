"""Places: which of the edits that a query names are judged, where it names more than can be.

One name that is said often, or that many edits are about, must not keep out what else the query asks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from corrigenda.edit import EditId
from corrigenda.memory.scope_parts import Named, Part

Nearest = Callable[[int, tuple[EditId, ...]], Sequence[EditId]]
"""Puts edits in order, those first whose frames are nearest to the part of that number; the last may be left out."""


@dataclass(frozen=True, slots=True)
class Claim:
    """An edit that a part names, by one mention.

    Attributes:
        part: The number of the part.
        name: The mention.
        edit_id: The edit.
    """

    part: int
    name: Named
    edit_id: EditId


def dealt(asked: Sequence[Part], places: int, nearest: Nearest) -> list[Claim]:
    """Return which of the edits that the parts name are judged, in the order of the query: all, if there is room.

    Else the places go round. Each name of each part gets one for its nearest edit, then each for its second, and so
    on; names that no earlier part has come first in a round. What a part names again by another mention comes last.

    Args:
        asked: The parts of a query; those that ask nothing claim nothing.
        places: Most claims that are returned.
        nearest: Tells which edits of a name suit a part; only asked where places are short.
    """
    short = sum(len(name.ids) for part in asked if part.asked for name in part.named) > places
    claims: list[Claim] = []
    ranks: list[tuple[int, int, int]] = []
    told: Counter[tuple[str, EditId]] = Counter()  # by text of a part and edit: claims so far
    parts: Counter[str] = Counter()  # by name: earlier parts that have it
    for number, part in enumerate(asked):
        if not part.asked:
            continue
        ids: dict[str, Sequence[EditId]] = {}
        for name in part.named:
            key = name.match.name
            if key not in ids:
                ids[key] = nearest(number, name.ids) if short and len(name.ids) > 1 else name.ids
            for depth, edit_id in enumerate(ids[key]):
                claims.append(Claim(number, name, edit_id))
                ranks.append((told[part.text, edit_id], depth, parts[key]))
                told[part.text, edit_id] += 1
        parts.update(ids.keys())
    first = sorted(range(len(claims)), key=ranks.__getitem__)[:places]
    return [claims[place] for place in sorted(first)]
