"""Results files, read together with their journals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from corrigenda.errors import EvaluationError
from corrigenda.eval.journal import read_rows
from corrigenda.eval.results import load
from corrigenda.eval.scoring import scores_of

BASELINE = "none"
"""The method that does nothing."""


@dataclass(frozen=True)
class Setting:
    """What must be the same for two methods to be compared in one table.

    Attributes:
        protocol: ``single``, ``batch``, ``sequential``, ``stream``.
        context: How prompts were put to the model.
        model: Its fingerprint, and the name for readers.
    """

    protocol: str
    context: str
    model: tuple[str, str]

    @property
    def title(self) -> str:
        """The setting in words."""
        words = {
            "single": "Single edits",
            "batch": "Batches of edits",
            "sequential": "Sequential edits, scored after all of them",
            "stream": "A stream of edits and retractions",
        }
        context = "" if self.context == "completion" else f", asked as {self.context}"
        return f"{words[self.protocol]}{context}"


@dataclass(frozen=True)
class Entry:
    """One results file.

    Attributes:
        path: The file.
        results: Its content.
        label: The method, with what tells it from others of the same name.
        by_case: Mean score by metric and case; empty without a journal.
    """

    path: Path
    results: Mapping[str, Any]
    label: str
    by_case: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    @property
    def data(self) -> str:
        """Name of the data set without its ending."""
        return Path(self.results["data"]["name"]).stem

    @property
    def setting(self) -> Setting:
        """What it may be compared with."""
        model = self.results["model"]
        context = self.results["settings"].get("context", "completion")
        return Setting(self.results["protocol"], context, (model["fingerprint"], model["name"]))

    def metric(self, name: str) -> Mapping[str, Any] | None:
        """Return the metric ``name`` if it was scored."""
        found = self.results["metrics"].get(name)
        return None if found is None or found["value"] is None else found


def read_entries(paths: Sequence[Path]) -> list[Entry]:
    """Read results files, and the journals next to them where there are any.

    Raises:
        EvaluationError: None is given, or one is no results file.
    """
    if not paths:
        raise EvaluationError("there are no results to compare", remedy="Give results files of eval run --out.")
    found = [(path, load(path)) for path in dict.fromkeys(paths)]
    twins: dict[tuple[str, ...], list[Path]] = {}
    for path, results in found:
        twins.setdefault(_key(results), []).append(path)
    entries = [
        Entry(path, results, _label(path, results["method"], twins[_key(results)]), _by_case(path, results))
        for path, results in found
    ]
    return sorted(entries, key=lambda entry: (entry.results["method"] != BASELINE, entry.label))


def _label(path: Path, method: str, twins: Sequence[Path]) -> str:
    """Return what tells the results of ``method`` at ``path`` from its ``twins``, itself among them.

    A table has a row a label: of two results with one label it would show one.
    """
    if len(twins) == 1:
        return method
    files = [twin.stem for twin in twins]
    folders = [f"{twin.absolute().parent.name}/{twin.stem}" for twin in twins]
    numbers = [f"{name} #{number}" for number, name in enumerate(folders, start=1)]
    place = twins.index(path)
    return next(f"{method} ({names[place]})" for names in (files, folders, numbers) if names.count(names[place]) == 1)


def _key(results: Mapping[str, Any]) -> tuple[str, ...]:
    context = results["settings"].get("context", "completion")
    data = Path(results["data"]["name"]).stem  # as in tables: facts.json and facts.jsonl share one
    return results["method"], data, results["protocol"], context, results["model"]["fingerprint"]


def _by_case(path: Path, results: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    if results["journal"] is None:
        return {}
    try:
        rows = read_rows(path.with_name(results["journal"]))
    except EvaluationError:
        return {}  # the report can do without: differences are then judged by the standard errors
    table: dict[str, dict[str, list[float]]] = {}
    for row in rows:
        for score in scores_of(row):
            if score.value is not None:
                table.setdefault(score.metric, {}).setdefault(row["case"], []).append(score.value)
    return {metric: {case: fmean(values) for case, values in cases.items()} for metric, cases in table.items()}


def settings_of(entries: Sequence[Entry]) -> list[Setting]:
    """Return the settings that occur, in the order of the protocols."""
    order = ("single", "batch", "sequential", "stream")
    found = dict.fromkeys(entry.setting for entry in entries)
    return sorted(found, key=lambda item: (item.model, order.index(item.protocol), item.context))
