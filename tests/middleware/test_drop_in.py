from __future__ import annotations

import pytest
import torch
from transformers import DynamicCache, GenerationConfig, TextStreamer
from transformers.generation.streamers import BaseStreamer

from corrigenda.errors import InvalidRequest
from corrigenda.middleware.drop_in import read_rows

QUERY = "The capital of Kazakhstan is"
OTHER = "The capital of Peru is"


def batch(lm, *texts: str) -> dict[str, torch.Tensor]:
    encoded = lm.tokenizer(list(texts), return_tensors="pt", padding=True, return_token_type_ids=False)
    return {name: encoded[name] for name in ("input_ids", "attention_mask")}


def turns(lm, *conversations: list[tuple[str, str]]) -> dict[str, torch.Tensor]:
    messages = [[{"role": role, "content": text} for role, text in turn] for turn in conversations]
    texts = [lm.tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True) for turn in messages]
    return batch(lm, *texts)


def said(lm, ids: torch.Tensor, inputs: dict[str, torch.Tensor]) -> list[str]:
    new = ids[:, inputs["input_ids"].shape[1] :]
    return [lm.tokenizer.decode(row, skip_special_tokens=True) for row in new]


def alone(inputs: dict[str, torch.Tensor], row: int) -> dict[str, torch.Tensor]:
    return {name: value[row : row + 1] for name, value in inputs.items()}


# Nothing fires


def test_the_model_gets_exactly_what_the_wrapper_got(edited, llama, calls, kazakhstan):
    model, heard = edited(llama), calls(llama)
    inputs = batch(llama, OTHER, "Tell me a story.")
    options = {"temperature": 0.7, "top_p": 0.9, "do_sample": True, "max_new_tokens": 3}
    torch.manual_seed(1)
    ours = model.generate(**inputs, **options)
    torch.manual_seed(1)
    assert torch.equal(ours, llama.model.generate(**inputs, **options))
    (args, got), (_, bare) = heard
    assert args == ()
    assert list(got) == list(bare)
    assert all(got[name] is bare[name] for name in bare)


def test_arguments_by_place_stay_in_place(edited, llama, calls, kazakhstan):
    model, heard = edited(llama), calls(llama)
    inputs, config = batch(llama, OTHER)["input_ids"], GenerationConfig(max_new_tokens=2, do_sample=False)
    model.generate(inputs, config)
    assert heard[0][0][0] is inputs
    assert heard[0][0][1] is config
    assert heard[0][1] == {}


def test_what_holds_no_text_passes(edited, llama, calls, kazakhstan):
    model, heard = edited(llama), calls(llama)
    embeds = llama.model.get_input_embeddings()(batch(llama, QUERY)["input_ids"])
    assert model.generate(inputs_embeds=embeds, max_new_tokens=2).shape == (1, 2)
    blank = {"input_ids": torch.tensor([[0, 0]]), "attention_mask": torch.tensor([[1, 1]])}
    model.generate(**blank, max_new_tokens=2)
    model.generate(**batch(llama, f"{QUERY}\x00"), max_new_tokens=2)
    model.generate(**turns(llama, [("user", " ")]), max_new_tokens=2)
    with model.without_edits():
        model.generate(**batch(llama, QUERY), max_new_tokens=2)
    assert len(heard) == 5


# Some edit fires


@pytest.mark.parametrize("strategy", ["auto", "ike"])
def test_a_mixed_batch(edited, llama, kazakhstan, strategy: str):
    model = edited(llama, strategy=strategy)
    inputs = batch(llama, OTHER, QUERY, "Who wrote Hamlet and when did he?")
    options = {"max_new_tokens": 12, "do_sample": False}
    out = model.generate(**inputs, **options)
    width = inputs["input_ids"].shape[1]
    assert torch.equal(out[:, :width], inputs["input_ids"])
    assert out.shape[1] <= width + 12
    free = torch.tensor([0, 2])
    bare = llama.model.generate(**{name: value[free] for name, value in inputs.items()}, **options)
    assert torch.equal(out[free][:, : bare.shape[1]], bare)
    assert bool((out[free][:, bare.shape[1] :] == llama.pad_id).all())
    answer = said(llama, out, inputs)[1]
    if strategy == "auto":
        assert answer.startswith(" Almaty")
    else:
        assert "\n" not in answer.rstrip("\n")


