"""Greedy continuations, and how probable a model finds given targets; both batched."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from corrigenda.errors import InvalidRequest
from corrigenda.lm.decoding import (
    CausalDecoder,
    Decoder,
    EncoderDecoder,
    SharedPrefix,
    answer_logits,
    forward,
)
from corrigenda.lm.kv_cache import longest_shareable
from corrigenda.lm.packed import WORTHWHILE_TOKENS, packed
from corrigenda.lm.stopping import NATURAL, Stop, cut, watcher
from corrigenda.lm.texts import continues, text_after
from corrigenda.lm.tokens import Rendered, check_length, following_ids, pad, plain_ids, token_ids

if TYPE_CHECKING:
    from corrigenda.lm.loading import LanguageModel

Progress = Callable[[int, int], None]
"""Called with (prompts done, prompts in total) after each batch."""

MIN_SHARED = 16
"""Shortest common beginning, in tokens, that is worth a forward pass of its own."""
MAX_BATCH_TOKENS = 32_768
"""Most tokens of one batch, padding included: long prompts make smaller batches."""
MAX_BATCH_LOGITS = 1 << 28
"""Most logits of targets in one batch, 1 GiB in float32: with a large vocabulary long targets make smaller batches."""


class Exact(str):
    """A target that follows its prompt as it is: no space is put between them."""


@dataclass(frozen=True, slots=True)
class TargetScore:
    """How a model takes a target after a prompt, one value per token of the target.

    Attributes:
        log_probs: Natural logarithm of each token's probability, the tokens before it given; never above 0.
        argmax_matches: Whether the token is the model's first choice at its place.
        token_ids: The tokens.
    """

    log_probs: tuple[float, ...]
    argmax_matches: tuple[bool, ...]
    token_ids: tuple[int, ...] = ()

    @property
    def log_prob(self) -> float:
        """Log-probability of the whole target."""
        return sum(self.log_probs)

    @property
    def mean_log_prob(self) -> float:
        """Log-probability per token."""
        return self.log_prob / len(self.log_probs)

    @property
    def accuracy(self) -> float:
        """Share of tokens that are the model's first choice, 0…1."""
        return sum(self.argmax_matches) / len(self.argmax_matches)

    @property
    def is_greedy(self) -> bool:
        """Whether greedy decoding would say the whole target."""
        return all(self.argmax_matches)


@torch.inference_mode()
def greedy(
    lm: LanguageModel,
    prompts: Sequence[str],
    *,
    max_new_tokens: int = 32,
    stop: Stop = NATURAL,
    batch_size: int = 32,
    prefix: Sequence[str] | None = None,
    share_prefix: bool = True,
    progress: Progress | None = None,
) -> list[str]:
    """Return the greedy continuation of each prompt, in order.

    The most probable token is taken at every step, whatever sampling the checkpoint recommends. A
    continuation keeps its leading space; it ends where ``stop`` or an end-of-sequence token says, at
    ``max_new_tokens``, or where the context ends.

    Args:
        lm: The model.
        prompts: Texts, or conversations from :func:`corrigenda.lm.tokens.render`.
        max_new_tokens: Most tokens of a continuation, ≥ 1; what ``prefix`` forces does not count.
        stop: What ends a continuation.
        batch_size: Most rows of a forward pass, ≥ 1.
        prefix: Beginnings that the answers are forced to have, one a prompt; each is returned as part of its
            answer and not subject to ``stop``.
        share_prefix: Run a beginning common to all prompts only once. Switch off when hooks must see whole
            prompts.
        progress: Told after each batch.

    Raises:
        InvalidRequest: A prompt without tokens or longer than the context, or an argument out of range.
    """
    _check_positive("max_new_tokens", max_new_tokens)
    _check_positive("batch_size", batch_size)
    begun = list(prefix) if prefix is not None else [""] * len(prompts)
    rows, starts = _rows(lm, prompts, begun)
    answers, done = [""] * len(rows), 0
    with _fast(lm, sum(map(len, rows)) + (max_new_tokens * len(rows) if len(rows) > 1 else 0)):
        shared = _shared(lm, rows, max_new_tokens) if share_prefix else None
        for places, room in undisturbed(lm, [len(row) for row in rows], batch_size, max_new_tokens):
            decoder = _decoder(lm, [rows[p] for p in places], [starts[p] for p in places], shared, room)
            for place, said in zip(places, _continue(lm, decoder, len(places), room, stop), strict=True):
                before = starts[place] or (rows[place] if continues(lm, prompts[place]) else [])
                answers[place] = begun[place] + cut(text_after(lm.tokenizer, before, said), stop)
            done += len(places)
            if progress is not None:
                progress(done, len(rows))
    return answers


