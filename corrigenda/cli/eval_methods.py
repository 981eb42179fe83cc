"""Editing methods by name, as the evaluation suite needs them: ``none``, registered strategies, registered editors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from corrigenda.errors import UnknownName
from corrigenda.eval.cache import Cached
from corrigenda.eval.contexts import COMPLETION, Context
from corrigenda.eval.editable import Bare, Editable, NextToken, Undo

if TYPE_CHECKING:
    from corrigenda.edit import Edit
    from corrigenda.eval.protocol import Progress
    from corrigenda.lm.loading import LanguageModel
    from corrigenda.lm.scoring import TargetScore
    from corrigenda.memory.encoder import Encoder
    from corrigenda.middleware.consult import Decision
    from corrigenda.middleware.editable import EditableModel
    from corrigenda.param_editors.editable import EditedWeights

NONE = "none"
"""The method that does nothing: the unedited model, the baseline of every table."""


@dataclass(frozen=True)
class Method:
    """A method, ready to be scored.

    Attributes:
        editable: The method.
        collecting: See :class:`corrigenda.eval.protocol.Run`.
        settings: What it was set to, for the results file.
        watch: Takes a progress report for the stages within an edit, where a method has any.
    """

    editable: Editable
    collecting: Callable[[], AbstractContextManager[None]] | None
    settings: dict[str, Any]
    watch: Callable[[Progress], None] | None = None


def known_methods() -> list[str]:
    """Return the names of all methods."""
    from corrigenda.middleware.strategies.base import available
    from corrigenda.param_editors.editor import editors

    return [NONE, *available(), *sorted(editors())]


def is_editor(name: str) -> bool:
    """Tell whether the method ``name`` edits weights."""
    from corrigenda.param_editors.editor import editors

    return name in editors()


@contextmanager
def open_method(
    name: str,
    lm: LanguageModel,
    unedited: Cached,
    *,
    threshold: float | None = None,
    context: Context = COMPLETION,
    seed: int = 0,
    keep: Path | None = None,
) -> Iterator[Method]:
    """Open the method ``name``; what it keeps on disk is removed at the end.

    Args:
        name: One of :func:`known_methods`.
        lm: The model.
        unedited: The same without edits, asked in the same context.
        threshold: Of the scope classifier, for strategies.
        context: How prompts are put to the model.
        seed: Of editors of weights.
        keep: Folder in which editors of weights keep what they found, so that a killed run goes on.

    Raises:
        UnknownName: No such method.
    """
    if name not in (known := known_methods()):
        raise UnknownName.among("method", name, known)
    if name == NONE:
        yield Method(unedited, unedited.collecting, {})
        return
    from corrigenda.param_editors.editor import editors

    if name in editors():
        yield _open_editor(name, lm, context, seed, keep)
        return
    from corrigenda.memory.encoder import MiniLM
    from corrigenda.middleware.editable import EditableModel

    encoder = Remembering(MiniLM.load())
    with EditableModel(lm, strategy=name, encoder=encoder, scope_threshold=threshold) as edited:
        settings = {
            "strategy": name,
            "scope_threshold": edited.model.scope.threshold,
            "encoder": encoder.fingerprint,
        }
        front = PassingThrough(edited, unedited, context)
        yield Method(front, front.collecting, settings)


def _open_editor(name: str, lm: LanguageModel, context: Context, seed: int, keep: Path | None) -> Method:
    """Return an editor of weights with the preset for ``lm``."""
    from corrigenda.param_editors.editable import EditedWeights

    edited = EditedWeights(lm, name, seed=seed, keep=keep)

    def watch(report: Progress) -> None:
        # A stage of one step is over before anyone has read its name.
        edited.progress = lambda stage, done, total: report(stage, done, total) if total > 1 else None

    return Method(Weights(edited, context), None, {"editor": name, "params": edited.params.to_dict()}, watch)


class Weights(Bare):
    """A model whose weights take edits, asked in a context."""

    def __init__(self, edited: EditedWeights, context: Context) -> None:
        super().__init__(edited.lm, batch_size=edited.batch_size, context=context)
        self.edited = edited

    def edit(self, edits: Sequence[Edit]) -> Undo:
        """Write the edits into the weights."""
        return self.edited.edit(edits)


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
        self._planned = Cached(_Planned(edited, self._plans))

    def edit(self, edits: Sequence[Edit]) -> Undo:
        """Put the edits into the memory."""
        return self.edited.edit(edits)

    def generate(self, prompts: Sequence[str], *, max_new_tokens: int) -> list[str]:
        """Continue the prompts in the light of the memory."""
        results = [""] * len(prompts)
        for model, asked in self._split(prompts):
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
        for model, asked in self._split(prompts):
            texts = model.write(list(asked.values()), tokens=tokens, seed=seed)
            results.update(zip(asked, texts, strict=True))
        return [results[place] for place in range(len(prompts))]

    @contextmanager
    def collecting(self) -> Iterator[None]:
        """Note what the model is asked inside, and ask all of it at once at the end."""
        with self.unedited.collecting(), self._planned.collecting():
            yield

    def _split(self, prompts: Sequence[str]) -> Iterator[tuple[Cached, dict[int, str]]]:
        """Yield who is to be asked what, by place: the bare model, and the model under a strategy's plan."""
        touched, untouched = {}, {}
        for place, item in enumerate(self.edited.model.decide([self.context.request(prompt) for prompt in prompts])):
            if item.plan is None:
                untouched[place] = prompts[place]
            else:
                touched[place] = repr(item.plan)
                self._plans[touched[place]] = item
        if untouched:
            yield self.unedited, untouched
        if touched:
            yield self._planned, touched


