"""EditedModel: a language model that answers in the light of a memory of edits."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from corrigenda.chat import Chat, Message, Prompt, Reply, Trace, check_query
from corrigenda.lm.loading import LanguageModel, load
from corrigenda.lm.scoring import greedy
from corrigenda.lm.stopping import NATURAL, Stop, cut
from corrigenda.lm.tokens import render, token_ids
from corrigenda.memory.memory import Memory
from corrigenda.memory.scope import Consideration, Scope
from corrigenda.middleware import drop_in
from corrigenda.middleware.answering import MAX_NEW_TOKENS, Job, Options, answer, goes_on
from corrigenda.middleware.asking import bare_answers
from corrigenda.middleware.consult import Decision, Flow, consult, drive, drive_async
from corrigenda.middleware.strategies.base import Room, Strategy, create
from corrigenda.middleware.streaming import AsyncStream, Stream

if TYPE_CHECKING:
    from pathlib import Path

_POSITIONS = ("generation_config", "logits_processor", "stopping_criteria", "prefix_allowed_tokens_fn")
"""Arguments of ``generate`` after the first, as far as anyone passes them by place."""
UNASKED = Decision(Chat((Message("assistant", ""),)), None, Trace())


class EditedModel:
    """A language model, and the edits that stand in front of it.

    Safe to share between threads as far as the model itself is.

    Args:
        lm: The model; its weights are never touched.
        memory: The edits. What another process adds is seen by the next request.
        strategy: What is done when edits fire: the name of a registered strategy, or a strategy.
        scope: Decides which edits fire; by default the scope classifier of ``memory``.
        namespace: Only its edits are seen.

    Raises:
        UnknownName: No such strategy.
    """

    def __init__(
        self,
        lm: LanguageModel,
        memory: Memory,
        *,
        strategy: str | Strategy = "auto",
        scope: Scope | None = None,
        namespace: str = "default",
    ) -> None:
        self.lm = lm
        self.memory = memory
        self.strategy: Strategy = create(strategy) if isinstance(strategy, str) else strategy
        self.scope = scope if scope is not None else Scope(memory)
        self.namespace = namespace
        # Per thread and task, so that a request without edits in one does not strip them from another.
        self._bare: ContextVar[bool] = ContextVar("corrigenda_without_edits", default=False)

    @classmethod
    def load(
        cls, name: str | Path, memory: Memory, *, device: str | None = None, dtype: str = "float32", **settings: Any
    ) -> EditedModel:
        """Load the model ``name`` (see :func:`corrigenda.lm.loading.load`) and put ``memory`` in front of it."""
        return cls(load(name, device=device, dtype=dtype), memory, **settings)

    # Asking

    def ask(self, prompt: Prompt, **options: Any) -> Reply:
        """Answer a prompt: text is continued, a list of messages is answered as a conversation.

        Args:
            prompt: Text, or messages; the last user turn is the query.
            **options: ``seed``; ``stop`` (a :class:`~corrigenda.lm.stopping.Stop`, or texts before which the answer
                ends); all others go to transformers' ``generate`` as they are. Without any the answer is greedy and
                64 tokens long at most, a completion ends at its first line or sentence, and a chat turn where the
                model ends it. ``temperature``, ``top_p`` and their like switch sampling on.

        Raises:
            InvalidRequest: Empty, too long for the model, not text, or an option out of range.
        """
        return self.ask_batch([prompt], **options)[0]

    def ask_batch(self, prompts: Sequence[Prompt], **options: Any) -> list[Reply]:
        """Answer prompts together; see :meth:`ask`. Requests that no edit concerns run in batches of their own."""
        return self.reply([Chat.of(prompt) for prompt in prompts], **options)

    def reply(self, requests: Sequence[Chat], **options: Any) -> list[Reply]:
        """Answer requests, whose own options are not looked at; see :meth:`ask`."""
        settings = Options.of(options)
        return self._replies(self.decide(requests, settings.longest), settings)

    def _job(self, decision: Decision, settings: Options) -> Job:
        counted = settings.counts_prompts
        return Job.of(self.lm, decision.request, decision.plan, settings.stop, counted=counted)

    def _replies(self, decisions: Sequence[Decision], settings: Options) -> list[Reply]:
        jobs = [self._job(item, settings) for item in decisions]
        began = time.perf_counter()
        texts = [""] * len(jobs)
        for touched in (False, True):
            places = [place for place, item in enumerate(decisions) if (item.plan is not None) == touched]
            answers = answer(self.lm, [jobs[place] for place in places], settings)
            for place, text in zip(places, answers, strict=True):
                texts[place] = text
        spent = (time.perf_counter() - began) * 1e3 / max(len(jobs), 1)
        return [Reply(text, timed(item.trace, spent)) for text, item in zip(texts, decisions, strict=True)]

    def __call__(self, chat: Chat, /) -> Reply:
        """Answer a request: an edited model is a :class:`~corrigenda.chat.Generate`."""
        return self.reply([chat], **chat.options)[0]

    def stream(self, prompt: Prompt, **options: Any) -> Stream:
        """Answer piece by piece; the pieces joined are what :meth:`ask` returns. See :class:`Stream` for the trace."""
        settings = Options.of(options)
        (decision,) = self.decide([Chat.of(prompt)], settings.longest)
        return Stream(self.lm, self._job(decision, settings), settings, decision.trace)

    # Asking without waiting: the same flow, its needs and the model at work in threads of their own

    async def aask(self, prompt: Prompt, **options: Any) -> Reply:
        """Answer a prompt while the event loop goes on; see :meth:`ask`."""
        return (await self.aask_batch([prompt], **options))[0]

    async def aask_batch(self, prompts: Sequence[Prompt], **options: Any) -> list[Reply]:
        """Answer prompts together while the event loop goes on; see :meth:`ask_batch`."""
        return await self.areply([Chat.of(prompt) for prompt in prompts], **options)

    async def areply(self, requests: Sequence[Chat], **options: Any) -> list[Reply]:
        """Answer requests while the event loop goes on; see :meth:`reply`."""
        settings = Options.of(options)
        decisions = await self.adecide(requests, settings.longest)
        return await asyncio.to_thread(self._replies, decisions, settings)

    def astream(self, prompt: Prompt, **options: Any) -> AsyncStream:
        """Answer piece by piece, for ``async for``; nothing happens before the first is taken. See :meth:`stream`."""
        settings, request = Options.of(options), Chat.of(prompt)

        async def begin() -> Stream:
            (decision,) = await self.adecide([request], settings.longest)
            job = self._job(decision, settings)
            return Stream(self.lm, job, settings, decision.trace)

        return AsyncStream(begin)

    def complete_batch(
        self, prompts: Sequence[str], *, max_new_tokens: int = 32, stop: Stop = NATURAL, batch_size: int = 32
    ) -> list[Reply]:
        """Continue texts greedily, with the fast loop of :func:`corrigenda.lm.scoring.greedy`."""
        decisions = self.decide([Chat.of(prompt) for prompt in prompts], max_new_tokens)
        began = time.perf_counter()
        texts = [""] * len(decisions)
        for touched in (False, True):
            places = [place for place, item in enumerate(decisions) if (item.plan is not None) == touched]
            chosen = [decisions[place] for place in places]
            for place, text in zip(places, self.continued(chosen, max_new_tokens, stop, batch_size), strict=True):
                texts[place] = text
        spent = (time.perf_counter() - began) * 1e3 / max(len(texts), 1)
        return [Reply(text, timed(item.trace, spent)) for text, item in zip(texts, decisions, strict=True)]

    def continued(self, decisions: Sequence[Decision], max_new_tokens: int, stop: Stop, batch_size: int) -> list[str]:
        """Return what the model says to requests that were decided about, greedily, in order."""
        own = [place for place, item in enumerate(decisions) if item.plan and (item.plan.answer or item.plan.worker)]
        if own:
            return self._continued_elsewhere(decisions, set(own), max_new_tokens, stop, batch_size)
        if not decisions:
            return []
        texts = [render(self.lm, item.plan.request if item.plan else item.request) for item in decisions]
        prefixes = [item.plan.prefix if item.plan else "" for item in decisions]
        answers = greedy(
            self.lm, texts, prefix=prefixes, max_new_tokens=max_new_tokens, stop=stop, batch_size=batch_size
        )
        return [self._mended(text, item, max_new_tokens, stop) for text, item in zip(answers, decisions, strict=True)]

    def _continued_elsewhere(
        self, decisions: Sequence[Decision], own: set[int], max_new_tokens: int, stop: Stop, batch_size: int
    ) -> list[str]:
        """Continue where some answers are known or come from a plan's own worker, which the fast loop cannot ask."""
        options = Options.of({"max_new_tokens": max_new_tokens})
        jobs = [Job.of(self.lm, decisions[place].request, decisions[place].plan, stop) for place in sorted(own)]
        texts = dict(zip(sorted(own), answer(self.lm, jobs, options), strict=True))
        rest = [place for place in range(len(decisions)) if place not in own]
        chosen = [decisions[place] for place in rest]
        texts |= zip(rest, self.continued(chosen, max_new_tokens, stop, batch_size), strict=True)
        return [texts[place] for place in range(len(decisions))]

    def _mended(self, text: str, item: Decision, max_new_tokens: int, stop: Stop) -> str:
        """Return what the fast loop said as :meth:`ask` would have: it knows neither plans nor ends of words."""
        plan = item.plan
        if plan is None:
            return text
        rest = text[len(plan.prefix) :]
        if plan.prefix and goes_on(rest):
            job = Job.of(self.lm, item.request, plan, stop)
            options = Options.of({"max_new_tokens": max_new_tokens + len(job.forced)})
            return answer(self.lm, [job], options)[0]
        text = plan.prefix + (rest if plan.stop is None else cut(rest, plan.stop))
        return text.rstrip() if plan.bare_line else text

    def generate(self, inputs: Any = None, *args: Any, **options: Any) -> Any:
        """Do what ``model.generate`` of transformers does, in the light of the edits.

        When no edit fires, exactly these arguments go to the model. A conversation is recognised by the marks of the
        model's chat template. Where an edit fires, the row of the result holds the caller's tokens and the answer.

        Args:
            inputs: Token ids (rows, columns), or pass ``input_ids=``; padded on the left.
            *args: Whatever ``generate`` takes after them.
            **options: Whatever ``generate`` takes by name.

        Raises:
            InvalidRequest: A plan is longer than the context, or scores of each step are asked for where an edit fires.
        """
        input_ids: Any = inputs if inputs is not None else options.get("input_ids")
        own = (*(() if inputs is None else (inputs,)), *args)
        readable = isinstance(input_ids, torch.Tensor) and input_ids.dim() == 2 and options.get("inputs_embeds") is None
        if not readable or self._bare.get():
            return self.lm.model.generate(*own, **options)
        mask = options.get("attention_mask")
        rows = drop_in.read_rows(self.lm, input_ids, mask)
        rest = {name: value for name, value in options.items() if name not in ("input_ids", "attention_mask")}
        rest |= dict(zip(_POSITIONS, args, strict=False))
        longest = drop_in.longest_answer(self.lm, rest, drop_in.beginnings(self.lm, input_ids, rest).shape[1])
        asking = [row.request for row in rows if row.request is not None]
        decided = iter(self.decide(asking, longest))
        decisions = [next(decided) if row.request is not None else UNASKED for row in rows]
        if all(item.plan is None for item in decisions):
            return self.lm.model.generate(*own, **options)
        return drop_in.run(self.lm, rows, decisions, input_ids, mask, rest)

    # Deciding

    def decide(self, requests: Sequence[Chat], longest: int = MAX_NEW_TOKENS) -> list[Decision]:
        """Return what becomes of each request, without asking the model; plans leave room for ``longest`` tokens."""
        if self._bare.get():
            return self._undecided(requests)
        return drive(self._flow(requests, longest), self.memory, self.scope, ask=self._ask_bare, lm=self.lm)

    async def adecide(self, requests: Sequence[Chat], longest: int = MAX_NEW_TOKENS) -> list[Decision]:
        """Return what becomes of each request; judging happens in a thread. See :meth:`decide`."""
        if self._bare.get():
            return self._undecided(requests)
        flow = self._flow(requests, longest)
        return await drive_async(flow, self.memory, self.scope, ask=self._ask_bare, lm=self.lm)

    def _flow(self, requests: Sequence[Chat], longest: int) -> Flow:
        # Half the context at most is kept free: callers allow long answers freely, and plans would lose their facts.
        free = 1 if self.lm.is_encoder_decoder else min(longest, self.lm.context_length // 2)
        room = Room(max(self.lm.context_length - free, 1), lambda text: len(token_ids(self.lm, text)))
        return consult(requests, strategy=self.strategy, namespace=self.namespace, room=room)

    def _undecided(self, requests: Sequence[Chat]) -> list[Decision]:
        return [Decision(request, None, Trace(ledger_version=self.memory.version)) for request in requests]

    def _ask_bare(self, requests: Sequence[Chat]) -> list[str]:
        return bare_answers(self.lm, requests)

    def explain(self, query: str) -> Consideration:
        """Return which edits were considered for ``query``, on what grounds, and the verdicts."""
        check_query(query)
        self.memory.refresh()
        return self.scope.consider([query], self.namespace)[0]

    @property
    def edits_in_force(self) -> bool:
        """Whether edits are looked at here: not inside :meth:`without_edits`."""
        return not self._bare.get()

    @contextmanager
    def without_edits(self) -> Iterator[EditedModel]:
        """Answer as the bare model does inside the block; what was before is restored, whatever happens."""
        token = self._bare.set(True)
        try:
            yield self
        finally:
            self._bare.reset(token)


def timed(trace: Trace, milliseconds: float) -> Trace:
    """Return ``trace`` with the time of generation."""
    times: Mapping[str, float] = {**trace.milliseconds, "generate": milliseconds}
    return replace(trace, milliseconds=times)
