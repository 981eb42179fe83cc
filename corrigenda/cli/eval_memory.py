"""A memory in front of a model, as the evaluation suite asks it: each thing once."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from corrigenda.eval.cache import Cached
from corrigenda.eval.contexts import COMPLETION, Context
from corrigenda.eval.editable import NextToken, Undo
from corrigenda.eval.normalise import matches

if TYPE_CHECKING:
    from corrigenda.edit import Edit
    from corrigenda.lm.loading import LanguageModel
    from corrigenda.lm.scoring import TargetScore
    from corrigenda.memory.encoder import Encoder
    from corrigenda.middleware.consult import Decision
    from corrigenda.middleware.editable import EditableModel
    from corrigenda.middleware.strategies.base import Plan

KEPT = 50_000
"""Decisions that are remembered, at most."""


class PassingThrough:
    """A memory in front of a model that is asked each thing once.

    A prompt that no edit concerns reaches the model as it is, so what the model said to it before is what it says now.
    What a strategy makes of the others is remembered by the plan, for the run: it depends on nothing else.
    """

    def __init__(self, edited: EditableModel, unedited: Cached, context: Context = COMPLETION) -> None:
        self.edited = edited
        self.unedited = unedited
        self.context = context
        self._plans: dict[str, Decision] = {}
        self._decisions: OrderedDict[tuple[tuple[str, ...], int, str], Decision] = OrderedDict()
        self._planned = Cached(_Planned(edited, self._plans))

    def edit(self, edits: Sequence[Edit]) -> Undo:
        """Put the edits into the memory."""
        return self.edited.edit(edits)

    def generate(self, prompts: Sequence[str], *, max_new_tokens: int) -> list[str]:
        """Continue the prompts in the light of the memory."""
        results = [""] * len(prompts)
        for model, asked in self._split(prompts, max_new_tokens):
            texts = model.generate(list(asked.values()), max_new_tokens=max_new_tokens)
            for place, text in zip(asked, texts, strict=True):
                results[place] = text
        return results

    def score(self, prompts: Sequence[str], targets: Sequence[str]) -> list[TargetScore]:
        """Score the targets in the light of the memory."""
        results: dict[int, TargetScore] = {}
        for model, asked in self._split(prompts):
            scores = model.score(list(asked.values()), [targets[place] for place in asked])
            results.update(zip(asked, scores, strict=True))
        return [results[place] for place in range(len(prompts))]

    def next_tokens(self, prompts: Sequence[str], among: Sequence[Sequence[int]] | None = None) -> list[NextToken]:
        """Return the distribution after each prompt in the light of the memory."""
        results: dict[int, NextToken] = {}
        for model, asked in self._split(prompts):
            ids = None if among is None else [among[place] for place in asked]
            results.update(zip(asked, model.next_tokens(list(asked.values()), ids), strict=True))
        return [results[place] for place in range(len(prompts))]

    def write(self, prompts: Sequence[str], *, tokens: int, seed: int) -> list[str]:
        """Continue the prompts by ``tokens`` tokens in the light of the memory."""
        results: dict[int, str] = {}
        for model, asked in self._split(prompts, tokens):
            texts = model.write(list(asked.values()), tokens=tokens, seed=seed)
            results.update(zip(asked, texts, strict=True))
        return [results[place] for place in range(len(prompts))]

    def continue_until(self, prompts: Sequence[str], *, max_new_tokens: int, stops: Sequence[str]) -> list[str]:
        """Continue the prompts in the light of the memory until one of ``stops`` begins."""
        from corrigenda.lm.stopping import Stop

        stop = Stop(newline=False, sentence=False, texts=tuple(stops))
        decisions = self._decide(prompts, max_new_tokens)
        return self.edited.model.continued(decisions, max_new_tokens, stop, self.edited.batch_size)

    @contextmanager
    def collecting(self) -> Iterator[None]:
        """Note what the model is asked inside, and ask all of it at once at the end."""
        with self.unedited.collecting(), self._planned.collecting():
            yield

    def _split(self, prompts: Sequence[str], longest: int = 0) -> Iterator[tuple[Cached, dict[int, str]]]:
        """Yield who is to be asked what, by place: the bare model, and the model under a strategy's plan."""
        touched, untouched = {}, {}
        for place, item in enumerate(self._decide(prompts, longest)):
            if item.plan is None:
                untouched[place] = prompts[place]
            else:
                touched[place] = repr(item.plan)
                self._plans[touched[place]] = item
        if untouched:
            yield self.unedited, untouched
        if touched:
            yield self._planned, touched

    def _decide(self, prompts: Sequence[str], longest: int) -> list[Decision]:
        """Decide about each prompt once for the same live edits: some strategies ask the model to decide.

        Plans leave room for ``longest`` tokens; short answers, and scores, share those with the usual room.
        """
        from corrigenda.middleware.answering import MAX_NEW_TOKENS

        longest = max(longest, MAX_NEW_TOKENS)
        live = tuple(edit.id for edit in self.edited.memory.live())
        keys = {prompt: (live, longest, prompt) for prompt in prompts}
        new = [prompt for prompt, key in keys.items() if key not in self._decisions]
        if new:
            made = self.edited.model.decide([self.context.request(prompt) for prompt in new], longest)
            self._decisions.update((keys[prompt], item) for prompt, item in zip(new, made, strict=True))
        found = [self._decisions[keys[prompt]] for prompt in prompts]
        while len(self._decisions) > KEPT:
            self._decisions.popitem(last=False)
        return found


