from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch

from corrigenda.chat import Chat, Message
from corrigenda.errors import InvalidRequest, UnknownName
from corrigenda.lm.stopping import UNTIL_EOS, Stop
from corrigenda.lm.tokens import token_ids
from corrigenda.memory.memory import Memory
from corrigenda.middleware import answering
from corrigenda.middleware.answering import Job, Options, undisturbed
from corrigenda.middleware.generate import EditedModel
from corrigenda.middleware.strategies.auto import Auto
from corrigenda.middleware.strategies.base import Plan
from corrigenda.testing import FixedEncoder

QUERY = "The capital of Kazakhstan is"
OTHER = "The capital of Peru is"
TURN = [{"role": "user", "content": "What is the capital of Kazakhstan?"}]


# An empty memory, or a request that no edit concerns


@pytest.mark.parametrize("prompt", [OTHER, [{"role": "user", "content": "Who wrote Hamlet?"}]])
def test_what_no_edit_concerns_reaches_the_model_as_without_edits(edited, llama, calls, kazakhstan, prompt):
    model, heard = edited(llama), calls(llama)
    options = {"temperature": 0.3, "top_k": 5, "max_new_tokens": 4, "seed": 3}
    with model.without_edits():
        bare = model.ask(prompt, **options)
    reply = model.ask(prompt, **options)
    (_, first), (_, second) = heard
    assert set(first) == set(second)
    for name, value in first.items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, second[name])
        elif name != "stopping_criteria":
            assert value == second[name]
    assert (first["temperature"], first["top_k"], first["do_sample"]) == (0.3, 5, True)
    assert reply.text == bare.text
    assert reply.trace.untouched
    assert reply.trace.strategy is None


def test_an_empty_memory_changes_nothing(edited, llama, memory):
    model = edited(llama)
    reply = model.ask(QUERY, max_new_tokens=3)
    ids = torch.tensor([token_ids(llama, QUERY)])
    out = llama.model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=3, do_sample=False)
    assert llama.tokenizer.decode(out[0, ids.shape[1] :]).startswith(reply.text)
    assert reply.trace.ledger_version == 0
    assert set(reply.trace.milliseconds) == {"encode", "search", "judge", "generate"}


# An edit fires


def test_the_answer_begins_with_the_target(edited, llama, kazakhstan):
    model = edited(llama)
    reply = model.ask(QUERY, max_new_tokens=12)
    assert reply.text.startswith(" Almaty")
    assert not reply.text[7:8].isalnum()
    assert reply.trace.strategy == "auto/constrained"
    assert reply.trace.fired[0].edit_id == kazakhstan.id
    assert reply.trace.fired[0].margin == pytest.approx(0.48)
    assert set(reply.trace.milliseconds) == {"encode", "search", "judge", "plan", "generate"}
    assert model.ask(TURN, max_new_tokens=12).text.startswith("Almaty")
    assert str(reply) == reply.text


def test_an_answer_is_no_longer_than_allowed(edited, llama, kazakhstan):
    model = edited(llama)
    forced = len(llama.tokenizer(" Almaty").input_ids)
    assert forced > 2
    for longest in (1, 2, forced, forced + 1):
        text = model.ask(QUERY, max_new_tokens=longest, stop=UNTIL_EOS).text
        assert len(llama.tokenizer(text).input_ids) <= longest
        assert " Almaty".startswith(text) if longest <= forced else text.startswith(" Almaty")


def test_ike_asks_with_the_record_and_answers_with_one_line(edited, llama, calls, kazakhstan):
    model, heard = edited(llama, strategy="ike"), calls(llama)
    reply = model.ask(TURN, max_new_tokens=5)
    text = llama.tokenizer.decode(heard[0][1]["input_ids"][0])
    assert text.endswith("New Fact: The capital of Kazakhstan is - Almaty\nAnswer:")
    assert reply.text == reply.text.strip()
    assert "\n" not in reply.text


def test_batches_answer_as_one_by_one(edited, llama, kazakhstan):
    for strategy in ("auto", "ike"):
        model = edited(llama, strategy=strategy)
        prompts = [OTHER, QUERY, TURN, "Tell me a story.", "Kazakhstan's capital is", OTHER]
        together = model.ask_batch(prompts, max_new_tokens=6)
        assert [reply.text for reply in together] == [model.ask(prompt, max_new_tokens=6).text for prompt in prompts]
        assert [reply.trace.untouched for reply in together] == [True, False, False, True, False, True]
    assert model.ask_batch([]) == []


