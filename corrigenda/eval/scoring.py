"""One case, asked and judged: from its probes to a row of the journal, and from rows to scores."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from corrigenda.errors import CorrigendaError, EvaluationError
from corrigenda.eval.case import Case, Probe
from corrigenda.eval.editable import Answers
from corrigenda.eval.journal import Row
from corrigenda.eval.metrics import Score, teacher_forced
from corrigenda.eval.normalise import matches, unchanged

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
        least: Fewest tokens.
    """

    count: Callable[[str], int]
    locality: int = 8
    slack: int = 4
    least: int = 8

    def of(self, probe: Probe) -> int:
        """Return the token limit of ``probe``, a multiple of four so that probes share batches."""
        if probe.role == "locality":
            return self.locality
        longest = max(self.count(f" {answer}") for answer in probe.answers)
        return max(self.least, -(-(longest + self.slack) // 4) * 4)


def ask(model: Answers, prompts: Sequence[str], limits: Sequence[int]) -> list[str | Failure]:
    """Return the answer to each prompt with its token limit, prompts of one limit in one call."""
    results: list[str | Failure] = [Failure("not asked")] * len(prompts)
    for limit in sorted(set(limits)):
        places = [place for place, own in enumerate(limits) if own == limit]
        chosen = [prompts[place] for place in places]

        def generate(some: Sequence[str], limit: int = limit) -> list[str]:
            return model.generate(some, max_new_tokens=limit)

        for place, text in zip(places, _each(generate, chosen), strict=True):
            results[place] = text
    return results


def force(model: Answers, prompts: Sequence[str], targets: Sequence[str]) -> list[TargetScore | Failure]:
    """Return how ``model`` takes each target after its prompt, teacher-forced."""

    def score(pairs: Sequence[tuple[str, str]]) -> list[TargetScore]:
        return model.score([prompt for prompt, _ in pairs], [target for _, target in pairs])

    return _each(score, list(zip(prompts, targets, strict=True)))


def _each(call: Callable[[Sequence[Any]], Sequence[Any]], items: Sequence[Any]) -> list[Any]:
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
        return [*_each(call, items[:middle]), *_each(call, items[middle:])]
    if len(results) != len(items):
        raise EvaluationError(
            f"the method gave {len(results)} results for {len(items)} prompts",
            remedy="generate() and score() must return one result a prompt, in order.",
        )
    return results


@dataclass(slots=True)
class Asked:
    """A probe on its way to being judged.

    Attributes:
        probe: What is asked.
        before: What the unedited model answered; only locality probes need it.
        forced_before: The unedited model's own answer as it scores it.
        after: What the edited model answers.
        forced: How the edited model takes the target.
        excluded: Why the probe is not asked at all, if so.
    """

    probe: Probe
    before: str | Failure | None = None
    forced_before: TargetScore | Failure | None = None
    after: str | Failure | None = None
    forced: TargetScore | Failure | None = None
    excluded: str = ""

    @property
    def target(self) -> str | None:
        """What teacher forcing scores: the first accepted answer, or the unedited model's own."""
        if self.probe.role != "locality":
            return self.probe.answers[0]
        return self.before if isinstance(self.before, str) and self.before.strip() else None


def ask_before(unedited: Answers, probes: Iterable[Asked], budget: Budget, *, forced: bool) -> None:
    """Fill in what the unedited model says to the locality probes."""
    wanted = [asked for asked in probes if asked.probe.role == "locality" and not asked.excluded]
    prompts = [asked.probe.prompt for asked in wanted]
    for asked, text in zip(wanted, ask(unedited, prompts, [budget.locality] * len(wanted)), strict=True):
        asked.before = text
    if forced:
        pairs = [(asked, asked.target) for asked in wanted if asked.target is not None]
        scores = force(unedited, [asked.probe.prompt for asked, _ in pairs], [str(target) for _, target in pairs])
        for (asked, _), score in zip(pairs, scores, strict=True):
            asked.forced_before = score


def ask_after(edited: Answers, probes: Iterable[Asked], budget: Budget, *, forced: bool) -> None:
    """Fill in what the edited model says to all probes."""
    wanted = [asked for asked in probes if not asked.excluded]
    limits = [budget.of(asked.probe) for asked in wanted]
    for asked, text in zip(wanted, ask(edited, [asked.probe.prompt for asked in wanted], limits), strict=True):
        asked.after = text
    if forced:
        pairs = [(asked, asked.target) for asked in wanted if asked.target is not None]
        scores = force(edited, [asked.probe.prompt for asked, _ in pairs], [str(target) for _, target in pairs])
        for (asked, _), score in zip(pairs, scores, strict=True):
            asked.forced = score


def judge(asked: Asked, *, forced: bool) -> dict[str, Any]:
    """Score one probe; return it as a part of a journal row."""
    probe = asked.probe
    value, reason = _judge_answer(asked)
    row: dict[str, Any] = {
        "role": probe.role,
        "kind": probe.kind,
        "prompt": probe.prompt,
        "expected": list(probe.answers),
    }
    if isinstance(asked.before, str):
        row["before"] = asked.before
    if isinstance(asked.after, str):
        row["after"] = asked.after
    row["scores"] = {probe.role: value}
    reasons: dict[str, str] = {probe.role: reason} if value is None else {}
    if forced:
        name = teacher_forced(probe.role)
        row["scores"][name], reason = _judge_forced(asked)
        if row["scores"][name] is None:
            reasons[name] = reason
    if reasons:
        row["unscored"] = reasons
    return row


def _judge_answer(asked: Asked) -> tuple[float | None, str]:
    after = asked.after
    if asked.excluded or not isinstance(after, str):
        return None, asked.excluded or _why(after)
    if asked.probe.role != "locality":
        return float(matches(after, asked.probe.answers)), ""
    if not isinstance(asked.before, str):
        return None, _why(asked.before)
    return float(unchanged(asked.before, after)), ""


def _judge_forced(asked: Asked) -> tuple[float | None, str]:
    if asked.excluded:
        return None, asked.excluded
    if asked.target is None:
        return None, asked.before.reason if isinstance(asked.before, Failure) else "the unedited model is silent"
    forced, own = asked.forced, asked.forced_before
    if forced is None or isinstance(forced, Failure):
        return None, _why(forced)
    matched = forced.argmax_matches
    if asked.probe.role == "locality":
        if own is None or isinstance(own, Failure):
            return None, _why(own)
        # Tokenised otherwise after a changed prompt: then every token counts.
        if len(own.argmax_matches) == len(matched):
            pairs = zip(matched, own.argmax_matches, strict=True)
            matched = tuple(match for match, counts in pairs if counts)
        if not matched:
            return None, "the unedited model would choose no token of its own answer"
    return sum(matched) / len(matched), ""


def _why(item: object) -> str:
    return item.reason if isinstance(item, Failure) else "not asked"


def row_of(case: Case, probes: Sequence[Asked], *, forced: bool, failure: Failure | None = None) -> Row:
    """Return the journal row of ``case``; with a ``failure`` of the edit itself every probe is unscored."""
    if failure is not None:
        for asked in probes:
            asked.excluded = asked.excluded or failure.reason
    row: Row = {
        "case": case.id,
        "relation": case.relation,
        "edits": [edit.id for edit in case.edits],
        "probes": [judge(asked, forced=forced) for asked in probes],
    }
    if failure is not None:
        row["failure"] = failure.reason
    return row


def scores_of(row: Mapping[str, Any]) -> list[Score]:
    """Return the scores that a journal row holds."""
    return [
        Score(metric, probe["kind"], value, probe.get("unscored", {}).get(metric, ""))
        for probe in row["probes"]
        for metric, value in probe["scores"].items()
    ]
