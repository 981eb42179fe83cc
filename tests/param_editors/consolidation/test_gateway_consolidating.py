"""Consolidation behind the admin API: printed, gated, promoted and rolled back, on a model that was taught a little."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from learned_consolidation import GATE, PARAMS, good_edits, make_world

from corrigenda.errors import CorrigendaError, InvalidRequest
from corrigenda.memory.memory import Memory
from corrigenda.middleware.gateway.consolidating import LocalConsolidator
from corrigenda.testing import FixedEncoder


def test_print_promote_and_roll_back(tmp_path: Path, learned_model: Path) -> None:
    world = make_world(tmp_path, learned_model, good_edits(3))
    said: list[str] = []
    consolidator = LocalConsolidator(world.memory, str(world.model), world.home)
    assert consolidator.runs("default") == []
    gate = {**GATE, "minimums": {"edits": 0.9, "neighbours": 0.0}}
    request = {"editor": "memit", "options": {"params": PARAMS, "gate": gate, "kind": "delta"}}
    report = consolidator.consolidate("default", request, "ann", said.append)
    assert (len(report["kept"]), report["faults"]) == (3, [])
    assert Path(report["path"]).is_dir()
    assert said[0].startswith("loading")
    assert said[-1] == "promoting"
    (run,) = consolidator.runs("default")
    assert (run["state"], run["revertible"], run["edits"]) == ("in force", True, 3)
    assert "neighbours" in run["summary"]
    assert consolidator.runs("other") == []
    with pytest.raises(CorrigendaError):
        consolidator.roll_back("other", run["id"], "ann")
    assert consolidator.roll_back("default", run["id"], "ann")["edition"] is None
    assert consolidator.runs("default")[0]["state"] == "rolled back"
    assert world.memory.live() == tuple(good_edits(3))
    world.memory.close()


def test_what_the_gate_refuses_is_not_promoted(tmp_path: Path, learned_model: Path) -> None:
    world = make_world(tmp_path, learned_model, good_edits(1))
    consolidator = LocalConsolidator(world.memory, str(world.model), world.home)
    closed = {"minimums": {"neighbours": 1.0, "edits": 1.0}, "limit": 5}
    params = {**PARAMS, "v_steps": 1, "v_lr": 1e-6}  # too little of an edit to take
    report = consolidator.consolidate(
        "default", {"editor": "memit", "options": {"params": params, "gate": closed}}, "ann", lambda line: None
    )
    assert report["promoted"] is None
    assert consolidator.runs("default") == []
    world.memory.close()


@pytest.mark.parametrize(
    "options",
    [{"colour": 1}, {"kind": "paper"}, {"tags": "x"}, {"gate": 1}, {"gate": {"cases": ["/etc/passwd"]}}],
)
def test_options_that_make_no_sense(tmp_path: Path, options: Any) -> None:
    with Memory.open(tmp_path / "facts.db", encoder=FixedEncoder()) as memory:
        refuses(LocalConsolidator(memory, "smollm2", tmp_path), options)


def refuses(consolidator: LocalConsolidator, options: Any) -> None:
    with pytest.raises(InvalidRequest):
        consolidator.consolidate("default", {"options": options}, "ann", lambda line: None)
    with pytest.raises(CorrigendaError):
        consolidator.roll_back("default", "nothing", "ann")
