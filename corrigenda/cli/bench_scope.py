"""``corrigenda bench scope``: how long the classifier takes with very many edits live, stage by stage."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from corrigenda.cli.common import AsJson, asides, print_figures

if TYPE_CHECKING:
    from corrigenda.edit import Edit
    from corrigenda.memory.scope import Consideration, Scope

_BLOCK = 5_000  # edits that are added together
_WARM = 10


class _Filling:
    """Made-up vectors while the memory is filled, real ones for what is measured then."""

    def __init__(self, made_up: Any, real: Any) -> None:
        self.dimension, self.fingerprint = made_up.dimension, made_up.fingerprint
        self._made_up, self._real = made_up, real
        self.measuring = False

    def encode(self, texts: Sequence[str]) -> Any:
        return (self._real if self.measuring else self._made_up).encode(texts)


def scope(
    edits: Annotated[int, typer.Option("--edits", min=1_000, help="Live edits.")] = 100_000,
    queries: Annotated[int, typer.Option(min=4, help="Queries to measure.")] = 400,
    as_json: AsJson = False,
) -> None:
    """Measure the classifier on queries that name no known subject, name one, and ask for an edited fact."""
    from corrigenda.cli.many_edits import Multiplied, statements
    from corrigenda.eval import synthetic
    from corrigenda.memory.encoder import MiniLM
    from corrigenda.memory.memory import Memory
    from corrigenda.memory.scope import Scope

    say = asides(quiet=as_json)
    real = MiniLM.load()
    encoder = _Filling(Multiplied(real, statements(None), say), real)
    kept = synthetic.edits(edits)
    asked = asked_of(kept, queries, synthetic.foreign_queries(queries // 2, kept))
    with (
        tempfile.TemporaryDirectory(prefix="corrigenda-bench-") as folder,
        Memory.open(Path(folder) / "edits.db", encoder=encoder) as memory,
    ):
        say(f"adding {edits:,} edits")
        for start in range(0, len(kept), _BLOCK):
            memory.add_many(kept[start : start + _BLOCK], on_conflict="coexist")
        encoder.measuring = True
        figures = {"edits": len(memory), **measure(Scope(memory), asked)}
    print_figures("The scope classifier with many edits", figures, as_json)


def asked_of(kept: Sequence[Edit], count: int, foreign: Sequence[str]) -> dict[str, list[str]]:
    """Return the queries by group: half foreign, a quarter about other facts of subjects, a quarter about edits."""
    step = max(1, len(kept) // (count // 4))
    chosen = kept[::step][: count // 4]
    return {
        "foreign": list(foreign),
        "subject": [f"When did people first write about {edit.subject}?" for edit in chosen],
        "edited": [f"Tell me, please: {edit.prompt}" for edit in chosen],
    }


def measure(scope: Scope, asked: dict[str, list[str]]) -> dict[str, Any]:
    """Return milliseconds (p50, p99) of all queries and of each group, and the cascade: how many get how far."""
    for query in asked["edited"][:_WARM]:
        scope.consider([query])
    times: dict[str, list[float]] = {}
    found: list[Consideration] = []
    for group, queries in asked.items():
        for query in queries:
            began = time.perf_counter()
            found += scope.consider([query])
            times.setdefault(group, []).append((time.perf_counter() - began) * 1e3)
    every = [spent for of in times.values() for spent in of]
    stages = {stage: [one.milliseconds[stage] for one in found] for stage in ("encode", "search", "judge")}
    return {
        "ms": _percentiles(every),
        "by_group": {group: _percentiles(of) for group, of in times.items()},
        "by_stage": {stage: _percentiles(of) for stage, of in stages.items()},
        "cascade": {
            "queries": len(found),
            "judged": sum(bool(one.candidates) for one in found),
            "fired": sum(bool(one.in_scope) for one in found),
        },
    }


def _percentiles(spent: Sequence[float]) -> dict[str, float]:
    import numpy as np

    return {f"p{share}": round(float(np.percentile(spent, share)), 2) for share in (50, 99)}
