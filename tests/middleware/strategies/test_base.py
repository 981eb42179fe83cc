from __future__ import annotations

import subprocess
import sys
from importlib.metadata import EntryPoint
from typing import Any

import pytest

from corrigenda.errors import CorrigendaError, UnknownName
from corrigenda.middleware.strategies import base
from corrigenda.middleware.strategies.auto import Auto
from corrigenda.middleware.strategies.base import Room, Strategy, available, create
from corrigenda.middleware.strategies.ike import IKE


def register(monkeypatch: pytest.MonkeyPatch, *values: tuple[str, str]) -> None:
    points = [EntryPoint(name, value, base.GROUP) for name, value in values]
    monkeypatch.setattr(base, "entry_points", lambda group: [point for point in points if point.group == group])


def test_the_built_in_strategies_come_through_the_door_that_everyone_uses():
    assert {"auto", "ike"} <= set(available())
    assert isinstance(create("auto"), Auto)
    assert isinstance(create("ike"), IKE)
    assert isinstance(create("ike"), Strategy)


def test_an_unknown_name_suggests_a_known_one():
    with pytest.raises(UnknownName, match="Did you mean 'auto'"):
        create("atuo")


def test_two_packages_under_one_name_are_an_error(monkeypatch: pytest.MonkeyPatch):
    register(monkeypatch, ("mine", "one:A"), ("mine", "two:B"))
    with pytest.raises(CorrigendaError, match="registered 2 times: one:A, two:B"):
        create("mine")


def test_one_package_found_twice_is_none(monkeypatch: pytest.MonkeyPatch):
    place = "corrigenda.middleware.strategies.ike:IKE"
    register(monkeypatch, ("mine", place), ("mine", place))
    assert create("mine").name == "ike"


def test_what_is_no_strategy_is_refused(monkeypatch: pytest.MonkeyPatch):
    register(monkeypatch, ("odd", "builtins:dict"))
    with pytest.raises(UnknownName, match="has no name and plan"):
        create("odd")


def test_names_are_listed_without_importing_strategies():
    code = (
        "import sys; from corrigenda.middleware.strategies.base import available; available(); "
        "print(any(name.endswith(('.ike', '.auto')) or name == 'torch' for name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize(("text", "fits"), [("abcd", True), ("abcde", True), ("abcdef ghijkl", False)])
def test_room_counts_only_what_may_be_too_long(text: str, fits: bool):
    counted: list[str] = []

    def count(text: str) -> int:
        counted.append(text)
        return len(text) // 2

    assert Room(4, count).fits(text) == fits
    assert bool(counted) == (len(text) > 4)


def test_create_calls_without_arguments(monkeypatch: pytest.MonkeyPatch):
    seen: list[Any] = []
    monkeypatch.setattr(IKE, "__init__", lambda self, **settings: seen.append(settings))
    create("ike")
    assert seen == [{}]
