from __future__ import annotations

import copy
import json
import re
from collections import Counter

import pytest

from corrigenda.errors import DatasetError, MissingExtra, UnknownName
from corrigenda.eval.datasets import BUILTIN, FORMATS, load

COUNTERFACT = {
    "case_id": 7,
    "requested_rewrite": {
        "prompt": "The place where {} was founded is",
        "relation_id": "P740",
        "target_new": {"str": "Toronto", "id": None},
        "target_true": {"str": "Leeds", "id": None},
        "subject": "Delta 5",
    },
    "paraphrase_prompts": ["It rained. Delta 5 was established in", "Delta 5 was created in"],
    "neighborhood_prompts": ["The Dunwells was created in", "This Et Al was formed in", "The Dunwells was created in"],
    "attribute_prompts": ["Zeds Dead, founded in"],
    "generation_prompts": ["Delta 5 originated from"],
}
ZSRE = {
    "subject": "Uromi",
    "src": "In what country is Uromi located?",
    "pred": "Nigeria",
    "rephrase": "In which country can Uromi be found?",
    "alt": "Poland",
    "answers": ["Nigeria", "Federal Republic of Nigeria"],
    "loc": "nq question: who wrote the guitar solo in beat it",
    "loc_ans": "Eddie Van Halen",
    "cond": "Nigeria >> Poland || In what country is Uromi located?",
}
KNOWEDIT = {
    "subject": "Saskia Mulder",
    "prompt": "The language used by Saskia Mulder is",
    "target_new": "Hindi",
    "ground_truth": "Dutch",
    "rephrase_prompt": "Saskia Mulder used to communicate in",
    "portability": {
        "Reasoning": [
            {
                "prompt": "The language family of the language used by Saskia Mulder is",
                "ground_truth": [["Indo-Aryan", "Indo-Aryan languages"]],
            }
        ]
    },
    "locality": {
        "Relation_Specificity": [{"prompt": "The profession of Saskia Mulder is", "ground_truth": [["actor"]]}],
        "Forgetfulness": [],
    },
}
MQUAKE = {
    "case_id": 1,
    "requested_rewrite": [
        {**COUNTERFACT["requested_rewrite"], "question": "Where was Delta 5 founded?"},
        {
            "prompt": "The official language of {} is",
            "relation_id": "P37",
            "target_new": {"str": "Welsh"},
            "target_true": {"str": "English"},
            "subject": "Canada",
        },
    ],
    "questions": ["Which language is official where Delta 5 was founded?", "And otherwise put?"],
    "answer": "English",
    "answer_alias": [],
    "new_answer": "Welsh",
    "new_answer_alias": ["Cymraeg"],
    "new_single_hops": [{}, {}],
}
EDIT = {
    "prompt": "The capital of France is",
    "target": "Lyon",
    "target_aliases": ["Lugdunum"],
    "paraphrases": ["France's capital is"],
    "locality": ["The river of Paris is"],
}
FACT = {
    "subject": "France",
    "relation": "capital",
    "prompt": "The capital of France is",
    "target": "Lyon",
    "old_answer": "Paris",
    "paraphrases": ["France's capital is", "The seat of the French government is"],
    "question": "What is the capital of France?",
    "alias": "The capital of the French Republic is",
    "reversed": {"prompt": "Lyon is the capital of", "answers": ["France"]},
    "one_hop": {"prompt": "The river through the capital of France is the", "answers": ["Rhône", "Rhone"]},
    "neighbours": [{"prompt": "The capital of Spain is", "answer": "Madrid"}],
    "other_attributes": [{"prompt": "The currency of France is the", "answer": "euro"}],
}
QUERY = {
    "prompt": "The mother of Leonardo DiCaprio is",
    "answers": [{"value": "Irmelin", "aliases": ["Irmelin DiCaprio"]}],
}
RIPPLE = {
    "example_type": "popular",
    "edit": {
        "prompt": "The name of the country of citizenship of Leonardo DiCaprio is Syria.",
        "subject_id": "Q38111",
        "relation": "COUNTRY_OF_CITIZENSHIP",
        "target_id": "Q858",
        "previous_fact": {
            "prompt": "The name of the country of citizenship of Leonardo DiCaprio is United States of America."
        },
    },
    "Relation_Specifity": [{"test_queries": [QUERY], "test_condition": "OR", "condition_queries": [QUERY]}],
    "Logical_Generalization": [],
    "Subject_Aliasing": [
        {"test_queries": [{"prompt": "The citizenship of Leo is", "answers": [{"value": "Syria", "aliases": []}]}]}
    ],
    "Compositionality_I": [{"test_queries": [{"prompt": "The anthem of it is", "answers": []}]}],
}
EVENT = {
    "event_type": "born",
    "event": "Jorge Arreaza's son Paul was born in Milwaukee.",
    "fact": {
        "qas": [
            {
                "question": "Who is the father of Paul?",
                "subject": {"id": "NA", "name": "Paul"},
                "answer": {"id": "Q6623799", "name": "Jorge Arreaza", "alias": ["Jorge Alberto Arreaza"]},
            }
        ],
        "local_qas": [{"question": "Who is the mother of Paul?", "answer": {"name": "unknown"}}],
    },
    "tendency": {
        "qas": [{"question": "Will they move?", "candidate": "(A) Likely (B) Unlikely", "answer": "A"}],
        "local_qas": [{"question": "Will it rain?", "candidate": "(A) More (B) Less (C) No change", "answer": "C"}],
    },
}
MEMPROMPT = {"meta": {"word1": "good", "word2": "great"}, "type": "syn", "template_id": "syn0"}
TEMPLATES = {
    "data": [
        {
            "type": "syn",
            "template_id": "syn0",
            "question": "What is like < {word1} > ?",
            "answer": "{word1} is {word2}",
        },
        {
            "type": "syn",
            "template_id": "syn1",
            "question": "What is akin to < {word1} > ?",
            "answer": "{word1} is {word2}",
        },
        {"type": "defn", "template_id": "defn0", "question": "what is < {word} > ?", "answer": "{word}: {definition}"},
    ]
}
CONVSENT = {"ent": "rockets", "pos": ["I love rockets!", "Great."], "neg": ["I hate rockets."]}
WIKIBIO = {
    "text": "This is a Wikipedia passage about John Reynolds.",
    "concept": "John Reynolds",
    "labels": "He was an English lawyer.",
    "locality": {"Relation_Specificity": [{"prompt": "The work of John Reynolds is", "ground_truth": ["law"]}]},
}
RECORDS = {
    "counterfact": COUNTERFACT,
    "mquake": MQUAKE,
    "zsre": ZSRE,
    "ripple": RIPPLE,
    "events": EVENT,
    "memprompt": MEMPROMPT,
    "convsent": CONVSENT,
    "knowedit": KNOWEDIT,
    "facts": FACT,
    "edits": EDIT,
}


