"""Requests → texts with transformers' ``generate``: batches, answers that begin with given words, where answers end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch

from corrigenda.chat import Chat
from corrigenda.errors import InvalidRequest
from corrigenda.lm.decoding import decoder_start
from corrigenda.lm.stopping import NATURAL, UNTIL_EOS, Stop, StopCriterion, cut
from corrigenda.lm.texts import continues, text_after
from corrigenda.lm.tokens import check_length, following_ids, pad, render, token_ids
from corrigenda.middleware.strategies.base import Plan, Worker

if TYPE_CHECKING:
    from collections.abc import Iterator

    from corrigenda.lm.loading import LanguageModel

MAX_NEW_TOKENS = 64
"""Longest answer, in tokens, when the caller does not say."""
BATCH_SIZE = 16
"""Most requests of one call of ``generate``."""
_SAMPLING = frozenset({"temperature", "top_k", "top_p", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff"})
_COLDEST = 1e-6
"""Temperature below which answers are greedy: scores divided by less leave the range of float32."""
_LENGTHS = frozenset({"max_new_tokens", "max_length"})
_REFUSED = frozenset({"inputs", "input_ids", "attention_mask", "decoder_input_ids", "streamer", "num_return_sequences"})


@dataclass(frozen=True, slots=True)
class Options:
    """What the caller asked for, sorted: what is ours, and what is handed to ``generate`` untouched.

    Attributes:
        stop: What ends an answer; ``None`` for the natural stop of a completion and none in a conversation.
        seed: Makes sampling repeatable; the state of the random number generator is put back afterwards.
        passed: For ``generate``.
    """

    stop: Stop | None
    seed: int | None
    passed: Mapping[str, Any]

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Options:
        """Sort ``options``; greedy and 64 tokens unless they say otherwise, sampling if a sampling argument is given.

        Raises:
            InvalidRequest: An option that belongs to :meth:`EditedModel.generate`, or of the wrong kind.
        """
        passed = dict(options)
        stop, seed = passed.pop("stop", None), passed.pop("seed", None)
        if refused := sorted(_REFUSED & set(passed)):
            raise InvalidRequest(f"option {refused[0]!r} is not taken here", remedy="Use EditedModel.generate for it.")
        if isinstance(stop, str):
            stop = (stop,)
        if stop is not None and not isinstance(stop, Stop):
            stop = replace(UNTIL_EOS, texts=tuple(stop))
        if seed is not None and not (isinstance(seed, int) and -(1 << 63) <= seed < 1 << 64):
            raise InvalidRequest(f"seed must be a whole number of 64 bits, not {seed!r:.50}")
        for name in _LENGTHS:
            if passed.get(name, 0) is None:  # transformers' word for "unset"
                del passed[name]
        if "max_new_tokens" in passed:
            passed.pop("max_length", None)  # transformers goes by max_new_tokens as well
        if "max_length" not in passed:
            passed.setdefault("max_new_tokens", MAX_NEW_TOKENS)
        for name in _LENGTHS & set(passed):
            if not isinstance(passed[name], int) or passed[name] < 1:
                raise InvalidRequest(f"{name} must be at least 1, not {passed[name]!r}")
        temperature = passed.get("temperature")
        if isinstance(temperature, int | float) and 0 <= temperature < _COLDEST:
            # Greedy by the custom of APIs; transformers refuses a temperature of 0.
            passed = {name: value for name, value in passed.items() if name not in _SAMPLING} | {"do_sample": False}
        if "generation_config" not in passed:
            # None is transformers' word for "unset".
            passed.setdefault("do_sample", any(passed.get(name) is not None for name in _SAMPLING))
        return cls(stop, seed, passed)

    @property
    def longest(self) -> int:
        """Most tokens of an answer, before the length of any prompt is known; more than there will be, perhaps."""
        return int(self.passed.get("max_new_tokens", self.passed.get("max_length", MAX_NEW_TOKENS)))

    @property
    def counts_prompts(self) -> bool:
        """Whether ``max_length`` is given, which the caller's own prompt is a part of."""
        return "max_length" in self.passed

    def longest_of(self, job: Job) -> int:
        """Return the most tokens of the answer to ``job``: a plan makes prompts longer, not answers shorter."""
        if self.counts_prompts:
            return max(int(self.passed["max_length"]) - job.own, 1)
        return self.longest

    def seeded(self) -> AbstractContextManager[None]:
        """Return a context in which random numbers follow from the seed; without one, nothing is changed."""
        return nullcontext() if self.seed is None else _seeded(self.seed)


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