def test_options_of_a_request_count_when_it_is_called(edited, llama, calls, kazakhstan):
    model, heard = edited(llama), calls(llama)
    reply = model(Chat.of(OTHER, max_new_tokens=2, repetition_penalty=1.3))
    assert heard[0][1]["repetition_penalty"] == 1.3
    assert reply.trace.untouched


def test_seeds_repeat_and_leave_the_state_of_chance_alone(edited, llama, memory):
    model = edited(llama)
    state = torch.random.get_rng_state()
    texts = {model.ask(OTHER, temperature=1.5, max_new_tokens=8, seed=seed, stop=UNTIL_EOS).text for seed in (1, 1, 2)}
    assert len(texts) == 2
    assert torch.equal(torch.random.get_rng_state(), state)


def test_stops(edited, llama, memory):
    model = edited(llama)
    whole = model.ask(OTHER, max_new_tokens=20, stop=UNTIL_EOS).text
    mark = whole[5:7]
    assert model.ask(OTHER, max_new_tokens=20, stop=mark).text == whole[: whole.index(mark)]
    assert model.ask(OTHER, max_new_tokens=20, stop=[mark]).text == whole[: whole.index(mark)]
    assert model.ask(OTHER, max_new_tokens=20, stop=Stop(newline=False, sentence=False, texts=(mark,))).text


def test_a_caller_s_own_processors_and_criteria_stay(edited, llama, kazakhstan):
    model, seen = edited(llama), []

    def watch(input_ids, scores, **_):
        seen.append("processor")
        return scores

    def never(input_ids, scores, **_):
        seen.append("criterion")
        return torch.zeros(len(input_ids), dtype=torch.bool)

    model.ask(QUERY, max_new_tokens=8, logits_processor=[watch], stopping_criteria=[never])
    assert {"processor", "criterion"} <= set(seen)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens must be at least 1"),
        ({"max_new_tokens": "many"}, "not 'many'"),
        ({"max_length": 0}, "max_length must be at least 1"),
        ({"seed": 0.5}, "seed must be a whole number"),
        ({"input_ids": [1]}, "'input_ids' is not taken here"),
    ],
)
def test_options_out_of_range(edited, llama, memory, options, message: str):
    with pytest.raises(InvalidRequest, match=message):
        edited(llama).ask(OTHER, **options)


def test_defaults_are_greedy_unless_sampling_is_asked_for():
    assert Options.of({}).passed == {"max_new_tokens": 64, "do_sample": False}
    assert Options.of({"top_p": 0.9}).passed["do_sample"] is True
    assert Options.of({"top_p": 0.9, "do_sample": False}).passed["do_sample"] is False
    assert Options.of({"max_length": 9}).passed == {"max_length": 9, "do_sample": False}
    assert Options.of({"max_length": 9, "max_new_tokens": None}) == Options.of({"max_length": 9})
    assert Options.of({"max_length": None, "max_new_tokens": None}) == Options.of({})
    assert "do_sample" not in Options.of({"generation_config": object()}).passed
    assert Options.of({"temperature": None, "top_p": None}).passed["do_sample"] is False
    assert Options.of({"temperature": 0, "top_p": 0.9}).passed["do_sample"] is False


def test_unset_and_zero_temperatures_are_greedy(edited, llama, memory):
    model = edited(llama)
    said = model.ask(OTHER, max_new_tokens=8).text
    for options in ({"temperature": None, "top_p": None}, {"temperature": 0}, {"temperature": 0.0, "do_sample": True}):
        assert model.ask(OTHER, max_new_tokens=8, **options).text == said


@pytest.mark.parametrize("strategy", ["auto", "ike"])
def test_max_length_counts_the_caller_s_own_prompt(edited, llama, t5, kazakhstan, strategy: str):
    for lm in (llama, t5):
        model = edited(lm, strategy=strategy)
        prompts = [QUERY, f"Tell me a story. {OTHER}", f"Tell me a story. {QUERY}", OTHER]
        replies = model.ask_batch(prompts, max_length=24, stop=[])
        for prompt, reply in zip(prompts, replies, strict=True):
            own = 1 if lm is t5 else len(token_ids(lm, prompt))
            assert reply.text == model.ask(prompt, max_new_tokens=24 - own, stop=[]).text
            assert reply.text == "".join(model.stream(prompt, max_length=24, stop=[]))
    assert edited(llama).ask(OTHER, max_length=1, stop=[]).text == edited(llama).ask(OTHER, max_new_tokens=1).text


@pytest.mark.parametrize("prompt", ["", "  \n ", [], [{"role": "user", "content": ""}], 3, "a\x00b"])
def test_nothing_to_answer(edited, llama, kazakhstan, prompt):
    with pytest.raises(InvalidRequest):
        edited(llama).ask(prompt)


