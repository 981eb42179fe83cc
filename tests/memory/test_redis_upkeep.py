"""Upkeep, on a file and on a server."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from corrigenda.cli import memory as cli
from corrigenda.cli.common import CorrigendaGroup
from corrigenda.edit import Edit
from corrigenda.errors import ImportFailed, InvalidRequest, StoreError
from corrigenda.memory import upkeep
from corrigenda.memory.big_files import import_big
from corrigenda.memory.conflicts import Plan
from corrigenda.memory.ledger import Event, replay
from corrigenda.memory.restoring import restore
from corrigenda.memory.snapshot import snapshot_path
from corrigenda.memory.upkeep import (
    index_path,
    migrate,
    open_memory,
    open_store,
    reencode,
    verify,
    wanted_keys,
)
from corrigenda.testing import FixedEncoder


def fact(number: int, city: str = "A", **fields: Any) -> Edit:
    return Edit(f"The capital of land {number} is", city, subject=f"land {number}", relation="capital", **fields)


@pytest.fixture(params=["sqlite", pytest.param("redis", marks=pytest.mark.redis)])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where the memory of this test lies."""
    if request.param == "sqlite":
        return str(tmp_path / "facts.db")
    return f"{request.getfixturevalue('redis_server').url}#{uuid.uuid4().hex}"


@pytest.fixture
def other(request: pytest.FixtureRequest, tmp_path: Path, where: str) -> str:
    """A place of the other kind."""
    if "://" in where:
        return str(tmp_path / "other.db")
    return str(tmp_path / "second.db")


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Indexes of servers' memories are kept here."""
    monkeypatch.setattr(upkeep, "cache_dir", lambda: tmp_path / "cache")


@pytest.fixture
def fixed() -> FixedEncoder:
    return FixedEncoder(16)


@pytest.fixture
def run() -> Callable[..., tuple[int, Any]]:
    """Run a command of the group; return exit code and JSON."""
    import typer

    app = typer.Typer(cls=CorrigendaGroup)
    app.add_typer(cli.app, name="memory")

    def call(*arguments: str) -> tuple[int, Any]:
        result = CliRunner().invoke(app, ["memory", *arguments, "--json"])
        return result.exit_code, json.loads(result.stdout)

    return call


def test_a_sound_memory_and_its_counts(
    where: str, fixed: FixedEncoder, run: Callable[..., tuple[int, Any]], tmp_path: Path
) -> None:
    snapshot = tmp_path / "s.index" if "://" in where else snapshot_path(Path(where))
    with open_memory(where, encoder=fixed, snapshot=snapshot) as memory:
        memory.add_many([fact(1), fact(2), fact(3, namespace="b")])
        memory._replica.snapshot()
        memory.retract(fact(2).id)
        store = memory._replica.store
        findings = verify(store, snapshot, fixed)
        assert (findings.events, findings.live, findings.namespaces) == (4, 2, 2)
        assert (findings.faults, findings.snapshot) == ([], "whole")
        assert "encoder" in verify(store, snapshot, FixedEncoder(16, "other")).snapshot
        assert verify(store, tmp_path / "none", fixed).snapshot == "none"
    code, row = run("status", "-m", where)
    assert (code, row["version"], row["live"], row["namespaces"]) == (0, 4, 2, {"b": 1, "default": 1})
    assert list(row["vectors"]) == ["fixed-16"]
    assert (
        (row["server"]["role"], row["server"]["encoder"]) == ("master", "fixed-16") if "://" in where else row["index"]
    )


def test_what_verify_finds(where: str, fixed: FixedEncoder, tmp_path: Path) -> None:
    snapshot = tmp_path / "s.index"
    with open_memory(where, encoder=fixed) as memory:
        memory._replica._index._snapshot = snapshot
        memory.add_many([fact(1), fact(2)])
        memory._replica.snapshot()
        store = memory._replica.store
        partition = memory._replica.index().partitions["default"]
        partition.remove([fact(1).id])
        memory._replica.snapshot()
        assert "does not hold" in verify(store, snapshot, fixed).faults[0]
        if "://" in where:
            server: Any = store
            server.link.client.hdel(server.key("live"), fact(1).id)
            assert "table of live edits" in verify(store).faults[0]
            server.link.client.xdel(server.key("events"), "1-0")
            assert "missing" in verify(store).faults[0]


