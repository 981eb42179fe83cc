"""Files that a command is to write to are looked at before the work of minutes, not after it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from corrigenda.cli import main
from corrigenda.cli.common import CRASHED


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


def test_what_nobody_foresaw_is_told_from_an_answer(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    def broken() -> None:
        raise ZeroDivisionError("oops")

    monkeypatch.setattr(main, "app", broken)
    with pytest.raises(SystemExit) as exit:
        main.command()
    assert exit.value.code == CRASHED == 70
    assert "ZeroDivisionError: oops" in capsys.readouterr().err
