from __future__ import annotations

import time

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from corrigenda.lm.loading import LanguageModel
from corrigenda.lm.stopping import LINE, NATURAL, UNTIL_EOS, Stop, StopCriterion, cut, end, watcher


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (" Paris. The city is old.", " Paris."),
        (" Paris.\nThe", " Paris."),
        (" Paris", " Paris"),
        (" Paris.", " Paris."),
        (" Paris. ", " Paris. "),  # not yet known what follows
        ("\n\n Paris\nRome", "\n\n Paris"),
        (" St. Louis. It is", " St. Louis."),
        (" in the U.S. Army", " in the U.S. Army"),
        (" Dr. X came. Then", " Dr. X came."),
        (" J. R. R. Tolkien wrote it. He", " J. R. R. Tolkien wrote it."),
        (" 12.5 million. That", " 12.5 million."),
        (" 1. 5 is", " 1. 5 is"),
        (" example.com is. The", " example.com is."),
        (" Yes! No", " Yes!"),
        (" Who? Me", " Who?"),
        (' He said "no." Then', ' He said "no."'),
        (" Really?! Yes", " Really?!"),
        (" He came... and went. Now", " He came... and went."),
        (" It ended... Then", " It ended..."),
        (" He lived (in Rome.) The", " He lived (in Rome.)"),
        (" cats, dogs etc. and so on. The", " cats, dogs etc. and so on."),
        ("東京です。大阪", "東京です。"),
        (" Rome. “Yes", " Rome."),
        ("", ""),
        ("   \n ", "   \n "),
    ],
)
def test_natural(text: str, answer: str) -> None:
    assert cut(text) == answer


def test_other_rules() -> None:
    text = "\nOne. Two\nThree Q: four"
    assert cut(text, LINE) == "\nOne. Two"
    assert cut(text, UNTIL_EOS) == text
    assert cut(text, Stop(newline=False)) == "\nOne."
    assert cut(text, Stop(newline=False, sentence=False, texts=("Q:", ""))) == "\nOne. Two\nThree"
    assert end(text, UNTIL_EOS) is None


@given(st.text(alphabet="aBc. !?\n\"')J12é。", max_size=40))
def test_cut_is_a_beginning_and_idempotent(text: str) -> None:
    answer = cut(text)
    assert text.startswith(answer)
    assert cut(answer) == answer


@given(st.text(alphabet="aBc. !?\n\"')J", max_size=30), st.integers(1, 4))
def test_stopping_while_the_text_grows_gives_the_same_as_cutting_the_whole(text: str, step: int) -> None:
    seen = next((text[:n] for n in range(0, len(text) + step, step) if end(text[:n], NATURAL) is not None), text)
    assert cut(seen) == cut(text)


def test_criterion_judges_each_row(llama: LanguageModel) -> None:
    tokenizer = llama.tokenizer
    prompt = tokenizer("Q. A b").input_ids
    rows = [prompt + tokenizer(text).input_ids[:6] for text in ("aa. Bxyzxyz", "xyzxyzxyzxyz")]
    criterion = StopCriterion(NATURAL, tokenizer, len(prompt))
    assert criterion(torch.tensor(rows), None).tolist() == [True, False]


def test_criterion_in_generate(llama: LanguageModel) -> None:
    batch = llama.tokenizer("The capital of", return_tensors="pt")
    length = batch.input_ids.shape[1]
    stop = Stop(newline=False, sentence=False, texts=("e",))
    criterion = StopCriterion(stop, llama.tokenizer, length)
    plain = llama.model.generate(**batch, max_new_tokens=40, do_sample=False)
    stopped = llama.model.generate(**batch, max_new_tokens=40, do_sample=False, stopping_criteria=[criterion])
    whole = llama.tokenizer.decode(plain[0, length:])
    assert cut(llama.tokenizer.decode(stopped[0, length:]), stop) == cut(whole, stop)
    assert stopped.shape[1] <= plain.shape[1]


def test_watcher_looks_at_a_long_answer_s_end(llama: LanguageModel) -> None:
    tokens = llama.tokenizer("a" * 200).input_ids
    over = watcher(NATURAL, llama.tokenizer)
    assert not over(tokens)
    assert over(tokens + llama.tokenizer("\n").input_ids)
    assert not watcher(UNTIL_EOS, llama.tokenizer)(tokens + llama.tokenizer("\n").input_ids)


def test_watcher_and_cut_agree_where_the_window_hides_an_abbreviation(llama: LanguageModel) -> None:
    text = " with Dr. Smith" + " of" * 100 + ". They"
    tokens = llama.tokenizer(text).input_ids
    over = watcher(NATURAL, llama.tokenizer)
    first = next(size for size in range(1, len(tokens) + 1) if over(tokens[:size]))
    assert llama.tokenizer.decode(tokens[:first]).startswith(cut(text))


def test_watcher_waits_for_the_rest_of_a_character(llama: LanguageModel) -> None:
    over = watcher(NATURAL, llama.tokenizer)
    for text, ends in ((" el núm. é", False), (" el fin. É", True)):
        tokens = llama.tokenizer(text).input_ids
        assert llama.tokenizer.decode(tokens[:-1]).endswith("�")
        assert not over(tokens[:-1])
        assert over(tokens) == ends


@pytest.mark.parametrize("piece", [".", "...   ", "A. ", ". a ", '."', ".”", "a", "a.", "?!) b"])
def test_long_texts_are_cut_at_once(piece: str) -> None:
    text = piece * (200_000 // len(piece))
    began = time.perf_counter()
    cut(text)
    cut(f"{text} b. C")
    assert time.perf_counter() - began < 2
