"""A gate: thresholds that figures must meet before something goes on, for pipelines and for consolidation.

Usage::

    gate = Gate(minimums={"reliability": 0.98}, max_drops={"piqa": 0.01})
    verdict = gate.check({"reliability": 0.99, "piqa": 0.661}, before={"piqa": 0.668})
    verdict.passed      # True
    print(verdict)      # one line a threshold

What was not measured does not pass: a missing or unscored figure fails its threshold and says so. Nothing is rounded
before it is compared, and a figure that equals its threshold passes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from corrigenda.errors import EvaluationError

Kind: TypeAlias = Literal["min", "max", "max-drop"]
TOLERANCE = 1e-9
"""Floating-point noise that no threshold is broken by: 0.668 − 0.658 is a little more than 0.01."""


@dataclass(frozen=True, slots=True)
class Check:
    """One threshold against one figure.

    Attributes:
        name: Of the figure.
        kind: ``min`` and ``max`` bound the figure itself, ``max-drop`` bounds ``before − value``.
        limit: The threshold.
        value: The figure; ``None`` when it was not measured.
        before: What it was before, for ``max-drop``.
    """

    name: str
    kind: Kind
    limit: float
    value: float | None
    before: float | None = None

    @property
    def figure(self) -> float | None:
        """What is compared with the limit: the value, or the drop."""
        if self.kind != "max-drop":
            return self.value
        return None if self.value is None or self.before is None else self.before - self.value

    @property
    def passed(self) -> bool:
        """Whether the figure was measured and keeps within the limit."""
        figure = self.figure
        if figure is None or math.isnan(figure):
            return False
        return figure >= self.limit - TOLERANCE if self.kind == "min" else figure <= self.limit + TOLERANCE

    def __str__(self) -> str:
        mark = "pass" if self.passed else "FAIL"
        if self.figure is None:
            missing = "before" if self.value is not None else "value"
            return f"{mark}  {self.name}: not measured (no {missing}); {self.kind} {self.limit:g}"
        if self.kind == "max-drop":
            return f"{mark}  {self.name}: {self.before:.4f} → {self.value:.4f}, drop {self.figure:.4f}; {_rule(self)}"
        return f"{mark}  {self.name}: {self.figure:.4f}; {_rule(self)}"

    def to_dict(self) -> dict[str, Any]:
        """Return the check as a JSON-ready dict."""
        return {
            "name": self.name,
            "kind": self.kind,
            "limit": self.limit,
            "value": self.value,
            "before": self.before,
            "passed": self.passed,
        }


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a gate says: passed when every check passed."""

    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """Whether every check passed."""
        return all(check.passed for check in self.checks)

    @property
    def failures(self) -> tuple[Check, ...]:
        """The checks that did not pass."""
        return tuple(check for check in self.checks if not check.passed)

    def __str__(self) -> str:
        return "\n".join(map(str, self.checks))

    def to_dict(self) -> dict[str, Any]:
        """Return the verdict as a JSON-ready dict."""
        return {"passed": self.passed, "checks": [check.to_dict() for check in self.checks]}


@dataclass(frozen=True, slots=True)
class Gate:
    """Thresholds by name of figure.

    Attributes:
        minimums: Least value that passes (``reliability`` at least 0.98).
        maximums: Largest value that passes, for figures where less is better (``locality_kl``).
        max_drops: Largest ``before − after`` that passes (``piqa`` may lose 0.01, one point in a hundred).

    Raises:
        EvaluationError: No threshold at all (such a gate would let everything through), or one that is not a finite
            number.
    """

    minimums: Mapping[str, float] = field(default_factory=dict)
    maximums: Mapping[str, float] = field(default_factory=dict)
    max_drops: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        rules = [*self.minimums.items(), *self.maximums.items(), *self.max_drops.items()]
        if not rules:
            raise EvaluationError(
                "a gate without thresholds lets everything through",
                remedy="Give at least one, as reliability=0.98.",
            )
        for name, limit in rules:
            if not math.isfinite(limit):
                raise EvaluationError(f"the threshold of {name} is {limit}", remedy="Give a finite number.")

    @classmethod
    def parse(cls, minimums: Iterable[str] = (), maximums: Iterable[str] = (), max_drops: Iterable[str] = ()) -> Gate:
        """Build a gate from texts such as ``reliability=0.98``.

        Raises:
            EvaluationError: A text of another form, or a name twice in one list.
        """
        return cls(_parse(minimums), _parse(maximums), _parse(max_drops))

    def check(self, values: Mapping[str, float | None], before: Mapping[str, float | None] | None = None) -> Verdict:
        """Hold ``values`` against the thresholds.

        Args:
            values: The figures, by name; ``None`` for what could not be scored.
            before: The same figures of the unedited model, for ``max_drops``.
        """
        earlier = before or {}
        return Verdict(
            tuple(
                [Check(name, "min", limit, values.get(name)) for name, limit in self.minimums.items()]
                + [Check(name, "max", limit, values.get(name)) for name, limit in self.maximums.items()]
                + [
                    Check(name, "max-drop", limit, values.get(name), earlier.get(name))
                    for name, limit in self.max_drops.items()
                ]
            )
        )


def values_of(results: Mapping[str, Any]) -> tuple[dict[str, float | None], dict[str, float | None]]:
    """Return the figures of a results file, and those it holds from before the edits (the tasks)."""
    values = {name: metric["value"] for name, metric in results["metrics"].items()}
    tasks: Mapping[str, Any] = results.get("tasks", {})
    values |= {name: task["after"]["value"] for name, task in tasks.items()}
    return values, {name: task["before"]["value"] for name, task in tasks.items()}


def _rule(check: Check) -> str:
    words = {"min": "at least", "max": "at most", "max-drop": "at most"}
    return f"{words[check.kind]} {check.limit:g}"


def _parse(rules: Iterable[str]) -> dict[str, float]:
    found: dict[str, float] = {}
    for rule in rules:
        name, mark, number = (part.strip() for part in rule.partition("="))
        try:
            limit = float(number)
        except ValueError:
            limit = math.nan
        if not mark or not name or math.isnan(limit):
            raise EvaluationError(f"{rule!r} is not a threshold", remedy="Write it as reliability=0.98.")
        if name in found:
            raise EvaluationError(f"{name} has two thresholds of one kind", remedy="Give one.")
        found[name] = limit
    return found
