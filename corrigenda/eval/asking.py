"""Asking: what the unedited and the edited model say to the probes, in as few calls as possible.

An error of the method becomes a :class:`Failure`, which makes a probe unscored, never wrong. A batch that is refused is
split until the one prompt to blame is found, so that it costs nobody else. Log-probabilities of a broken model (NaN)
are a failure as well: compared with anything, NaN would pass for agreement.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from corrigenda.errors import CorrigendaError, EvaluationError
from corrigenda.eval.case import UNCHANGED_ROLES, Probe
from corrigenda.eval.editable import Answers, Distributions, NextToken

if TYPE_CHECKING:
    from corrigenda.lm.scoring import TargetScore


@dataclass(frozen=True, slots=True)
class Failure:
    """Why something has no answer. It makes a probe unscored, never wrong."""

    reason: str

    @classmethod
    def of(cls, error: CorrigendaError) -> Failure:
        """Describe ``error``."""
        return cls(f"{type(error).__name__}: {error.message}")


@dataclass(frozen=True, slots=True)
class Budget:
    """How many tokens an answer may have.

    Attributes:
        count: Number of tokens of a text.
        locality: Tokens of an answer that is only compared with an earlier one.
        slack: Tokens beyond the longest accepted answer, room for an article or a quote before it.
        least: Fewest tokens; conversations need more than completions ("The capital of France is …").
    """

    count: Callable[[str], int]
    locality: int = 8
    slack: int = 4
    least: int = 8

    def of(self, probe: Probe) -> int:
        """Return the token limit of ``probe``, a multiple of four so that probes share batches."""
        if probe.role in UNCHANGED_ROLES:
            return self.locality
        longest = max(self.count(f" {answer}") for answer in probe.answers)
        return max(self.least, -(-(longest + self.slack) // 4) * 4)


@dataclass(frozen=True, slots=True)
class Columns:
    """Which columns are scored besides the generated ones.

    Attributes:
        forced: Teacher-forced accuracy.
        success: ROME's success and magnitude, where a probe has a rival.
        divergence: First choice and Kullback–Leibler divergence of the next token, for what must stay unchanged.
        anywhere: Whether an answer is right that holds the accepted one anywhere (conversations), or only one that
            begins with it (completions).
    """

    forced: bool = True
    success: bool = False
    divergence: bool = False
    anywhere: bool = False


@dataclass(slots=True)
class Asked:
    """A probe on its way to being judged.

    Attributes:
        probe: What is asked.
        before: What the unedited model answered; only asked of probes that must stay unchanged.
        forced_before: The unedited model's own answer as it scores it.
        next_before: What the unedited model would say next.
        after: What the edited model answers.
        forced: How the edited model takes the target.
        answer_score: How the edited model takes the first accepted answer.
        rival_score: How it takes the rival.
        next_after: What the edited model would say next.
        excluded: Why the probe is not asked at all, if so.
    """

    probe: Probe
    before: str | Failure | None = None
    forced_before: TargetScore | Failure | None = None
    next_before: NextToken | Failure | None = None
    after: str | Failure | None = None
    forced: TargetScore | Failure | None = None
    answer_score: TargetScore | Failure | None = None
    rival_score: TargetScore | Failure | None = None
    next_after: NextToken | Failure | None = None
    excluded: str = ""

    @property
    def stays(self) -> bool:
        """Whether the answer must be the one from before."""
        return self.probe.role in UNCHANGED_ROLES

    @property
    def target(self) -> str | None:
        """What teacher forcing scores: the first accepted answer, or the unedited model's own."""
        if not self.stays:
            return self.probe.answers[0]
        return self.before if isinstance(self.before, str) and self.before.strip() else None

    def again(self) -> Asked:
        """Return the probe with what the unedited model said, and nothing else."""
        return Asked(self.probe, self.before, self.forced_before, self.next_before, excluded=self.excluded)


def ask(model: Answers, prompts: Sequence[str], limits: Sequence[int]) -> list[str | Failure]:
    """Return the answer to each prompt with its token limit, prompts of one limit in one call."""
    results: list[str | Failure] = [Failure("not asked")] * len(prompts)
    for limit in sorted(set(limits)):
        places = [place for place, own in enumerate(limits) if own == limit]
        chosen = [prompts[place] for place in places]

        def generate(some: Sequence[str], limit: int = limit) -> list[str]:
            return model.generate(some, max_new_tokens=limit)

        for place, text in zip(places, each(generate, chosen), strict=True):
            results[place] = text
    return results


