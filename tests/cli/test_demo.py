"""The demo begins anew each time: it must never do so with a memory that somebody uses."""

from __future__ import annotations

import json
from typing import Any

import pytest

from corrigenda.cli import demo
from corrigenda.edit import Edit
from corrigenda.errors import UnknownModel
from corrigenda.memory.memory import Memory
from corrigenda.memory.sqlite import SQLiteStore
from corrigenda.testing import FixedEncoder


@pytest.fixture(autouse=True)
def _no_model(monkeypatch: pytest.MonkeyPatch):
    def missing(name: str, *, quiet: bool) -> Any:
        raise UnknownModel("not here")

    monkeypatch.setattr("corrigenda.cli.demo.load_model", missing, raising=False)
    monkeypatch.setattr("corrigenda.middleware.generate.load", missing)
    monkeypatch.setattr("corrigenda.memory.encoder.MiniLM.load", FixedEncoder)


@pytest.fixture
def fill(tmp_path):
    """Make a memory with some edits; return its path."""

    def fill(*edits, name="mine.db"):
        with Memory.open(tmp_path / name, encoder=FixedEncoder()) as memory:
            memory.add_many(edits)
        return tmp_path / name

    return fill


def count(path):
    store = SQLiteStore.open(path, readonly=True)
    try:
        return len(store.read())
    finally:
        store.close()


MINE = Edit("The capital of Peru is", "Lima", subject="Peru", namespace="south")


def test_the_memory_of_the_environment_is_not_the_demos(run, fill, monkeypatch):
    mine = fill(MINE)
    monkeypatch.setenv("CORRIGENDA_MEMORY", str(mine))
    assert run("demo").exit_code == 2
    assert count(mine) == 1


def test_a_memory_with_other_edits_is_not_removed(run, fill):
    mine = fill(demo.FACTS[0].edit, MINE)
    result = run("demo", "--memory", mine, "--json")
    assert result.exit_code == 2
    error = json.loads(result.stdout)["error"]
    assert "holds 1 edits that are not the demo's" in error["message"]
    assert "--keep" in error["remedy"]
    assert count(mine) == 2
    shared = json.loads(run("demo", "--memory", "redis://localhost:1/0#ours", "--json").stdout)["error"]
    assert "is shared" in shared["message"]


def test_nothing_is_removed_before_there_is_a_model(run, fill):
    own = fill(*(fact.edit for fact in demo.FACTS), name="demo.db")
    result = run("demo", "--json")
    assert json.loads(result.stdout)["error"]["type"] == "UnknownModel"
    assert count(own) == len(demo.FACTS)
