"""What there is to know about the editions of a model, as one JSON-ready value."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from corrigenda.edit import Edit
from corrigenda.param_editors.consolidation import marks
from corrigenda.param_editors.consolidation.durable import read_json
from corrigenda.param_editors.consolidation.editions import Editions

if TYPE_CHECKING:
    from corrigenda.memory.memory import Memory


def overview(editions: Editions, memory: Memory | None = None) -> dict[str, Any]:
    """Tell what is in force, what runs, how far jobs are, and how the ledger stands to it."""
    now = editions.current()
    row: dict[str, Any] = {
        "model": editions.model,
        "edition": now.edition,
        "promotions": list(now.promotions),
        "generation": now.generation,
        "running": editions.holder(),
        "jobs": [_job(editions, path.name) for path in sorted(editions.jobs.glob("*"))],
    }
    if memory is not None:
        row["memory"] = _in_memory(editions, memory)
    return row


def _job(editions: Editions, job: str) -> dict[str, Any]:
    folder = editions.jobs / job
    row: dict[str, Any] = {"job": job}
    if (folder / "result.json").is_file():
        result = read_json(folder / "result.json")
        promoted = [name for name in editions.names() if editions.promotion(name)["job"] == job]
        passed = bool(result["kept"]) and not result["faults"]
        state = f"{len(result['kept'])} edits passed the gate" if passed else "the gate is closed"
        state += f"; promoted as {promoted[-1]}" if promoted else ""
        return row | {"state": state, "kept": len(result["kept"]), "dropped": len(result["dropped"])}
    notes = len(list((folder / "notes").rglob("*.*")))
    return row | {"state": f"not finished, {notes} steps are noted; run its plan again", "steps": notes}


def _in_memory(editions: Editions, memory: Memory) -> dict[str, Any]:
    """Compare what is printed with what the memory holds."""
    shadows = retired = 0
    warnings = []
    for name in editions.current().promotions:
        with memory.replica.lock:
            gone = {edit.id for edit in marks.retired(memory, memory.replica.state, name)}
        here = {edit.id for edit in marks.shadows(memory, name)}
        shadows, retired = shadows + len(here), retired + len(gone)
        for row in editions.promotion(name)["edits"]:
            if row["id"] not in here | gone:
                statement = Edit.from_dict(row).statement
                warnings.append(f"{row['id']} is in the weights, but no longer holds in memory: {statement}")
    return {"shadows": shadows, "retired": retired, "warnings": warnings}