@dataclass(frozen=True, slots=True)
class Job:
    """A request on its way to the model.

    Attributes:
        ids: Tokens of the prompt; of a decoder-only model with the forced beginning at the end.
        forced: Tokens of the forced beginning.
        prefix: The forced beginning as text.
        stop: What ends the answer.
        bare_line: See :class:`~corrigenda.middleware.strategies.base.Plan`.
        chat: Whether the reply is a turn of a conversation.
        answer, worker, detail: See :class:`~corrigenda.middleware.strategies.base.Plan`.
        own: Tokens of the caller's own prompt, as far as ``max_length`` counts them; 1 where nobody asked for that.
        goes_on: Whether the reply goes on with the prompt's text, rather than being a turn or an encoder-decoder's.
        begun: What an encoder-decoder's answer begins with, before ``forced``; by default the token that starts it.
    """

    ids: tuple[int, ...]
    forced: tuple[int, ...]
    prefix: str
    stop: Stop
    bare_line: bool
    chat: bool
    answer: str | None = None
    worker: Worker | None = None
    detail: Any = None
    own: int = 1
    goes_on: bool = False
    begun: tuple[int, ...] = ()

    @classmethod
    def of(
        cls, lm: LanguageModel, request: Chat, plan: Plan | None, stop: Stop | None, *, counted: bool = False
    ) -> Job:
        """Prepare ``request``, or what ``plan`` makes of it; ``counted`` is :attr:`Options.counts_prompts`.

        Raises:
            InvalidRequest: The prompt is longer than the model's context.
        """
        own = stop if stop is not None else (NATURAL if request.completion else UNTIL_EOS)
        if plan is None:
            text = render(lm, request)
            ids = token_ids(lm, text)
            check_length(lm, ids)
            before = 1 if lm.is_encoder_decoder else len(ids)
            return cls(tuple(ids), (), "", own, False, not request.completion, own=before, goes_on=continues(lm, text))
        if plan.answer is not None:
            return cls((), (), "", UNTIL_EOS, False, not request.completion, plan.answer)
        before = len(token_ids(lm, render(lm, request))) if counted and not lm.is_encoder_decoder else 1
        if plan.worker is not None:
            lm = plan.worker.model(lm)
        text = render(lm, plan.request)
        ids = token_ids(lm, text)
        forced = following_ids(lm, text, ids, plan.prefix) if plan.prefix else []
        if not lm.is_encoder_decoder:
            ids = [*ids, *forced]
        check_length(lm, ids)
        stop = own if plan.stop is None else both(own, plan.stop)
        done = (plan.answer, plan.worker, plan.detail)
        rest = (plan.bare_line, not request.completion, *done, before, continues(lm, text))
        return cls(tuple(ids), tuple(forced), plan.prefix, stop, *rest)

    def model(self, lm: LanguageModel) -> LanguageModel:
        """Return the model that answers, where the caller's is ``lm``."""
        return lm if self.worker is None else self.worker.model(lm)

    @property
    def before(self) -> tuple[int, ...]:
        """Tokens whose text the reply goes on with."""
        return self.ids[: len(self.ids) - len(self.forced)] if self.goes_on else ()

    def finish(self, continuation: str) -> str:
        """Return the reply, given what the model said after the forced beginning."""
        text = self.prefix + cut(continuation, self.stop) if self.prefix else cut(continuation, self.stop)
        if self.bare_line:
            text = text.strip() if self.chat else text.rstrip()
        return text


