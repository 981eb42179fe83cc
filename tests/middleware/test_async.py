"""What asynchronous callers get is what plain callers get; the event loop goes on meanwhile."""

from __future__ import annotations

import asyncio
import threading

import pytest

from corrigenda.chat import Chat
from corrigenda.errors import CorrigendaError
from corrigenda.lm.stopping import LINE
from corrigenda.middleware.consult import Ask, consult, drive
from corrigenda.middleware.generate import EditedModel
from corrigenda.middleware.strategies.base import Plan
from corrigenda.middleware.strategies.ike import IKE

QUERY = "The capital of Kazakhstan is"
OTHER = "The capital of Peru is"
STRATEGIES = ("auto", "ike", "ike-unscoped", "memprompt", "grace")


@pytest.mark.parametrize("strategy", STRATEGIES)
async def test_awaited_answers_are_the_same(edited, llama, kazakhstan, strategy):
    model = edited(llama, strategy=strategy)
    prompts = [QUERY, OTHER, [{"role": "user", "content": QUERY}]]
    plain = model.ask_batch(prompts, max_new_tokens=6)
    awaited = await model.aask_batch(prompts, max_new_tokens=6)
    assert [reply.text for reply in awaited] == [reply.text for reply in plain]
    assert [reply.trace.fired for reply in awaited] == [reply.trace.fired for reply in plain]
    assert (await model.aask(QUERY, max_new_tokens=6)).text == plain[0].text
    stream = model.astream(QUERY, max_new_tokens=6)
    assert stream.trace.untouched
    assert "".join([piece async for piece in stream]) == plain[0].text
    assert stream.trace.fired == plain[0].trace.fired
    assert "generate" in stream.trace.milliseconds


async def test_the_event_loop_goes_on(edited, llama, kazakhstan, memory):
    model = edited(llama)
    entered, go_on = threading.Event(), threading.Event()
    encode = memory.encoder.encode

    def slow(texts):
        entered.set()
        assert go_on.wait(30)
        return encode(texts)

    memory.encoder.encode = slow
    asking = asyncio.create_task(model.aask(QUERY))
    await asyncio.to_thread(entered.wait, 30)
    assert not asking.done()  # and yet we are here
    go_on.set()
    assert (await asking).text.startswith(" Almaty")


async def test_without_edits_holds_for_what_is_awaited_inside(edited, llama, kazakhstan):
    model = edited(llama)
    with model.without_edits():
        assert (await model.aask(QUERY, max_new_tokens=2)).trace.untouched
    assert not (await model.aask(QUERY, max_new_tokens=2)).trace.untouched


async def test_a_stream_that_is_left_stops_the_model(edited, llama, kazakhstan):
    model = edited(llama)
    async with model.astream(OTHER, max_new_tokens=400, stop=()) as stream:
        assert await anext(stream)
    assert not [thread for thread in threading.enumerate() if thread.name == "corrigenda-stream"]
    with pytest.raises(StopAsyncIteration):
        await anext(stream)


async def test_a_stream_whose_reader_is_cancelled_stops_the_model(edited, llama, kazakhstan):
    model = edited(llama)
    stream = model.astream(OTHER, max_new_tokens=400, stop=())
    await anext(stream)

    async def read():
        async for _ in stream:
            pass

    reading = asyncio.create_task(read())
    await asyncio.sleep(0.01)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    for _ in range(600):
        if not [thread for thread in threading.enumerate() if thread.name == "corrigenda-stream"]:
            break
        await asyncio.sleep(0.05)
    else:
        pytest.fail("the model goes on for nobody")
    await stream.aclose()


async def test_an_error_of_the_model_reaches_the_reader(edited, llama):
    with pytest.raises(Exception, match="temperature"):
        async for _ in edited(llama).astream(OTHER, temperature=-1.0):
            pass


class Knowing:
    """Asks the model once, and knows the answer to everything then."""

    name = "knowing"

    def plan(self, request, edits, *, room=None):
        raise AssertionError

    def consult(self, requests, *, namespace, room):
        from corrigenda.chat import Trace
        from corrigenda.middleware.consult import Decision

        said = yield Ask(tuple(Chat.of(request.query, max_new_tokens=3, stop=LINE) for request in requests))
        return [
            Decision(request, Plan(request, answer=f"I heard{text}"), Trace(strategy=self.name))
            for request, text in zip(requests, said, strict=True)
        ]


async def test_a_strategy_may_ask_and_know(edited, llama):
    model = edited(llama, strategy=Knowing())
    with model.without_edits():
        bare = model.ask(OTHER, max_new_tokens=3, stop=LINE).text
    wanted = f"I heard{bare}"
    assert model.ask(OTHER).text == wanted
    assert (await model.aask(OTHER)).text == wanted
    assert list(model.stream(OTHER)) == [wanted]
    assert [piece async for piece in model.astream(OTHER)] == [wanted]
    assert [reply.text for reply in model.complete_batch([OTHER])] == [wanted]
    ids = llama.tokenizer([OTHER], return_tensors="pt")
    row = model.generate(**ids, max_new_tokens=64, num_return_sequences=2)[1, ids.input_ids.shape[1] :]
    assert llama.tokenizer.decode(row, skip_special_tokens=True) == wanted


def test_asking_needs_somebody_to_ask(memory, edited, llama):
    with pytest.raises(CorrigendaError, match="several times"):
        drive(consult([Chat.of(OTHER)], strategy=Knowing()), memory, edited(llama).scope)


def test_ike_is_driven_alike_by_plan_and_consult(edited, llama, kazakhstan, candidate):
    model = edited(llama, strategy=IKE())
    (decision,) = model.decide([Chat.of(QUERY)])
    assert decision.plan == IKE().plan(Chat.of(QUERY), [candidate(kazakhstan, QUERY)])
    assert isinstance(model, EditedModel)
