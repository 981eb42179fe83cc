from __future__ import annotations

import json
from pathlib import Path

import pytest

from corrigenda.errors import DatasetError
from corrigenda.eval.feedback import Growth, Task, examples, load, simulate

TEMPLATES = {
    "pun": [],
    "ling": [
        {
            "type": "syn",
            "template_id": "syn0",
            "question": "What is akin to < {word1} > ?",
            "clarification": "clarification: I want a synonym.",
            "answer": "the synonym for {word1} is {word2}",
        },
        {
            "type": "sent",
            "template_id": "sent0",
            "question": "Use < {word} > .",
            "clarification": "clarification: I want a sentence.",
            "answer": "a sentence with {word} is: {sentence}",
        },
    ],
}
ROWS = [
    {"meta": {"word1": "fast", "word2": "quick"}, "type": "syn", "template_id": "syn0"},
    {"meta": {"word": "sun", "sentence": "the sun shines"}, "type": "sent", "template_id": "sent0"},
]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "templates.json").write_text(json.dumps(TEMPLATES))
    path = tmp_path / "ling_2.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in ROWS) + "\n\n")
    return path


class Learner:
    """Understands what it was told about."""

    def __init__(self, tasks):
        self.by_query = {task.query: task for task in tasks}
        self.known = set()

    def answer(self, queries):
        return [self.by_query[query].answer if query.split("<")[0] in self.known else "?" for query in queries]

    def tell(self, query, clarification):
        assert clarification == self.by_query[query].clarification
        self.known.add(query.split("<")[0])


def test_tasks_are_read(path):
    first, second = load(path)
    assert first == Task(
        "syn",
        "What is akin to < fast > ?",
        "clarification: I want a synonym.",
        "the synonym for fast is ",
        "the synonym for fast is quick",
    )
    assert second.opening == "a sentence with sun is: "


def test_understanding_grows_with_what_users_say(path):
    tasks = load(path) * 10
    growth = simulate(tasks, Learner(tasks), tells=1.0, batch=2)
    assert growth.understood == [False, False, *[True] * 18]
    assert growth.told == 2
    assert growth.to_dict() == {"n": 20, "understood": 0.9, "by_quarter": [0.6, 1.0, 1.0, 1.0], "told": 2}
    silent = simulate(tasks, Learner(tasks), tells=0.0)
    assert (silent.told, sum(silent.understood)) == (0, 0)
    assert simulate(tasks, Learner(tasks), seed=4) == simulate(tasks, Learner(tasks), seed=4)
    assert Growth().to_dict()["understood"] is None


def test_examples_are_some_of_each_kind(path):
    tasks = load(path) * 3
    assert [task.kind for task in examples(tasks, 2)] == ["syn", "sent", "syn", "sent"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "line 1: no task"),
        (json.dumps(ROWS[0] | {"template_id": "x"}), "line 1: no task"),
        (json.dumps(ROWS[0] | {"meta": {}}), "line 1: no task"),
        ("", "holds no task"),
    ],
)
def test_a_bad_file_is_named(path, content, message):
    path.write_text(content)
    with pytest.raises(DatasetError, match=message):
        load(path)


def test_wordings_must_be_there(path, tmp_path):
    other = tmp_path / "other.jsonl"
    other.write_text(json.dumps(ROWS[0]))
    with pytest.raises(DatasetError, match="no wordings for"):
        load(other)
    (tmp_path / "templates.json").unlink()
    with pytest.raises(DatasetError, match="cannot be read"):
        load(path)