class _Planned:
    """The model under plans; a prompt is the name of one."""

    def __init__(self, edited: EditableModel, plans: Mapping[str, Decision]) -> None:
        self.edited = edited
        self.plans = plans

    def generate(self, prompts: Sequence[str], *, max_new_tokens: int) -> list[str]:
        decisions = [self.plans[name] for name in prompts]
        model, batch = self.edited.model, self.edited.batch_size
        return model.continued(decisions, max_new_tokens, self.edited.stop, batch)

    def score(self, prompts: Sequence[str], targets: Sequence[str]) -> list[TargetScore]:
        from corrigenda.lm.scoring import score_targets
        from corrigenda.middleware.editable import constrained_score

        lm, batch = self.edited.model.lm, self.edited.batch_size
        known: dict[int, TargetScore] = {}
        for place, plan in enumerate(map(self._plan, prompts)):
            if said := _said(plan):
                # A known answer may go on after the target ("Lyon."); what is forced is only its beginning.
                says = plan.answer is not None and matches(said, [targets[place]])
                known[place] = constrained_score(lm, targets[place] if says else said, targets[place])

        def call(model: LanguageModel, texts: list[str], places: list[int]) -> list[TargetScore]:
            return score_targets(model, texts, [targets[place] for place in places], batch_size=batch)

        return self._asked(prompts, known, call)

    def next_tokens(self, prompts: Sequence[str], among: Sequence[Sequence[int]] | None = None) -> list[NextToken]:
        from corrigenda.eval.next_token import certain, next_tokens
        from corrigenda.lm.tokens import plain_ids

        tokenizer, batch = self.edited.model.lm.tokenizer, self.edited.batch_size
        known: dict[int, NextToken] = {}
        for place, plan in enumerate(map(self._plan, prompts)):
            if said := _said(plan):
                known[place] = certain(plain_ids(tokenizer, said)[0], among[place] if among else None)

        def call(model: LanguageModel, texts: list[str], places: list[int]) -> list[NextToken]:
            ids = None if among is None else [among[place] for place in places]
            return next_tokens(model, texts, ids, batch_size=batch)

        return self._asked(prompts, known, call)

    def write(self, prompts: Sequence[str], *, tokens: int, seed: int) -> list[str]:
        from corrigenda.eval.writing import write

        batch = self.edited.batch_size
        said = [_said(self._plan(name)) for name in prompts]

        def call(model: LanguageModel, texts: list[str], places: list[int]) -> list[str]:
            begun = [text + said[place] for text, place in zip(texts, places, strict=True)]
            written = write(model, begun, tokens=tokens, seed=seed, batch_size=batch)
            return [said[place] + text for text, place in zip(written, places, strict=True)]

        return self._asked(prompts, {}, call)

    def _plan(self, name: str) -> Plan:
        plan = self.plans[name].plan
        assert plan is not None  # only prompts that an edit concerns get here
        return plan

    def _asked(
        self,
        prompts: Sequence[str],
        known: Mapping[int, Any],
        call: Callable[[LanguageModel, list[str], list[int]], list[Any]],
    ) -> list[Any]:
        """Return what is ``known`` by place, and ask for the rest: plans with a worker of their own one by one."""
        from corrigenda.lm.tokens import render, token_ids

        lm = self.edited.model.lm
        results = dict(known)
        plain: list[int] = []
        for place, name in enumerate(prompts):
            plan = self._plan(name)
            if place in known:
                continue
            if plan.worker is None:
                plain.append(place)
                continue
            model = plan.worker.model(lm)
            text = render(model, plan.request)
            with plan.worker.at_work(lm, [plan.detail], len(token_ids(model, text))):
                results[place] = call(model, [text], [place])[0]
        texts = [render(lm, self._plan(prompts[place]).request) for place in plain]
        results.update(zip(plain, call(lm, texts, plain) if plain else [], strict=True))
        return [results[place] for place in range(len(prompts))]


def _said(plan: Plan) -> str:
    """Return how the answer is made to begin, or all of it where it is known already."""
    return plan.answer if plan.answer is not None else plan.prefix


class Remembering:
    """An encoder that encodes each text once: a suite asks the same prompts again and again."""

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder
        self.dimension = encoder.dimension
        self.fingerprint = encoder.fingerprint
        self._vectors: dict[str, np.ndarray] = {}

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Return unit vectors (n, d) float32 of ``texts``."""
        new = [text for text in dict.fromkeys(texts) if text not in self._vectors]
        if new:
            self._vectors.update(zip(new, self.encoder.encode(new), strict=True))
        if not texts:
            return np.empty((0, self.dimension), dtype=np.float32)
        return np.stack([self._vectors[text] for text in texts])
