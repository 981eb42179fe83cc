"""The contract of what is scored.

Whatever can take edits, answer and be put back is :class:`Editable`: a memory in front of a model, an editor of
weights, or nothing at all (:class:`Bare`). The suite knows no more than this of either.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from corrigenda.edit import Edit

if TYPE_CHECKING:
    from corrigenda.lm.loading import LanguageModel
    from corrigenda.lm.scoring import TargetScore


class Answers(Protocol):
    """A model that answers prompts and scores given answers; both deterministic."""

    def generate(self, prompts: Sequence[str], *, max_new_tokens: int) -> list[str]:
        """Continue each prompt greedily up to a natural stop, at most ``max_new_tokens`` tokens."""
        ...

    def score(self, prompts: Sequence[str], targets: Sequence[str]) -> list[TargetScore]:
        """Score each target as the continuation of its prompt, teacher-forced."""
        ...


class Undo(Protocol):
    """What was done, as a value that can be undone."""

    def revert(self) -> None:
        """Put everything back as it was before the edit, exactly."""
        ...


class Editable(Answers, Protocol):
    """A model that takes edits."""

    def edit(self, edits: Sequence[Edit]) -> Undo:
        """Make ``edits``; they are in force when this returns, in addition to earlier ones."""
        ...


class Bare:
    """The unedited model behind the contract: edits change nothing. The baseline of every table."""

    def __init__(self, lm: LanguageModel, *, batch_size: int = 32) -> None:
        self.lm = lm
        self.batch_size = batch_size

    def edit(self, edits: Sequence[Edit]) -> Undo:
        """Do nothing."""
        return Nothing()

    def generate(self, prompts: Sequence[str], *, max_new_tokens: int) -> list[str]:
        """Continue each prompt greedily up to a natural stop, at most ``max_new_tokens`` tokens."""
        from corrigenda.lm.scoring import greedy

        return greedy(self.lm, prompts, max_new_tokens=max_new_tokens, batch_size=self.batch_size)

    def score(self, prompts: Sequence[str], targets: Sequence[str]) -> list[TargetScore]:
        """Score each target as the continuation of its prompt, teacher-forced."""
        from corrigenda.lm.scoring import score_targets

        return score_targets(self.lm, prompts, targets, batch_size=self.batch_size)


class Nothing:
    """The undo of an edit that did nothing."""

    def revert(self) -> None:
        """Do nothing."""
