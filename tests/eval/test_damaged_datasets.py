"""Damaged files, broken records, formats that do not fit: each is named, with what to do about it."""

from __future__ import annotations

import copy
import json

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
    TEMPLATES,
    ZSRE,
)

from corrigenda.errors import DatasetError, UnknownName
from corrigenda.eval.datasets import load


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


@pytest.mark.parametrize("field", ["{word1.foo}", "{word1[a]}", "{word1:>99999999999}", "{word1!r}", "{}", "{word1"])
def test_a_wording_that_asks_for_more_than_a_word(write, field):
    path = write([MEMPROMPT])
    wordings = {"data": [{**TEMPLATES["data"][0], "question": f"What is {field} ?"}]}
    path.with_name("templates.json").write_text(json.dumps(wordings))
    with pytest.raises(DatasetError, match="the wording"):
        load(path)


def test_a_number_of_thousands_of_digits(write):
    with pytest.raises(DatasetError, match=r"record 1 .*too many digits"):
        load(write(b'{"prompt": "a b", "target": "c", "id": ' + b"1" * 5000 + b"}"))


def test_a_name_that_no_file_can_have():
    with pytest.raises(DatasetError, match="cannot be read"):
        load("a\0b")


def test_a_huge_file(write, monkeypatch):
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
