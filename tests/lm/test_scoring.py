from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from corrigenda.chat import Chat
from corrigenda.errors import InvalidRequest
from corrigenda.lm import decoding, scoring
from corrigenda.lm.loading import LanguageModel
from corrigenda.lm.scoring import TargetScore, greedy, score_targets
from corrigenda.lm.stopping import NATURAL, UNTIL_EOS, Stop, cut
from corrigenda.lm.tokens import Rendered, encode, render, token_ids

PROMPTS = ["The capital of Kazakhstan is", "Who", "The mother tongue of Danielle Darrieux is", "Who"]
SHARED = "Dr. Smith lives in St. Louis, U.S.A., with 12.5 cats. They speak German, Dutch and English! "


def reference(lm: LanguageModel, prompt: str, tokens: int) -> list[int]:
    """What transformers' own greedy search says, one prompt at a time."""
    ids = encode(lm, [prompt]).input_ids
    out = lm.model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=tokens,
        do_sample=False,
        eos_token_id=sorted(lm.eos_ids),
        pad_token_id=lm.pad_id,
    )
    return list(out[0, 1 if lm.is_encoder_decoder else ids.shape[1] :].tolist())


def text_of(lm: LanguageModel, ids: list[int]) -> str:
    return str(lm.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))


@pytest.mark.parametrize("batch_size", [1, 3])
def test_greedy_is_what_generate_says(any_lm: LanguageModel, batch_size: int) -> None:
    answers = greedy(any_lm, PROMPTS, max_new_tokens=12, stop=UNTIL_EOS, batch_size=batch_size)
    assert answers == [text_of(any_lm, reference(any_lm, prompt, 12)) for prompt in PROMPTS]


def test_a_shared_beginning_changes_nothing(decoder: LanguageModel) -> None:
    """Also where layers attend to a window of 8 tokens, far shorter than the beginning."""
    prompts = [SHARED + prompt for prompt in PROMPTS]
    options: dict[str, Any] = {"max_new_tokens": 10, "stop": UNTIL_EOS, "batch_size": 3}
    assert greedy(decoder, prompts, **options) == greedy(decoder, prompts, share_prefix=False, **options)
    targets = ["Astana", "William", "French", "Me"]
    shared = score_targets(decoder, prompts, targets, batch_size=3)
    plain = score_targets(decoder, prompts, targets, share_prefix=False, batch_size=1)
    for one, other in zip(shared, plain, strict=True):
        assert one.log_probs == pytest.approx(other.log_probs, abs=1e-4)
        assert one.argmax_matches == other.argmax_matches


