"""The edited model as the evaluation suite sees it: edits in, answers and scores out, and back to before."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from corrigenda.chat import Chat
from corrigenda.edit import Edit, fold
from corrigenda.lm.loading import LanguageModel
from corrigenda.lm.scoring import TargetScore, score_targets
from corrigenda.lm.stopping import NATURAL, Stop
from corrigenda.lm.tokens import render, token_ids
from corrigenda.memory.encoder import Encoder
from corrigenda.memory.memory import Memory
from corrigenda.memory.scope import Scope
from corrigenda.middleware.expansion import Expansion, adopt
from corrigenda.middleware.generate import EditedModel
from corrigenda.middleware.strategies.base import Plan, Strategy, Worker

IMPOSSIBLE = float(np.log(np.finfo(np.float32).tiny))
"""Log-probability given to a token that a constrained answer rules out; finite (−87.3), so that means stay numbers."""


@dataclass(frozen=True, slots=True)
class Retraction:
    """The undo of a batch of edits.

    Attributes:
        memory: Where they are.
        added: Those that were not live before.
        superseded: Those that they took the place of.
    """

    memory: Memory
    added: tuple[Edit, ...]
    superseded: tuple[Edit, ...]

    def revert(self) -> None:
        """Retract the edits and bring back what they superseded. Those retracted since are let be."""
        for edit in self.added:
            if self.memory.is_live(edit.id):
                self.memory.retract(edit.id, reason="reverted")
        self.memory.add_many(self.superseded, on_conflict="coexist")


class EditableModel:
    """An edited model with a memory of its own, which takes edits in batches and gives each batch back as an undo.

    A later edit of the same fact supersedes the earlier one. Usable in a ``with`` block, which removes the memory.

    Args:
        lm: The model.
        strategy: See :class:`~corrigenda.middleware.generate.EditedModel`.
        encoder: Of the memory.
        expanding: Proposes what follows from a batch of edits, which is added with them; nothing by default.
        scope_threshold: See :class:`~corrigenda.memory.scope.Scope`.
        batch_size: Most prompts of a forward pass.
        stop: What ends an answer.
    """

    def __init__(
        self,
        lm: LanguageModel,
        *,
        strategy: str | Strategy = "auto",
        encoder: Encoder | None = None,
        scope_threshold: float | None = None,
        expanding: Callable[[Sequence[Edit]], list[Expansion]] | None = None,
        batch_size: int = 32,
        stop: Stop = NATURAL,
    ) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="corrigenda-"))
        self.memory = Memory.open(self._folder / "edits.db", encoder=encoder)
        scope = Scope(self.memory, threshold=scope_threshold)
        self.model = EditedModel(lm, self.memory, strategy=strategy, scope=scope)
        self.expanding = expanding
        self.batch_size = batch_size
        self.stop = stop

    def edit(self, edits: Sequence[Edit]) -> Retraction:
        """Add ``edits`` in one transaction; they are live when this returns.

        Raises:
            InvalidEdit, StoreError: Nothing was added.
        """
        before = self.memory.live()
        self.memory.add_many(edits)
        if self.expanding is not None:
            adopt(self.memory, self.expanding(edits))
        known, live = {edit.id for edit in before}, self.memory.live()
        alive = {edit.id for edit in live}
        return Retraction(
            self.memory,
            tuple(edit for edit in live if edit.id not in known),
            tuple(edit for edit in before if edit.id not in alive),
        )

    def generate(self, prompts: Sequence[str], *, max_new_tokens: int) -> list[str]:
        """Continue each prompt greedily up to a natural stop."""
        replies = self.model.complete_batch(
            prompts, max_new_tokens=max_new_tokens, stop=self.stop, batch_size=self.batch_size
        )
        return [reply.text for reply in replies]

    def score(self, prompts: Sequence[str], targets: Sequence[str]) -> list[TargetScore]:
        """Score each target as the continuation of its prompt, teacher-forced.

        Where the strategy constrains the answer, what is forced is certain and what contradicts it impossible
        (:data:`IMPOSSIBLE`): that is what the edited model does.
        """
        lm = self.model.lm
        decisions = self.model.decide([Chat.of(prompt) for prompt in prompts])
        scores: list[TargetScore | None] = [None] * len(prompts)
        texts: dict[int, str] = {}
        for place, item in enumerate(decisions):
            plan = item.plan
            if plan is not None and (said := plan.answer if plan.answer is not None else plan.prefix):
                scores[place] = constrained_score(lm, said, targets[place])
            elif plan is not None and plan.worker is not None:
                scores[place] = _worked_score(lm, plan.worker, plan, targets[place])
            else:
                texts[place] = render(lm, item.plan.request if item.plan else item.request)
        rest = list(texts)
        scored = score_targets(
            lm, [texts[place] for place in rest], [targets[place] for place in rest], batch_size=self.batch_size
        )
        for place, score in zip(rest, scored, strict=True):
            scores[place] = score
        return [score for score in scores if score is not None]

    def close(self) -> None:
        """Remove the memory."""
        self.memory.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> EditableModel:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _worked_score(lm: LanguageModel, worker: Worker, plan: Plan, target: str) -> TargetScore:
    model = worker.model(lm)
    text = render(model, plan.request)
    with worker.at_work(lm, [plan.detail], len(token_ids(model, text))):
        return score_targets(model, [text], [target], share_prefix=False)[0]


def constrained_score(lm: LanguageModel, prefix: str, target: str) -> TargetScore:
    """Score ``target`` where the answer is made to begin with ``prefix``: certain, or impossible."""
    ids = tuple(token_ids(lm, f" {target.strip()}"))
    said, wanted = fold(prefix), fold(target)
    certain = said == wanted or said.startswith(wanted + " ")
    return TargetScore((0.0 if certain else IMPOSSIBLE,) * len(ids), (certain,) * len(ids), ids)
