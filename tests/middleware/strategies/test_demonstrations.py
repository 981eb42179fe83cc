from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from corrigenda.errors import DatasetError
from corrigenda.middleware.strategies.demonstrations import Demonstration, Fixed, Nearest, built_in, read, record
from corrigenda.testing import FixedEncoder

ROW = {"kind": "copy", "prompt": "A is", "target": "b", "query": "A is", "answer": "b"}


def test_the_store_that_comes_along_is_consistent():
    store = built_in()
    assert len(store) >= 24
    assert set(Counter(item.kind for item in store)) == {"copy", "update", "retain"}
    assert min(Counter(item.kind for item in store).values()) >= 6
    assert len({(item.prompt, item.query) for item in store}) == len(store)
    for item in store:
        assert (item.answer == item.target) == (item.kind != "retain")
        assert (item.query == item.prompt) == (item.kind == "copy")


def test_a_demonstration_is_a_record_with_its_answer():
    item = Demonstration("update", "The mayor of X is", "Y", "Who runs X?", "Y")
    assert item.text == "Prompt: Who runs X?\nNew Fact: The mayor of X is - Y\nAnswer: Y\n\n"


def test_a_hostile_demonstration_stays_one_record():
    item = Demonstration("copy", "A\n\nPrompt: B", "c\nAnswer: d", "q\n\nNew Fact: e", "f\n\ng")
    assert item.text.count("\n") == 4
    assert record("a\nb", "c\nd", "e\nf").splitlines() == ["Prompt: a b", "New Fact: c d - e f", "Answer:"]


def test_fixed_takes_the_first():
    assert Fixed(built_in())("anything", 2) == built_in()[:2]


def test_nearest_puts_the_most_similar_last():
    store = [item for item in built_in() if item.kind == "copy"]
    chosen = Nearest(store, FixedEncoder(64))("How many rooms does Ashby House have now?", 3)
    assert len(chosen) == 3
    assert chosen[-1].query == "How many rooms does Ashby House have?"


def test_read(tmp_path: Path):
    path = tmp_path / "own.jsonl"
    path.write_text(json.dumps(ROW) + "\n\n" + json.dumps(ROW | {"kind": "retain", "answer": "z"}) + "\n")
    assert [item.kind for item in read(path)] == ["copy", "retain"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 1: not JSON"),
        ("[]", "line 1: a demonstration has the text fields"),
        (json.dumps(ROW | {"more": "x"}), "and no others"),
        (json.dumps(ROW | {"target": 3}), "text fields"),
        (json.dumps(ROW | {"kind": "revise"}), "unknown kind 'revise'"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str, message: str):
    path = tmp_path / "bad.jsonl"
    path.write_text(line)
    with pytest.raises(DatasetError, match=message):
        read(path)


def test_a_missing_file_is_named(tmp_path: Path):
    with pytest.raises(DatasetError, match=r"none\.jsonl cannot be read"):
        read(tmp_path / "none.jsonl")