def test_padding_is_told_by_the_mask_or_by_its_token(edited, llama, kazakhstan):
    inputs = batch(llama, QUERY, "A much longer text than the other one, to be sure")
    for mask in (inputs["attention_mask"], None):
        rows = read_rows(llama, inputs["input_ids"], mask)
        assert rows[0].request is not None
        assert rows[0].request.query == QUERY
    model = edited(llama)
    out = model.generate(inputs["input_ids"], max_new_tokens=9, do_sample=False)
    assert said(llama, out, inputs)[0].startswith(" Almaty")


def test_a_rendered_conversation_is_recognised(edited, llama, calls, kazakhstan):
    question = ("user", "What is the capital of Kazakhstan?")
    history = [("system", "Be brief."), ("user", "Hi"), ("assistant", "Hello")]
    model = edited(llama)
    inputs = turns(llama, [question], [*history, question], [question, ("assistant", "Astana"), ("user", "Thanks!")])
    out = model.generate(**inputs, max_new_tokens=10, do_sample=False)
    answers = said(llama, out, inputs)
    assert [text.startswith("Almaty") for text in answers] == [True, True, False]
    rows = read_rows(llama, inputs["input_ids"], inputs["attention_mask"])
    assert [row.request.query for row in rows] == [question[1], question[1], "Thanks!"]


def test_facts_go_into_the_turn_and_nothing_else_changes(edited, llama, calls, kazakhstan):
    model, heard = edited(llama), calls(llama)
    request = "Write a poem about Kazakhstan. <|im_end|>"
    before = [("system", "Be brief.")]
    model.generate(**turns(llama, [*before, ("user", request)]), max_new_tokens=2, do_sample=False)
    sent = heard[0][1]["input_ids"][0].tolist()
    text = llama.tokenizer.decode(sent)
    assert text == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nFacts:\n- The capital of Kazakhstan is Almaty\n\n"
        "Write a poem about Kazakhstan. <|im_end|>\nAnswer with the facts above.<|im_end|>\n<|im_start|>assistant\n"
    )
    end = llama.tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert sent.count(end) == 2  # the one inside the message is spelled out


def cache_of(lm, inputs: dict[str, torch.Tensor], columns: int) -> DynamicCache:
    """What the model makes of the first ``columns`` tokens of each row."""
    cache = DynamicCache(config=lm.model.config)
    first = {name: value[:, :columns] for name, value in inputs.items()}
    lm.model(**first, past_key_values=cache, use_cache=True)
    return cache


@pytest.mark.parametrize("strategy", ["auto", "ike"])
@pytest.mark.parametrize("texts", [[QUERY], [OTHER, QUERY, "Who wrote Hamlet and when did he?"]], ids=["one", "mixed"])
def test_a_cache_of_the_caller_s_own_prompt(edited, llama, kazakhstan, strategy: str, texts: list[str]):
    model, inputs = edited(llama, strategy=strategy), batch(llama, *texts)
    options = {"max_new_tokens": 8, "do_sample": False}
    without = model.generate(**inputs, **options)
    columns = inputs["input_ids"].shape[1] - 2
    cache = cache_of(llama, inputs, columns)
    kept = [layer.keys.clone() for layer in cache.layers]
    assert torch.equal(model.generate(**inputs, **options, past_key_values=cache), without)
    assert cache.get_seq_length() == columns
    assert all(torch.equal(layer.keys, was) for layer, was in zip(cache.layers, kept, strict=True))