def _rows(lm: LanguageModel, prompts: Sequence[str], begun: Sequence[str]) -> tuple[list[list[int]], list[list[int]]]:
    """Return the tokens that are given, and those that the answers begin with; a decoder is given those too."""
    if len(begun) != len(prompts):
        raise InvalidRequest(f"{len(begun)} prefixes for {len(prompts)} prompts", remedy="Give one a prompt.")
    rows = [token_ids(lm, prompt) for prompt in prompts]
    starts = [
        following_ids(lm, prompt, row, text) if text else []
        for prompt, row, text in zip(prompts, rows, begun, strict=True)
    ]
    if not lm.is_encoder_decoder:
        rows = [row + start for row, start in zip(rows, starts, strict=True)]
    for row in rows:
        check_length(lm, row)
    return rows, starts


def _decoder(
    lm: LanguageModel,
    rows: Sequence[list[int]],
    starts: Sequence[list[int]],
    shared: SharedPrefix | None,
    room: int,
) -> Decoder:
    if lm.is_encoder_decoder:
        return EncoderDecoder(lm, rows, starts)
    skip = len(shared.ids) if shared else 0
    return CausalDecoder(lm, [row[skip:] for row in rows], shared, room)


def _fast(lm: LanguageModel, tokens: int) -> AbstractContextManager[None]:
    return packed(lm.model) if tokens >= WORTHWHILE_TOKENS else nullcontext()


def _continue(lm: LanguageModel, decoder: Decoder, rows: int, steps: int, stop: Stop) -> list[list[int]]:
    """Decode all rows until each is over; rows that are over leave the batch."""
    over, eos = watcher(stop, lm.tokenizer), lm.eos_ids
    said: list[list[int]] = [[] for _ in range(rows)]
    alive = list(range(rows))
    tokens: torch.Tensor | None = None
    for _ in range(steps):
        tokens = decoder.logits(tokens).argmax(-1)  # (alive,)
        going = []
        for place, (row, token) in enumerate(zip(alive, tokens.tolist(), strict=True)):
            if token in eos:
                continue
            said[row].append(token)
            if len(said[row]) < steps and not over(said[row]):
                going.append(place)
        if not going:
            break
        if len(going) < len(alive):
            kept = torch.tensor(going, device=tokens.device)
            decoder.keep(kept)
            tokens = tokens[kept]
            alive = [alive[place] for place in going]
    return said


@torch.inference_mode()
def score_targets(
    lm: LanguageModel,
    prompts: Sequence[str],
    targets: Sequence[str],
    *,
    batch_size: int = 32,
    share_prefix: bool = True,
    progress: Progress | None = None,
) -> list[TargetScore]:
    """Return how probable each target is after its prompt, token by token, the right tokens before it given.

    Between a text prompt and its target one space is put unless either brings white space; after a rendered
    conversation and before an :class:`Exact` target none. Tokens of the prompt, beginning- and end-of-text tokens are
    not scored. For an encoder-decoder the prompt goes into the encoder, the target is the decoder's.

    Args:
        lm: The model.
        prompts: Texts, or conversations from :func:`corrigenda.lm.tokens.render`.
        targets: What should follow, one a prompt, not empty.
        batch_size: Most rows of a forward pass, ≥ 1.
        share_prefix: Run a beginning common to all prompts only once.
        progress: Told after each batch.

    Raises:
        InvalidRequest: A prompt or target without tokens, a pair longer than the context, or unequal numbers.
    """
    _check_positive("batch_size", batch_size)
    if len(prompts) != len(targets):
        raise InvalidRequest(f"{len(prompts)} prompts, but {len(targets)} targets", remedy="Give one a prompt.")
    pairs = [_pair(lm, prompt, target) for prompt, target in zip(prompts, targets, strict=True)]
    lengths = [len(source) + len(target) for source, target in pairs]
    scores: dict[int, TargetScore] = {}
    with _fast(lm, sum(lengths)):
        longest = max((len(target) for _, target in pairs), default=0)
        shared = _shared(lm, [source for source, _ in pairs], longest) if share_prefix else None
        for places in _affordable(lm, pairs, _batches(lengths, batch_size)):
            logits = _target_logits(lm, [pairs[place] for place in places], shared)
            for row, place in enumerate(places):
                scores[place] = _score(logits[row], pairs[place][1])
            if progress is not None:
                progress(len(scores), len(pairs))
    return [scores[place] for place in range(len(pairs))]


