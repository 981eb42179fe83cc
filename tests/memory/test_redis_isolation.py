"""No namespace sees another's edits, and all processes see one memory, whatever is done in whatever order."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from corrigenda import errors
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


class Here:
    """A memory of this process, with what the test does to one."""

    def __init__(self, where: str) -> None:
        encoder = FixedEncoder(16)
        url, _, ledger = where.partition("#")
        remote = "://" in where
        self.memory: Memory = (
            Memory.connect(url, ledger=ledger, encoder=encoder, follow=False)
            if remote
            else Memory.open(where, encoder=encoder)
        )

    def add(self, edit: dict[str, Any], rule: Any) -> None:
        self.memory.add(Edit.from_dict(edit), on_conflict=rule)

    def retract(self, edit_id: str) -> None:
        self.memory.retract(edit_id)

    def amend(self, edit_id: str, target: str) -> None:
        self.memory.refresh()
        self.memory.amend(edit_id, target=target)

    def look(self, space: str) -> list[list[str]]:
        """Return what is live, what a search finds, and what is mentioned in one namespace; ids, sorted."""
        self.memory.refresh()
        (hits,) = self.memory.search(self.memory.encoder.encode(["The capital of Oz is"]), 50, space)
        assert all(hit.edit.namespace == space for hit in hits)
        mentions = self.memory.mentions("Oz, Ur and Ys", space)
        return [
            sorted(edit.id for edit in self.memory.live(space)),
            sorted(hit.edit.id for hit in hits),
            sorted({edit_id for mention in mentions for edit_id in mention.edit_ids}),
        ]

    def version(self) -> int:
        return self.memory.version

    def close(self) -> None:
        self.memory.close()


class There:
    """The same in a process of its own, which serves one memory after the other."""

    def __init__(self) -> None:
        code = "import test_redis_isolation; test_redis_isolation.serve()"
        path = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parent.parent), *sys.path])
        self._process = subprocess.Popen(
            [sys.executable, "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": path},
        )

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            assert self._process.stdin is not None
            assert self._process.stdout is not None
            self._process.stdin.write(json.dumps([name, *arguments]) + "\n")
            self._process.stdin.flush()
            answer = json.loads(self._process.stdout.readline())
            if "error" in answer:
                raise getattr(errors, answer["error"])("in the other process")
            return answer["value"]

        return call

    def end(self) -> None:
        self._process.communicate()


def serve() -> None:
    """Do to memories what standard input says, a JSON list a line, and answer on standard output."""
    player: Any = None
    for line in sys.stdin:
        name, *arguments = json.loads(line)
        try:
            if name == "open":
                player = Here(*arguments)
            answer: dict[str, Any] = {"value": None if name == "open" else getattr(player, name)(*arguments)}
        except errors.CorrigendaError as error:
            answer = {"error": type(error).__name__}
        print(json.dumps(answer), flush=True)


def check(player: Any, model: Model) -> None:
    for space, live in model.live.items():
        assert player.look(space) == [sorted(live)] * 3
    assert player.look("nobody's") == [[]] * 3


def play(moves: list[tuple[Any, ...]], players: Sequence[Any], model: Model) -> None:
    """Do ``moves`` with memories of two processes on one ledger, and with the model; they must agree about each."""
    for do, space, land, city, rule, who in moves:
        player, edit = players[who], fact(space, land, city)
        expected: type[Exception] | None = None
        if do == "add":
            with suppress(ConflictingEdit):
                expected = ConflictingEdit
                model.add(edit, rule)
                expected = None
            attempt(expected, partial(player.add, edit.to_dict(), rule))
        elif do == "retract":
            with suppress(UnknownEdit):
                expected = UnknownEdit
                model.retract(edit)
                expected = None
            attempt(expected, partial(player.retract, edit.id))
        elif do == "amend" and edit.id in model.live[space]:
            new = edit.replace(target=f"{city} II")
            model.retract(edit)
            for rival in model.rivals(new):
                model.retract(rival)
            model.live[space][new.id] = new
            player.amend(edit.id, new.target)
        else:
            check(player, model)
    for player in players:
        check(player, model)
    assert players[0].version() == players[1].version()


def attempt(expected: type[Exception] | None, action: Callable[[], object]) -> None:
    if expected is None:
        action()
        return
    with pytest.raises(expected):
        action()


@pytest.fixture(params=["sqlite", pytest.param("redis", marks=pytest.mark.redis)])
def players(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[], list[Any]]]:
    """Open a new ledger in this process and in another."""
    there, here = There(), ExitStack()

    def call() -> list[Any]:
        here.close()
        name = uuid.uuid4().hex
        on_server = request.param == "redis"
        where = f"{request.getfixturevalue('redis_server').url}#{name}" if on_server else str(tmp_path / name)
        one = Here(where)
        here.callback(one.close)
        there.open(where)
        here.callback(there.close)
        return [one, there]

    yield call
    here.close()
    there.end()


@settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(moves=st.lists(operation, min_size=20, max_size=40))
def test_namespaces_and_processes_agree(players: Callable[[], list[Any]], moves: list[tuple[Any, ...]]) -> None:
    play(moves, players(), Model())


@pytest.mark.slow
def test_namespaces_and_processes_agree_at_length(players: Callable[[], list[Any]]) -> None:
    """Ten thousand operations and more for each store."""
    done = 0

    @settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(moves=st.lists(operation, min_size=50, max_size=120))
    def at_length(moves: list[tuple[Any, ...]]) -> None:
        nonlocal done
        play(moves, players(), Model())
        done += len(moves)

    at_length()
    print(f"{done} operations")
    assert done >= 10_000