def test_verify_of_what_went_with_its_parent(where: str, fixed: FixedEncoder) -> None:
    with open_memory(where, encoder=fixed) as memory:
        parent = memory.add(fact(1))
        memory.add_consequences([Edit("A is the capital of", "land 1", parent=parent.id)])
        memory.amend(parent.id, target="B")
        assert len(memory) == 1
        assert verify(memory._replica.store).faults == []


def test_what_is_derived_from_edits_is_no_encoders(where: str, fixed: FixedEncoder) -> None:
    with open_memory(where, encoder=fixed) as memory:
        memory.keep_derived("derived/grace", {b"key": b"row"})
        store: Any = memory._replica.store
        if "://" in where:
            assert store.encoder() is None
            store.adopt_encoder("derived/grace")  # as earlier versions did
            assert store.encoder() is None
        memory.add(fact(1))
        assert "://" not in where or store.encoder() == "fixed-16"
        assert store.kept() == {"fixed-16": 2}
        assert memory.derived("derived/grace", [b"key"]) == {b"key": b"row"}


def test_going_back(where: str, fixed: FixedEncoder) -> None:
    with open_memory(where, encoder=fixed) as memory:
        memory.add_many([fact(1), fact(2, namespace="b")])
        moment = datetime.now(UTC)
        memory.add(fact(1, "B"))
        memory.add(fact(3))
        memory.retract(fact(2, namespace="b").id)
        assert restore(memory, version=2) == 4
        assert {edit.target for edit in memory.live()} == {"A"}
        assert len(memory.live("b")) == 1
        assert restore(memory, at=moment) == 0
        assert restore(memory, version=5) == 4
        assert sorted(edit.target for edit in memory.live()) == ["A", "B"]
        (hits,) = memory.search(fixed.encode([fact(3).prompt]), 1)
        assert hits[0].edit.id == fact(3).id
        for bad in ({}, {"version": 1, "at": moment}, {"version": 999}):
            with pytest.raises(InvalidRequest):
                restore(memory, **bad)  # type: ignore[arg-type]


@pytest.mark.parametrize("change", ["amended", "restored"])
def test_going_back_keeps_what_was_derived(where: str, fixed: FixedEncoder, change: str) -> None:
    with open_memory(where, encoder=fixed) as memory:
        parent = memory.add(fact(1))
        memory.add_consequences([Edit("A is the capital of", "land 1", parent=parent.id)])
        if change == "restored":
            memory._replica.write(lambda state: Plan([Event("consolidated", state.live[parent.id])]))
        wanted, version = set(memory.live()), memory.version
        if change == "restored":
            memory._replica.write(lambda state: Plan([Event("restored", parent)]))
        else:
            memory.amend(parent.id, aliases=("KZ",))
        restore(memory, version=version)
        assert set(memory.live()) == wanted
        assert set(memory.state(memory.version)) == wanted


def test_the_time_of_a_state_when_clocks_differ(where: str, fixed: FixedEncoder) -> None:
    start = datetime(2020, 1, 1, 12, tzinfo=UTC)
    minutes = (0, 5, -10, 2, 30)  # the third writer's clock is slow
    with open_memory(where, encoder=fixed) as memory:
        memory._replica.store.append(
            [Event("added", fact(n), when=start + timedelta(minutes=minute)) for n, minute in enumerate(minutes)]
        )
        memory.refresh()
        assert restore(memory, at=start + timedelta(minutes=3)) == 1
        assert len(memory) == 4
        assert restore(memory, at=start - timedelta(days=1)) == 4
        assert len(memory) == 0


