"""Consolidation behind the admin API: live edits are printed into a copy of the weights, gated, and promoted.

The job works on a model of its own: the one that answers requests must not change under them. What is promoted lies in
a folder, to be served from there; until then the memory answers for the edits, and goes on to do so as their shadow.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from corrigenda.errors import InvalidRequest
from corrigenda.memory.memory import Memory

if TYPE_CHECKING:
    from corrigenda.lm.loading import LanguageModel
    from corrigenda.param_editors.consolidation.editions import Editions
    from corrigenda.param_editors.consolidation.plan import Plan
    from corrigenda.param_editors.consolidation.result import Result

_OPTIONS = frozenset({"params", "layers", "tags", "min_age_days", "limit", "seed", "kind", "gate"})
_GATE = frozenset({"minimums", "max_drops", "limit"})
"""Of the gate's fields; the others name files, which are not for callers to choose on the gateway's machine."""
_KINDS = ("checkpoint", "delta", "lora")


class LocalConsolidator:
    """Consolidates in this process; a :class:`~corrigenda.middleware.gateway.admin.jobs.Consolidator`.

    Args:
        memory: Whose edits are printed.
        model: Name, folder or hub id of the base model, unedited.
        home: Where editions are kept.
    """

    def __init__(self, memory: Memory, model: str, home: Path) -> None:
        self.memory, self.model, self.home = memory, model, home

    def consolidate(
        self, namespace: str, request: Mapping[str, Any], author: str, say: Callable[[str], None]
    ) -> dict[str, Any]:
        """Plan, print into a copy, gate, and promote what passes; return a report.

        Args:
            namespace: Whose edits.
            request: ``editor``, ``edits`` (ids), ``options``: see the fields of
                :class:`~corrigenda.param_editors.consolidation.selection.Selection`, ``params`` and ``layers`` of the
                editor, ``kind`` of what is written, ``gate`` with ``minimums``, ``max_drops`` and ``limit`` of
                :class:`~corrigenda.param_editors.consolidation.gate.GatePlan`.
            author: Who asked.
            say: Told how it goes; may raise, to stop.

        Raises:
            CorrigendaError: Nothing was promoted; the subclass says why.
        """
        from corrigenda.param_editors.consolidation import job
        from corrigenda.param_editors.consolidation.editions import Editions
        from corrigenda.param_editors.consolidation.promotion import promote

        options = _checked(request.get("options", {}))
        kind = options.pop("kind", "checkpoint")
        say(f"loading {self.model}")
        lm = self._load()
        plan = self._plan(namespace, request, options, lm)
        say(f"{len(plan.edits)} edits by {plan.editor}, {len(plan.left_out)} left out")
        result = job.run(plan, self.home, lm=lm, say=lambda stage, done, total: say(f"{stage}: {done} of {total}"))
        report = _report(plan, result)
        if not result.passed:
            return {**report, "promoted": None}
        say("promoting")
        editions = Editions.of(self.home, self.model, lm.fingerprint)
        change = promote(editions, result.job, self.memory, kind=kind, lm=lm)
        return {**report, "promoted": change.edition, "path": str(change.path)}

    def runs(self, namespace: str) -> list[dict[str, Any]]:
        """Return the promotions of edits of ``namespace``, newest first."""
        editions = self._editions()
        if editions is None:
            return []
        now = editions.current()
        rows = [editions.promotion(name) for name in reversed(editions.names())]
        return [_run(row, now.promotions) for row in rows if _namespace(row) == namespace]

    def roll_back(self, namespace: str, run: str, author: str) -> dict[str, Any]:
        """Take a promotion out of the model, and let the memory answer for its edits again.

        Raises:
            CorrigendaError: Nothing was changed; the subclass says why.
        """
        from corrigenda.param_editors.consolidation.promotion import rollback

        editions = self._editions()
        if editions is None or _namespace(editions.promotion(run)) != namespace:
            raise InvalidRequest(f"there is no run {run!r} in this namespace")
        change = rollback(editions, run, self.memory, lm=self._load())
        return {"edition": change.edition, "promotions": list(change.promotions), "events": change.events}

    def _plan(self, namespace: str, request: Mapping[str, Any], options: dict[str, Any], lm: LanguageModel) -> Plan:
        """Return the plan that ``request`` asks for; ``options`` are checked."""
        from corrigenda.param_editors.consolidation.gate import GatePlan
        from corrigenda.param_editors.consolidation.plan import make_plan
        from corrigenda.param_editors.consolidation.selection import Selection

        wanted = {name: options.pop(name) for name in ("tags", "min_age_days", "limit") if name in options}
        if "tags" in wanted:
            wanted["tags"] = tuple(wanted["tags"])
        if "gate" in options:
            options["gate"] = GatePlan(**options["gate"])
        selection = Selection(namespace=namespace, ids=tuple(request.get("edits", ())), **wanted)
        method = request.get("editor")
        return make_plan(self.memory, lm, self.model, self.home, selection=selection, method=method, **options)

    def _load(self) -> LanguageModel:
        from corrigenda.lm.loading import load

        return load(self.model)

    def _editions(self) -> Editions | None:
        from corrigenda.param_editors.consolidation.editions import Editions

        found = [one for one in Editions.all(self.home) if one.model == self.model]
        return found[0] if found else None


def _report(plan: Plan, result: Result) -> dict[str, Any]:
    """Return what is told of a job, promoted or not."""
    return {
        "job": result.job,
        "editor": plan.editor,
        "kept": list(result.kept),
        "dropped": dict(result.dropped),
        "left_out": dict(plan.left_out),
        "figures": result.figures,
        "faults": list(result.faults),
    }


def _checked(options: Any) -> dict[str, Any]:
    if unknown := sorted(set(options) - _OPTIONS):
        raise InvalidRequest(f"unknown option {unknown[0][:40]!r}", remedy=f"Allowed: {', '.join(sorted(_OPTIONS))}.")
    if options.get("kind", "checkpoint") not in _KINDS:
        raise InvalidRequest(f"kind={options['kind']!r:.40} is not allowed", remedy=f"Allowed: {', '.join(_KINDS)}.")
    if not isinstance(options.get("tags", []), list):
        raise InvalidRequest("tags must be a list of texts")
    gate = options.get("gate", {})
    if not isinstance(gate, dict) or not set(gate) <= _GATE:
        raise InvalidRequest("gate takes an object", remedy=f"Allowed in it: {', '.join(sorted(_GATE))}.")
    return dict(options)


def _namespace(row: Mapping[str, Any]) -> str:
    """Return the namespace of a promotion: a plan is of one namespace."""
    edits = row["edits"]
    return str(edits[0].get("namespace", "default")) if edits else "default"


def _run(row: Mapping[str, Any], in_force: tuple[str, ...]) -> dict[str, Any]:
    now = row["name"] in in_force
    figures = ", ".join(
        f"{name} {figure['before']:.2f} → {figure['after']:.2f}"
        for name, figure in row["figures"].items()
        if "before" in figure and "after" in figure
    )
    return {
        "id": row["name"],
        "state": "in force" if now else "rolled back",
        "revertible": now,
        "edits": len(row["edits"]),
        "made": row["made"],
        "editor": row["editor"],
        "figures": row["figures"],
        "summary": f"{row['editor']}, {row['made']}{': ' if figures else ''}{figures}",
    }
