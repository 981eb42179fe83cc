"""The contract of what is scored.

Whatever can take edits, answer and be put back is :class:`Editable`: a memory in front of a model, an editor of
weights, or nothing at all (:class:`Bare`). The suite knows no more than this of either.

Three abilities are optional; without them the columns that need them stay unscored:

* :class:`Distributions`: what would come next, and how probably (locality by first choice and by KL divergence);
* :class:`Writes`: a long text from a beginning (fluency and consistency);
* :class:`Continues`: an answer up to given strings (lm-evaluation-harness).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from corrigenda.edit import Edit
from corrigenda.eval.contexts import COMPLETION, Context

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


@dataclass(frozen=True, slots=True)
class NextToken:
    """What a model would say next.

    Attributes:
        ids: Some tokens: the most probable ones, or those that were asked for.
        log_probs: Their log-probabilities (natural); together at most 1 in probability.
        first: The most probable token of all.
    """

    ids: tuple[int, ...]
    log_probs: tuple[float, ...]
    first: int


@runtime_checkable
class Distributions(Protocol):
    """A model that says how probable the next token is."""

    def next_tokens(self, prompts: Sequence[str], among: Sequence[Sequence[int]] | None = None) -> list[NextToken]:
        """Return the distribution after each prompt, over its most probable tokens or those ``among``."""
        ...


@runtime_checkable
class Writes(Protocol):
    """A model that writes on without a natural stop."""

    def write(self, prompts: Sequence[str], *, tokens: int, seed: int) -> list[str]:
        """Continue each prompt by ``tokens`` tokens, sampled; the same seed gives the same texts."""
        ...


@runtime_checkable
class Continues(Protocol):
    """A model that can be told where to stop."""

    def continue_until(self, prompts: Sequence[str], *, max_new_tokens: int, stops: Sequence[str]) -> list[str]:
        """Continue each prompt greedily until one of ``stops`` begins, or ``max_new_tokens`` tokens are said."""
        ...


class Bare:
    """The unedited model behind the contract: edits change nothing. The baseline of every table."""

    def __init__(self, lm: LanguageModel, *, batch_size: int = 32, context: Context = COMPLETION) -> None:
        self.lm = lm
        self.batch_size = batch_size
        self.context = context

    def edit(self, edits: Sequence[Edit]) -> Undo:
        """Do nothing."""
        return Nothing()

    def generate(self, prompts: Sequence[str], *, max_new_tokens: int) -> list[str]:
        """Continue each prompt greedily up to a natural stop, at most ``max_new_tokens`` tokens."""
        from corrigenda.lm.scoring import greedy

        return greedy(self.lm, self._texts(prompts), max_new_tokens=max_new_tokens, batch_size=self.batch_size)

    def score(self, prompts: Sequence[str], targets: Sequence[str]) -> list[TargetScore]:
        """Score each target as the continuation of its prompt, teacher-forced."""
        from corrigenda.lm.scoring import score_targets

        return score_targets(self.lm, self._texts(prompts), targets, batch_size=self.batch_size)

    def next_tokens(self, prompts: Sequence[str], among: Sequence[Sequence[int]] | None = None) -> list[NextToken]:
        """Return the distribution after each prompt."""
        from corrigenda.eval.next_token import next_tokens

        return next_tokens(self.lm, self._texts(prompts), among, batch_size=self.batch_size)

    def write(self, prompts: Sequence[str], *, tokens: int, seed: int) -> list[str]:
        """Continue each prompt by ``tokens`` tokens."""
        from corrigenda.eval.writing import write

        return write(self.lm, self._texts(prompts), tokens=tokens, seed=seed, batch_size=self.batch_size)

    def continue_until(self, prompts: Sequence[str], *, max_new_tokens: int, stops: Sequence[str]) -> list[str]:
        """Continue each prompt greedily until one of ``stops`` begins."""
        from corrigenda.lm.scoring import greedy
        from corrigenda.lm.stopping import Stop

        stop = Stop(newline=False, sentence=False, texts=tuple(stops))
        texts = self._texts(prompts)
        return greedy(self.lm, texts, max_new_tokens=max_new_tokens, stop=stop, batch_size=self.batch_size)

    def _texts(self, prompts: Sequence[str]) -> list[str]:
        return [self.context.render(self.lm, prompt) for prompt in prompts]


class Nothing:
    """The undo of an edit that did nothing."""

    def revert(self) -> None:
        """Do nothing."""