def test_moving_to_another_encoder(where: str, fixed: FixedEncoder) -> None:
    with open_memory(where, encoder=fixed) as memory:
        memory.add_many([fact(number) for number in range(600)])
    other, told = FixedEncoder(16, "other"), []
    with open_memory(where, encoder=other) as memory:
        assert reencode(memory, progress=told.append) == 600
        assert told == [512, 600]
        before = other.calls
        assert reencode(memory) == 600
        assert other.calls == before
        assert memory._replica.store.kept() == {"fixed-16": 601, "other": 601}
        if "://" in where:
            assert memory._replica.store.encoder() == "other"  # type: ignore[attr-defined]
        (hits,) = memory.search(other.encode([fact(7).prompt]), 1)
        assert hits[0].edit == fact(7)


def test_moving_with_history_and_vectors(where: str, other: str, fixed: FixedEncoder) -> None:
    with open_memory(where, encoder=fixed) as memory:
        memory.add_many([fact(number) for number in range(30)])
        memory.retract(fact(3).id, reason="no")
    source, target = open_store(where, readonly=True), open_store(other)
    told: list[int] = []
    assert migrate(source, target, fingerprint=fixed.fingerprint, progress=told.append) == 31
    assert told == [31]
    assert [(e.id, e.when, e.to_dict()) for e in source.read()] == [(e.id, e.when, e.to_dict()) for e in target.read()]
    keys = list(wanted_keys(replay(source.read())))
    assert target.vectors(fixed.fingerprint, keys) == source.vectors(fixed.fingerprint, keys)
    assert migrate(source, target) == 0
    target.append([Event("added", fact(99))])
    with pytest.raises(StoreError, match="another ledger"):
        migrate(source, target)
    source.close()
    target.close()


def test_dropping_what_no_live_edit_needs(where: str, fixed: FixedEncoder) -> None:
    with open_memory(where, encoder=fixed) as memory:
        memory.add_many([fact(number) for number in range(10)])
        memory.retract(fact(3).id)
        store = memory._replica.store
        keep = wanted_keys(memory._replica.state)
        assert store.compact(fixed.fingerprint, keep) == 1
        assert store.compact(fixed.fingerprint, keep) == 0
        assert store.vectors(fixed.fingerprint, list(keep)).keys() == keep
        assert len(store.read()) == 11


def test_a_big_file_in_batches(where: str, fixed: FixedEncoder, tmp_path: Path) -> None:
    file = tmp_path / "big.jsonl"
    lines = [json.dumps(fact(number).to_dict()) for number in range(25)]
    lines[7] = "{"
    lines[9] = "[]"
    file.write_text("\n".join([*lines[:12], "", *lines[12:]]))
    with open_memory(where, encoder=fixed) as memory:
        told: list[int] = []

        def stop(done: int) -> None:
            told.append(done)
            if done == 20:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            import_big(memory, file, batch=10, progress=stop)
        assert len(memory) == 18
        assert import_big(memory, file, batch=10, resume=True) == (5, {})
        assert len(memory) == 23
        rows, bad = import_big(memory, file, batch=10)
        assert (rows, sorted(bad)) == (25, [8, 10])
        assert memory.version == 23
        (tmp_path / "big.jsonl.progress").write_text('{"size": 1, "line": 2}')
        with pytest.raises(ImportFailed, match="not the one"):
            import_big(memory, file, resume=True)
        (tmp_path / "big.jsonl.progress").write_text("soup")
        with pytest.raises(ImportFailed, match="cannot be read"):
            import_big(memory, file, resume=True)
        with pytest.raises(ImportFailed, match="cannot be read"):
            import_big(memory, tmp_path / "none.csv")


def test_a_refused_edit_of_a_big_file_is_a_bad_line_and_the_others_are_in(
    where: str, fixed: FixedEncoder, tmp_path: Path
) -> None:
    file = tmp_path / "big.jsonl"
    lines = [json.dumps(fact(number).to_dict()) for number in range(12)]
    file.write_text("\n".join([*lines[:7], json.dumps(fact(2, "B").to_dict()), *lines[7:]]))
    with open_memory(where, encoder=fixed) as memory:
        memory.add(fact(1, "C"))
        rows, bad = import_big(memory, file, on_conflict="refuse", batch=5)
        assert (rows, len(memory)) == (13, 12)
        assert sorted(bad) == [2, 8]
        assert "contradicts the live edit" in bad[8]
        assert not (tmp_path / "big.jsonl.progress").exists()