def _target_logits(
    lm: LanguageModel, pairs: Sequence[tuple[list[int], list[int]]], shared: SharedPrefix | None
) -> torch.Tensor:
    """Return logits (rows, columns, vocabulary); each row ends with those that predict its target."""
    longest = max(len(target) for _, target in pairs)
    if lm.is_encoder_decoder:
        return answer_logits(lm, *zip(*pairs, strict=True))
    skip = len(shared.ids) if shared else 0
    batch = pad(lm, [(source + target[:-1])[skip:] for source, target in pairs])
    ones = batch.attention_mask.new_ones((len(pairs), skip))
    mask = torch.cat([ones, batch.attention_mask], dim=1)
    cache = shared.expanded(len(pairs)) if shared else None
    return forward(lm, batch.input_ids, mask, batch.position_ids + skip, cache, keep=longest)


def _score(logits: torch.Tensor, target: Sequence[int]) -> TargetScore:
    """Score ``target`` by the last rows of ``logits`` (columns, vocabulary)."""
    ids = torch.tensor(target, device=logits.device)
    own = logits[-len(target) :].float()  # (tokens of the target, vocabulary)
    log_probs = own.log_softmax(-1).gather(1, ids[:, None])[:, 0]
    return TargetScore(tuple(log_probs.tolist()), tuple((own.argmax(-1) == ids).tolist()), tuple(target))


def _pair(lm: LanguageModel, prompt: str, target: str) -> tuple[list[int], list[int]]:
    """Return the tokens of a prompt and those of its target as they follow it."""
    source = token_ids(lm, prompt)
    check_length(lm, source, room=0)
    if lm.is_encoder_decoder:
        answer = plain_ids(lm.tokenizer, target)
    else:
        exact = isinstance(prompt, Rendered) or isinstance(target, Exact)
        bare = exact or prompt[-1:].isspace() or target[:1].isspace()
        text = target if bare else f" {target}"
        answer = following_ids(lm, prompt, source, text)
    if not answer:
        raise InvalidRequest(f"the target {target!r} has no tokens", remedy="Give some text as the target.")
    if not lm.is_encoder_decoder:
        check_length(lm, source + answer, room=0)
    return source, answer


def _shared(lm: LanguageModel, rows: Sequence[list[int]], more: int) -> SharedPrefix | None:
    """Run the beginning that all rows have in common, where that is possible and worth it.

    ``more`` is the most tokens that will follow a row.
    """
    if len(rows) < 2 or lm.is_encoder_decoder:
        return None
    # The first and last in order have no more in common than any other two; one token of each row is left to run.
    pairs = enumerate(zip(min(rows), max(rows), strict=False))
    limit = min(len(row) for row in rows) - 1
    common = min(next((place for place, (a, b) in pairs if a != b), limit), limit)
    if common < MIN_SHARED or max(map(len, rows)) + more > longest_shareable(lm.model):
        return None
    return SharedPrefix.of(lm, rows[0][:common])


def _batches(lengths: Sequence[int], batch_size: int) -> Iterator[list[int]]:
    """Yield places grouped by similar length, the longest first: little padding, memory fails early."""
    places = sorted(range(len(lengths)), key=lambda place: -lengths[place])
    start = 0
    while start < len(places):
        size = max(1, min(batch_size, MAX_BATCH_TOKENS // max(lengths[places[start]], 1)))
        yield places[start : start + size]
        start += size


def _affordable(
    lm: LanguageModel, pairs: Sequence[tuple[list[int], list[int]]], batches: Iterable[list[int]]
) -> Iterator[list[int]]:
    """Yield ``batches``, those cut up whose logits would take more than :data:`MAX_BATCH_LOGITS`."""
    for places in batches:
        longest = max(len(pairs[place][1]) for place in places)
        size = max(1, MAX_BATCH_LOGITS // (longest * lm.vocabulary))
        for start in range(0, len(places), size):
            yield places[start : start + size]


def undisturbed(
    lm: LanguageModel, lengths: Sequence[int], batch_size: int, most: int
) -> Iterator[tuple[list[int], int]]:
    """Yield batches of places and the room of their answers, in tokens.

    Rows that the context cuts short share a batch with others of their length only: all of them end where it does.
    """
    room = len(lengths) * [most] if lm.is_encoder_decoder else [lm.context_length - length for length in lengths]
    together: dict[int, list[int]] = {}
    for place, free in enumerate(room):
        together.setdefault(min(free, most), []).append(place)
    for steps, rows in together.items():
        for places in _batches([lengths[place] for place in rows], batch_size):
            yield [rows[at] for at in places], steps


def _check_positive(name: str, value: int) -> None:
    if value < 1:
        raise InvalidRequest(f"{name} must be at least 1, not {value}")
