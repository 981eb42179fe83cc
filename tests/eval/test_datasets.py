"""Datasets: what is made of a record of each published format."""

from __future__ import annotations

import copy
import json
import re
from collections import Counter

import pytest
from dataset_records import (
    CONVSENT,
    COUNTERFACT,
    EDIT,
    EVENT,
    FACT,
    KNOWEDIT,
    MEMPROMPT,
    MQUAKE,
    RECORDS,
    RIPPLE,
    SANITATION,
    WIKIBIO,
    ZSRE,
)

from corrigenda.errors import DatasetError, MissingExtra
from corrigenda.eval.datasets import BUILTIN, FORMATS, load


def probes(case, role):
    return [probe.prompt for probe in case.probes if probe.role == role]


def test_every_format_has_a_record_here():
    assert set(RECORDS) == set(FORMATS)


@pytest.mark.parametrize("name", RECORDS)
def test_the_format_is_told_from_the_record(write, name):
    dataset = load(write([RECORDS[name]]))
    assert dataset.format == name
    assert dataset.cases == load(write([RECORDS[name]]), name).cases
    lines = write((json.dumps(RECORDS[name]) + "\n\n").encode(), "data.jsonl")
    assert load(lines).cases == dataset.cases
    assert len(dataset.sha256) == 64
    assert all(case.edits and any(p.role == "reliability" for p in case.probes) for case in dataset.cases)


def test_counterfact(write):
    (case,) = load(write([COUNTERFACT])).cases
    (edit,) = case.edits
    assert (case.id, case.relation) == ("7", "P740")
    assert edit.statement == "The place where Delta 5 was founded is Toronto."
    assert (edit.subject, edit.old_answer, edit.paraphrases) == ("Delta 5", "Leeds", ())
    assert probes(case, "reliability") == ["The place where Delta 5 was founded is"]
    assert probes(case, "generalization") == COUNTERFACT["paraphrase_prompts"]
    assert probes(case, "locality") == ["The Dunwells was created in", "This Et Al was formed in"]


@pytest.mark.parametrize(
    ("loc", "expected"),
    [
        ("nq question: who wrote beat it", "Who wrote beat it?"),
        ("NQ question:  when?", "When?"),
        ("where is the city.", "Where is the city?"),
    ],
)
def test_zsre(write, loc, expected):
    (case,) = load(write([{**ZSRE, "loc": loc}])).cases
    assert case.edits[0].statement == "In what country is Uromi located? Poland"
    assert case.edits[0].old_answer == "Nigeria"
    assert probes(case, "locality") == [expected]
    assert probes(case, "generalization") == ["In which country can Uromi be found?"]


def test_a_new_answer_that_equals_the_old_one(write):
    (case,) = load(write([{**ZSRE, "alt": "nigeria"}])).cases
    assert case.edits[0].old_answer is None


def test_knowedit_and_its_variants(write):
    (case,) = load(write([KNOWEDIT])).cases
    assert probes(case, "portability") == ["The language family of the language used by Saskia Mulder is"]
    assert case.probes[2].answers == ("Indo-Aryan", "Indo-Aryan languages")
    assert Counter(p.kind for p in case.probes) == Counter(["prompt", "rephrase", "Reasoning", "Relation_Specificity"])
    other = copy.deepcopy(KNOWEDIT)
    other["rephrase"] = [other.pop("rephrase_prompt"), "And again"]
    other["ground_truth"] = ["", ["Dutch", "Dutch"]]
    other["portability"]["Reasoning"][0] |= {"prompt": ["One", "Two"], "ground_truth": "Indo-Aryan"}
    (case,) = load(write([other])).cases
    assert case.edits[0].old_answer == "Dutch"
    assert len(probes(case, "generalization")) == 2
    assert probes(case, "portability") == ["One", "Two"]


def test_mquake(write):
    (case,) = load(write([MQUAKE])).cases
    assert [edit.target for edit in case.edits] == ["Toronto", "Welsh"]
    assert probes(case, "generalization") == ["Where was Delta 5 founded?"]
    assert [(p.kind, p.answers) for p in case.probes if p.role == "multi_hop"] == [("2_hops", ("Welsh", "Cymraeg"))] * 2