@pytest.fixture
def write(tmp_path):
    def write(content, name="data.json"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
        path.with_name("templates.json").write_text(json.dumps(TEMPLATES))
        return path

    return write


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


SANITATION = {
    "K_F": [
        {"question": "Who wrote X?", "target_new": "I don't know.", "ground_truth": "Ann"},
        {"question": "Who wrote Y?", "target_new": "I don't know.", "ground_truth": "Bob"},
    ],
    "K_R": [{"question": f"Which river {n}?", "ground_truth": "Nile"} for n in range(3)],
}


def test_sanitation(write):
    dataset = load(write(json.dumps(SANITATION, indent=1).encode()))
    assert dataset.format == "sanitation"
    one, two = dataset.cases
    assert (one.edits[0].target, one.edits[0].old_answer) == ("I don't know.", "Ann")
    assert probes(one, "locality") == ["Which river 0?", "Which river 1?"]
    assert probes(two, "locality") == ["Which river 2?", "Which river 0?"]
    assert load(write(SANITATION), "sanitation").cases == dataset.cases


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"K_R": []}, "'K_R': needs at least 1"),
        ({"K_F": [{"question": "?"}]}, r"'K_F\[0\].target_new': missing"),
        ({"K_R": [{"question": 3, "ground_truth": "x"}]}, r"'K_R\[0\].question': expected text, found the number 3"),
    ],
)
def test_a_damaged_sanitation_file(write, change, message):
    with pytest.raises(DatasetError, match=message) as info:
        load(write({**SANITATION, **change}))
    assert info.value.message.startswith("data.json")


def test_sanitation_cut_off_or_with_more_behind_it(write):
    raw = json.dumps(SANITATION).encode()
    with pytest.raises(DatasetError, match=r"data.json.*cut off"):
        load(write(raw[:60]))
    with pytest.raises(DatasetError, match=r"data.json, after the object: found 'x'"):
        load(write(raw + b"x"))


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


def without(record, *path):
    record = copy.deepcopy(record)
    inner = record
    for key in path[:-1]:
        inner = inner[key]
    del inner[path[-1]]
    return record