def both(one: Stop, other: Stop) -> Stop:
    """Return the rule that ends an answer where either does."""
    return Stop(one.newline or other.newline, one.sentence or other.sentence, (*one.texts, *other.texts))


@torch.inference_mode()
def answer(lm: LanguageModel, jobs: Sequence[Job], options: Options) -> list[str]:
    """Return the replies to ``jobs``, in order. See :func:`alike` for which of them share a batch."""
    replies = [job.answer or "" for job in jobs]
    for places in _batches(lm, jobs, options):
        for place, text in zip(places, _batch(lm, [jobs[p] for p in places], options), strict=True):
            replies[place] = text
    return replies


def _batches(lm: LanguageModel, jobs: Sequence[Job], options: Options) -> Iterator[list[int]]:
    """Yield the places of jobs that share a call of ``generate``, long prompts first: memory fails early."""
    for places in alike(jobs):
        for group in undisturbed(lm, jobs, places, options):
            yield from (group[start : start + BATCH_SIZE] for start in range(0, len(group), BATCH_SIZE))


def undisturbed(lm: LanguageModel, jobs: Sequence[Job], places: Sequence[int], options: Options) -> list[list[int]]:
    """Part ``places`` so that no answer ends where the context of a neighbour with a longer prompt does.

    Prompts are sorted, the longest first; those that the context cuts short in any case share a call with others of
    their length only, whose answers end where theirs do.
    """
    lm = jobs[places[0]].model(lm)
    groups: list[list[int]] = []
    columns = longest = 0
    for place in sorted(places, key=lambda place: -len(jobs[place].ids)):
        own = options.longest_of(jobs[place]) - len(jobs[place].forced)
        harmless = len(jobs[place].ids) == columns or columns + max(longest, own) <= lm.context_length
        if groups and (lm.is_encoder_decoder or harmless):
            groups[-1].append(place)
            longest = max(longest, own)
        else:
            groups.append([place])
            columns, longest = len(jobs[place].ids), own
    return groups


def alike(jobs: Sequence[Job]) -> list[list[int]]:
    """Group the places of jobs that a model has to answer: one worker, and all or none with a forced beginning."""
    groups: dict[tuple[int, bool], list[int]] = {}
    for place, job in enumerate(jobs):
        if job.answer is None:
            groups.setdefault((id(job.worker), bool(job.forced)), []).append(place)
    return list(groups.values())


@contextmanager
def at_work(lm: LanguageModel, jobs: Sequence[Job], columns: int) -> Iterator[None]:
    """Let the model answer ``jobs``, one batch whose prompts have ``columns`` columns, as planned inside the block."""
    worker = jobs[0].worker
    with nullcontext() if worker is None else worker.at_work(lm, [job.detail for job in jobs], columns):
        yield


def _batch(lm: LanguageModel, jobs: Sequence[Job], options: Options) -> list[str]:
    lm = jobs[0].model(lm)
    inputs, columns, passed = arguments(lm, jobs, options)
    if passed["max_new_tokens"] < 1:  # the forced beginning is as long as an answer may be
        said: list[list[int]] = [[] for _ in jobs]
    else:
        with options.seeded(), at_work(lm, jobs, inputs["input_ids"].shape[1]):
            output = lm.model.generate(**inputs, **passed)
        said = getattr(output, "sequences", output)[:, columns:].tolist()
    return [finished(lm, job, row, options) for job, row in zip(jobs, said, strict=True)]


def finished(lm: LanguageModel, job: Job, row: Sequence[int], options: Options) -> str:
    """Return the reply, given the tokens after the forced beginning (padding at the end does no harm)."""
    longest = options.longest_of(job)
    if job.forced and len(job.forced) >= longest:
        return text_after(lm.tokenizer, job.before, job.forced[:longest])
    before = job.forced or job.before
    return job.finish(text_after(lm.tokenizer, before, row[: longest - len(job.forced)]))


