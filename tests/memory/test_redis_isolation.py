"""No namespace sees another's edits, and all processes see one memory, whatever is done in whatever order."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from corrigenda.edit import Edit
from corrigenda.errors import ConflictingEdit, UnknownEdit
from corrigenda.memory.memory import Memory
from corrigenda.testing import FixedEncoder

SPACES = ("default", "a", "b", "A", "a:b", "{a}")
LANDS = ("Oz", "Ur", "Ys")
CITIES = ("Alpha", "Beta", "Gamma")

operation = st.tuples(
    st.sampled_from(("add", "add", "add", "retract", "amend", "switch", "refresh")),
    st.sampled_from(SPACES),
    st.sampled_from(LANDS),
    st.sampled_from(CITIES),
    st.sampled_from(("supersede", "coexist", "refuse")),
    st.integers(0, 1),
)


def fact(space: str, land: str, city: str) -> Edit:
    return Edit(f"The capital of {land} is", city, subject=land, relation="capital", namespace=space)


class Model:
    """What should be live, by namespace, in the plainest way to say it."""

    def __init__(self) -> None:
        self.live: dict[str, dict[str, Edit]] = {space: {} for space in SPACES}

    def rivals(self, edit: Edit) -> list[Edit]:
        return [
            other
            for other in self.live[edit.namespace].values()
            if other.subject == edit.subject and other.id != edit.id
        ]

    def add(self, edit: Edit, rule: str) -> None:
        if edit.id in self.live[edit.namespace]:
            return
        rivals = self.rivals(edit) if rule != "coexist" else []
        if rivals and rule == "refuse":
            raise ConflictingEdit("refused")
        for rival in rivals:
            del self.live[edit.namespace][rival.id]
        self.live[edit.namespace][edit.id] = edit

    def retract(self, edit: Edit) -> None:
        if edit.id not in self.live[edit.namespace]:
            raise UnknownEdit("not live")
        del self.live[edit.namespace][edit.id]


def check(memory: Memory, model: Model) -> None:
    memory.refresh()
    vector = memory.encoder.encode(["The capital of Oz is"])
    for space, live in model.live.items():
        assert {edit.id for edit in memory.live(space)} == set(live)
        (hits,) = memory.search(vector, 50, space)
        assert {hit.edit.id for hit in hits} == set(live)
        assert all(hit.edit.namespace == space for hit in hits)
        named = {edit_id for mention in memory.mentions("Oz, Ur and Ys", space) for edit_id in mention.edit_ids}
        assert named == set(live)
    assert memory.search(vector, 50, "nobody's") == [[]]


def play(moves: list[tuple[Any, ...]], memories: list[Memory], model: Model) -> None:
    """Do ``moves`` with several memories on one ledger, and with the model; they must agree about each."""
    for do, space, land, city, rule, who in moves:
        memory, edit = memories[who], fact(space, land, city)
        expected: type[Exception] | None = None
        if do == "add":
            with suppress(ConflictingEdit):
                expected = ConflictingEdit
                model.add(edit, rule)
                expected = None
            attempt(expected, partial(memory.add, edit, on_conflict=rule))
        elif do == "retract":
            with suppress(UnknownEdit):
                expected = UnknownEdit
                model.retract(edit)
                expected = None
            attempt(expected, partial(memory.retract, edit.id))
        elif do == "amend" and edit.id in model.live[space]:
            new = edit.replace(target=f"{city} II")
            model.retract(edit)
            for rival in model.rivals(new):
                model.retract(rival)
            model.live[space][new.id] = new
            memory.refresh()
            memory.amend(edit.id, target=new.target)
        else:
            check(memory, model)
    for memory in memories:
        check(memory, model)
    assert memories[0].version == memories[1].version


def attempt(expected: type[Exception] | None, action: Callable[[], object]) -> None:
    if expected is None:
        action()
        return
    with pytest.raises(expected):
        action()


@pytest.fixture(params=["sqlite", pytest.param("redis", marks=pytest.mark.redis)])
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[], list[Memory]]]:
    """Open two memories on a new ledger."""
    encoder = FixedEncoder(16)
    opened: list[Memory] = []

    def close() -> None:
        while opened:
            opened.pop().close()

    def call() -> list[Memory]:
        close()
        name = uuid.uuid4().hex
        for _ in range(2):
            if request.param == "redis":
                url = request.getfixturevalue("redis_server").url
                opened.append(Memory.connect(url, ledger=name, encoder=encoder, follow=False))
            else:
                opened.append(Memory.open(tmp_path / name, encoder=encoder))
        return list(opened)

    yield call
    close()


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True)
@given(moves=st.lists(operation, min_size=20, max_size=40))
def test_namespaces_and_processes_agree(pair: Callable[[], list[Memory]], moves: list[tuple[Any, ...]]) -> None:
    play(moves, pair(), Model())


@pytest.mark.slow
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(moves=st.lists(operation, min_size=50, max_size=120))
def test_namespaces_and_processes_agree_at_length(
    pair: Callable[[], list[Memory]], moves: list[tuple[Any, ...]]
) -> None:
    """Ten thousand operations and more for each store."""
    play(moves, pair(), Model())
