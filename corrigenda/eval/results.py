"""The results file: what was scored, how well, on what, with what, at what cost. Schema: ``results.schema.json``."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any, TypeAlias

from corrigenda.errors import EvaluationError
from corrigenda.eval.case import Case, edit_set_hash
from corrigenda.eval.datasets import Dataset
from corrigenda.eval.journal import Row
from corrigenda.eval.metrics import metrics, metrics_by_kind
from corrigenda.eval.schema import problems, results_schema
from corrigenda.eval.scoring import scores_of

Results: TypeAlias = dict[str, Any]
KIND = "corrigenda.eval.results/1"


def summarise(rows: Sequence[Row]) -> dict[str, Any]:
    """Return the parts of a results file that follow from the journal: ``metrics``, ``by_kind``, ``unscored``."""
    scores = [scores_of(row) for row in rows]
    # "SubjectNotFound: …", "in the scope of another case: 17": the details are in the journal.
    reasons = Counter(score.reason.partition(":")[0] for case in scores for score in case if score.value is None)
    return {
        "metrics": {name: metric.to_dict() for name, metric in metrics(scores).items()},
        "by_kind": {
            name: {kind: metric.to_dict() for kind, metric in table.items()}
            for name, table in metrics_by_kind(scores).items()
        },
        "unscored": dict(reasons.most_common()),
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


def peak_memory_mb() -> float | None:
    """Return the largest resident set of this process so far, in 10⁶ bytes; ``None`` where it cannot be read."""
    if sys.platform == "win32":
        import psutil

        return float(psutil.Process().memory_info().peak_wset / 1e6)
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6


def save(results: Mapping[str, Any], path: Path) -> None:
    """Check ``results`` against the schema and write them to ``path``: whole, or not at all.

    Raises:
        EvaluationError: They break the schema, or the file cannot be written.
    """
    _check(results, path)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.write_text(json.dumps(results, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
        draft.replace(path)
    except OSError as error:
        with suppress(OSError):
            draft.unlink()
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


def _check(results: object, path: Path) -> None:
    if found := problems(results, results_schema()):
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        raise EvaluationError(
            f"{path} is not a results file of this version: {found[0]}{more}",
            remedy="Give a file that `corrigenda eval run --out` has written.",
        )