def arguments(lm: LanguageModel, jobs: Sequence[Job], options: Options) -> tuple[dict[str, Any], int, dict[str, Any]]:
    """Return (inputs of ``generate``, columns of its output that are not new, its other arguments)."""
    batch = pad(lm, [job.ids for job in jobs])
    inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
    columns = batch.input_ids.shape[1]
    if lm.is_encoder_decoder:
        columns = 1
        if any(job.begun or job.forced for job in jobs):
            answers = pad(lm, [[*(job.begun or (decoder_start(lm),)), *job.forced] for job in jobs])
            inputs |= {"decoder_input_ids": answers.input_ids, "decoder_attention_mask": answers.attention_mask}
            columns = answers.input_ids.shape[1]
    longest = max(options.longest_of(job) - len(job.forced) for job in jobs)
    if not lm.is_encoder_decoder:
        # Models with learned positions have none beyond the context. Padding takes no place there.
        longest = min(longest, lm.context_length - max(len(job.ids) for job in jobs))
    passed = {name: value for name, value in options.passed.items() if name != "max_length"}
    passed["max_new_tokens"] = longest
    if jobs[0].forced:
        own = list(passed.get("logits_processor") or ())
        passed["logits_processor"] = [*own, WordEnd(lm, columns)]
    criteria = [Row(job.stop, lm.tokenizer, columns) for job in jobs]
    if any(job.stop != UNTIL_EOS for job in jobs):
        own = list(passed.get("stopping_criteria") or ())
        passed["stopping_criteria"] = [*own, Rows(criteria)]
    return inputs, columns, passed


def text_of(lm: LanguageModel, tokens: Sequence[int]) -> str:
    """Return the text of ``tokens``, control tokens left out."""
    return text_after(lm.tokenizer, (), tokens)


Row = StopCriterion


class Rows:
    """A stopping criterion with a rule of its own for every row."""

    def __init__(self, rules: Sequence[StopCriterion]) -> None:
        self.rules = rules

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        """Return a bool per row of ``input_ids`` (rows, columns); with several sequences a row, each asks its rule."""
        each = len(input_ids) // len(self.rules)
        rows = [
            self.rules[place // each].over(row[self.rules[0].prompt_length :])
            for place, row in enumerate(input_ids.tolist())
        ]
        return torch.tensor(rows, dtype=torch.bool, device=input_ids.device)


class WordEnd:
    """A logits processor: what is said first must not carry on the last word, lest "Rome" become "Romeo".

    Args:
        lm: The model.
        columns: Columns of the output before the first new token.
    """

    def __init__(self, lm: LanguageModel, columns: int) -> None:
        self.lm = lm
        self.columns = columns
        self.barred = _inside_words(lm.tokenizer)
        self.over = False

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Return ``scores`` (rows, vocabulary), −∞ for barred tokens in rows that have said nothing visible yet."""
        if self.over:
            return scores
        mute = torch.tensor([not text_of(self.lm, row) for row in input_ids[:, self.columns :].tolist()])
        self.over = not bool(mute.any())
        barred = torch.zeros(scores.shape[-1], dtype=torch.bool)
        barred[self.barred[self.barred < len(barred)]] = True
        return scores.masked_fill((mute[:, None] & barred).to(scores.device), -torch.inf)


_JOINERS = "+#&_"
"""Marks that go on a name: "C" is not "C++"."""


def goes_on(text: str) -> bool:
    """Tell whether ``text`` would make another word of the one before it."""
    return text[:1].isalnum() or (text[:1] in _JOINERS and text != "")


_SPACES = ("Ġ", "Ċ", "ĉ", "č", "▁", "<")


@lru_cache(maxsize=8)
def _inside_words(tokenizer: Any) -> torch.Tensor:
    """Return the tokens that go on with a word: those that begin with a letter or digit rather than a space."""
    vocabulary: dict[str, int] = tokenizer.get_vocab()
    special = set(tokenizer.all_special_ids)
    ids = [
        token
        for text, token in vocabulary.items()
        if token not in special and not text.startswith(_SPACES) and goes_on(text)
    ]
    return torch.tensor(sorted(ids), dtype=torch.long)