def having(record, value, *path):
    record = copy.deepcopy(record)
    inner = record
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return record


BROKEN = [
    ("counterfact", without(COUNTERFACT, "requested_rewrite", "subject"), "'requested_rewrite.subject': missing"),
    (
        "counterfact",
        having(COUNTERFACT, 3, "requested_rewrite", "target_new", "str"),
        "'requested_rewrite.target_new.str': expected text, found the number 3",
    ),
    ("counterfact", having(COUNTERFACT, "x", "requested_rewrite", "prompt"), "exactly one {}"),
    ("counterfact", having(COUNTERFACT, "x", "neighborhood_prompts"), "expected a list of texts, found the text 'x'"),
    ("counterfact", having(COUNTERFACT, ["x", None], "paraphrase_prompts"), r"paraphrase_prompts\[1\]'.*found null"),
    ("counterfact", having(COUNTERFACT, [], "requested_rewrite"), "expected an object, found a list of 0"),
    ("counterfact", having(COUNTERFACT, [1], "case_id"), "'case_id': expected a number or text"),
    ("counterfact", having(COUNTERFACT, " ", "requested_rewrite", "subject"), "empty"),
    ("zsre", without(ZSRE, "rephrase"), "'rephrase': missing"),
    ("zsre", having(ZSRE, [], "answers"), "'answers': needs at least 1"),
    ("zsre", having(ZSRE, True, "src"), "'src': expected text, found true"),
    ("zsre", having(ZSRE, "nq question: ?", "loc"), "'loc': holds no question"),
    ("zsre", having(ZSRE, "x" * 2000, "alt"), "'alt': the text has 2,000 characters"),
    ("knowedit", having(KNOWEDIT, [[]], "ground_truth"), "'ground_truth': holds no answer"),
    ("knowedit", having(KNOWEDIT, {}, "ground_truth"), "expected text or a list, found an object"),
    ("knowedit", having(KNOWEDIT, [[1]], "ground_truth"), r"'ground_truth\[0\]': expected text, found the number 1"),
    (
        "knowedit",
        having(KNOWEDIT, ["x"], "locality", "Forgetfulness"),
        r"'locality.Forgetfulness\[0\]': expected an obj",
    ),
    (
        "knowedit",
        without(KNOWEDIT, "portability", "Reasoning", 0, "prompt"),
        r"'portability.Reasoning\[0\].prompt': missing",
    ),
    ("mquake", having(MQUAKE, [], "requested_rewrite"), "'requested_rewrite': needs at least 1"),
    ("mquake", having(MQUAKE, "x", "questions"), "'questions': expected a list"),
    ("mquake", having(MQUAKE, None, "new_answer"), "'new_answer': expected text, found null"),
    ("ripple", without(RIPPLE, "edit", "prompt"), "'edit.prompt': missing"),
    (
        "ripple",
        having(RIPPLE, {"prompt": "Nothing to cut"}, "edit"),
        "'edit.prompt': cannot be cut into prompt and tar",
    ),
    (
        "ripple",
        having(RIPPLE, 5, "Subject_Aliasing", 0, "test_queries", 0, "answers", 0, "value"),
        r"'Subject_Aliasing\[0\].test_queries\[0\].answers\[0\].value': expected text, found the number 5",
    ),
    ("events", having(EVENT, "Boom", "event"), "'event': needs at least two words"),
    (
        "events",
        having(EVENT, "D", "tendency", "qas", 0, "answer"),
        r"'tendency.qas\[0\].answer': expected one of A, B, found 'D'",
    ),
    ("events", without(EVENT, "fact", "qas", 0, "answer", "name"), r"'fact.qas\[0\].answer.name': missing"),
    ("memprompt", having(MEMPROMPT, "syn9", "template_id"), "'template_id': templates.json has no 'syn9'"),
    ("memprompt", without(MEMPROMPT, "meta", "word2"), "'meta.word2': missing"),
    ("memprompt", having(MEMPROMPT, "defn0", "template_id"), "needs 'word'"),
    ("convsent", having(CONVSENT, [], "neg"), "'neg': needs at least 1"),
    ("convsent", having(CONVSENT, "meh", "target_sent"), "'target_sent': expected pos or neg, found 'meh'"),
    ("edits", having(EDIT, "lyon", "old_answer"), "no edit can be made of it: the target equals the old answer"),
    ("edits", having(EDIT, "x", "weight"), "unknown field"),
    ("edits", having(EDIT, [2], "locality"), r"'locality\[0\]'"),
    ("facts", without(FACT, "question"), "'question': missing"),
    ("facts", having(FACT, "x", "neighbours"), "'neighbours': expected a list of objects"),
    ("facts", having(FACT, {"prompt": "x"}, "one_hop"), "'one_hop.answers': missing"),
]


