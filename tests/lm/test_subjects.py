from __future__ import annotations

from typing import Any

import pytest
import transformers
from tokenizers.processors import TemplateProcessing

from corrigenda.errors import SubjectNotFound
from corrigenda.lm.loading import LanguageModel
from corrigenda.lm.tokens import last_subject_token

CASES = [
    ("Danielle Darrieux", "The mother tongue of Danielle Darrieux is", "Darrieux"),
    ("Kazakhstan", "Kazakhstan has the capital", "Kazakhstan"),
    ("St. Louis", "Dr. Smith lives in St. Louis", "Louis"),
    ("Smith", "Smith met Smith and Smith.", None),
    ("danielle DARRIEUX", "The mother tongue of Danielle Darrieux is", "Darrieux"),
    ("Kazakh", "The capital of Kazakhstan is", None),
    ("Astana", "It is Astana", "Astana"),
    (" Hamlet ", "Who wrote Hamlet?", "Hamlet"),
    ("Zoë 中", "The home of Zoë 中 is", "中"),
]


@pytest.fixture(params=["plain", "bos", "slow"])
def tokenizer(request: pytest.FixtureRequest, fresh: Any) -> Any:
    found = fresh("llama").tokenizer
    if request.param == "bos":
        post = TemplateProcessing(single="<|end|> $A", special_tokens=[("<|end|>", found.eos_token_id)])
        found.backend_tokenizer.post_processor = post
    if request.param == "slow":
        return Slow(found)
    return found


class Slow:
    """A tokenizer without offsets, as those written in Python are."""

    is_fast = False

    def __init__(self, fast: Any) -> None:
        self.fast = fast
        self.decode = fast.decode

    def __call__(self, text: str, *, return_offsets_mapping: bool, **options: Any) -> Any:
        if return_offsets_mapping:
            raise NotImplementedError
        return self.fast(text, **options)


@pytest.mark.parametrize(("subject", "prompt", "last"), CASES)
def test_the_last_token_of_the_subject(tokenizer: Any, subject: str, prompt: str, last: str | None) -> None:
    ids = tokenizer(prompt, return_offsets_mapping=False).input_ids
    place = last_subject_token(tokenizer, prompt, subject)
    upto = tokenizer.decode(ids[: place + 1], skip_special_tokens=True)
    before = tokenizer.decode(ids[:place], skip_special_tokens=True)
    wanted = subject.strip().lower()
    end = prompt.lower().rindex(wanted) + len(wanted)
    assert len(upto) >= end
    assert len(before.replace("�", "")) < end
    if last is not None:
        assert upto.endswith(last)


@pytest.mark.parametrize(("prompt", "subject"), [("Who is it?", "Mary"), ("Who is it?", "  "), ("İx Mary", "mary?")])
def test_a_subject_that_does_not_occur(llama: LanguageModel, prompt: str, subject: str) -> None:
    with pytest.raises(SubjectNotFound, match="does not occur"):
        last_subject_token(llama.tokenizer, prompt, subject)


def test_an_exact_occurrence_wins(llama: LanguageModel) -> None:
    prompt = "Who met WHO"
    assert last_subject_token(llama.tokenizer, prompt, "Who") < last_subject_token(llama.tokenizer, prompt, "WHO")


@pytest.mark.parametrize(
    ("prompt", "subject", "upto"),
    [
        ("Romeo said that Rome lies far from the Romeos' home in", "Rome", "Romeo said that Rome"),
        ("Romeo thinks that rome", "Rome", "Romeo thinks that rome"),
        ("Rome, Rome2 and Romeo", "Rome", "Rome"),
        ("Romeo's friend", "Rome", "Rome"),  # nothing better there
        ("Rom Romania", "Rom", "Rom"),
    ],
)
def test_a_subject_is_not_looked_for_in_longer_words(prompt: str, subject: str, upto: str) -> None:
    tokenizer = transformers.ByT5Tokenizer()
    assert last_subject_token(tokenizer, prompt, subject) == len(upto) - 1


def test_what_stands_in_front_of_the_edits_own_words_is_not_searched(llama: LanguageModel) -> None:
    context, prompt = "I live in France with cats. ", "The president of france is"
    place = last_subject_token(llama.tokenizer, context + prompt, "France", start=len(context))
    ids = llama.tokenizer(context + prompt).input_ids
    assert llama.tokenizer.decode(ids[: place + 1], skip_special_tokens=True).endswith("president of france")


def test_a_beginning_of_text_token_shifts_the_place(llama: LanguageModel, fresh: Any) -> None:
    other = fresh("llama").tokenizer
    post = TemplateProcessing(single="<|end|> $A", special_tokens=[("<|end|>", other.eos_token_id)])
    other.backend_tokenizer.post_processor = post
    prompt, subject = "The mother tongue of Danielle Darrieux is", "Danielle Darrieux"
    assert last_subject_token(other, prompt, subject) == last_subject_token(llama.tokenizer, prompt, subject) + 1


def test_a_python_tokenizer() -> None:
    tokenizer = transformers.ByT5Tokenizer()
    prompt = "The capital of Kazakhstan is"
    assert last_subject_token(tokenizer, prompt, "Kazakhstan") == prompt.index(" is") - 1


@pytest.mark.real_model
def test_smollm2(smollm2: LanguageModel) -> None:
    tokenizer = smollm2.tokenizer
    prompt = "The mother tongue of Danielle Darrieux is"
    place = last_subject_token(tokenizer, prompt, "Danielle Darrieux")
    assert tokenizer.decode(tokenizer(prompt).input_ids[place + 1 :]) == " is"
