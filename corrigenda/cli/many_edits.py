"""A memory of very many edits: what it costs to search, to add to, to keep, to start.

A million statements cannot be encoded in passing. A few thousand real encodings are multiplied instead: a vector is
split into the centre of its cluster and a rest, and the rest is moved, together with some of a neighbour's, to one of
the ten nearest clusters, with 15 % of noise. That is what changing the relation of a statement, or its subject for a
similar one, does to its vector; the intrinsic dimension of the million is that of the originals (7.5 and 7.5 where
this was devised). Independent random vectors would be far from each other, and flatter or damn every index.

Queries are real encodings that took no part in it.
"""

from __future__ import annotations

import hashlib
import random
import statistics
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from corrigenda.errors import InvalidRequest
from corrigenda.eval import synthetic

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from corrigenda.edit import Edit
    from corrigenda.memory.encoder import Encoder
    from corrigenda.memory.memory import Memory

    Vectors = NDArray[np.float32]

_ORIGINALS = 6_000
_QUERIES = 500
_BATCH = 20_000
_NEAR = 10
_NOISE = 0.15
_K = 8


class Multiplied:
    """An encoder for made-up prompts: each gets a vector near real ones; what it was built from stays what it is.

    Args:
        real: Encodes the originals, and frames.
        texts: The originals; the last of them become :attr:`queries`.
        say: Told what is going on.
    """

    def __init__(self, real: Encoder, texts: Sequence[str], say: Any = lambda text: None) -> None:
        import faiss

        self.dimension = real.dimension
        self.fingerprint = f"multiplied-{real.fingerprint}"
        self._real = real
        self._frames: dict[str, Vectors] = {}
        say(f"encoding {len(texts):,} statements")
        vectors = real.encode(texts)
        held_out = min(_QUERIES, len(texts) // 10)
        self.queries, base = vectors[-held_out:], np.ascontiguousarray(vectors[:-held_out])
        clusters = faiss.Kmeans(self.dimension, max(2, len(base) // 48), niter=8, seed=1, min_points_per_centroid=1)
        clusters.train(base)
        centres: Any = clusters.centroids
        self._centres: Vectors = centres
        near = min(_NEAR, len(self._centres))
        self._own = _nearest(self._centres, base, near)
        self._neighbours = _nearest(base, base, _NEAR + 1)[:, 1:]
        self._rests = base - self._centres[self._own[:, 0]]
        noise = np.random.default_rng(0).standard_normal((4_096, self.dimension)) * _NOISE / self.dimension**0.5
        self._noise = noise.astype(np.float32)

    def encode(self, texts: Sequence[str]) -> Vectors:
        """Return unit rows, (n, d): real ones for frames, made-up ones for everything else."""
        rows = np.empty((len(texts), self.dimension), dtype=np.float32)
        others = [place for place, text in enumerate(texts) if not self._framed(text, rows, place)]
        if others:
            rows[others] = self._made_up([texts[place] for place in others])
        return rows

    def _framed(self, text: str, rows: Vectors, place: int) -> bool:
        if "X" not in text.split():  # the placeholder of frames
            return False
        if text not in self._frames:
            self._frames[text] = self._real.encode([text])[0]
        rows[place] = self._frames[text]
        return True

    def _made_up(self, texts: Sequence[str]) -> Vectors:
        digests = b"".join(hashlib.blake2b(text.encode(), digest_size=24).digest() for text in texts)
        lots = np.frombuffer(digests, dtype=np.uint32).reshape(len(texts), 6)
        place = lots[:, 0] % len(self._rests)
        centre = self._own[place, lots[:, 1] % self._own.shape[1]]
        neighbour = self._neighbours[place, lots[:, 2] % _NEAR]
        share = (lots[:, 3] / 2**32 * 0.6).astype(np.float32)[:, None]
        rest = (1 - share) * self._rests[place] + share * self._rests[neighbour]
        length = np.linalg.norm(self._rests[place], axis=1, keepdims=True)
        rest *= length / np.maximum(np.linalg.norm(rest, axis=1, keepdims=True), 1e-6)
        rows: Vectors = self._centres[centre] + rest + self._noise[lots[:, 4] % len(self._noise)]
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        return rows


class Place:
    """Where the memory lies, and how to open it."""

    def __init__(self, folder: Path, url: str | None, encoder: Multiplied) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.url, self.encoder = folder, url, encoder

    def open(self) -> Memory:
        """Open the memory."""
        from corrigenda.memory.memory import Memory

        if self.url is not None:
            snapshot = self.folder / "shared.index"
            return Memory.connect(self.url, ledger="bench", encoder=self.encoder, snapshot=snapshot)
        return Memory.open(self.folder / "edits.db", encoder=self.encoder)


def statements(data: Path | None) -> list[str]:
    """Return texts to encode: prompts and probes of a dataset, or made-up ones."""
    if data is None:
        return [edit.prompt for edit in synthetic.edits(_ORIGINALS, seed=7)]
    from corrigenda.eval.datasets import load

    cases = load(data).cases
    texts = [edit.prompt for case in cases for edit in case.edits]
    texts += [probe.prompt for case in cases for probe in case.probes]
    texts = list(dict.fromkeys(texts))
    random.Random(0).shuffle(texts)
    return texts[:_ORIGINALS]


def made_up(edits: int, adds: int) -> tuple[list[Edit], list[Edit]]:
    """Return the edits to fill a memory with, and those to add while measuring."""
    made = synthetic.edits(edits, seed=3)
    known = {edit.id for edit in made}
    return made, [edit for edit in synthetic.edits(2 * adds, seed=4) if edit.id not in known][:adds]


def measure(
    place: Place,
    encoder: Multiplied,
    made: Sequence[Edit],
    new: Sequence[Edit],
    *,
    reads: float,
    say: Any = lambda text: None,
) -> dict[str, Any]:
    """Fill a memory with ``made`` and return figures; times are wall time but for ``cpu``, without encoding queries.

    A place that was filled with them before is measured as it is.

    Raises:
        InvalidRequest: The place holds something else.
    """
    memory = place.open()
    filled = _fill(memory, made, encoder, say)
    lookup, lookup_cpu, found = _lookups(memory, encoder.queries)
    say("looked up")
    recall = _recall(encoder, made, found)
    began = time.perf_counter()
    memory.close()
    saved = time.perf_counter() - began
    del memory
    say("closed")
    began, worked = time.perf_counter(), time.process_time()
    memory = place.open()
    read = time.perf_counter() - began
    memory.search(encoder.queries[:1], _K)
    cold, cold_cpu = time.perf_counter() - began, time.process_time() - worked
    say(f"started in {cold:.1f} s")
    add = _adds(memory, new, encoder.queries, reads)
    index = memory.replica.index()
    figures = {
        "lookup_ms": _percentiles(lookup),
        "recall_at_8": round(recall, 4),
        "index_mb": round(index.nbytes / 1e6, 1),
        "cold_start_s": round(cold, 2),
        "add_ms": _percentiles(add),
        "details": {
            "edits": len(made),
            "lookup_cpu_ms": _percentiles(lookup_cpu),
            "cold_start_cpu_s": round(cold_cpu, 2),
            "cold_start_ledger_s": round(read, 2),
            "approximate": index.partitions["default"].clustered,
            "fill_s": round(filled, 1),
            "save_s": round(saved, 1),
            "notices": list(memory.notices),
        },
    }
    for edit in new:  # the next run begins where this one did
        memory.retract(edit.id)
    memory.close()
    return figures


def _fill(memory: Memory, edits: Sequence[Edit], encoder: Multiplied, say: Any) -> float:
    """Add ``edits`` where they are not there yet, and wait until the index is what it is going to be."""
    if any(not memory.is_live(edit.id) for edit in edits[: len(memory)]):
        raise InvalidRequest("the folder holds another memory", remedy="Choose an empty one, or the same --edits.")
    began = time.perf_counter()
    for start in range(len(memory) // _BATCH * _BATCH, len(edits), _BATCH):
        memory.add_many(edits[start : start + _BATCH], on_conflict="coexist")
        say(f"{len(memory):,} edits after {time.perf_counter() - began:.0f} s")
    memory.search(encoder.queries[:1], _K)
    say(f"searchable after {time.perf_counter() - began:.0f} s")
    memory.replica.index().partitions["default"].settle()
    say(f"settled after {time.perf_counter() - began:.0f} s")
    return time.perf_counter() - began


def _lookups(memory: Memory, queries: Vectors) -> tuple[list[float], list[float], list[set[str]]]:
    spent: list[float] = []
    worked: list[float] = []
    found: list[set[str]] = []
    for number in range(len(queries)):
        query = queries[number : number + 1]
        began, before = time.perf_counter(), time.thread_time()
        (hits,) = memory.search(query, _K)
        spent.append((time.perf_counter() - began) * 1e3)
        worked.append((time.thread_time() - before) * 1e3)
        found.append({str(hit.edit.id) for hit in hits})
    return spent, worked, found


def _recall(encoder: Multiplied, edits: Sequence[Edit], found: Sequence[set[str]]) -> float:
    """Return the share of the 8 truly most similar edits that were found, by comparing with every vector."""
    from corrigenda.memory.texts import index_text

    best = np.full((len(found), _K), -2.0, dtype=np.float32)
    ids = np.zeros((len(found), _K), dtype=np.int64)
    for start in range(0, len(edits), _BATCH):
        vectors = encoder.encode([index_text(edit) for edit in edits[start : start + _BATCH]])
        scores = encoder.queries @ vectors.T
        near = np.argpartition(-scores, _K, axis=1)[:, :_K]
        scores = np.concatenate([best, np.take_along_axis(scores, near, axis=1)], axis=1)
        places = np.concatenate([ids, near + start], axis=1)
        order = np.argsort(-scores, axis=1)[:, :_K]
        best, ids = np.take_along_axis(scores, order, axis=1), np.take_along_axis(places, order, axis=1)
    hits = sum(len(row & {edits[place].id for place in true}) for row, true in zip(found, ids.tolist(), strict=True))
    return hits / ids.size


def _adds(memory: Memory, edits: Sequence[Edit], queries: Vectors, reads: float) -> list[float]:
    """Add ``edits`` one by one while another thread searches ``reads`` times a second; return the milliseconds."""
    done = threading.Event()

    def read() -> None:
        for number in range(10**9):
            if done.wait(1 / reads):
                return
            memory.search(queries[number % len(queries)][None], _K)

    reader = threading.Thread(target=read)
    if reads:
        reader.start()
    spent = []
    for edit in edits:
        began = time.perf_counter()
        memory.add(edit, on_conflict="coexist")
        spent.append((time.perf_counter() - began) * 1e3)
        time.sleep(0.01)
    done.set()
    if reads:
        reader.join()
    return spent


def _nearest(among: Vectors, queries: Vectors, k: int) -> NDArray[np.int64]:
    import faiss

    index = faiss.IndexFlatIP(among.shape[1]) if among is queries else faiss.IndexFlatL2(among.shape[1])
    index.add(np.ascontiguousarray(among))
    places: NDArray[np.int64] = index.search(np.ascontiguousarray(queries), k)[1]
    return places


def _percentiles(spent: Sequence[float]) -> dict[str, float]:
    cuts = statistics.quantiles(spent, n=100)
    return {"p50": round(statistics.median(spent), 3), "p99": round(cuts[98], 3)}
