"""The results file: what was scored, how well, on what, with what, at what cost. Schema: ``results.schema.json``."""

from __future__ import annotations

import json
import math
import platform
import subprocess
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from statistics import fmean
from typing import Any, TypeAlias

from corrigenda.atomic import refuse_database, replacing
from corrigenda.errors import EvaluationError
from corrigenda.eval.case import Case, edit_set_hash
from corrigenda.eval.datasets import Dataset
from corrigenda.eval.journal import Row
from corrigenda.eval.meter import Meter
from corrigenda.eval.metrics import METRICS, Score, metrics, metrics_by_kind, rounded
from corrigenda.eval.schema import problems, results_schema
from corrigenda.eval.scoring import scores_of
from corrigenda.memory.files import BESIDE

Results: TypeAlias = dict[str, Any]
KIND = "corrigenda.eval.results/1"
MAIN = frozenset({"reliability", "generalization", "portability", "multi_hop", "locality", "retraction"})
"""The metrics of curves and heat maps."""

__all__ = [
    "KIND",
    "MAIN",
    "Meter",
    "Results",
    "by_relation",
    "check_writable",
    "commit",
    "cost_of",
    "count_answers",
    "count_cases",
    "describe_data",
    "describe_edits",
    "load",
    "retention",
    "save",
    "summarise",
    "versions",
]


def summarise(rows: Sequence[Row], notes: Sequence[Row] = (), order: Sequence[str] = ()) -> dict[str, Any]:
    """Return the parts of a results file that follow from the journal.

    Args:
        rows: One a case.
        notes: Checkpoints and tasks.
        order: Ids of the cases in the order of their edits, for a sequence; it is only looked at where there are
            checkpoints.
    """
    scores = [scores_of(row) for row in rows]
    # "SubjectNotFound: …", "in the scope of another case: 17": the details are in the journal.
    reasons = Counter(score.reason.partition(":")[0] for case in scores for score in case if score.value is None)
    parts: dict[str, Any] = {
        "metrics": {name: metric.to_dict() for name, metric in metrics(scores).items()},
        "by_kind": {
            name: {kind: metric.to_dict() for kind, metric in table.items()}
            for name, table in metrics_by_kind(scores).items()
        },
        "by_relation": by_relation(rows, scores),
        "unscored": dict(reasons.most_common()),
    }
    if points := retention(rows, notes, order):
        parts["retention"] = points
    tasks = {
        note["name"]: {k: v for k, v in note.items() if k not in ("note", "name")} for note in _kind(notes, "task")
    }
    return parts | ({"tasks": tasks} if tasks else {})


def by_relation(rows: Sequence[Row], scores: Sequence[list[Score]]) -> dict[str, Any]:
    """Return value and n of the :data:`MAIN` metrics by relation, where the data set names relations."""
    grouped: dict[str, list[list[Score]]] = {}
    for row, case in zip(rows, scores, strict=True):
        if row.get("relation"):
            grouped.setdefault(row["relation"], []).append(case)
    return {
        name: {
            metric: {"value": rounded(found.value), "n": found.n}
            for metric, found in metrics(grouped[name], interval=False).items()
            if metric in MAIN
        }
        for name in sorted(grouped)
    }


def retention(rows: Sequence[Row], notes: Sequence[Row], order: Sequence[str]) -> list[dict[str, Any]]:
    """Return the points of the retention curve: the checkpoints, and the end; empty without checkpoints."""
    points = [
        {"after": note["after"], "cases": note["cases"], "metrics": note["metrics"]}
        for note in sorted(_kind(notes, "checkpoint"), key=lambda note: int(note["after"]))
    ]
    if not points:
        return []
    lasting = [scores_of(row) for row in rows if not row.get("withdrawn")]
    found = {name: metric.to_dict() for name, metric in metrics(lasting).items() if name in MAIN}
    return [*points, {"after": len(order) or len(rows), "cases": len(lasting), "metrics": found}]


def _kind(notes: Sequence[Row], kind: str) -> list[Row]:
    return [note for note in notes if note["note"] == kind]


def count_cases(rows: Sequence[Row], resumed: int) -> dict[str, int]:
    """Return the ``cases`` part."""
    return {
        "total": len(rows),
        "failed": sum("failure" in row for row in rows),
        "withdrawn": sum("withdrawn" in row for row in rows),
        "resumed": resumed,
    }


