"""Files that a command is to write to are looked at before the work of minutes, not after it."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import pytest

from corrigenda.cli import main
from corrigenda.cli.common import CRASHED, check_output
from corrigenda.errors import CorrigendaError, ModelLocked, StoreUnavailable, UnknownEdit
from corrigenda.memory.memory import Memory
from corrigenda.testing import FixedEncoder


@pytest.mark.parametrize(
    "arguments",
    [
        ("trace", "Paris is in", "--subject", "Paris", "--json-file"),
        ("trace", "Paris is in", "--subject", "Paris", "--png"),
        ("neurons", "Paris is in", "--plot"),
        ("scope", "eval", "--pairs", "none.jsonl", "--plot"),
    ],
)
def test_a_place_that_cannot_be_written_is_refused_first(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
):
    for module in ("trace", "neurons"):
        monkeypatch.delattr(f"corrigenda.cli.{module}.load_model")
    result = run(*arguments, tmp_path, "--json")
    assert result.exit_code == 2
    assert "cannot be written to" in json.loads(result.stdout)["error"]["message"]


def test_what_is_there_may_be_written_wherever_it_is(tmp_path: Path) -> None:
    check_output(Path("/dev/null"))
    check_output(tmp_path / "new" / "folder" / "file.png")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "batch-0.safetensors"), 75),
        (StoreUnavailable("the server is away"), 75),
        (ModelLocked("another job prints into it"), 75),
        (FileNotFoundError(errno.ENOENT, "No such file", "plan.json"), 2),
        (UnknownEdit("no such edit"), 2),
    ],
)
def test_what_may_pass_is_told_from_a_refusal(
    run: Any, monkeypatch: pytest.MonkeyPatch, error: Exception, code: int
) -> None:
    def refuse(path: Path) -> None:
        raise error

    monkeypatch.setattr("corrigenda.cli.trace.check_output", refuse)
    result = run("trace", "Paris is in", "--subject", "Paris", "--png", "x.png", "--json")
    assert result.exit_code == code
    expected = error.message if isinstance(error, CorrigendaError) else error.strerror  # type: ignore[attr-defined]
    assert expected in json.loads(result.stdout)["error"]["message"]


def test_a_memory_is_no_place_to_write_to(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("corrigenda.cli.trace.load_model")
    with Memory.open(tmp_path / "corrigenda.db", encoder=FixedEncoder(8)) as memory:
        memory.add("The capital of Peru is", "Lima")
    trace = ("trace", "Paris is in", "--subject", "Paris", "--json-file")
    for command in (
        ("edit", "export", "corrigenda.db"),
        (*trace, "corrigenda.db"),
        (*trace, "corrigenda.db.scope.json"),
    ):
        result = run(*command, "--json")
        assert result.exit_code == 2
        error = json.loads(result.stdout)["error"]
        assert "not written over" in error["message"]
        assert error["remedy"]
    with Memory.open(tmp_path / "corrigenda.db", readonly=True) as memory:
        assert len(memory) == 1


def test_what_nobody_foresaw_is_told_from_an_answer(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    def broken() -> None:
        raise ZeroDivisionError("oops")

    monkeypatch.setattr(main, "app", broken)
    with pytest.raises(SystemExit) as exit:
        main.command()
    assert exit.value.code == CRASHED == 70
    assert "ZeroDivisionError: oops" in capsys.readouterr().err
