"""Scope: which live edits concern a query, and how surely.

A query is cut into segments; each finds candidates by the names it mentions and by the similarity of its vector; a
judge decides about each pair of edit and segment. Most queries concern no edit, and cost one encoding of the query.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np

from corrigenda.chat import check_query
from corrigenda.edit import Edit
from corrigenda.errors import InvalidRequest
from corrigenda.memory.judge import Judge, Pair, SimilarityJudge
from corrigenda.memory.memory import Hit, Memory
from corrigenda.memory.mentions import Mention
from corrigenda.memory.names import NameMatch, best_match, tokens
from corrigenda.memory.segments import Segment, segments

Verdict = Literal["direct", "needs", "out"]

_FLOOR = 0.5
"""Cosine below which an edit whose subject is not mentioned is not looked at, −1…1."""
_MOST_PAIRS = 16
"""Most pairs a query may put before the judge; mentions first, then the most similar."""


@dataclass(frozen=True)
class Candidate:
    """An edit that was looked at for a query.

    Attributes:
        edit: The edit.
        probability: That it concerns the query, 0…1, calibrated.
        threshold: The probability from which it fires.
        similarity: Cosine of its prompt and the segment, −1…1; for one found by name only, an upper bound.
        mention: Where its subject or an alias stands in the query, if it does.
        features: What the judge went by.
        verdict: ``direct``: it answers the query; ``needs``: the answer depends on it; ``out``: it does not fire.
        segment: The part of the query that was judged.
    """

    edit: Edit
    probability: float
    threshold: float
    similarity: float
    mention: Mention | None
    features: Mapping[str, float]
    verdict: Verdict
    segment: str

    @property
    def fires(self) -> bool:
        """Whether the edit is in scope."""
        return self.probability >= self.threshold


@dataclass(frozen=True)
class Consideration:
    """What was considered for one query.

    Attributes:
        query: The query.
        candidates: Most probable first; edits that were not looked at are not among them.
        milliseconds: Wall time of ``encode``, ``search`` and ``judge``; of a batch, this query's share.
    """

    query: str
    candidates: tuple[Candidate, ...] = ()
    milliseconds: Mapping[str, float] = field(default_factory=dict)

    @cached_property
    def in_scope(self) -> tuple[Candidate, ...]:
        """The candidates that fire, most probable first."""
        return tuple(candidate for candidate in self.candidates if candidate.fires)


class Scope:
    """The scope classifier of a memory. Safe to share between threads.

    Args:
        memory: Where the edits are.
        threshold: Probability from which an edit fires, 0…1, higher fires less; by default the judge's own.
        k: How many similar edits a segment brings up, besides those that it names.
        judge: Decides about pairs.

    Raises:
        InvalidRequest: A threshold outside 0…1, or k below 1.
    """

    def __init__(
        self, memory: Memory, *, threshold: float | None = None, k: int = 8, judge: Judge | None = None
    ) -> None:
        if threshold is not None and not 0 <= threshold <= 1:
            raise InvalidRequest(f"threshold={threshold} is not a probability", remedy="Give a number from 0 to 1.")
        if k < 1:
            raise InvalidRequest(f"k={k} is below 1")
        self.memory = memory
        self.k = k
        self._judge: Judge = judge if judge is not None else SimilarityJudge()
        self.threshold = self._judge.threshold if threshold is None else threshold

    def consider(
        self, queries: Sequence[str], namespace: str = "default", *, context: Sequence[str] = ()
    ) -> list[Consideration]:
        """Return for each query which edits concern it.

        Args:
            queries: Any texts; chat messages, prompts to continue, questions.
            namespace: Only its edits are looked at.
            context: Earlier messages, oldest first; not used to decide yet.

        Raises:
            InvalidRequest: A query that is empty, too long or not text.
        """
        for query in queries:
            check_query(query)
        if not queries or not len(self.memory):
            return [Consideration(query, (), dict.fromkeys(("encode", "search", "judge"), 0.0)) for query in queries]
        clock = _Clock()
        parts = [segments(query) for query in queries]
        vectors = self.memory.encoder.encode([segment.text for part in parts for segment in part])
        clock.lap("encode")
        hits = iter(self.memory.search(vectors, self.k, namespace))
        looks = [_look(query, part, hits, self.memory, namespace) for query, part in zip(queries, parts, strict=True)]
        clock.lap("search")
        judged = self._judged([pair for look in looks for pair in look.pairs])
        found = [self._candidates(look, judged) for look in looks]
        clock.lap("judge")
        return [
            Consideration(query, candidates, clock.shares(len(queries)))
            for query, candidates in zip(queries, found, strict=True)
        ]

    def _judged(self, pairs: Sequence[Pair]) -> Iterator[np.ndarray]:
        return iter(self._judge.judge(pairs) if pairs else ())

    def _candidates(self, look: _Look, judged: Iterator[np.ndarray]) -> tuple[Candidate, ...]:
        """Return one candidate per edit, judged by the segment that it fits best."""
        best: dict[str, Candidate] = {}
        for pair, mention in zip(look.pairs, look.mentions, strict=True):
            out, direct, needs = (float(value) for value in next(judged))
            probability = min(max(1.0 - out, 0.0), 1.0)
            verdict: Verdict = "needs" if needs > direct else "direct"
            candidate = Candidate(
                pair.edit,
                probability,
                self.threshold,
                pair.similarity,
                mention,
                {"similarity": pair.similarity, "name": pair.match.score, "direct": direct, "needs": needs},
                verdict if probability >= self.threshold else "out",
                pair.query,
            )
            known = best.get(pair.edit.id)
            if known is None or known.probability < probability:
                best[pair.edit.id] = candidate
        return tuple(sorted(best.values(), key=lambda candidate: -candidate.probability))


@dataclass
class _Look:
    pairs: list[Pair]
    mentions: list[Mention | None]


def _look(query: str, parts: Sequence[Segment], hits: Iterator[list[Hit]], memory: Memory, namespace: str) -> _Look:
    """Gather the pairs of one query: edits that a segment names, then edits similar to a segment."""
    mentions = [mention for mention in memory.mentions(query, namespace) if not mention.nested]
    named: list[tuple[Pair, Mention | None]] = []
    similar: list[tuple[Pair, Mention | None]] = []
    for segment in parts:
        near = next(hits)
        if not segment.asked:
            continue
        words = tokens(segment.text)
        cosines = {hit.edit.id: hit.similarity for hit in near}
        bound = near[-1].similarity if near else 0.0
        seen: set[str] = set()
        for mention in mentions:
            if not (segment.start <= mention.start and mention.end <= segment.end):
                continue
            start, end = mention.start - segment.start, mention.end - segment.start
            match = NameMatch(start, end, 1.0, True, 0, mention.name)
            for edit_id in mention.edit_ids:
                seen.add(edit_id)
                pair = Pair(memory.get(edit_id), segment.text, match, cosines.get(edit_id, bound))
                named.append((pair, mention))
        for hit in near:
            if hit.similarity >= _FLOOR and hit.edit.id not in seen:
                match = best_match(hit.edit.names, words)
                similar.append((Pair(hit.edit, segment.text, match, hit.similarity), None))
    similar.sort(key=lambda item: -item[0].similarity)
    chosen = [*named, *similar][:_MOST_PAIRS]
    return _Look([pair for pair, _ in chosen], [mention for _, mention in chosen])


class _Clock:
    """Wall time between laps, in milliseconds."""

    def __init__(self) -> None:
        self._last = time.perf_counter()
        self._laps: dict[str, float] = {}

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self._laps[name] = (now - self._last) * 1e3
        self._last = now

    def shares(self, count: int) -> dict[str, float]:
        return {name: spent / count for name, spent in self._laps.items()}