def test_an_import_goes_on_where_its_progress_cannot_be_noted(where: str, fixed: FixedEncoder, tmp_path: Path) -> None:
    file = tmp_path / "big.jsonl"
    file.write_text("\n".join(json.dumps(fact(number).to_dict()) for number in range(20)))
    (tmp_path / "big.jsonl.progress").mkdir()
    with open_memory(where, encoder=fixed) as memory:
        assert import_big(memory, file, batch=5) == (20, {})
        assert len(memory) == 20
        (notice,) = memory.notices
        assert "big.jsonl.progress: Is a directory" in notice


def test_a_line_that_is_nested_too_deeply_is_a_bad_one(where: str, fixed: FixedEncoder, tmp_path: Path) -> None:
    file = tmp_path / "big.jsonl"
    file.write_text("[" * 100_000 + "\n" + json.dumps(fact(1).to_dict()))
    with open_memory(where, encoder=fixed) as memory:
        rows, bad = import_big(memory, file)
        assert (rows, list(bad), len(memory)) == (2, [1], 1)


def test_a_csv(where: str, fixed: FixedEncoder, tmp_path: Path) -> None:
    file = tmp_path / "big.csv"
    file.write_text('\ufeffprompt,target,subject,aliases\n"A, b is",c,A,x|y\nD is,,D,\n', encoding="utf-8")
    with open_memory(where, encoder=fixed) as memory:
        rows, bad = import_big(memory, file)
        assert rows == 2
        assert list(bad) == [3]
        (edit,) = memory.live()
        assert (edit.prompt, edit.aliases) == ("A, b is", ("x", "y"))


def test_commands_that_need_no_encoder(
    where: str, fixed: FixedEncoder, run: Callable[..., tuple[int, Any]], tmp_path: Path
) -> None:
    with open_memory(where, encoder=fixed) as memory:
        memory.add_many([fact(1), fact(2)])
    assert run("verify", "-m", where)[0] in (0, 1)  # the file's index is of another encoder
    assert run("restore", "--version", "1", "-m", where)[1] == {"events": 1, "version": 3, "live": 1}
    assert run("restore", "--at", "soon", "-m", where)[0] == 2
    assert run("restore", "--at", "2020-01-01", "-m", where)[1]["live"] == 0
    if "://" in where:
        assert run("verify", "-m", where, "--snapshot", str(tmp_path / "none")) == (
            0,
            {"events": 4, "live": 0, "namespaces": 0, "faults": [], "snapshot": "none", "state": "none", "whole": True},
        )
        assert index_path(where).is_relative_to(tmp_path)
    assert run("expire", "-m", where)[1] == {"retracted": 0, "live": 0}
    assert run("expire", "--before", "soon", "-m", where)[0] == 2


@pytest.mark.real_model
def test_commands_with_the_real_encoder(
    where: str, other: str, run: Callable[..., tuple[int, Any]], tmp_path: Path
) -> None:
    file = tmp_path / "big.jsonl"
    file.write_text("\n".join(json.dumps(fact(number).to_dict()) for number in range(5)) + "\n{")
    code, row = run("import", str(file), "-m", where)
    assert (code, row["rows"], row["live"], list(row["bad_lines"])) == (1, 6, 5, ["6"])
    snapshot = ["--snapshot", str(tmp_path / "s.index")] if "://" in where else []
    code, row = run("snapshot", "-m", where, *snapshot)
    assert (code, row["version"], row["notices"]) == (0, 5, [])
    assert row["bytes"] > 5 * 384 * 4
    code, row = run("verify", "-m", where, *snapshot)
    assert (code, row["snapshot"], row["whole"]) == (0, "whole", True)
    assert run("compact", "-m", where) == (0, {"vectors_dropped": 0})
    assert run("reencode", "-m", where) == (0, {"edits": 5})
    assert run("migrate", where, other) == (0, {"copied": 5})
    assert run("status", "-m", other)[1]["live"] == 5
