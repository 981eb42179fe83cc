"""Scope: which live edits concern a query, and how surely.

A query is cut into parts; each finds candidates by the names it mentions and by the similarity of its vector; a
judge decides about each pair of edit and part. Most queries concern no edit, and cost one encoding of the query.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from corrigenda.chat import check_query
from corrigenda.edit import Edit, EditId
from corrigenda.errors import InvalidRequest, UnknownEdit
from corrigenda.memory.features import initials_span, match_subject
from corrigenda.memory.judge import FrameJudge, Judge, Judgement, Pair
from corrigenda.memory.memory import Hit, Memory
from corrigenda.memory.mentions import Mention, Names
from corrigenda.memory.names import NameMatch, Token, match_name, tokens
from corrigenda.memory.scope_aliases import other_names
from corrigenda.memory.scope_parts import Part, parts
from corrigenda.memory.scope_places import dealt
from corrigenda.memory.scope_thresholds import Thresholds
from corrigenda.memory.texts import capitalised_runs

Verdict = Literal["direct", "needs", "out"]
Vectors = NDArray[np.float32]
_Found = tuple[Vectors, list[Hit]]

_SURE = 0.75
"""Cosine from which an edit is looked at even if nothing of its name stands in the query, −1…1."""
_LIKELY = 0.5
"""Cosine from which it is looked at if part of its name does."""
_PART = 0.34
"""Share of a name that counts as part of it, 0…1."""
_NEARLY = 0.75
"""Share of a name from which an edit is looked at whatever the cosine: a typing error, a title left out."""
_MOST_PAIRS = 16
"""Most pairs of a query that are judged: named edits first, then the others."""
_MOST_SIMILAR = 8
"""Most of them that are not named; those with most of the name first."""
_KEPT_SIMILAR = 4
"""So many places are theirs however many edits are named."""
_MOST_WORDS = 12
"""Most words of a segment by which misspelt names are looked for."""


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
        threshold: Probability from which an edit fires, 0…1, higher fires less; by default what was calibrated for the
            namespace, else the judge's own.
        k: How many similar edits a segment brings up, besides those that it names.
        judge: Decides about pairs; the trained one, loaded when first needed, by default.
        thresholds: Calibrated ones by namespace; those beside the memory's file by default.

    Raises:
        InvalidRequest: A threshold outside 0…1, or k below 1.
    """

    def __init__(
        self,
        memory: Memory,
        *,
        threshold: float | None = None,
        k: int = 8,
        judge: Judge | None = None,
        thresholds: Thresholds | None = None,
    ) -> None:
        if threshold is not None and not 0 <= threshold <= 1:
            raise InvalidRequest(f"threshold={threshold} is not a probability", remedy="Give a number from 0 to 1.")
        if k < 1:
            raise InvalidRequest(f"k={k} is below 1")
        self.memory = memory
        self.k = k
        self._judge = judge
        self._threshold = threshold
        self._thresholds = thresholds or (Thresholds.beside(memory.path) if memory.path else None)
        self._loading = threading.Lock()

    def consider(
        self, queries: Sequence[str], namespace: str = "default", *, context: Sequence[str] = ()
    ) -> list[Consideration]:
        """Return for each query which edits concern it.

        Args:
            queries: Any texts; chat messages, prompts to continue, questions.
            namespace: Only its edits are looked at.
            context: Earlier messages, oldest first: who "she" is, what "And Norway?" asks about it.

        Raises:
            InvalidRequest: A query that is empty, too long or not text.
        """
        for query in queries:
            check_query(query)
        if not queries or not len(self.memory):
            return [Consideration(query, (), dict.fromkeys(("encode", "search", "judge"), 0.0)) for query in queries]
        clock = _Clock()
        asked = [parts(query, context, lambda text: self.memory.mentions(text, namespace)) for query in queries]
        vectors = self.memory.encoder.encode([part.text for of_query in asked for part in of_query])
        clock.lap("encode")
        found = iter(list(zip(vectors, self.memory.search(vectors, self.k, namespace), strict=True)))
        looks = [_look(of_query, [next(found) for _ in of_query], self.memory, namespace) for of_query in asked]
        clock.lap("search")
        pairs = [pair for look in looks for pair, _ in look]
        judged = iter(self.judge.judge(pairs) if pairs else ())
        threshold = self.threshold_in(namespace) if pairs else 1.0
        candidates = [_candidates(look, judged, threshold) for look in looks]
        clock.lap("judge")
        return [
            Consideration(query, found, clock.shares(len(queries)))
            for query, found in zip(queries, candidates, strict=True)
        ]

    @property
    def judge(self) -> Judge:
        """The judge; loaded now if it was not."""
        with self._loading:
            if self._judge is None:
                self._judge = FrameJudge.load()
            return self._judge

    @property
    def threshold(self) -> float:
        """Probability from which an edit fires, 0…1, where nothing else was calibrated for its namespace."""
        return self.judge.threshold if self._threshold is None else self._threshold

    def threshold_in(self, namespace: str) -> float:
        """Return the probability from which an edit of ``namespace`` fires, 0…1."""
        if self._threshold is None and self._thresholds is not None:
            calibrated = self._thresholds.get(namespace, getattr(self.judge, "fingerprint", ""))
            if calibrated is not None:
                return calibrated.threshold
        return self.threshold