def cost_of(rows: Sequence[Row], count: Callable[[str], int]) -> dict[str, Any]:
    """Return what follows from the rows of the ``cost`` part, ``count`` telling the tokens of a text."""
    edited = [row["edit_seconds"] for row in rows if "edit_seconds" in row]
    return {
        "scoring_seconds": round(sum(row["seconds"] for row in rows), 3),
        "edit_seconds": rounded(fmean(edited)) if edited else None,
        "generated_tokens": count_answers(rows, count),
    }


def count_answers(rows: Sequence[Row], count: Callable[[str], int]) -> int:
    """Return the tokens of all answers of the edited model, ``count`` telling those of a text."""
    return sum(count(probe["after"]) for row in rows for probe in row["probes"] if probe.get("after"))


def describe_data(dataset: Dataset, limit: int | None, seed: int) -> dict[str, Any]:
    """Return the ``data`` part: which file, and which sample of it."""
    return {
        "name": dataset.name,
        "format": dataset.format,
        "sha256": dataset.sha256,
        "records": len(dataset.cases),
        "limit": limit,
        "seed": seed,
    }


def describe_edits(cases: Sequence[Case]) -> dict[str, Any]:
    """Return the ``edits`` part: how many, and the hash over them."""
    return {"count": sum(len(case.edits) for case in cases), "sha256": edit_set_hash(cases)}


def versions() -> dict[str, str | None]:
    """Return the versions of Python and of the packages that answers depend on; ``None`` for a missing one."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in ("torch", "transformers", "tokenizers", "numpy", "onnxruntime", "faiss-cpu", "corrigenda"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found


def commit() -> str | None:
    """Return the commit of the source tree that this package lies in, ``-dirty`` with changes; ``None`` outside git."""
    here = Path(__file__).resolve().parent

    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(here), *arguments], capture_output=True, text=True, timeout=20, check=True
        )
        return done.stdout.strip()

    try:
        # A package installed below some other repository is not part of it.
        if git("ls-files", "--error-unmatch", Path(__file__).name):
            return git("rev-parse", "HEAD") + ("-dirty" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.SubprocessError):
        return None
    return None


def save(results: Mapping[str, Any], path: Path) -> None:
    """Check ``results`` against the schema and write them to ``path``: whole, or not at all.

    Raises:
        EvaluationError: They break the schema, or the file cannot be written.
    """
    _check(results, path)
    with _reported(path), replacing(path) as file:
        file.write(json.dumps(results, ensure_ascii=False, indent=2).encode() + b"\n")


def check_writable(path: Path) -> None:
    """Find out whether :func:`save` can write to ``path``, before hours are spent on what is to be written there.

    Raises:
        EvaluationError: It is a folder or a memory, or lies where nothing can be written.
    """
    if not path.name or path.is_dir():
        raise EvaluationError(f"the results cannot be written to {path}: it is a folder", remedy="Name a file in it.")
    with _reported(path):
        tempfile.TemporaryFile(dir=path.parent).close()


@contextmanager
def _reported(path: Path) -> Iterator[None]:
    """Make the folder of ``path`` for the block; what keeps the block from writing there is an EvaluationError."""
    try:
        refuse_database(path, beside=BESIDE)
        path.parent.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise EvaluationError(
            f"the results cannot be written to {path}: {error.strerror or error}", remedy="Name a writable place."
        ) from error


def load(path: Path) -> Results:
    """Read a results file.

    Raises:
        EvaluationError: It is missing, no JSON, or breaks the schema.
    """
    remedy = "Give a file that `corrigenda eval run --out` has written."
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise EvaluationError(f"{path} cannot be read: {error.strerror or error}", remedy=remedy) from error
    except ValueError as error:
        raise EvaluationError(f"{path} is not JSON: {error}", remedy=remedy) from error
    _check(results, path)
    found: Results = results
    return found


def _out_of_range(results: Any) -> list[str]:
    """Return the metrics whose value no score of theirs can have: what a schema cannot say."""
    found = []
    for name, metric in results["metrics"].items():
        meant, value = METRICS.get(name), metric["value"]
        if meant is not None and value is not None:
            most = math.inf if meant.most is None else meant.most
            if not meant.least <= value <= most:
                found.append(f"$.metrics.{name}.value: {value} is not within {meant.least:g} and {most:g}")
    return found


def _check(results: object, path: Path) -> None:
    if found := problems(results, results_schema()) or _out_of_range(results):
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        raise EvaluationError(
            f"{path} is not a results file of this version: {found[0]}{more}",
            remedy="Give a file that `corrigenda eval run --out` has written.",
        )
