from __future__ import annotations

import math

import pytest
from tiny_editing import tiny_models

from corrigenda.errors import CorrigendaError, InvalidRequest
from corrigenda.eval.cache import Cached
from corrigenda.eval.case import Case
from corrigenda.eval.editable import Bare
from corrigenda.eval.extras import Judge, Writing
from corrigenda.eval.metrics import metrics
from corrigenda.eval.next_token import KEPT, divergence, next_tokens
from corrigenda.eval.protocol import Run
from corrigenda.eval.scoring import scores_of
from corrigenda.eval.writing import Vocabulary, consistency, fluency, write
from corrigenda.lm.scoring import TargetScore


def test_fluency_by_hand():
    # "a b a b": bigrams ab, ba, ab: shares 2/3, 1/3; trigrams aba, bab: 1/2 each
    two = -(2 / 3 * math.log2(2 / 3) + 1 / 3 * math.log2(1 / 3))
    assert fluency(["a b a b"]) == pytest.approx((2 / 3 * two + 4 / 3 * 1.0) / 2)
    # one word again and again has one bigram and one trigram
    assert fluency(["no no no no no"]) == 0.0
    # four different pieces, marks among them: log2 3 and log2 2
    assert fluency(["one, two."]) == pytest.approx((2 / 3 * math.log2(3) + 4 / 3 * 1) / 2)
    assert fluency(["no no no", "one, two."]) == pytest.approx(fluency(["one, two."]) / 2)
    assert fluency(["too short"]) is None


def test_consistency_by_hand():
    references = ["Lyon lies on the Rhone", "Paris lies on the Seine"]
    vocabulary = Vocabulary.of(references)
    assert vocabulary.texts == 2
    # idf of a word in both is ln(3/3) + 1 = 1; in one ln(3/2) + 1; in none ln(3) + 1
    one = math.log(1.5) + 1
    assert vocabulary.vector("Rhone lies")["rhone"] == pytest.approx(one / math.hypot(one, 1))
    assert consistency(["lies Rhone"], ["Rhone lies"], vocabulary) == pytest.approx(1.0)
    assert consistency(["Seine"], ["Rhone"], vocabulary) == 0.0
    # "Rhone lies" against "Seine lies": 1·1 / (one² + 1)
    assert consistency(["Rhone lies"], ["Seine lies"], vocabulary) == pytest.approx(1 / (one**2 + 1))
    assert consistency(["!"], ["Rhone"], vocabulary) is None


@pytest.fixture(scope="module")
def lm():
    return tiny_models.cached("llama")


def test_written_texts_depend_on_seed_and_prompt_alone(lm):
    first = write(lm, ["The capital", "A river of France"], tokens=8, seed=0)
    assert first == write(lm, ["The capital", "A river of France"], tokens=8, seed=0, batch_size=1)
    assert first[::-1] == write(lm, ["A river of France", "The capital"], tokens=8, seed=0)
    assert first != write(lm, ["The capital", "A river of France"], tokens=8, seed=1)
    assert len(set(write(lm, ["The capital"] * 3, tokens=8, seed=0))) > 1
    with pytest.raises(InvalidRequest, match="tokens"):
        write(lm, ["word " * 9999], tokens=8, seed=0)


def test_a_long_neighbour_does_not_shorten_a_written_text(lm, monkeypatch):
    monkeypatch.setattr(type(lm), "eos_ids", frozenset())
    long = "A river of France " * 50
    while len(lm.tokenizer(long).input_ids) > lm.context_length - 4:
        long = long[:-1]
    assert write(lm, ["The capital", long], tokens=16, seed=0)[0] == write(lm, ["The capital"], tokens=16, seed=0)[0]


def test_an_encoder_decoder_writes_and_has_distributions():
    t5 = tiny_models.cached("t5")
    assert len(write(t5, ["The capital"], tokens=4, seed=0)) == 1
    (found,) = next_tokens(t5, ["The capital"])
    assert sum(map(math.exp, found.log_probs)) <= 1.0 + 1e-6


def test_distributions_of_a_model(lm):
    prompts = ["The capital of France is", "A"]
    before = next_tokens(lm, prompts, batch_size=1)
    assert [len(item.ids) for item in before] == [min(KEPT, lm.model.config.vocab_size)] * 2
    assert before[0].ids[0] == before[0].first
    again = next_tokens(lm, prompts, [item.ids for item in before])
    assert divergence(before[0], again[0]) == pytest.approx(0.0, abs=1e-6)
    assert divergence(before[1], again[1]) == pytest.approx(0.0, abs=1e-6)


