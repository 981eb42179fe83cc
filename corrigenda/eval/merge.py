"""Put the shards of a run together: the same edits and settings, each case scored by exactly one of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from corrigenda.errors import EvaluationError
from corrigenda.eval.journal import Journal, journal_path, read
from corrigenda.eval.results import Results, count_cases, load, save, summarise

_SAME = ("method", "protocol", "data", "edits", "model", "settings")
"""What all shards of a run agree in."""


def merge_shards(paths: Sequence[Path], out: Path) -> Results:
    """Merge the results files of all shards into ``out``, and their journals next to it.

    Seconds and tokens are added up; memory is the largest of any.

    Raises:
        EvaluationError: A shard is missing, there twice or of another run, or its journal is gone.
    """
    parts = [load(path) for path in paths]
    _check(paths, parts)
    journals = [read(path.with_name(part["journal"])) for path, part in zip(paths, parts, strict=True)]
    rows = [row for journal in journals for row in journal.rows]
    _check_once(rows)
    # Checkpoints and tasks do not depend on the shard: every one of them went through the same edits.
    notes = next((journal.notes for journal in journals if journal.notes), [])
    first = parts[0]
    merged: Results = {
        **first,
        **summarise(rows, notes),
        "shard": [1, 1],
        "cases": count_cases(rows, sum(part["cases"]["resumed"] for part in parts)),
        "cost": _cost([part["cost"] for part in parts]),
        "started": min(part["started"] for part in parts),
        "journal": journal_path(out).name,
    }
    kept = {key: first[key] for key in _SAME}
    journal = Journal.open(journal_path(out), kept, fresh=True)
    journal.append(rows)
    for note in notes:
        journal.note(note)
    save(merged, out)
    journal.finish()
    return merged


def _check(paths: Sequence[Path], parts: Sequence[Results]) -> None:
    if not parts:
        raise EvaluationError("no shards to merge", remedy="Give the results files of all shards.")
    for path, part in zip(paths, parts, strict=True):
        if part.get("shard") is None or part["journal"] is None:
            raise EvaluationError(
                f"{path.name} has no shard or no journal", remedy="Run it with --shard i/n and --out."
            )
        if other := next((key for key in _SAME if part[key] != parts[0][key]), None):
            raise EvaluationError(
                f"{path.name} and {paths[0].name} differ in {other!r}",
                remedy="Merge shards of one run: same method, data, sample, model and settings.",
            )
    found = sorted(tuple(part["shard"]) for part in parts)
    wanted = [(number, len(parts)) for number in range(1, len(parts) + 1)]
    if found != wanted:
        given = ", ".join(f"{number}/{of}" for number, of in found)
        raise EvaluationError(
            f"these are the shards {given}", remedy=f"Give each of 1/{found[0][1]} … {found[0][1]}/{found[0][1]} once."
        )


def _check_once(rows: Sequence[dict[str, Any]]) -> None:
    seen: set[str] = set()
    for row in rows:
        if row["case"] in seen:
            raise EvaluationError(f"the case {row['case']} is in two shards", remedy="Run the shards anew.")
        seen.add(row["case"])


def _cost(costs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    total: dict[str, Any] = {}
    for key in costs[0]:
        values = [cost[key] for cost in costs if cost.get(key) is not None]
        if not values:
            total[key] = None
        elif key.startswith("peak"):
            total[key] = max(values)
        else:
            total[key] = round(fmean(values), 6) if key == "edit_seconds" else round(sum(values), 3)
    return total