_Look = list[tuple[Pair, Mention | None]]


def _candidates(look: _Look, judged: Iterator[Judgement], threshold: float) -> tuple[Candidate, ...]:
    """Return one candidate per edit, judged by the part that it fits best."""
    best: dict[str, Candidate] = {}
    for pair, mention in look:
        judgement = next(judged)
        fires = judgement.probability >= threshold
        verdict: Verdict = ("needs" if judgement.needs else "direct") if fires else "out"
        known = best.get(pair.edit.id)
        if known is None or known.probability < judgement.probability:
            best[pair.edit.id] = Candidate(
                pair.edit,
                judgement.probability,
                threshold,
                pair.similarity,
                mention,
                judgement.features,
                verdict,
                pair.query,
            )
    return tuple(sorted(best.values(), key=lambda candidate: -candidate.probability))


def _look(asked: Sequence[Part], found: Sequence[_Found], memory: Memory, namespace: str) -> _Look:
    """Gather the pairs of one query: edits that a part names, then edits that are like it in wording or name."""
    similar: _Look = []
    for part, (_, near) in zip(asked, found, strict=True):
        if part.asked:
            known: set[str] = set().union(*{name.ids for name in part.named})  # a name may be said often
            similar += [(pair, None) for pair in _similar(part, near, memory, namespace) if pair.edit.id not in known]
    similar.sort(key=lambda item: (-item[0].match.score, -item[0].similarity))
    named = _named(asked, found, memory, _MOST_PAIRS - min(len(similar), _KEPT_SIMILAR))
    return [*named, *similar[: min(_MOST_SIMILAR, _MOST_PAIRS - len(named))]]


def _named(asked: Sequence[Part], found: Sequence[_Found], memory: Memory, places: int) -> _Look:
    """Return up to ``places`` pairs of a part and an edit whose subject or alias it holds."""
    claims = dealt(asked, places, lambda number, ids: _nearest(ids, found[number][0], memory))
    named: _Look = []
    for claim in claims:
        near = found[claim.part][1]
        bound = near[-1].similarity if near else 0.0
        cosine = next((hit.similarity for hit in near if hit.edit.id == claim.edit_id), bound)
        pair = Pair(memory.get(claim.edit_id), asked[claim.part].text, claim.name.match, cosine)
        named.append((pair, claim.name.mention))
    return named


def _nearest(ids: Sequence[EditId], vector: Vectors, memory: Memory) -> Sequence[EditId]:
    """Return the edits whose frames are nearest to a part of that vector, as many as can be judged."""
    try:
        nearness = memory.frame_vectors(ids) @ vector
    except UnknownEdit:  # one of them was retracted meanwhile
        return ids[:_MOST_PAIRS]
    return [ids[place] for place in np.argsort(-nearness)[:_MOST_PAIRS]]


def _similar(part: Part, near: Sequence[Hit], memory: Memory, namespace: str) -> Iterator[Pair]:
    """Yield the pairs of a part and edits that it does not name, but may mean."""
    words = tokens(part.text)
    seen: set[str] = set()
    for hit in near:
        match = match_subject(hit.edit, part.text, words)
        if (
            hit.similarity >= _SURE
            or match.score >= _NEARLY
            or (hit.similarity >= _LIKELY and (match.score >= _PART or initials_span(hit.edit, part.text)))
        ):
            seen.add(hit.edit.id)
            yield Pair(hit.edit, part.text, match, hit.similarity)
    bound = near[-1].similarity if near else 0.0
    names = memory.names(namespace)
    for edit_id, match in (*_otherwise(part, names), *_misspelt(part, words, names)):
        if edit_id not in seen and memory.is_live(edit_id):
            seen.add(edit_id)
            yield Pair(memory.get(edit_id), part.text, match, bound)


def _otherwise(part: Part, names: Names) -> Iterator[tuple[str, NameMatch]]:
    """Yield edits whose subject the part calls by another name that is common knowledge."""
    for start, end in capitalised_runs(part.text):
        for other in other_names(part.text[start:end]):
            match = NameMatch(start, end, 1.0, True, 0, part.text[start:end])
            yield from ((edit_id, match) for edit_id in names.ids_named(other))


def _misspelt(part: Part, words: Sequence[Token], names: Names) -> Iterator[tuple[str, NameMatch]]:
    """Yield edits of which nearly the whole name stands in the part, found by a word that is spelt right."""
    tried: set[str] = set()
    taken = [(name.match.start, name.match.end) for name in part.named]
    rare = [word for word in words if part.text[word.start].isupper() and word.end - word.start >= 4]
    for word in rare[:_MOST_WORDS]:
        if any(start <= word.start < end for start, end in taken):
            continue
        for name in names.names_with_token(part.text[word.start : word.end], limit=16):
            if name in tried:
                continue
            tried.add(name)
            match = match_name(name, words)
            if match.score >= _NEARLY and not match.exact:
                yield from ((edit_id, match) for edit_id in names.ids_named(name))


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
