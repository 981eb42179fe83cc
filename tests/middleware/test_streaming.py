from __future__ import annotations

import threading
import time

import pytest
import torch

QUERY = "The capital of Kazakhstan is"
OTHER = "The capital of Peru is"
TURN = [{"role": "user", "content": "What is the capital of Kazakhstan?"}]


@pytest.mark.parametrize("strategy", ["auto", "ike"])
@pytest.mark.parametrize("prompt", [QUERY, OTHER, TURN, "Tell me a story about Kazakhstan."])
def test_the_pieces_are_the_answer(edited, llama, kazakhstan, strategy: str, prompt):
    model = edited(llama, strategy=strategy)
    stream = model.stream(prompt, max_new_tokens=16)
    pieces = list(stream)
    reply = model.ask(prompt, max_new_tokens=16)
    assert "".join(pieces) == reply.text
    assert all(pieces)
    assert [hit.edit_id for hit in stream.trace.fired] == [hit.edit_id for hit in reply.trace.fired]
    assert stream.trace.milliseconds["generate"] > 0


def test_no_piece_holds_the_beginning_of_a_stop_string(edited, llama, memory):
    model = edited(llama)
    whole = model.ask(OTHER, max_new_tokens=16, stop=[]).text
    for place in range(4, len(whole) - 4):
        options = {"max_new_tokens": 16, "stop": [whole[place : place + 4], whole[place : place + 2] + "~"]}
        assert "".join(model.stream(OTHER, **options)) == model.ask(OTHER, **options).text


def test_a_stop_string_that_never_comes_takes_nothing_away(edited, llama, memory):
    model = edited(llama)
    whole = model.ask(OTHER, max_new_tokens=16, stop=[]).text
    assert "".join(model.stream(OTHER, max_new_tokens=16, stop=[whole[-2:] + "~"])) == whole


def test_what_is_forced_comes_first_and_at_once(edited, llama, kazakhstan, calls):
    heard = calls(llama)
    with edited(llama).stream(QUERY, max_new_tokens=12) as stream:
        assert next(stream) == " Almaty"
    assert len(heard) <= 1


def test_nothing_runs_when_the_forced_beginning_is_all(edited, llama, kazakhstan, calls):
    heard = calls(llama)
    stream = edited(llama).stream(QUERY, max_new_tokens=1)
    assert " Almaty".startswith("".join(stream))
    assert heard == []


def test_closing_stops_the_model(edited, llama, memory):
    before = threading.active_count()
    stream = edited(llama).stream(OTHER, max_new_tokens=400, stop=[])
    next(stream)
    began = time.perf_counter()
    stream.close()
    assert threading.active_count() == before
    assert time.perf_counter() - began < 5
    assert list(stream) == []


def test_a_stream_that_nobody_reads_starts_nothing(edited, llama, memory, calls):
    heard = calls(llama)
    edited(llama).stream(OTHER).close()
    assert heard == []


def test_an_error_of_the_model_reaches_the_reader(edited, llama, memory):
    def fails(input_ids, scores):
        raise RuntimeError("broken")

    stream = edited(llama).stream(OTHER, max_new_tokens=4, logits_processor=[fails])
    with pytest.raises(RuntimeError, match="broken"):
        list(stream)


def test_own_criteria_and_seeds_count(edited, llama, memory):
    model = edited(llama)
    options = {"temperature": 1.2, "seed": 5, "max_new_tokens": 9, "stop": []}
    assert "".join(model.stream(OTHER, **options)) == model.ask(OTHER, **options).text

    seen = []

    def watch(input_ids, scores, **_):
        seen.append(len(input_ids))
        return torch.zeros(len(input_ids), dtype=torch.bool)

    list(model.stream(OTHER, max_new_tokens=3, stopping_criteria=[watch]))
    assert seen