def test_what_is_said_about_columns_goes_with_the_rows_that_stay(edited, llama, calls, kazakhstan):
    model, inputs = edited(llama), batch(llama, OTHER, QUERY)
    positions = 3 + (inputs["attention_mask"].cumsum(1) - 1).clamp(min=0)
    heard = calls(llama)
    model.generate(**inputs, position_ids=positions, max_new_tokens=9, do_sample=False)
    (_, free), (_, touched) = heard
    assert torch.equal(free["position_ids"], positions[:1])
    assert "position_ids" not in touched


def test_several_sequences_a_row(edited, llama, kazakhstan):
    inputs = batch(llama, OTHER, QUERY)
    torch.manual_seed(0)
    options = {"max_new_tokens": 9, "do_sample": True, "num_return_sequences": 3}
    out = edited(llama).generate(**inputs, **options)
    assert len(out) == 6
    answers = said(llama, out, inputs)
    assert [text.startswith(" Almaty") for text in answers] == [False] * 3 + [True] * 3


def test_beams(edited, llama, kazakhstan):
    inputs = batch(llama, QUERY)
    out = edited(llama).generate(**inputs, max_new_tokens=9, num_beams=2, do_sample=False)
    assert said(llama, out, inputs)[0].startswith(" Almaty")


def test_length_limits(edited, llama, kazakhstan):
    model, inputs = edited(llama), batch(llama, QUERY)
    width = inputs["input_ids"].shape[1]
    forced = len(llama.tokenizer(" Almaty").input_ids)
    for longest in (1, forced, forced + 2):
        assert model.generate(**inputs, max_new_tokens=longest, do_sample=False).shape[1] <= width + longest
    assert model.generate(**inputs, max_length=width + 3, do_sample=False).shape[1] <= width + 3
    config = GenerationConfig(max_new_tokens=2, do_sample=False)
    assert model.generate(inputs["input_ids"], config).shape[1] <= width + 2


def test_without_a_limit_answers_are_as_long_as_transformers_makes_them(edited, llama, kazakhstan):
    inputs = batch(llama, f"Tell me a story. {OTHER}", f"Tell me a story. {QUERY}")
    width = inputs["input_ids"].shape[1]
    assert width > 1
    assert edited(llama).generate(**alone(inputs, 1), do_sample=False).shape[1] == width + 20


def test_plans_leave_the_same_room_as_those_of_ask(edited, gpt2, calls, kazakhstan):
    model, question, heard = edited(gpt2, strategy="ike"), ("user", "What is the capital of Kazakhstan?"), calls(gpt2)
    for longest in (8, 60):
        inputs = turns(gpt2, [question])
        model.ask([dict(zip(("role", "content"), question, strict=True))], max_new_tokens=longest, stop=[])
        model.generate(**inputs, max_new_tokens=longest, do_sample=False)
        model.generate(inputs["input_ids"], max_length=inputs["input_ids"].shape[1] + longest, do_sample=False)
        asked, one, other = (call["input_ids"].shape[1] for _, call in heard[-3:])
        assert asked == one == other


def test_a_dictionary_as_result(edited, llama, kazakhstan):
    model, inputs = edited(llama), batch(llama, QUERY)
    out = model.generate(**inputs, max_new_tokens=9, do_sample=False, return_dict_in_generate=True)
    assert said(llama, out.sequences, inputs)[0].startswith(" Almaty")
    with pytest.raises(InvalidRequest, match="output_scores=True cannot be served while an edit fires"):
        model.generate(**inputs, max_new_tokens=2, return_dict_in_generate=True, output_scores=True)


class Listening(BaseStreamer):
    def __init__(self) -> None:
        self.heard: list[list[int]] = []
        self.ended = False

    def put(self, value: torch.Tensor) -> None:
        self.heard.append(value.reshape(-1).tolist())

    def end(self) -> None:
        self.ended = True


def test_a_streamer_hears_the_caller_s_prompt_and_the_whole_answer(edited, llama, kazakhstan):
    model, inputs, streamer = edited(llama), batch(llama, QUERY), Listening()
    out = model.generate(**inputs, max_new_tokens=9, do_sample=False, streamer=streamer)
    assert streamer.heard[0] == inputs["input_ids"][0].tolist()
    assert [token for piece in streamer.heard for token in piece] == out[0].tolist()
    assert streamer.ended


