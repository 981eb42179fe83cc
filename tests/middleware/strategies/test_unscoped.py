from __future__ import annotations

import pytest

from corrigenda.chat import Chat, Message
from corrigenda.middleware.strategies.base import Room, create
from corrigenda.middleware.strategies.demonstrations import Nearest, built_in, mixed
from corrigenda.middleware.strategies.ike import IKE
from corrigenda.middleware.strategies.unscoped import unscoped
from corrigenda.testing import FixedEncoder


def test_kinds_are_mixed_one_to_three_to_four():
    counts = [sum(item.kind == kind for item in mixed(built_in(), 32)) for kind in ("copy", "update", "retain")]
    assert counts == [4, 12, 16]
    chosen = Nearest(built_in(), FixedEncoder(64), mix=True)("The capital of Norway is", 8)
    assert [sum(item.kind == kind for item in chosen) for kind in ("copy", "update", "retain")] == [1, 3, 4]
    assert chosen[-1].query == "The capital of Norway is"


def test_every_request_is_asked_in_the_light_of_the_most_similar_edit(edited, llama, memory, kazakhstan, calls):
    memory.add("Who wrote Hamlet?", "Ada Lovelace", subject="Hamlet")
    model, heard = edited(llama, strategy=IKE(scope=False, count=2)), calls(llama)
    reply = model.ask("The capital of Peru is", max_new_tokens=3)
    text = llama.tokenizer.decode(heard[0][1]["input_ids"][0])
    fact = "New Fact: The capital of Kazakhstan is Almaty\nPrompt: "
    assert text.endswith(f"{fact}The capital of Kazakhstan is Almaty\n\n{fact}The capital of Peru is")
    assert text.count("New Fact:") == 4
    assert reply.trace.fired[0].edit_id == kazakhstan.id
    assert reply.trace.strategy == "ike/unscoped"


def test_without_edits_nothing_is_touched(edited, llama):
    assert edited(llama, strategy="ike-unscoped").ask("Hello", max_new_tokens=3).trace.untouched


def decide(hit, room=None):
    request = Chat((Message("user", "The capital of Peru is"),), completion=True)
    silent = Chat((Message("assistant", "hello"),))
    flow = unscoped([request, silent], built_in(), 32, namespace="default", room=room or Room())
    next(flow)
    flow.send(1)
    with pytest.raises(StopIteration) as done:
        flow.send(([hit], FixedEncoder(32)))
    return done.value.value


def test_the_paper_shows_32_and_drops_what_does_not_fit(memory, kazakhstan):
    ((hit,),) = memory.search(memory.encoder.encode(["The capital of Peru is"]), 1)
    whole, silent = decide(hit)
    assert silent.plan is None
    assert whole.plan.request.query.count("New Fact:") == 34
    few, _ = decide(hit, Room(400))
    assert 2 <= few.plan.request.query.count("New Fact:") < 34
    assert few.plan.request.query.endswith("Prompt: The capital of Peru is")


def test_it_is_registered():
    strategy = create("ike-unscoped")
    assert (strategy.count, strategy.scope) == (32, False)