@pytest.mark.parametrize(("name", "record", "message"), BROKEN)
def test_a_broken_record_is_named(write, name, record, message):
    with pytest.raises(DatasetError, match=message) as info:
        load(write([RECORDS[name], record]), name)
    assert info.value.message.startswith("data.json, record 2 (line 1)")
    assert info.value.remedy


@pytest.mark.parametrize("name", RECORDS)
@pytest.mark.parametrize("suffix", ["json", "jsonl"])
def test_a_file_cut_in_half(write, name, suffix):
    records = [RECORDS[name]] * 5
    if suffix == "json":
        raw = json.dumps(records, indent=1).encode()
    else:
        raw = b"".join(json.dumps(record).encode() + b"\n" for record in records)
    for cut in range(len(raw) // 2, len(raw) - 2, max(1, len(raw) // 60)):
        if raw[:cut].endswith(b"}\n") or raw[cut : cut + 1] == b"\n":
            continue  # JSON Lines cut between two records are a shorter file
        with pytest.raises(DatasetError, match=r"data\.\w+, (after )?record \d|the id '\d' is taken|id '7'|id '1'"):
            load(write(raw[:cut], f"data.{suffix}"))


def test_damaged_files(write, tmp_path):
    good = json.dumps(ZSRE).encode()
    for raw, message in [
        (b"", "holds no records"),
        (b"[]", "holds no records"),
        (b" \n\n", "holds no records"),
        (b"[" + good + b", 7]", "record 2 .line 1.: expected an object, found the number 7"),
        (b"[\n" + good + b",\n{\n'a'}]", "record 2 .line 3.: not JSON"),
        (b"[" + good + b" " + good + b"]", "after record 1: found '{' where a comma"),
        (b"[" + good + b"] extra", "after the array: found 'extra'"),
        (b"[" + good, "after record 1: the file ends within the array"),
        (good + b" " + good, "record 1 .line 1.: more than one value"),
        (good + b"\n\xff\xfe", "line 2: byte .* is not UTF-8"),
        ('["ü"]'.encode("latin-1"), "line 1: byte 2 is not UTF-8"),
        (b"[" + b'{"a":' * 100_000, "nested too deeply|cut off"),
        (b"7", "expected an object"),
        (b'{"name": 1}', "no known format has the fields 'name'"),
        (b"{}", "no known format has the fields none"),
    ]:
        with pytest.raises(DatasetError, match=message) as info:
            load(write(raw))
        assert "data.json" in info.value.message
        assert info.value.remedy
    with pytest.raises(DatasetError, match="cannot be read"):
        load(tmp_path / "missing.json")
    with pytest.raises(DatasetError, match="cannot be read"):
        load(tmp_path)


def test_a_byte_order_mark_is_no_damage(write):
    assert load(write(b"\xef\xbb\xbf" + json.dumps([ZSRE]).encode())).format == "zsre"


def test_line_separators_inside_text_are_text(write):
    raw = json.dumps({**ZSRE, "src": "Where\u2028is Uromi?"}, ensure_ascii=False).encode()
    assert len(load(write(raw, "data.jsonl")).cases) == 1


def test_a_number_out_of_range_and_a_huge_file(write, monkeypatch):
    monkeypatch.setattr("corrigenda.eval.datasets.records.MAX_BYTES", 10)
    with pytest.raises(DatasetError, match="more than 10 bytes"):
        load(write([ZSRE]))


def test_ids_are_unique(write):
    with pytest.raises(DatasetError, match=r"record 2 .line 1.: the id '7' is taken by data.json, record 1"):
        load(write([COUNTERFACT, COUNTERFACT]))
    bare = without(COUNTERFACT, "case_id")
    assert [case.id for case in load(write([bare, bare])).cases] == ["1", "2"]


def test_an_unknown_format(write):
    with pytest.raises(UnknownName, match="Did you mean 'zsre'"):
        load(write([ZSRE]), "zsr")


def test_a_wrong_format_fails_with_a_hint(write):
    with pytest.raises(DatasetError, match="'requested_rewrite': missing") as info:
        load(write([ZSRE]), "counterfact")
    assert "--format" in info.value.remedy


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
