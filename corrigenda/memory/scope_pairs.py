"""Pairs of edit and query with labels: reading them, and which of them speak of the same relation."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from corrigenda.edit import Edit
from corrigenda.errors import CorrigendaError, DatasetError
from corrigenda.memory.features import match_subject, names_of, pair_frames
from corrigenda.memory.names import NameMatch
from corrigenda.memory.segments import segments
from corrigenda.memory.texts import find_name, split_statement

CLASSES = ("out", "direct", "needs")
"""What a pair can be; the place is the class number."""


@dataclass(frozen=True)
class LabelledPair:
    """An edit, a query and whether the one concerns the other.

    Attributes:
        edit: The edit.
        query: The text; only its last segment that asks is looked at.
        label: Class number, see :data:`CLASSES`.
        kind: How the pair came about, free text.
    """

    edit: Edit
    query: str
    label: int
    kind: str

    def judged(self) -> tuple[str, NameMatch]:
        """Return the segment that counts, and where the subject stands in it."""
        whole = [span for name in names_of(self.edit) for span in find_name(self.query, name)]
        text = next(part for part in reversed(segments(self.query, whole)) if part.asked).text
        return text, match_subject(self.edit, text)

    def frames(self) -> tuple[str, str] | None:
        """Return the frames of edit and query; ``None`` unless the whole subject stands in the query."""
        text, match = self.judged()
        return pair_frames(self.edit, text, match) if match.exact else None


def read_pairs(path: str | Path) -> list[LabelledPair]:
    """Read a file of JSON lines: ``edit`` (a statement, or a question and its answer), ``query``, ``label``, ``kind``.

    The kind ``multi_hop`` with label 1 becomes the class ``needs``.

    Raises:
        DatasetError: The file cannot be read, or a line lacks a field; the message names both.
    """
    pairs = []
    try:
        with Path(path).open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    pairs.append(_pair(line, f"{path}, line {number}"))
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path} cannot be read: {error}") from error
    if not pairs:
        raise DatasetError(f"{path} holds no pairs")
    return pairs


def _pair(line: str, where: str) -> LabelledPair:
    try:
        row = json.loads(line)
        prompt, target = split_statement(row["edit"])
        kind, inside = str(row["kind"]), bool(row["label"])
        return LabelledPair(Edit(prompt, target), row["query"], inside + (inside and kind == "multi_hop"), kind)
    except (ValueError, KeyError, TypeError, AttributeError, CorrigendaError) as error:
        raise DatasetError(f"{where}: {type(error).__name__}: {error}") from error


def relation_groups(pairs: Sequence[LabelledPair], least: int = 3) -> list[int]:
    """Return a group number per pair: edits of one relation get the same, −1 where unknown.

    Two frames are of one relation when at least ``least`` pairs call the one an answer to the other; a single pair may
    be an accident. Grouping errs towards few large groups, so a split by group keeps relations apart.
    """
    links: Counter[tuple[str, str]] = Counter()
    own: list[str | None] = []
    for pair in pairs:
        frames = pair.frames()
        own.append(_plain(frames[0]) if frames else None)
        if frames and pair.label == 1:
            links[_plain(frames[0]), _plain(frames[1])] += 1
    parent: dict[str, str] = {}

    def root(frame: str) -> str:
        while parent.setdefault(frame, frame) != frame:
            frame = parent[frame]
        return frame

    for (left, right), count in links.items():
        if count + links.get((right, left), 0) >= least:
            parent[root(left)] = root(right)
    numbers = {name: number for number, name in enumerate(sorted({root(frame) for frame in parent}))}
    votes: dict[str, Counter[int]] = defaultdict(Counter)  # of a frame that is too rare: the groups of its answers
    for (left, right), count in links.items():
        for rare, other in ((left, right), (right, left)):
            if rare not in parent and other in parent:
                votes[rare][numbers[root(other)]] += count

    def group(frame: str) -> int:
        if frame in parent:
            return numbers[root(frame)]
        return votes[frame].most_common(1)[0][0] if votes[frame] else -1

    # A pair about another subject has no frames; its edit's subject and wording may be known from other pairs.
    return [group(_known(pair, name)) for pair, name in zip(pairs, own, strict=True)]


def _known(pair: LabelledPair, frame: str | None) -> str:
    from corrigenda.memory.texts import frame_text

    return frame if frame is not None else _plain(frame_text(pair.edit))


def _plain(frame: str) -> str:
    return frame.removesuffix("?").replace("The X", "X").replace("the X", "X")