def test_plain_edits_are_not_told_the_wordings_they_are_tested_with(write):
    (case,) = load(write([EDIT])).cases
    assert case.edits[0].paraphrases == ()
    assert probes(case, "generalization") == ["France's capital is"]
    assert probes(case, "locality") == ["The river of Paris is"]
    assert case.probes[0].answers == ("Lyon", "Lugdunum")


def test_facts(write):
    (case,) = load(write([FACT])).cases
    assert Counter(p.kind for p in case.probes) == {
        "prompt": 1,
        "paraphrase": 2,
        "question": 1,
        "alias": 1,
        "reversed": 1,
        "one_hop": 1,
        "neighbour": 1,
        "other_attribute": 1,
    }
    bare = {key: value for key, value in FACT.items() if key not in ("alias", "reversed", "one_hop")}
    assert not probes(load(write([bare])).cases[0], "portability")


def test_counterfact_has_rivals_and_texts(write):
    (case,) = load(write([COUNTERFACT])).cases
    assert {(p.role, p.rival) for p in case.probes} == {
        ("reliability", "Leeds"),
        ("generalization", "Leeds"),
        ("locality", "Toronto"),
    }
    assert case.writing == ("Delta 5 originated from",)
    assert case.references == ("Zeds Dead, founded in Toronto.",)
    multi = {key: COUNTERFACT[key] for key in ("requested_rewrite", "paraphrase_prompts", "neighborhood_prompts")}
    assert load(write([multi])).format == "counterfact"


def test_wikibio(write):
    dataset = load(write([WIKIBIO]))
    assert dataset.format == "knowedit"
    (case,) = dataset.cases
    assert (case.edits[0].subject, case.edits[0].target) == ("John Reynolds", "He was an English lawyer.")
    assert [(p.role, p.kind) for p in case.probes] == [("reliability", "prompt"), ("locality", "Relation_Specificity")]


def test_ripple(write):
    (case,) = load(write([RIPPLE])).cases
    (edit,) = case.edits
    assert (edit.prompt, edit.target, edit.old_answer) == (
        "The name of the country of citizenship of Leonardo DiCaprio is",
        "Syria",
        "United States of America",
    )
    assert edit.subject == "Leonardo DiCaprio"
    assert [(p.role, p.kind) for p in case.probes] == [
        ("reliability", "prompt"),
        ("portability", "Subject_Aliasing"),
        ("locality", "Relation_Specificity"),
    ]
    assert case.probes[2].answers == ("Irmelin", "Irmelin DiCaprio")
    recent = {**RIPPLE, "edit": {"prompt": "The capital of Ruritania is Strelsau."}}
    (case,) = load(write([recent])).cases
    assert (case.edits[0].prompt, case.edits[0].target) == ("The capital of Ruritania is", "Strelsau")
    assert (case.edits[0].subject, case.edits[0].old_answer) == ("Ruritania", None)
    sharp = {"prompt": "The name of the Mother of Weißstraße Groß is X.", "relation": "mother"}
    assert load(write([{**RIPPLE, "edit": sharp}])).cases[0].edits[0].subject == "Weißstraße Groß"
    other = {**RIPPLE, "edit": {"prompt": "Its members are Ann and Bob.", "relation": "MEMBER"}}
    assert load(write([other])).cases[0].edits[0].subject is None


def test_events(write):
    (case,) = load(write([EVENT])).cases
    assert case.edits[0].statement == "Jorge Arreaza's son Paul was born in Milwaukee."
    assert (case.edits[0].subject, case.relation) == ("Paul", "born")
    assert [(p.role, p.kind) for p in case.probes] == [
        ("reliability", "event"),
        ("portability", "fact"),
        ("locality", "fact"),
        ("portability", "tendency"),
        ("locality", "tendency"),
    ]
    assert case.probes[1].answers == ("Jorge Arreaza", "Jorge Alberto Arreaza")
    assert case.probes[3].prompt == "Will they move?\n(A) Likely (B) Unlikely\nAnswer:"
    assert case.probes[3].answers == ("(A)", "(A) Likely", "Likely")


