"""One case, judged: from its probes to a row of the journal, and from rows to scores."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from corrigenda.eval.asking import Asked, Budget, Columns, Failure
from corrigenda.eval.case import Case
from corrigenda.eval.editable import NextToken
from corrigenda.eval.journal import Row
from corrigenda.eval.metrics import FACETS, SUCCESS, Score, teacher_forced
from corrigenda.eval.next_token import divergence
from corrigenda.eval.normalise import matches, mentions, unchanged

if TYPE_CHECKING:
    from corrigenda.lm.scoring import TargetScore

__all__ = ["Budget", "Failure", "judge", "row_of", "scores_of"]

Judgement = tuple[float | None, str]
"""A value, or ``None`` and the reason."""


def judge(asked: Asked, columns: Columns) -> dict[str, Any]:
    """Score one probe; return it as a part of a journal row."""
    probe = asked.probe
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
    found = _judgements(asked, columns)
    row["scores"] = {name: value for name, (value, _) in found.items()}
    if reasons := {name: reason for name, (value, reason) in found.items() if value is None}:
        row["unscored"] = reasons
    return row


def _judgements(asked: Asked, columns: Columns) -> dict[str, Judgement]:
    probe = asked.probe
    answer = _judge_answer(asked, columns)
    found: dict[str, Judgement] = {probe.role: answer}
    if facet := FACETS.get((probe.role, probe.kind)):
        found[facet] = answer
    if columns.forced:
        found[teacher_forced(probe.role)] = _judge_forced(asked)
    if columns.success and probe.rival is not None and probe.role in SUCCESS:
        name = SUCCESS[probe.role]
        found[f"{name}_success"], found[f"{name}_magnitude"] = _judge_success(asked)
    if columns.divergence and probe.role == "locality":
        found["locality_argmax"], found["locality_kl"] = _judge_divergence(asked)
    return found


def _judge_answer(asked: Asked, columns: Columns) -> Judgement:
    after = asked.after
    if asked.excluded or not isinstance(after, str):
        return None, asked.excluded or _why(after)
    if not asked.stays:
        right = mentions if columns.anywhere else matches
        return float(right(after, asked.probe.answers)), ""
    if not isinstance(asked.before, str):
        return None, _why(asked.before)
    return float(unchanged(asked.before, after)), ""


def _judge_forced(asked: Asked) -> Judgement:
    if asked.excluded:
        return None, asked.excluded
    if asked.target is None:
        return None, asked.before.reason if isinstance(asked.before, Failure) else "the unedited model is silent"
    forced, own = asked.forced, asked.forced_before
    if forced is None or isinstance(forced, Failure):
        return None, _why(forced)
    matched = forced.argmax_matches
    if asked.stays:
        if own is None or isinstance(own, Failure):
            return None, _why(own)
        # Tokenised otherwise after a changed prompt: then every token counts.
        if len(own.argmax_matches) == len(matched):
            pairs = zip(matched, own.argmax_matches, strict=True)
            matched = tuple(match for match, counts in pairs if counts)
        if not matched:
            return None, "the unedited model would choose no token of its own answer"
    return sum(matched) / len(matched), ""


def _judge_success(asked: Asked) -> tuple[Judgement, Judgement]:
    """Compare the answer with its rival by mean log-probability per token, as ROME does.

    Success is which is more probable, magnitude the difference of exp(mean log-probability).
    """
    if asked.excluded:
        return (None, asked.excluded), (None, asked.excluded)
    scores: list[TargetScore] = []
    for score in (asked.answer_score, asked.rival_score):
        if score is None or isinstance(score, Failure):
            return (None, _why(score)), (None, _why(score))
        scores.append(score)
    wanted, other = (score.mean_log_prob for score in scores)
    return (float(wanted > other), ""), (math.exp(wanted) - math.exp(other), "")


def _judge_divergence(asked: Asked) -> tuple[Judgement, Judgement]:
    before, after = asked.next_before, asked.next_after
    if asked.excluded:
        return (None, asked.excluded), (None, asked.excluded)
    for item in (before, after):
        if not isinstance(item, NextToken):
            reason = item.reason if isinstance(item, Failure) else "the method gives no distributions"
            return (None, reason), (None, reason)
    assert isinstance(before, NextToken)
    assert isinstance(after, NextToken)
    return (float(before.first == after.first), ""), (divergence(before, after), "")


def _why(item: object) -> str:
    return item.reason if isinstance(item, Failure) else "not asked"


def row_of(case: Case, probes: Sequence[Asked], columns: Columns, *, failure: Failure | None = None) -> Row:
    """Return the journal row of ``case``; with a ``failure`` of the edit itself every probe is unscored."""
    if failure is not None:
        for asked in probes:
            asked.excluded = asked.excluded or failure.reason
    judged = [judge(asked, columns) for asked in probes]
    row: Row = {
        "case": case.id,
        "relation": case.relation,
        "edits": [edit.id for edit in case.edits],
        "probes": judged,
    }
    hops = [probe["scores"]["multi_hop"] for probe in judged if probe["role"] == "multi_hop"]
    if scored := [value for value in hops if value is not None]:
        row["scores"] = {"multi_hop_any": max(scored)}
    if failure is not None:
        row["failure"] = failure.reason
    return row


def scores_of(row: Mapping[str, Any]) -> list[Score]:
    """Return the scores that a journal row holds: those of its probes, then those of the whole case."""
    scores = [
        Score(metric, probe["kind"], value, probe.get("unscored", {}).get(metric, ""))
        for probe in row["probes"]
        for metric, value in probe["scores"].items()
    ]
    reasons = row.get("unscored", {})
    return scores + [Score(name, "", value, reasons.get(name, "")) for name, value in row.get("scores", {}).items()]
