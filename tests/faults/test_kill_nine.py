from __future__ import annotations

import importlib.util
import random
import sys
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="module")
def kill_nine() -> ModuleType:
    spec = importlib.util.spec_from_file_location("kill_nine", Path(__file__).with_name("kill_nine.py"))
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules["kill_nine"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
def test_acknowledged_edits_survive_a_kill(kill_nine: ModuleType, tmp_path: Path) -> None:
    path, chance = tmp_path / "facts.db", random.Random(7)
    rounds = [kill_nine.one_round(path, number, 300, False, chance) for number in range(4)]
    assert any(round_.killed for round_ in rounds)
    assert all(round_.kept >= round_.acknowledged > 0 for round_ in rounds)
    kill_nine.whole(path)