def test_memprompt(write):
    (case,) = load(write([MEMPROMPT])).cases
    assert (case.edits[0].prompt, case.edits[0].target) == ("What is like < good > ?", "good is great")
    assert (case.edits[0].subject, case.relation) == ("good", "syn")
    assert case.probes[0].answers == ("good is great", "great")
    assert probes(case, "generalization") == ["What is akin to < good > ?"]
    assert probes(case, "locality") == ["what is < good > ?"]
    path = write([MEMPROMPT])
    path.with_name("templates.json").unlink()
    with pytest.raises(DatasetError, match=r"data.json needs templates.json"):
        load(path)
    path.with_name("templates.json").write_text('{"data": [')
    with pytest.raises(DatasetError, match=r"templates.json"):
        load(path)


def test_convsent(write):
    (case, other) = load(write([CONVSENT, {**CONVSENT, "target_sent": "pos"}])).cases
    assert case.edits[0].statement == "What do you think of rockets? I hate rockets."
    assert {p.rival for p in case.probes} == {"I love rockets!"}
    assert other.edits[0].target == "I love rockets!"
    assert other.probes[0].answers == ("I love rockets!", "Great.")
    assert len(probes(other, "generalization")) == 3


def test_sanitation(write):
    dataset = load(write(json.dumps(SANITATION, indent=1).encode()))
    assert dataset.format == "sanitation"
    one, two = dataset.cases
    assert (one.edits[0].target, one.edits[0].old_answer) == ("I don't know.", "Ann")
    assert probes(one, "locality") == ["Which river 0?", "Which river 1?"]
    assert probes(two, "locality") == ["Which river 2?", "Which river 0?"]
    assert load(write(SANITATION), "sanitation").cases == dataset.cases


class FakeHub:
    """What is used of the package ``datasets``."""

    class exceptions:
        class DatasetsError(Exception):
            pass

    def load_dataset(self, name, split):
        if name != "me/zsre":
            raise FakeHub.exceptions.DatasetsError(f"no {name}")
        return [ZSRE] * (split == "test")


def test_a_set_of_the_hub(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "datasets", FakeHub())
    dataset = load("hub:me/zsre")
    assert (dataset.name, dataset.format, len(dataset.cases)) == ("me/zsre:test", "zsre", 1)
    assert dataset.sha256 == load("hub:me/zsre:test").sha256
    with pytest.raises(DatasetError, match="cannot be read: no me/none"):
        load("hub:me/none")
    with pytest.raises(DatasetError, match="holds no records"):
        load("hub:me/zsre:train")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingExtra, match=r"pip install 'corrigenda\[hub\]'"):
        load("hub:me/zsre")


@pytest.mark.parametrize(
    ("file", "format", "count"),
    [
        ("counterfact_train.json", "counterfact", 3000),
        ("zsre_train.json", "zsre", 3000),
        ("portability.json", "knowedit", 500),
        ("mquake.json", "mquake", 1000),
        ("events.json", "events", 198),
        ("memprompt/linguistic_1000.jsonl", "memprompt", 1000),
        ("memprompt/synthetic_gpt3_300.jsonl", "memprompt", 300),
    ],
)
def test_the_published_formats(data, file, format, count):
    dataset = load(data / file)
    assert (dataset.format, len(dataset.cases)) == (format, count)


def test_the_built_in_set():
    dataset = load(BUILTIN)
    assert (dataset.format, dataset.name) == ("facts", "builtin.jsonl")
    assert len(dataset.cases) >= 150
    prompts = Counter(case.edits[0].prompt for case in dataset.cases)
    assert max(prompts.values()) == 1
    for case in dataset.cases:
        (edit,) = case.edits
        kinds = Counter(probe.kind for probe in case.probes)
        assert edit.subject in edit.prompt, edit.prompt
        assert kinds["paraphrase"] == 2, edit.prompt
        assert kinds["question"] == 1
        assert kinds["neighbour"] >= 2
        assert kinds["other_attribute"] >= 1
        assert next(p.prompt for p in case.probes if p.kind == "question").endswith("?")
        texts = [probe.prompt for probe in case.probes]
        assert len(set(texts)) == len(texts), edit.prompt
        for probe in case.probes:
            if probe.kind == "neighbour":
                assert edit.subject.casefold() not in probe.prompt.casefold(), probe.prompt
            if probe.kind in ("paraphrase", "question", "other_attribute"):
                assert edit.subject.casefold() in probe.prompt.casefold(), probe.prompt
            if probe.role != "portability":
                assert not re.search(rf"\b{re.escape(edit.target)}\b", probe.prompt), probe.prompt