def force(model: Answers, prompts: Sequence[str], targets: Sequence[str]) -> list[TargetScore | Failure]:
    """Return how ``model`` takes each target after its prompt, teacher-forced."""

    def score(pairs: Sequence[tuple[str, str]]) -> list[TargetScore]:
        return model.score([prompt for prompt, _ in pairs], [target for _, target in pairs])

    return _finite(each(score, list(zip(prompts, targets, strict=True))))


def _finite(results: Iterable[Any]) -> list[Any]:
    """Return scores or distributions with a :class:`Failure` in place of those that hold NaN or infinity."""
    broken = Failure("the model gave a log-probability that is not finite")
    return [
        found if isinstance(found, Failure) or all(map(math.isfinite, found.log_probs)) else broken for found in results
    ]


def each(call: Callable[[Sequence[Any]], Sequence[Any]], items: Sequence[Any]) -> list[Any]:
    """Call with all ``items`` at once; when that is refused, with halves of them, down to the one to blame."""
    if not items:
        return []
    try:
        results = list(call(items))
    except EvaluationError:
        raise
    except CorrigendaError as error:
        if len(items) == 1:
            return [Failure.of(error)]
        middle = len(items) // 2
        return [*each(call, items[:middle]), *each(call, items[middle:])]
    if len(results) != len(items):
        raise EvaluationError(
            f"the method gave {len(results)} results for {len(items)} prompts",
            remedy="generate() and score() must return one result a prompt, in order.",
        )
    return results


def ask_before(unedited: Answers, probes: Iterable[Asked], budget: Budget, columns: Columns) -> None:
    """Fill in what the unedited model says to the probes whose answers must stay."""
    wanted = [asked for asked in probes if asked.stays and not asked.excluded]
    prompts = [asked.probe.prompt for asked in wanted]
    for asked, text in zip(wanted, ask(unedited, prompts, [budget.locality] * len(wanted)), strict=True):
        asked.before = text
    if columns.forced:
        pairs = [(asked, asked.target) for asked in wanted if asked.target is not None]
        scores = force(unedited, [asked.probe.prompt for asked, _ in pairs], [str(target) for _, target in pairs])
        for (asked, _), score in zip(pairs, scores, strict=True):
            asked.forced_before = score
    if columns.divergence and isinstance(unedited, Distributions):
        for asked, found in zip(wanted, _finite(each(unedited.next_tokens, prompts)), strict=True):
            asked.next_before = found


def ask_after(edited: Answers, probes: Iterable[Asked], budget: Budget, columns: Columns) -> None:
    """Fill in what the edited model says to all probes."""
    wanted = [asked for asked in probes if not asked.excluded]
    limits = [budget.of(asked.probe) for asked in wanted]
    for asked, text in zip(wanted, ask(edited, [asked.probe.prompt for asked in wanted], limits), strict=True):
        asked.after = text
    _force_all(edited, wanted, columns)
    if columns.divergence and isinstance(edited, Distributions):
        _next_tokens(edited, wanted)


def _force_all(edited: Answers, wanted: Sequence[Asked], columns: Columns) -> None:
    """Score targets, accepted answers and rivals in one call, each pair once."""
    jobs: list[tuple[Asked, str, str]] = []
    for asked in wanted:
        if columns.forced and asked.target is not None:
            jobs.append((asked, "forced", asked.target))
        if columns.success and asked.probe.rival is not None and asked.probe.answers:
            jobs.append((asked, "answer_score", asked.probe.answers[0]))
            jobs.append((asked, "rival_score", asked.probe.rival))
    pairs = list(dict.fromkeys((asked.probe.prompt, target) for asked, _, target in jobs))
    scores = force(edited, [prompt for prompt, _ in pairs], [target for _, target in pairs])
    found = dict(zip(pairs, scores, strict=True))
    for asked, name, target in jobs:
        setattr(asked, name, found[asked.probe.prompt, target])


def _next_tokens(edited: Distributions, wanted: Sequence[Asked]) -> None:
    """Ask for the next token where the unedited model has been asked, among the tokens that it found likely."""
    chosen = [asked for asked in wanted if isinstance(asked.next_before, NextToken)]
    items = [(asked.probe.prompt, asked.next_before.ids) for asked in chosen if asked.next_before is not None]  # type: ignore[union-attr]

    def call(some: Sequence[tuple[str, tuple[int, ...]]]) -> list[NextToken]:
        return edited.next_tokens([prompt for prompt, _ in some], [ids for _, ids in some])

    for asked, found in zip(chosen, _finite(each(call, items)), strict=True):
        asked.next_after = found