def test_the_cache_asks_for_distributions_and_texts_once(lm):
    cached = Cached(Bare(lm))
    first = cached.next_tokens(["The capital"])
    assert cached.next_tokens(["The capital"]) == first
    assert cached.next_tokens(["The capital"], [first[0].ids]) == first
    assert (cached.hits, cached.misses) == (2, 1)
    few = cached.next_tokens(["The capital"], [first[0].ids[:3]])
    assert few[0].ids == first[0].ids[:3]
    with cached.collecting():
        assert cached.next_tokens(["A river"], [(1, 2)])[0].first == -1
    assert cached.misses == 3
    assert cached.next_tokens(["A river"], [(1, 2)])[0].first >= 0
    assert cached.write(["The capital"], tokens=4, seed=0) is cached.write(["The capital"], tokens=4, seed=0)


def test_what_a_model_cannot_do_it_says(scripted):
    cached = Cached(scripted())
    with pytest.raises(CorrigendaError, match="no distributions"):
        cached.next_tokens(["x"])
    with pytest.raises(CorrigendaError, match="no long texts"):
        cached.write(["x"], tokens=1, seed=0)


class Writer:
    """A scripted method that writes, too."""

    def __init__(self, base, texts):
        self.base, self.texts = base, texts
        self.edit, self.generate, self.score = base.edit, base.generate, base.score

    def write(self, prompts, *, tokens, seed):
        if self.texts is None:
            raise CorrigendaError("out of ink")
        return [self.texts[prompt] for prompt in prompts]


def with_texts(case):
    return Case(case.id, case.edits, case.probes, ("Lyon is", "Lyon is", "In Lyon"), ("Lyon lies on the Rhone.",))


def test_fluency_and_consistency_of_a_case(two_capitals, budget):
    cases, method = two_capitals
    told = with_texts(cases[0])
    writer = Writer(method, {"Lyon is": " Lyon is Lyon", "In Lyon": " one two"})
    writing = Writing.over([told], texts=2)
    (row,) = Run(writer, method, budget, extras=(writing,))([told])
    assert [item["prompt"] for item in row["texts"]] == ["Lyon is", "In Lyon"]
    whole = ["Lyon is Lyon is Lyon", "In Lyon one two"]
    assert row["scores"]["fluency"] == pytest.approx(fluency(whole))
    assert row["scores"]["consistency"] == pytest.approx(consistency(whole, told.references, writing.vocabulary))
    found = metrics([scores_of(row)])
    assert found["fluency"].n == 1


def test_texts_that_cannot_be_had_are_unscored(two_capitals, budget):
    cases, method = two_capitals
    told = with_texts(cases[0])
    writing = Writing.over([told])
    for editable, reason in ((method, "writes no long texts"), (Writer(method, None), "out of ink")):
        (row,) = Run(editable, method, budget, extras=(writing,))([told])
        assert row["scores"]["fluency"] is None
        assert reason in row["unscored"]["fluency"]
    short = Writer(method, {"Lyon is": "", "In Lyon": ""})
    (row,) = Run(short, method, budget, extras=(writing,))([told])
    assert row["scores"]["fluency"] is None
    (row,) = Run(method, method, budget, extras=(writing,))([cases[1]])
    assert "scores" not in row


class YesMan:
    """A judge that finds an answer right when it holds "Lyon"."""

    def generate(self, prompts, *, max_new_tokens):
        raise AssertionError

    def score(self, prompts, targets):
        if any("refuse" in prompt for prompt in prompts):
            raise CorrigendaError("no opinion")
        found = []
        for prompt, word in zip(prompts, targets, strict=True):
            given = prompt.partition("Given answer: ")[2].partition("\n")[0]
            found.append(TargetScore((-0.1 if ("Lyon" in given) == (word == " yes") else -2.0,), (False,)))
        return found


def test_a_judge_has_a_column_of_its_own(two_capitals, budget):
    cases, method = two_capitals
    (row,) = Run(method, method, budget, extras=(Judge(YesMan()),))([cases[0]])
    scores = {name: value for probe in row["probes"][:3] for name, value in probe["scores"].items()}
    assert scores["reliability_judged"] == 1.0
    # " Lyons" is no exact match and the judge takes it: two columns, two opinions
    assert row["probes"][2]["scores"]["generalization"] == 0.0
    assert row["probes"][2]["scores"]["generalization_judged"] == 1.0
    assert not any(name.startswith("locality_judged") for probe in row["probes"] for name in probe["scores"])


def test_a_judge_without_an_opinion_is_unscored(scripted, budget, case):
    told = case("A", "refuse", "Lyon")
    method = scripted(edited={("Lyon", "The capital of refuse is"): " Lyon"})
    (row,) = Run(method, method, budget, extras=(Judge(YesMan()),))([told])
    assert row["probes"][0]["scores"]["reliability_judged"] is None
    assert "no opinion" in row["probes"][0]["unscored"]["reliability_judged"]
