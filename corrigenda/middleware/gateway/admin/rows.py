"""What the admin API shows of edits and of what was considered, as JSON-ready dicts."""

from __future__ import annotations

from typing import Any

from corrigenda.edit import Edit
from corrigenda.memory.scope import Consideration


def consideration_row(considered: Consideration) -> dict[str, Any]:
    """Return what was considered for a query as a JSON-ready dict."""
    return {
        "query": considered.query,
        "fires": [candidate.edit.id for candidate in considered.in_scope],
        "candidates": [
            {
                "edit": candidate.edit.id,
                "statement": candidate.edit.statement,
                "verdict": candidate.verdict,
                "probability": round(candidate.probability, 6),
                "threshold": round(candidate.threshold, 6),
                "similarity": round(candidate.similarity, 6),
                "mention": candidate.mention.name if candidate.mention else None,
                "segment": candidate.segment,
                "features": {name: round(float(value), 6) for name, value in candidate.features.items()},
            }
            for candidate in considered.candidates
        ],
        "milliseconds": {stage: round(ms, 3) for stage, ms in considered.milliseconds.items()},
    }


def edit_row(edit: Edit) -> dict[str, Any]:
    """Return an edit as a JSON-ready dict, with its id and as a sentence."""
    return {"id": edit.id, "statement": edit.statement, **edit.to_dict()}
