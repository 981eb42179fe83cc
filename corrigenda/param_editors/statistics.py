"""Second moments of keys over text, C = E[k·kᵀ]: what a model's old memories look like to an update.

Accumulated in float64 while the text streams by, kept in the user's cache under the model's fingerprint, the hash of
the text and the number of tokens, and resumed where a killed run stopped.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError

from corrigenda.atomic import replacing
from corrigenda.errors import InvalidParams, MissingStatistics, ModelDamaged
from corrigenda.lm.hooks import Tap
from corrigenda.lm.tokens import pad, token_ids
from corrigenda.param_editors.anatomy import Anatomy
from corrigenda.param_editors.files import read_tensors, write_tensors
from corrigenda.param_editors.forwards import call, ended_after, headed
from corrigenda.param_editors.sampling import STARTS, sample
from corrigenda.param_editors.solve import cholesky
from corrigenda.paths import cache_dir

if TYPE_CHECKING:
    from corrigenda.lm.loading import LanguageModel

Progress = Callable[[str, int, int], None]
"""Called with (stage, tokens done, tokens in total)."""

WINDOW = 256
"""Tokens that are read together; keys depend on what came before, rarely on more."""
MAX_WINDOW = 4_096
BATCH = 8
"""Windows of one forward pass."""
SAVE_EVERY = 16
"""Passes between two resumable states."""
THIN = 10
"""Tokens per dimension of a key below which statistics are called thin."""


Accumulate = Callable[["LanguageModel", Sequence[int], Sequence[list[int]]], "dict[int, SecondMoment]"]
"""Takes moments: (model, layers, rows of tokens) → moments by layer."""


@dataclass(frozen=True, eq=False)
class SecondMoment:
    """C of one layer.

    Attributes:
        matrix: (f, f) float64, the mean of k·kᵀ over tokens, not their sum.
        tokens: How many.
    """

    matrix: torch.Tensor = field(repr=False)
    tokens: int

    @property
    def note(self) -> str | None:
        """A warning when the statistics are thin, else ``None``."""
        width = len(self.matrix)
        if self.tokens >= THIN * width:
            return None
        return f"thin statistics: {self.tokens:,} tokens for keys of width {width:,}; {THIN * width:,} would be better"


class Statistics:
    """Second moments by layer, with what is computed from them.

    Args:
        moments: Layer → C.
        source: What the text was, for people.
    """

    def __init__(self, moments: dict[int, SecondMoment], source: str = "") -> None:
        self.moments, self.source = dict(moments), source
        self._factors: dict[int, tuple[torch.Tensor, float]] = {}
        self._derived: dict[tuple[str, int, float], torch.Tensor] = {}

    @property
    def layers(self) -> tuple[int, ...]:
        """Layers that there are moments for, ascending."""
        return tuple(sorted(self.moments))

    @cached_property
    def digest(self) -> str:
        """SHA-256 of tokens and diagonals: what is made with other moments must not pass for made with these."""
        found = hashlib.sha256()
        for layer in self.layers:
            moment = self.moments[layer]
            found.update(f"{layer} {moment.tokens} ".encode())
            found.update(moment.matrix.diagonal().cpu().contiguous().numpy().tobytes())
        return found.hexdigest()

    def moment(self, layer: int) -> SecondMoment:
        """Return C of ``layer``.

        Raises:
            MissingStatistics: There is none.
        """
        if layer not in self.moments:
            raise MissingStatistics(
                f"no second moments for layer {layer}; there are some for {self.layers or 'none'}",
                remedy=f"corrigenda stats collect --layers {layer}",
            )
        return self.moments[layer]

    def factor(self, layer: int) -> torch.Tensor:
        """Return the lower Cholesky factor of C, computed once."""
        if layer not in self._factors:
            self._factors[layer] = cholesky(self.moment(layer).matrix)
        return self._factors[layer][0]

    def derived(
        self, name: str, layer: int, value: float, make: Callable[[torch.Tensor], torch.Tensor]
    ) -> torch.Tensor:
        """Return ``make(C)``, computed once for each (name, layer, value)."""
        key = (name, layer, value)
        if key not in self._derived:
            self._derived[key] = make(self.moment(layer).matrix)
        return self._derived[key]

    def notes(self, layers: Sequence[int]) -> list[str]:
        """Return warnings about the statistics of ``layers``, each once."""
        found = [f"layer {layer}: {note}" for layer in layers if (note := self.moment(layer).note)]
        for layer in layers:
            if layer in self._factors and self._factors[layer][1] > 0:
                found.append(f"layer {layer}: second moments are singular; {self._factors[layer][1]:.1e} was added")
        return found


def collect(
    lm: LanguageModel,
    layers: Sequence[int],
    texts: Sequence[str],
    *,
    max_tokens: int | None = None,
    window: int = WINDOW,
    source: str = "text",
    progress: Progress | None = None,
    accumulate: Accumulate | None = None,
) -> Statistics:
    """Return second moments of ``layers`` over ``texts``; from the cache where they are there.

    Args:
        lm: The model, unedited.
        layers: Blocks.
        texts: Documents; cut into windows that never cross from one into the next.
        max_tokens: Stop after so many; all by default.
        window: Tokens read together, 2…4,096 and no more than the model's context.
        source: What the text is, for people.
        progress: Told after each pass.
        accumulate: Takes the moments in this function's place, on other machines for instance.

    Raises:
        InvalidParams: No text, no layers, or a window out of range.
    """
    window = min(window, lm.context_length)
    if not 2 <= window <= MAX_WINDOW:
        raise InvalidParams(f"window must be 2…{MAX_WINDOW}, not {window}")
    anatomy = Anatomy(lm)
    modules = {layer: anatomy.mlp_out(layer).module for layer in sorted(set(layers))}
    if not modules:
        raise InvalidParams("no layers to collect statistics for", remedy="Name at least one.")
    rows = list(_windows(lm, texts, window, max_tokens))
    total = sum(map(len, rows))
    if not total:
        raise InvalidParams("there is no text to collect statistics from", remedy="Give a file with text.")
    home = _folder(lm, rows)
    found = {layer: moment for layer in modules if (moment := _read(home / f"layer-{layer}.safetensors")) is not None}
    missing = [layer for layer in modules if layer not in found]
    if missing:
        if accumulate is not None:
            found |= accumulate(lm, missing, rows)
        else:
            found |= _accumulate(lm, anatomy, missing, rows, home, progress)
        for layer in missing:
            meta = {"tokens": str(found[layer].tokens), "source": source, "layer": str(layer)}
            write_tensors(home / f"layer-{layer}.safetensors", {"moment": found[layer].matrix}, meta)
        (home / "about.json").write_text(json.dumps({"model": lm.name, "source": source, "tokens": total}))
        shutil.rmtree(home / "partial", ignore_errors=True)
    return Statistics(found, source)


def paragraphs(path: Path) -> list[str]:
    """Return the documents of a corpus for :func:`collect`: what stands between empty lines.

    Raises:
        InvalidParams: The file cannot be read, or is not UTF-8.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidParams(f"{path} cannot be read: {error}", remedy="Give a text file in UTF-8.") from None
    return [part for part in text.split("\n\n") if part.strip()]