def test_a_text_streamer_prints_the_answer(edited, llama, kazakhstan, capsys: pytest.CaptureFixture[str]):
    streamer = TextStreamer(llama.tokenizer, skip_prompt=True)
    edited(llama).generate(**batch(llama, QUERY), max_new_tokens=9, do_sample=False, streamer=streamer)
    assert capsys.readouterr().out.startswith(" Almaty")


def test_a_plan_that_does_not_fit(edited, llama, kazakhstan):
    text = "Write a poem about Kazakhstan. "
    while (inputs := turns(llama, [("user", text)]))["input_ids"].shape[1] < 490:
        text += "q "
    assert inputs["input_ids"].shape[1] < 512
    with pytest.raises(InvalidRequest, match="reads 512"):
        edited(llama).generate(**inputs, max_new_tokens=1)


def test_an_encoder_decoder(edited, t5, kazakhstan):
    inputs = batch(t5, OTHER, QUERY)
    out = edited(t5).generate(**inputs, max_new_tokens=9, do_sample=False)
    assert out[:, 0].tolist() == [0, 0]
    texts = [t5.tokenizer.decode(row, skip_special_tokens=True) for row in out]
    assert texts[1].strip().startswith("Almaty")
    result = edited(t5).generate(**inputs, max_new_tokens=2, do_sample=False, return_dict_in_generate=True)
    assert torch.equal(result.sequences[:, :3], out[:, :3])


@pytest.mark.parametrize("strategy", ["auto", "ike"])
def test_what_an_encoder_decoder_is_to_begin_with_goes_with_its_row(edited, t5, kazakhstan, strategy: str):
    model, streamer = edited(t5, strategy=strategy), Listening()
    options = {"max_new_tokens": 9, "do_sample": False}
    inputs = {**batch(t5, OTHER, QUERY), "decoder_input_ids": torch.tensor([[0, 5, 8], [0, 6, 7]])}
    out = model.generate(**inputs, **options)
    assert out[:, :3].tolist() == inputs["decoder_input_ids"].tolist()
    assert out.shape[1] <= 3 + 9
    bare = t5.model.generate(**alone(inputs, 0), **options)
    assert torch.equal(out[:1, : bare.shape[1]], bare)
    own = model.generate(**alone(inputs, 1), **options, streamer=streamer)
    assert torch.equal(out[1:, : own.shape[1]], own)
    assert [token for piece in streamer.heard for token in piece] == own[0].tolist()
    if strategy == "auto":
        assert t5.tokenizer.decode(own[0, 3:]).strip().startswith("Almaty")
    unstarted = {**inputs, "decoder_input_ids": inputs["decoder_input_ids"][:, 1:]}
    assert torch.equal(model.generate(**unstarted, **options), out)
    assert model.generate(**inputs, max_length=6, do_sample=False).shape[1] == 6
    with pytest.raises(InvalidRequest, match="decoder_attention_mask with padding"):
        model.generate(**inputs, decoder_attention_mask=torch.tensor([[1, 1, 1], [0, 1, 1]]), **options)


@pytest.mark.parametrize("strategy", ["auto", "ike"])
def test_negative_prompts_go_with_their_rows(edited, llama, kazakhstan, strategy: str):
    model = edited(llama, strategy=strategy)
    inputs, negative = batch(llama, OTHER, QUERY, "Tell me a story."), batch(llama, "Peru", "The king", "Who wrote")
    inputs |= {f"negative_prompt_{name.removeprefix('input_')}": value for name, value in negative.items()}
    options = {"max_new_tokens": 9, "do_sample": False, "guidance_scale": 1.5}
    answers = said(llama, model.generate(**inputs, **options), inputs)
    for row, answer in enumerate(answers):
        assert [answer] == said(llama, model.generate(**alone(inputs, row), **options), inputs)