class _Planned:
    """The model under plans; a prompt is the name of one."""

    def __init__(self, edited: EditableModel, plans: Mapping[str, Decision]) -> None:
        self.edited = edited
        self.plans = plans

    def generate(self, prompts: Sequence[str], *, max_new_tokens: int) -> list[str]:
        decisions = [self.plans[name] for name in prompts]
        model, batch = self.edited.model, self.edited.batch_size
        return model._continued(decisions, max_new_tokens, self.edited.stop, batch)

    def score(self, prompts: Sequence[str], targets: Sequence[str]) -> list[TargetScore]:
        from corrigenda.lm.scoring import score_targets
        from corrigenda.lm.tokens import render
        from corrigenda.middleware.editable import constrained_score

        lm = self.edited.model.lm
        results: dict[int, TargetScore] = {}
        texts: dict[int, str] = {}
        for place, name in enumerate(prompts):
            plan = self.plans[name].plan
            if plan is not None and plan.prefix:
                results[place] = constrained_score(lm, plan.prefix, targets[place])
            elif plan is not None:
                texts[place] = render(lm, plan.request)
        scores = score_targets(
            lm, list(texts.values()), [targets[place] for place in texts], batch_size=self.edited.batch_size
        )
        results.update(zip(texts, scores, strict=True))
        return [results[place] for place in range(len(prompts))]

    def next_tokens(self, prompts: Sequence[str], among: Sequence[Sequence[int]] | None = None) -> list[NextToken]:
        from corrigenda.eval.next_token import certain, next_tokens
        from corrigenda.lm.tokens import plain_ids, render

        lm = self.edited.model.lm
        results: dict[int, NextToken] = {}
        asked: dict[int, str] = {}
        for place, name in enumerate(prompts):
            plan = self.plans[name].plan
            if plan is not None and plan.prefix:
                results[place] = certain(plain_ids(lm.tokenizer, plan.prefix)[0], among[place] if among else None)
            elif plan is not None:
                asked[place] = render(lm, plan.request)
        ids = None if among is None else [among[place] for place in asked]
        found = next_tokens(lm, list(asked.values()), ids, batch_size=self.edited.batch_size)
        results.update(zip(asked, found, strict=True))
        return [results[place] for place in range(len(prompts))]

    def write(self, prompts: Sequence[str], *, tokens: int, seed: int) -> list[str]:
        from corrigenda.eval.writing import write
        from corrigenda.lm.tokens import render

        lm = self.edited.model.lm
        plans = [self.plans[name].plan for name in prompts]
        begun = [plan.prefix if plan is not None else "" for plan in plans]
        texts = [
            render(lm, plan.request) + prefix for plan, prefix in zip(plans, begun, strict=True) if plan is not None
        ]
        written = write(lm, texts, tokens=tokens, seed=seed, batch_size=self.edited.batch_size)
        return [prefix + text for prefix, text in zip(begun, written, strict=True)]


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
