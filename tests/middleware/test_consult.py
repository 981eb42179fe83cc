from __future__ import annotations

import asyncio

import pytest

from corrigenda.chat import Chat
from corrigenda.memory.scope import Consideration
from corrigenda.middleware.consult import Judge, Refresh, consult, drive, drive_async
from corrigenda.middleware.strategies.auto import Auto, WhiteBox
from corrigenda.middleware.strategies.base import Room
from corrigenda.middleware.strategies.ike import IKE

QUERY = "The capital of Kazakhstan is"


def chat(*contents: str) -> Chat:
    roles = ["user", "assistant"] * len(contents)
    return Chat.of([{"role": role, "content": text} for role, text in zip(roles, contents, strict=False)])


def test_the_flow_says_what_it_needs_and_does_nothing_itself():
    requests = [Chat.of("a"), chat("b", "c", "d"), Chat.of("e"), chat("b", "c", "f")]
    flow = consult(requests, strategy=IKE(), namespace="n")
    assert next(flow) == Refresh()
    assert flow.send(7) == Judge(("a", "e"), "n")
    assert flow.send([Consideration("a"), Consideration("e")]) == Judge(("d", "f"), "n", ("b", "c"))
    with pytest.raises(StopIteration) as done:
        flow.send([Consideration("d"), Consideration("f")])
    decisions = done.value.value
    assert [item.request for item in decisions] == requests
    assert all(item.request is request for item, request in zip(decisions, requests, strict=True))
    assert all(item.plan is None and item.trace.untouched for item in decisions)
    assert {item.trace.ledger_version for item in decisions} == {7}


def test_a_system_turn_is_no_context_and_no_query():
    request = Chat.of([{"role": "system", "content": "s"}, {"role": "user", "content": "q"}])
    silent = Chat.of([{"role": "system", "content": "s"}])
    flow = consult([request, silent], strategy=IKE())
    next(flow)
    assert flow.send(1) == Judge(("q",), "default")
    with pytest.raises(StopIteration) as done:
        flow.send([Consideration("q")])
    assert [item.plan for item in done.value.value] == [None, None]


def test_no_request_needs_no_judge():
    flow = consult([], strategy=Auto())
    next(flow)
    with pytest.raises(StopIteration):
        flow.send(0)


def test_what_fires_is_traced(candidate, kazakhstan):
    hit = candidate(kazakhstan, QUERY)
    flow = consult([Chat.of(QUERY)], strategy=Auto(), room=Room(100))
    next(flow)
    flow.send(3)
    assert flow.send([Consideration(QUERY, (hit,), {"encode": 1.5})]) == WhiteBox()
    with pytest.raises(StopIteration) as done:
        flow.send(True)
    (decision,) = done.value.value
    assert decision.plan.prefix == " Almaty"
    (fired,) = decision.trace.fired
    assert (fired.edit_id, fired.statement) == (kazakhstan.id, "The capital of Kazakhstan is Almaty.")
    assert (fired.probability, fired.margin) == (0.9, pytest.approx(0.4))
    assert decision.trace.strategy == "auto/constrained"
    assert decision.trace.milliseconds["encode"] == 1.5
    assert set(decision.trace.milliseconds) == {"encode", "plan"}


def test_both_drivers_decide_alike(edited, llama, memory, kazakhstan):
    model = edited(llama)
    requests = [Chat.of(QUERY), Chat.of("The capital of Peru is")]

    def flow():
        return consult(requests, strategy=model.strategy)

    waited = asyncio.run(drive_async(flow(), memory, model.scope))
    driven = drive(flow(), memory, model.scope)
    assert [item.plan for item in waited] == [item.plan for item in driven]
    assert [bool(item.plan) for item in driven] == [True, False]
    assert driven[0].trace.ledger_version == memory.version == 1


def test_errors_of_what_is_needed_reach_the_caller(memory, edited, llama):
    scope = edited(llama).scope
    memory.add("The capital of Kazakhstan is", "Almaty", subject="Kazakhstan")

    def broken(*_: object, **__: object) -> None:
        raise ConnectionError("encoder gone")

    memory.encoder.encode = broken
    with pytest.raises(ConnectionError):
        drive(consult([Chat.of("x")], strategy=Auto()), memory, scope)
    with pytest.raises(ConnectionError):
        asyncio.run(drive_async(consult([Chat.of("x")], strategy=Auto()), memory, scope))
