"""Judge: does this edit concern this query? No; directly; or as one step of several.

:class:`FrameJudge` reads a pair twice. The frames, subject replaced by a placeholder on both sides, go through the
tuned encoder of :mod:`corrigenda.memory.frame_network`: do they ask for the same? The spelling of the names and a few
cues become features: is it the same subject? Boosted trees over both give the probability.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from corrigenda.edit import Edit
from corrigenda.errors import ModelDamaged, StoreNotWritable
from corrigenda.memory import encoder
from corrigenda.memory.calibration import sigmoid
from corrigenda.memory.features import FEATURES, features, name_pair, pair_frames
from corrigenda.memory.names import NameMatch
from corrigenda.memory.texts import find_name, in_another_language
from corrigenda.memory.trees import Trees
from corrigenda.paths import cache_dir

Probabilities = NDArray[np.float64]
Vectors = NDArray[np.float32]

INPUTS = (*FEATURES, "named", "frames", "direct", "needs")
"""What the trees go by: the features; cosines of the two names and of the two frames; the two logits of the frames."""
RISING = ("name", "named", "direct", "needs")
"""Inputs with which the probability never falls: without this the trees learn relations by heart."""
UNFRAMED = -15.0
"""Both logits of a pair without frames: nothing in the query can be the subject."""
UNNAMED = -1.0
"""Cosine of the names, and of the frames, where the query has none."""

_WEIGHTS = Path(__file__).parent / "weights"
_GRAPH_VERSION = "3"
_OUTPUTS = ("frame", "turned", "plain")
_REMEMBERED = 8192  # frames and names of edits whose vectors are kept: 4.5 KB each


@dataclass(frozen=True, slots=True)
class Pair:
    """An edit and a piece of a query, to be judged together.

    Attributes:
        edit: The edit.
        query: One segment of the query.
        match: Where the edit's subject, or something like it, stands in ``query``.
        similarity: Cosine of the vectors of the edit's prompt and of ``query``, −1…1.
    """

    edit: Edit
    query: str
    match: NameMatch
    similarity: float


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a judge thinks of a pair.

    Attributes:
        probability: That the edit concerns the query, 0…1.
        needs: Whether rather as one step of the answer than directly.
        features: What the judge went by.
    """

    probability: float
    needs: bool
    features: Mapping[str, float]


class Judge(Protocol):
    """Judges pairs.

    Attributes:
        threshold: Probability of being in scope, 0…1, from which an edit should fire; higher fires less.
    """

    threshold: float

    def judge(self, pairs: Sequence[Pair]) -> list[Judgement]:
        """Return a judgement per pair, in order."""
        ...


class SimilarityJudge:
    """The baseline: similarity alone, with a bonus for a subject that is mentioned. Not good with hard negatives."""

    threshold = 0.5

    def judge(self, pairs: Sequence[Pair]) -> list[Judgement]:
        """Return judgements; nothing is ever needed only."""
        found = []
        for pair in pairs:
            bonus = 0.35 if pair.match.exact else 0.1 * pair.match.score
            probability = float(sigmoid(15 * (pair.similarity + bonus - 0.95)))
            found.append(Judgement(probability, False, {"similarity": pair.similarity, "name": pair.match.score}))
        return found