@pytest.mark.parametrize("start", ["Peru ", "The capital of Kazakhstan is "])
def test_too_long_for_the_model(edited, llama, kazakhstan, start: str):
    model = edited(llama)
    for ask in (model.ask, model.stream):
        with pytest.raises(InvalidRequest, match="tokens; tiny reads 512"):
            ask(start + "word " * 600)


def test_a_long_conversation_leaves_demonstrations_out_rather_than_fail(edited, llama, calls, kazakhstan):
    model, heard = edited(llama, strategy="ike"), calls(llama)
    model.ask(QUERY, max_new_tokens=2)
    shown = heard[0][1]["input_ids"].shape[1]
    assert shown < llama.context_length
    assert "New Fact" in llama.tokenizer.decode(heard[0][1]["input_ids"][0])


@pytest.mark.parametrize("strategy", ["auto", "ike"])
def test_an_answer_ends_with_the_context(edited, gpt2, kazakhstan, strategy: str):
    model = edited(gpt2, strategy=strategy)
    for count in (6, 7, 8):
        text = "Tell me a story about the king. " * count + "Then write a poem about "
        for prompt in (text + "Kazakhstan", text + "Peru"):
            options = {"max_new_tokens": 64, "stop": []}
            assert "".join(model.stream(prompt, **options)) == model.ask(prompt, **options).text


def test_where_the_context_ends_neighbours_answer_in_full(edited, gpt2, memory):
    model = edited(gpt2)
    prompts = [OTHER, "Tell me a story about the king. " * 13]
    assert 100 < len(token_ids(gpt2, prompts[1])) < gpt2.context_length
    options = {"max_new_tokens": 48, "stop": []}
    replies = model.ask_batch(prompts, **options)
    assert [reply.text for reply in replies] == [model.ask(prompt, **options).text for prompt in prompts]


def test_jobs_share_a_call_as_far_as_the_context_holds_the_longest_of_each(llama):
    jobs = [Job((0,) * size, (), "", UNTIL_EOS, False, False) for size in (5, 500, 480, 20)]
    assert llama.context_length == 512
    for options in (Options(None, None, {"max_new_tokens": 25}), Options(None, None, {"max_length": 26})):
        assert undisturbed(llama, jobs, range(4), options) == [[1], [2, 3, 0]]


def test_jobs_of_one_length_share_a_call_where_the_context_ends_their_answers(edited, gpt2, memory, calls):
    jobs = [Job((0,) * size, (), "", UNTIL_EOS, False, False) for size in (5, 9, 5, 9, 4)]
    for longest in (gpt2.context_length, 1000):
        options = Options(None, None, {"max_new_tokens": longest})
        assert undisturbed(gpt2, jobs, range(5), options) == [[1, 3], [0, 2], [4]]
    model = edited(gpt2)
    prompts = ["Tell me a story about the king.", *[f"Who wrote {letter}?" for letter in "xyz"]]
    options = {"max_new_tokens": 128, "stop": []}
    alone = [model.ask(prompt, **options).text for prompt in prompts]
    heard = calls(gpt2)
    assert [reply.text for reply in model.ask_batch(prompts, **options)] == alone
    assert [len(call["input_ids"]) for _, call in heard] == [1, 3]


def test_the_callers_own_prompt_is_counted_where_that_matters_only(llama, monkeypatch):
    """A plan may have written a record of its own, for a caller whose turns the model's template refuses."""
    seen = []
    real = answering.render
    monkeypatch.setattr(answering, "render", lambda lm, chat: seen.append(chat) or real(lm, chat))
    request, record = Chat.of(TURN), Chat.of("New Fact: x\nAnswer:")
    assert Job.of(llama, request, Plan(record), None).own == 1
    assert seen == [record]
    assert Job.of(llama, request, Plan(record), None, counted=True).own == len(token_ids(llama, real(llama, request)))


def test_demonstrations_make_room_for_the_answer(edited, gpt2, calls, kazakhstan):
    model, heard = edited(gpt2, strategy="ike"), calls(gpt2)
    for longest in (1, 60):
        model.ask(TURN, max_new_tokens=longest, stop=[])
    short, long = (call["input_ids"].shape[1] for _, call in heard)
    assert short > long
    assert long + 60 <= gpt2.context_length
    assert Options.of({"max_length": 300}).longest == 300


# Conversations, namespaces, other processes