def collect_from_model(
    lm: LanguageModel,
    layers: Sequence[int],
    tokens: int,
    *,
    seed: int = 0,
    window: int = WINDOW,
    progress: Progress | None = None,
    accumulate: Accumulate | None = None,
) -> Statistics:
    """Return second moments over ``tokens`` tokens that the model itself writes; for users without a corpus.

    The text is sampled from the whole distribution, in rows of ``window`` tokens, and kept in the cache.
    """
    if tokens < 1:
        raise InvalidParams(f"tokens must be at least 1, not {tokens}")
    kept = cache_dir() / "stats" / lm.fingerprint[:16] / f"sampled-{tokens}-{window}-{seed}.json"
    try:
        texts = json.loads(kept.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # not there, or torn: sampled again
        texts = sampled_texts(lm, tokens, seed=seed, window=window, progress=progress)
        kept.parent.mkdir(parents=True, exist_ok=True)
        with replacing(kept) as file:
            file.write(json.dumps(texts, ensure_ascii=False).encode())
    return collect(
        lm,
        layers,
        texts,
        max_tokens=tokens,
        window=window,
        source=f"sampled from {lm.name}",
        progress=progress,
        accumulate=accumulate,
    )


def sampled_texts(
    lm: LanguageModel, tokens: int, *, seed: int = 0, window: int = WINDOW, progress: Progress | None = None
) -> list[str]:
    """Return texts of about ``tokens`` tokens together that the model writes, begun with a word each."""
    generator = torch.Generator().manual_seed(seed)
    texts: list[str] = []
    done = 0
    while done < tokens:
        count = min(64, -(-(tokens - done) // window))
        starts = [token_ids(lm, STARTS[place % len(STARTS)]) for place in range(count)]
        rows = sample(lm, starts, min(window, lm.context_length) - max(map(len, starts)), top_k=0, generator=generator)
        for row in rows:
            ends = [place for place, token in enumerate(row) if token in lm.eos_ids and place]
            kept = row[: ends[0]] if ends else row
            texts.append(lm.tokenizer.decode(kept, skip_special_tokens=True, clean_up_tokenization_spaces=False))
        # What follows an end token is another document that began from nothing; it counts as sampled all the same.
        done += sum(map(len, rows))
        if progress is not None:
            progress("sampling", min(done, tokens), tokens)
    return texts


def find(lm: LanguageModel, layers: Sequence[int]) -> Statistics:
    """Return the moments in the cache that were taken over the most tokens and cover ``layers``.

    Raises:
        MissingStatistics: There are none.
    """
    home = cache_dir() / "stats" / lm.fingerprint[:16]
    folders = sorted((path for path in home.glob("*-*") if path.is_dir()), key=lambda path: -_tokens_of(path))
    for folder in folders:
        moments = {layer: _read(folder / f"layer-{layer}.safetensors") for layer in layers}
        whole = {layer: moment for layer, moment in moments.items() if moment is not None}
        if len(whole) == len(set(layers)):
            return Statistics(whole, folder.name)
    wanted = ",".join(map(str, layers))
    raise MissingStatistics(
        f"no second moments of {lm.name} for layers {wanted}",
        remedy=f"corrigenda stats collect --model {lm.name} --layers {wanted} --from-model 20000  (or --corpus FILE)",
    )


def _windows(lm: LanguageModel, texts: Sequence[str], window: int, most: int | None) -> Iterator[list[int]]:
    left = most if most is not None else float("inf")
    for text in texts:
        if left <= 0:
            return
        ids = token_ids(lm, text) if text.strip() else []
        for start in range(0, len(ids), window):
            row = ids[start : start + window][: int(min(left, window))]
            if row:
                left -= len(row)
                yield row


def _accumulate(
    lm: LanguageModel,
    anatomy: Anatomy,
    layers: Sequence[int],
    rows: Sequence[list[int]],
    home: Path,
    progress: Progress | None,
) -> dict[int, SecondMoment]:
    """Sum k·kᵀ over all tokens, picking up what an interrupted run left."""
    rows = sorted(rows, key=len, reverse=True)
    total = sum(map(len, rows))
    partial = home / "partial" / f"{'-'.join(map(str, layers))}.safetensors"
    sums, start = _resume(partial, layers)
    for number, begin in enumerate(range(start, len(rows), BATCH), 1):
        part = rows[begin : begin + BATCH]
        add_moments(sums, anatomy, layers, part)
        done = begin + len(part)
        if number % SAVE_EVERY == 0 and done < len(rows):
            write_tensors(partial, {str(layer): matrix for layer, matrix in sums.items()}, {"rows": str(done)})
        if progress is not None:
            progress("statistics", sum(map(len, rows[:done])), total)
    return {layer: SecondMoment(matrix / total, total) for layer, matrix in sums.items()}


@torch.no_grad()
def add_moments(
    sums: dict[int, torch.Tensor], anatomy: Anatomy, layers: Sequence[int], rows: Sequence[Sequence[int]]
) -> None:
    """Add to ``sums``, layer by layer, Σ k·kᵀ over all tokens of ``rows``, in one pass: (f, f) float64 each."""
    modules = {layer: anatomy.mlp_out(layer).module for layer in layers}
    batch = pad(anatomy.lm, rows)
    used = batch.attention_mask.bool().flatten()
    model = anatomy.lm.model
    with Tap(model, modules.values(), outputs=False) as tap, ended_after(anatomy.blocks, max(layers)):
        with headed(anatomy, None):
            call(anatomy.lm, batch)
        for layer, module in modules.items():
            # OPT's feed-forward has rows and columns in one dimension, others have two.
            keys = tap.inputs[module].flatten(0, -2)[used].double()  # (tokens, f)
            moment = (keys.T @ keys).cpu()
            sums[layer] = sums[layer] + moment if layer in sums else moment


def _resume(partial: Path, layers: Sequence[int]) -> tuple[dict[int, torch.Tensor], int]:
    try:
        tensors, meta = read_tensors(partial)
        return {layer: tensors[str(layer)] for layer in layers}, int(meta["rows"])
    except (OSError, SafetensorError, KeyError):
        return {}, 0


def _folder(lm: LanguageModel, rows: Sequence[Sequence[int]]) -> Path:
    """Name the place of moments by model, text and number of tokens."""
    data = hashlib.sha256(json.dumps(rows, separators=(",", ":")).encode()).hexdigest()
    return cache_dir() / "stats" / lm.fingerprint[:16] / f"{data[:16]}-{sum(map(len, rows))}"


@lru_cache(maxsize=64)
def _cached(path: Path, stamp: int) -> SecondMoment:
    tensors, meta = read_tensors(path)
    return SecondMoment(tensors["moment"], int(meta["tokens"]))


def _read(path: Path) -> SecondMoment | None:
    if not path.is_file():
        return None
    try:
        return _cached(path, path.stat().st_mtime_ns)
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise ModelDamaged(f"{path} cannot be read: {error}", remedy="Delete it; it is made again.") from error


def _tokens_of(folder: Path) -> int:
    tail = folder.name.rpartition("-")[2]
    return int(tail) if tail.isdigit() else 0