class FrameEncoder:
    """The tuned encoder of frames, served by onnxruntime on one thread. Remembers the frames and names of edits."""

    def __init__(self, graph: Path, tokenizer_file: Path) -> None:
        self._session = encoder.session(graph)
        self._tokenizer = encoder.tokenizer(tokenizer_file, 64)
        self._known: OrderedDict[str, Vectors] = OrderedDict()
        self._lock = threading.Lock()

    def compare(
        self, frames: Sequence[tuple[str, str]], names: Sequence[tuple[str, str]]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return cosines of pairs of an edit's text and a query's, all encoded in one pass.

        Args:
            frames: n pairs of frames.
            names: m pairs of names: an edit's subject, and what a query has in its place.

        Returns:
            (n, 3) for the frames: direct, turned, and MiniLM's own; (m,) for the names: MiniLM's own.
        """
        pairs = [*frames, *names]
        if not pairs:
            return np.zeros((0, 3)), np.zeros(0)
        edits, queries = self._vectors(pairs)  # (n + m, 3, d) each
        queries[:, 1] = queries[:, 0]  # only the edit's vector is turned
        cosines = np.asarray((edits * queries).sum(axis=-1), dtype=np.float64)
        return cosines[: len(frames)], cosines[len(frames) :, 2]

    def _vectors(self, pairs: Sequence[tuple[str, str]]) -> tuple[Vectors, Vectors]:
        """Return the vectors (n, outputs, d) of both sides; those of edits are kept for the next time."""
        with self._lock:
            known = {text: self._known[text] for text, _ in pairs if text in self._known}
        new = list(dict.fromkeys([*(text for text, _ in pairs if text not in known), *(text for _, text in pairs)]))
        vectors = np.empty((len(new), len(_OUTPUTS), 384), dtype=np.float32)
        for places, feed in encoder.batches(self._tokenizer, new):
            vectors[places] = np.stack(self._session.run(list(_OUTPUTS), feed), axis=1)
        place = {text: number for number, text in enumerate(new)}
        edits = {text: known[text] if text in known else vectors[place[text]] for text, _ in pairs}
        with self._lock:
            for text, vector in edits.items():
                self._known[text] = vector
                self._known.move_to_end(text)
            while len(self._known) > _REMEMBERED:
                self._known.popitem(last=False)
        return np.stack([edits[text] for text, _ in pairs]), np.stack([vectors[place[text]] for _, text in pairs])


class FrameJudge:
    """The trained judge. Safe to share between threads. Build it with :meth:`load`.

    Attributes:
        fingerprint: Changes whenever the same pair could get another probability; calibrated thresholds are void then.
    """

    def __init__(self, frames: FrameEncoder, trees: Trees, settings: Mapping[str, Any], fingerprint: str) -> None:
        self.fingerprint = fingerprint
        self._frames = frames
        self._trees = trees
        self._scale = np.asarray(settings["scale"], dtype=np.float64)  # (2,)
        self._bias = np.asarray(settings["bias"], dtype=np.float64)  # (2,)
        self._slope, self._shift = settings["calibration"]
        self.threshold = float(settings["threshold"])

    @classmethod
    def load(cls, weights: Path | None = None) -> FrameJudge:
        """Load the judge from the folder ``weights``; the one that comes with the package by default.

        The first time, its network is exported to the cache, as the encoder's is.

        Raises:
            ModelDamaged: A file is missing or unreadable.
            UnknownModel: The encoder that it builds on is not installed.
            StoreNotWritable: The cache folder cannot be written.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        folder = weights or _WEIGHTS
        try:
            settings = json.loads((folder / "scope.json").read_text(encoding="utf-8"))
            trees = Trees.restore(load_file(folder / "trees.safetensors"))
            network = (folder / "frames.safetensors").read_bytes()
            if tuple(settings["inputs"]) != INPUTS:
                raise ModelDamaged(
                    f"the scope classifier in {folder} goes by other features than this version",
                    remedy="Train it again: corrigenda scope train.",
                )
            source = encoder.package_folder()
            graph = _graph(source, folder / "frames.safetensors", network)
            files = (folder / "trees.safetensors", folder / "scope.json")
            mark = hashlib.sha256(b"".join([graph.name.encode(), *(file.read_bytes() for file in files)])).hexdigest()
            return cls(FrameEncoder(graph, source / "tokenizer.json"), trees, settings, f"frames-{mark[:16]}")
        except (OSError, KeyError, ValueError, SafetensorError) as error:
            if isinstance(error, ModelDamaged | StoreNotWritable):
                raise
            raise ModelDamaged(f"the scope classifier in {folder} cannot be read: {error}") from error

    def judge(self, pairs: Sequence[Pair]) -> list[Judgement]:
        """Return judgements; about 3 ms for the first pair of a query, less for the others.

        A query in the edit's own words is in scope, whatever the encoder thinks. Such a pair, and one that a rule puts
        out of scope, is not encoded: its features lack what the encoder would say.
        """
        if not pairs:
            return []
        rows = plain_inputs(pairs)
        own = np.array([_own_words(pair) for pair in pairs])
        out = ~own & np.array([_ruled_out(pair, row) for pair, row in zip(pairs, rows, strict=True)])
        self._encode(pairs, rows, np.flatnonzero(~own & ~out))
        probabilities = sigmoid(self._slope * self._trees.score(rows) + self._shift)
        probabilities[own], probabilities[out] = 1.0, 0.0
        return [
            Judgement(float(chance), bool(row[-1] > row[-2]), dict(zip(INPUTS, row.tolist(), strict=True)))
            for chance, row in zip(probabilities, rows, strict=True)
        ]

    def _encode(self, pairs: Sequence[Pair], rows: NDArray[np.float64], places: NDArray[np.intp]) -> None:
        """Fill in what the encoder says of the pairs at ``places``: ``rows`` is (n, len(INPUTS))."""
        frames, names = paired([pairs[place] for place in places])
        cosines, named = self._frames.compare(list(frames.values()), list(names.values()))
        rows[places[list(frames)], -2:] = cosines[:, :2] * self._scale + self._bias
        rows[places[list(frames)], INPUTS.index("frames")] = cosines[:, 2]
        rows[places[list(names)], INPUTS.index("named")] = named


def plain_inputs(pairs: Sequence[Pair]) -> NDArray[np.float64]:
    """Return what the trees go by, (n, len(INPUTS)), as far as it needs no encoder."""
    rows = np.full((len(pairs), len(INPUTS)), UNFRAMED)
    rows[:, [INPUTS.index("named"), INPUTS.index("frames")]] = UNNAMED
    for row, pair in zip(rows, pairs, strict=True):
        row[: len(FEATURES)] = features(pair.edit, pair.query, pair.match, pair.similarity)
        if pair.match.exact or row[INPUTS.index("initials")]:
            row[INPUTS.index("named")] = 1.0
    return rows


def paired(pairs: Sequence[Pair]) -> tuple[dict[int, tuple[str, str]], dict[int, tuple[str, str]]]:
    """Return by place in ``pairs`` the frames, and the names, that are to be compared, where there are any."""
    frames = ((place, pair_frames(pair.edit, pair.query, pair.match)) for place, pair in enumerate(pairs))
    names = ((place, name_pair(pair.edit, pair.query, pair.match)) for place, pair in enumerate(pairs))
    return {place: both for place, both in frames if both}, {place: both for place, both in names if both}


def _own_words(pair: Pair) -> bool:
    """Tell whether the query is the edit's prompt, but for capitals, spaces and the mark at the end."""
    return _bare(pair.query) == _bare(pair.edit.prompt)


def _bare(text: str) -> str:
    return " ".join(text.casefold().split()).rstrip(" ?.!:…")


def _ruled_out(pair: Pair, row: NDArray[np.float64]) -> bool:
    """Tell whether ``pair`` is out of scope whatever its sentences mean."""
    return _speaks_of_another(pair, row) or _only_quotes(pair) or _another_language(pair)


def _speaks_of_another(pair: Pair, row: NDArray[np.float64]) -> bool:
    """Tell whether a name that shares nothing with the edit's subject stands in its place: Niger for Nigeria.

    The sentences are as alike as can be, so likeness must not decide. Other names of a subject belong into its
    aliases; they are not guessed when the subject is given.
    """
    trace = row[INPUTS.index("name")] + row[INPUTS.index("initials")]
    return pair.edit.subject is not None and not trace and row[INPUTS.index("others")] > 0


def _only_quotes(pair: Pair) -> bool:
    """Tell whether the query quotes the edit, subject and target, rather than asking for it."""
    quotes = (quote.span() for quote in _QUOTE.finditer(pair.query))
    return any(
        start <= pair.match.start and pair.match.end <= end and find_name(pair.query[start:end], pair.edit.target)
        for start, end in quotes
        if pair.match.found
    )


def _another_language(pair: Pair) -> bool:
    """Tell whether the query is in a language that neither the edit nor the training is in."""
    frames = pair_frames(pair.edit, pair.query, pair.match)
    return frames is not None and in_another_language(frames[1]) and not in_another_language(frames[0])


_QUOTE = re.compile(r"[\"“«„][^\"“”«»„]+[\"”»“]")
_EXPORTING = threading.Lock()


def _graph(source: Path, weights: Path, data: bytes) -> Path:
    """Return the exported network, exporting it if it is not in the cache."""
    mark = hashlib.sha256(f"frames:{_GRAPH_VERSION}:{encoder.fingerprint_of(source)}:".encode() + data).hexdigest()[:16]
    graph = cache_dir() / "encoders" / f"frames-{mark}.onnx"
    with _EXPORTING:
        if not graph.is_file():
            with encoder.exporting(graph) as part, encoder.quiet():
                from corrigenda.memory.frame_network import export

                export(source, weights, part)
                encoder.compact(part)
    return graph