def test_a_shared_beginning_is_run_once(llama: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    widths: list[int] = []
    forward = decoding.forward

    def counted(lm: Any, ids: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        widths.append(ids.shape[0] * ids.shape[1])
        return forward(lm, ids, *args, **kwargs)

    monkeypatch.setattr(decoding, "forward", counted)
    prompts = [SHARED + prompt for prompt in PROMPTS]
    common = len(token_ids(llama, SHARED))
    greedy(llama, prompts, max_new_tokens=1)
    assert sum(widths) < 3 * common
    widths.clear()
    greedy(llama, prompts[:1], max_new_tokens=1)
    assert len(widths) == 1


def test_identical_prompts_share_all_but_their_last_token(llama: LanguageModel) -> None:
    prompts = [SHARED] * 3
    answers = greedy(llama, prompts, max_new_tokens=5, stop=UNTIL_EOS)
    assert set(answers) == {text_of(llama, reference(llama, SHARED, 5))}


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Rows of each forward pass of a decoder."""
    rows: list[int] = []
    plain = decoding.CausalDecoder.logits

    def counted(self: Any, tokens: Any) -> torch.Tensor:
        logits = plain(self, tokens)
        rows.append(len(logits))
        return logits

    monkeypatch.setattr(decoding.CausalDecoder, "logits", counted)
    return rows


def test_rows_leave_when_they_are_over(llama: LanguageModel, passes: list[int]) -> None:
    whole = greedy(llama, PROMPTS, max_new_tokens=20, stop=UNTIL_EOS)
    passes.clear()
    stop = Stop(newline=False, sentence=False, texts=(whole[0][3:5], whole[2][6:8]))
    assert greedy(llama, PROMPTS, max_new_tokens=20, stop=stop) == [cut(text, stop) for text in whole]
    assert passes[0] == 4
    assert passes == sorted(passes, reverse=True)
    assert passes[-1] < 4


def test_a_long_neighbour_does_not_shorten_an_answer(decoder: LanguageModel) -> None:
    prompts = ["Who", "Who wrote Hamlet?"]
    long = (SHARED * 20).strip()
    while len(token_ids(decoder, long)) > decoder.context_length - 5:
        long = long[:-1]
    options: dict[str, Any] = {"max_new_tokens": 12, "stop": UNTIL_EOS}
    alone = [greedy(decoder, [prompt], **options)[0] for prompt in [*prompts, long]]
    assert greedy(decoder, [*prompts, long], **options) == alone


def test_rows_of_one_length_share_a_batch_where_the_context_ends_them(llama: LanguageModel, passes: list[int]) -> None:
    prompts = [start + SHARED * 20 for start in ("x", "Who", "y", "z")]
    while len(token_ids(llama, prompts[0])) > llama.context_length - 8:
        prompts = [prompt[:-1] for prompt in prompts]
    prompts[1] = "Who"
    assert len({len(token_ids(llama, prompt)) for prompt in prompts}) == 2
    options: dict[str, Any] = {"max_new_tokens": 12, "stop": UNTIL_EOS}
    alone = [greedy(llama, [prompt], **options)[0] for prompt in prompts]
    passes.clear()
    assert greedy(llama, prompts, **options) == alone
    assert {*passes} == {1, 3}


def test_rows_of_an_encoder_decoder_leave_too(t5: LanguageModel) -> None:
    whole = greedy(t5, PROMPTS, max_new_tokens=20, stop=UNTIL_EOS)
    for place in range(3):
        stop = Stop(newline=False, sentence=False, texts=(whole[place][4:6],))
        assert greedy(t5, PROMPTS, max_new_tokens=20, stop=stop) == [cut(text, stop) for text in whole]


def test_all_over_ends_the_loop(llama: LanguageModel, passes: list[int]) -> None:
    (whole,) = greedy(llama, PROMPTS[:1], max_new_tokens=20, stop=UNTIL_EOS)
    passes.clear()
    stop = Stop(newline=False, sentence=False, texts=(whole[:1],))
    assert greedy(llama, PROMPTS[:1], max_new_tokens=20, stop=stop) == [""]
    assert len(passes) < 3


def test_sampling_settings_of_the_checkpoint_do_not_leak(fresh: Any) -> None:
    lm: LanguageModel = fresh("llama")
    before = greedy(lm, PROMPTS, max_new_tokens=8, stop=UNTIL_EOS)
    settings = {"do_sample": True, "temperature": 2.0, "repetition_penalty": 3.0, "max_length": 3, "num_beams": 4}
    lm.model.generation_config.update(**settings)
    assert greedy(lm, PROMPTS, max_new_tokens=8, stop=UNTIL_EOS) == before


def test_end_of_text_ends_an_answer(fresh: Any) -> None:
    whole = reference(fresh("llama"), "Who", 6)
    lm: LanguageModel = fresh("llama")
    lm.model.generation_config.eos_token_id = [whole[2], whole[4]]
    assert lm.eos_ids == {0, whole[2], whole[4]}
    first = min(whole.index(whole[2]), whole.index(whole[4]))
    assert greedy(lm, ["Who"], max_new_tokens=6, stop=UNTIL_EOS) == [text_of(lm, whole[:first])]


def test_forced_beginnings(any_lm: LanguageModel) -> None:
    begun = ["As", "", " French", "I. They"]
    answers = greedy(any_lm, PROMPTS, max_new_tokens=6, stop=UNTIL_EOS, prefix=begun)
    assert all(answer.startswith(text) for answer, text in zip(answers, begun, strict=True))
    assert answers[1] == greedy(any_lm, PROMPTS, max_new_tokens=6, stop=UNTIL_EOS)[1]
    if not any_lm.is_encoder_decoder:
        continued = greedy(any_lm, [PROMPTS[0] + "As"], max_new_tokens=6, stop=UNTIL_EOS)
        assert answers[0] == "As" + continued[0]
    with pytest.raises(InvalidRequest, match="1 prefixes for 4 prompts"):
        greedy(any_lm, PROMPTS, prefix=["a"])


def test_forced_beginning_of_an_encoder_decoder_goes_into_the_decoder(t5: LanguageModel) -> None:
    whole = greedy(t5, PROMPTS[:1], max_new_tokens=8, stop=UNTIL_EOS)[0]
    begun = text_of(t5, reference(t5, PROMPTS[0], 8)[:1])
    if t5.tokenizer(begun).input_ids == reference(t5, PROMPTS[0], 8)[:1]:
        assert greedy(t5, PROMPTS[:1], max_new_tokens=7, stop=UNTIL_EOS, prefix=[begun]) == [whole]


def test_no_prompts(any_lm: LanguageModel) -> None:
    assert greedy(any_lm, []) == []
    assert score_targets(any_lm, [], []) == []


def test_progress(llama: LanguageModel) -> None:
    seen: list[tuple[int, int]] = []
    greedy(llama, PROMPTS, max_new_tokens=1, batch_size=3, progress=lambda done, total: seen.append((done, total)))
    score_targets(llama, PROMPTS, ["a"] * 4, batch_size=2, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(3, 4), (4, 4), (2, 4), (4, 4)]


def test_the_context_ends_an_answer(llama: LanguageModel) -> None:
    prompt = "a" * 250
    length = len(token_ids(llama, prompt))
    expected = text_of(llama, reference(llama, prompt, 256 - length))
    assert greedy(llama, [prompt], max_new_tokens=500, stop=UNTIL_EOS) == [expected]
    with pytest.raises(InvalidRequest, match="reads 256"):
        greedy(llama, ["\n" * 256])
    with pytest.raises(InvalidRequest, match="reads 256"):
        score_targets(llama, ["\n" * 250], ["a b c d e f g h"])


@pytest.mark.parametrize("arguments", [{"max_new_tokens": 0}, {"batch_size": 0}])
def test_arguments_out_of_range(llama: LanguageModel, arguments: Any) -> None:
    with pytest.raises(InvalidRequest, match="at least 1, not 0"):
        greedy(llama, PROMPTS, **arguments)


def test_long_prompts_make_smaller_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "MAX_BATCH_TOKENS", 10)
    assert list(scoring._batches([1, 5, 20, 4, 1], 4)) == [[2], [1, 3], [0, 4]]


def test_long_targets_make_smaller_batches(llama: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts, targets = ["Who", "The capital of", "They", "It"], ["Astana", "Hamlet by William", "cats", "dogs"]
    before = score_targets(llama, prompts, targets)
    rows = []
    plain = scoring._target_logits
    monkeypatch.setattr(
        scoring, "_target_logits", lambda lm, pairs, *more: rows.append(len(pairs)) or plain(lm, pairs, *more)
    )
    longest = max(len(score.token_ids) for score in before)
    monkeypatch.setattr(scoring, "MAX_BATCH_LOGITS", 2 * longest * llama.vocabulary)
    after = score_targets(llama, prompts, targets)
    assert rows == [2, 2]
    for one, other in zip(before, after, strict=True):
        assert one.log_prob == pytest.approx(other.log_prob, abs=1e-4)


def test_target_scores_are_teacher_forced(decoder: LanguageModel) -> None:
    """Against one plain forward pass over prompt and target."""
    targets = ["Astana", "William Shakespeare", "French", " Me."]
    scores = score_targets(decoder, PROMPTS, targets, batch_size=3)
    for prompt, target, score in zip(PROMPTS, targets, scores, strict=True):
        source = token_ids(decoder, prompt)
        whole = token_ids(decoder, f"{prompt} {target.strip()}")
        assert whole[: len(source)] == source
        assert list(score.token_ids) == whole[len(source) :]
        with torch.no_grad():
            logits = decoder.model(torch.tensor([whole])).logits[0, len(source) - 1 : -1].log_softmax(-1)
        own = [logits[place, token].item() for place, token in enumerate(score.token_ids)]
        assert score.log_probs == pytest.approx(own, abs=1e-4)
        assert list(score.argmax_matches) == (logits.argmax(-1) == torch.tensor(score.token_ids)).tolist()


def test_target_scores_of_an_encoder_decoder(t5: LanguageModel) -> None:
    targets = ["Astana", "William Shakespeare", "French", "Me"]
    for prompt, target, score in zip(PROMPTS, targets, score_targets(t5, PROMPTS, targets), strict=True):
        ids = t5.tokenizer(target, return_tensors="pt").input_ids
        with torch.no_grad():
            logits = t5.model(input_ids=encode(t5, [prompt]).input_ids, labels=ids).logits[0].log_softmax(-1)
        assert score.log_probs == pytest.approx(logits.gather(1, ids.T)[:, 0].tolist(), abs=1e-4)


def test_what_is_greedy_scores_as_greedy(any_lm: LanguageModel) -> None:
    answer = greedy(any_lm, PROMPTS[:1], max_new_tokens=4, stop=UNTIL_EOS)[0]
    ids = reference(any_lm, PROMPTS[0], 4)
    if any_lm.tokenizer(answer).input_ids == ids and not answer.startswith("\n"):
        prompt = Rendered([(PROMPTS[0], False)], hostile=True)
        (score,) = score_targets(any_lm, [prompt], [answer])
        if list(score.token_ids) == ids:
            assert score.is_greedy
            assert score.accuracy == 1.0


def test_score_values() -> None:
    score = TargetScore((-1.0, -3.0), (True, False))
    assert (score.log_prob, score.mean_log_prob, score.accuracy, score.is_greedy) == (-4.0, -2.0, 0.5, False)


def test_spaces_between_prompt_and_target(llama: LanguageModel) -> None:
    plain, spaced, given = score_targets(llama, ["Who is", "Who is", "Who is "], ["Me", " Me", "Me"])
    assert plain == spaced
    assert given.token_ids != plain.token_ids
    conversation = Rendered([("Who is", False)], hostile=False)
    (bare,) = score_targets(llama, [conversation], ["Me"])
    assert llama.tokenizer.decode(bare.token_ids) == "Me"


def test_a_token_across_the_boundary_is_split(llama: LanguageModel) -> None:
    prompt, target = Rendered([("The capi", False)], hostile=False), "tal of"
    assert token_ids(llama, "The capital of")[: len(token_ids(llama, prompt))] != token_ids(llama, prompt)
    (score,) = score_targets(llama, [prompt], [target])
    assert llama.tokenizer.decode(score.token_ids) == target
    assert all(math.isfinite(value) for value in score.log_probs)


def test_targets_that_cannot_be_scored(any_lm: LanguageModel) -> None:
    with pytest.raises(InvalidRequest, match="no tokens"):
        score_targets(any_lm, [Rendered([("Who", False)], hostile=False)], [""])
    nothing = Rendered([], hostile=False)
    with pytest.raises(InvalidRequest, match="the prompt has no tokens"):
        score_targets(any_lm, ["Who wrote Hamlet?", nothing], ["I", "Paris is"])
    with pytest.raises(InvalidRequest, match="2 prompts, but 1 targets"):
        score_targets(any_lm, ["a", "b"], ["c"])


def test_a_start_token_that_nothing_names(fresh: Any) -> None:
    lm: LanguageModel = fresh("t5")
    assert decoding.decoder_start(lm) == 0
    lm.model.generation_config.decoder_start_token_id = None
    lm.model.config.decoder_start_token_id = None
    assert decoding.decoder_start(lm) == lm.pad_id


@pytest.mark.real_model
def test_smollm2_answers(smollm2: LanguageModel) -> None:
    prompts = ["The capital of France is", "The mother tongue of Danielle Darrieux is", "Water boils at"] * 12
    answers = greedy(smollm2, prompts, max_new_tokens=12)
    assert answers[:2] == [" Paris.", " French."]
    assert answers[:3] * 12 == answers
    assert [cut(text_of(smollm2, reference(smollm2, p, 12)), NATURAL) for p in prompts[:1]] == answers[:1]
    right, wrong = score_targets(smollm2, prompts[:1] * 2, ["Paris", "Rome"])
    assert right.is_greedy
    assert right.log_prob > wrong.log_prob
    chat = render(smollm2, Chat.of([{"role": "user", "content": "What is the capital of France?"}]))
    assert "Paris" in greedy(smollm2, [chat])[0]
