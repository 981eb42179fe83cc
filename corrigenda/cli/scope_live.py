"""``corrigenda scope live``: the classifier with thousands of edits live at once, as it is used."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from corrigenda.cli.common import AsJson, print_json, print_table, with_status

if TYPE_CHECKING:
    from corrigenda.eval.case import Case
    from corrigenda.memory.scope import Scope

_BATCH = 64


@dataclass(frozen=True)
class Chances:
    """Probabilities with all edits live.

    Attributes:
        right: For each paraphrase, that of the edit it belongs to; 0 when it was not looked at.
        neighbours: For each neighbourhood prompt, the highest of any edit.
        foreign: For each question about other things, the highest of any edit.
    """

    right: list[float]
    neighbours: list[float]
    foreign: list[float]

    def rates(self, threshold: float) -> dict[str, Any]:
        """Return for each group how many there are, and the share that fires at ``threshold``."""
        from corrigenda.memory.calibration import rate_above

        groups = {"paraphrases": self.right, "neighbours": self.neighbours, "foreign": self.foreign}
        return {name: {"n": len(of), "rate": rate_above(of, threshold) if of else None} for name, of in groups.items()}


def live(
    data: Annotated[Path, typer.Option("--data", help="Dataset whose edits are made, all at once.")],
    foreign: Annotated[Path | None, typer.Option(help="Dataset whose locality questions concern none of them.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="Most edits.")] = 2_000,
    questions: Annotated[int, typer.Option(min=1, help="Most locality questions.")] = 1_500,
    weights: Annotated[
        Path | None, typer.Option(help="Folder of a classifier; the one of the package if none.")
    ] = None,
    threshold: Annotated[float | None, typer.Option(min=0, max=1, help="The classifier's own by default.")] = None,
    as_json: AsJson = False,
) -> None:
    """Measure how often the right edit fires for paraphrases, and any edit for what concerns none."""
    from corrigenda.eval.case import sample
    from corrigenda.eval.datasets import load
    from corrigenda.memory.judge import FrameJudge
    from corrigenda.memory.memory import Memory
    from corrigenda.memory.scope import Scope

    cases = sample(load(data).cases, limit, seed=0)
    asked = sorted(
        {probe.prompt for case in load(foreign).cases for probe in case.probes if probe.role == "locality"}
        if foreign
        else ()
    )[:questions]
    with tempfile.TemporaryDirectory(prefix="corrigenda-live-") as folder, Memory.open(Path(folder) / "m.db") as memory:
        memory.add_many([edit for case in cases for edit in case.edits])
        scope = Scope(memory, judge=FrameJudge.load(weights), threshold=threshold)
        chances = with_status("judging", lambda: measure(scope, cases, asked), quiet=as_json)
        found = {"edits": len(memory), "threshold": scope.threshold, **chances.rates(scope.threshold)}
    if as_json:
        print_json(found)
        return
    groups = ("paraphrases", "neighbours", "foreign")
    rows = [[name, str(found[name]["n"]), f"{found[name]['rate'] or 0:.4f}"] for name in groups]
    print_table(f"Share that fires with {found['edits']} edits live", ["group", "n", "fires"], rows)


def measure(scope: Scope, cases: Sequence[Case], foreign: Sequence[str]) -> Chances:
    """Return the probabilities that the probes of ``cases``, whose edits are live, and ``foreign`` questions get.

    A neighbour that another live edit changes is left out; so are the paraphrases of an edit that a later one replaced.
    """
    from corrigenda.eval.case import Claims, superseded
    from corrigenda.memory.scope_evaluation import highest

    claims, replaced = Claims(cases), superseded(cases)
    own = [
        (edit.prompt, probe.prompt)
        for case in cases
        if case.id not in replaced
        for edit in case.edits
        for probe in case.probes
        if probe.role == "generalization"
    ]
    right = []
    for start in range(0, len(own), _BATCH):
        part = own[start : start + _BATCH]
        for (prompt, _), considered in zip(part, scope.consider([query for _, query in part]), strict=True):
            chances = [found.probability for found in considered.candidates if found.edit.prompt == prompt]
            right.append(max(chances, default=0.0))
    neighbours = [
        probe.prompt
        for case in cases
        for probe in case.probes
        if probe.role == "locality" and claims.owner(case, probe) is None
    ]
    return Chances(right, highest(neighbours, scope), highest(foreign, scope))