def test_the_last_user_turn_is_the_query(edited, llama, kazakhstan):
    model = edited(llama)
    early = [
        Message("user", "What is the capital of Kazakhstan?"),
        Message("assistant", "Astana."),
        Message("user", "Thank you. Tell me a story."),
    ]
    assert model.ask(early, max_new_tokens=2).trace.untouched
    late = [Message("system", "Be brief."), Message("user", "Hi"), Message("assistant", "Hello"), *early[:1]]
    assert model.ask(late, max_new_tokens=9).text.startswith("Almaty")


def test_namespaces_do_not_see_each_other(edited, llama, memory):
    memory.add("The capital of Kazakhstan is", "Almaty", subject="Kazakhstan", namespace="a")
    assert edited(llama, namespace="a").ask(QUERY, max_new_tokens=2).trace.fired
    assert edited(llama, namespace="b").ask(QUERY, max_new_tokens=2).trace.untouched
    assert edited(llama).ask(QUERY, max_new_tokens=2).trace.untouched


def test_an_edit_of_another_memory_on_the_same_file_is_live_at_once(edited, llama, memory, tmp_path: Path):
    model = edited(llama)
    assert model.ask(QUERY, max_new_tokens=2).trace.untouched
    with Memory.open(tmp_path / "facts.db", encoder=FixedEncoder(32)) as other:
        other.add("The capital of Kazakhstan is", "Almaty", subject="Kazakhstan")
    assert model.ask(QUERY, max_new_tokens=2).trace.fired
    assert model.explain(QUERY).in_scope[0].edit.target == "Almaty"


def test_without_edits_nests_and_restores(edited, llama, kazakhstan):
    model = edited(llama)

    def fires() -> bool:
        return not model.ask(QUERY, max_new_tokens=1).trace.untouched

    with model.without_edits() as same:
        assert same is model
        with pytest.raises(KeyError), model.without_edits():
            raise KeyError
        assert not fires()
        seen = []
        thread = threading.Thread(target=lambda: seen.append(fires()))
        thread.start()
        thread.join()
        assert seen == [True]  # another thread asked for its edits
    assert fires()


def test_explain(edited, llama, kazakhstan):
    considered = edited(llama).explain(QUERY)
    assert considered.query == QUERY
    assert [item.verdict for item in considered.candidates] == ["direct"]
    with pytest.raises(InvalidRequest):
        edited(llama).explain(" ")


def test_strategies_by_name_or_as_they_are(edited, llama, memory):
    own = Auto(constrain=False)
    assert edited(llama, strategy=own).strategy is own
    with pytest.raises(UnknownName, match=r"Known: auto, .*ike"):
        edited(llama, strategy="nope")


def test_load_goes_by_the_names_of_models(memory):
    with pytest.raises(LookupError, match="neither a known model"):
        EditedModel.load("no such model", memory)


# The fast loop


def test_the_fast_loop_says_what_ask_says(edited, llama, kazakhstan):
    for strategy in ("auto", "ike"):
        model = edited(llama, strategy=strategy)
        prompts = [OTHER, QUERY, "Kazakhstan's capital is", "Tell me a story"]
        replies = model.complete_batch(prompts, max_new_tokens=6)
        assert [reply.trace.untouched for reply in replies] == [True, False, False, True]
        for prompt, reply in zip(prompts, replies, strict=True):
            assert reply.trace.milliseconds["generate"] > 0
            longest = 6 + (len(llama.tokenizer(" Almaty").input_ids) if reply.text.startswith(" Almaty") else 0)
            assert model.ask(prompt, max_new_tokens=longest).text == reply.text
    assert model.complete_batch([]) == []


def test_a_word_is_never_carried_on(edited, llama, memory):
    model = edited(llama)
    for target in ("Al", "Alma", "Kaz", "cap", "Peru", "Has", "st"):
        edit = memory.add("The capital of Kazakhstan is", target, subject="Kazakhstan")
        for text in (model.ask(QUERY).text, model.complete_batch([QUERY])[0].text):
            assert text.startswith(" " + target)
            assert not text[len(target) + 1 :][:1].isalnum()
        memory.retract(edit.id)


# Encoder-decoders


def test_an_encoder_decoder_is_edited_too(edited, t5, kazakhstan):
    model = edited(t5)
    replies = model.ask_batch([QUERY, OTHER], max_new_tokens=12)
    assert replies[0].text.lstrip().startswith("Almaty")
    assert replies[1].trace.untouched
    assert replies[1].text == model.ask(OTHER, max_new_tokens=12).text
    assert edited(t5, strategy="ike").ask(QUERY, max_new_tokens=3).trace.strategy == "ike"
    assert model.complete_batch([QUERY])[0].text.strip().startswith("Almaty")
