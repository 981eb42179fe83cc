"""Other tasks: readers, and a scorer whose picks can be worked out by hand."""

from __future__ import annotations

import json
import math

import pytest

from corrigenda.errors import CorrigendaError, DatasetError, UnknownName
from corrigenda.eval.datasets.tasks import TASKS, Question, Task, load_task
from corrigenda.eval.tasks import compare, score_task
from corrigenda.lm.scoring import TargetScore

SOUND = {
    "piqa": {"goal": "Dry a dog", "sol1": "use a towel", "sol2": "use a fork", "label": 0},
    "cola": {"sentence": "Him sleeps.", "label": 0},
    "sst2": {"sentence": "a joy", "label": 1},
    "sentiment": {"sentence": "a bore", "label": "0"},
    "mrpc": {"sentence1": "A is B.", "sentence2": "B is A.", "label": 1},
    "rte": {"sentence1": "It rains.", "sentence2": "It is wet.", "label": 0},
    "nli": {"sentence1": "It rains.", "sentence2": "It is dry.", "label": "not_entailment"},
    "mmlu": {"question": "2 + 2?", "choices": ["3", "4", "5"], "answer": 1},
    "dialogue": {"article": "m : hello .", "options": ["f : hi .", "f : no ."], "answers": "A"},
    "choices": {"prompt": "The sky is", "choices": ["blue", "green"], "answer": 0},
}
RIGHT = {"piqa": 0, "cola": 0, "sst2": 1, "sentiment": 0, "mrpc": 1, "rte": 0, "nli": 1, "mmlu": 1, "dialogue": 0}


@pytest.fixture
def write(tmp_path):
    def write(name, *records):
        path = tmp_path / name
        path.write_text("\n".join(map(json.dumps, records)), "utf-8")
        return path

    return write


@pytest.mark.parametrize("name", list(TASKS))
def test_every_task_is_told_by_its_file_name(write, name):
    task = load_task(write(f"{name}_valid.jsonl", SOUND[name], SOUND[name]))
    assert (task.name, task.file, len(task.questions)) == (name, f"{name}_valid.jsonl", 2)
    question = task.questions[1]
    assert question.id == "2"
    assert question.answer == RIGHT.get(name, 0)
    assert len(question.choices) >= 2


def test_a_task_can_be_named(write):
    path = write("mine.jsonl", SOUND["piqa"])
    assert load_task(f"piqa={path}").questions[0].choices == ("use a towel", "use a fork")
    with pytest.raises(UnknownName, match="piqua"):
        load_task(f"piqua={path}")
    with pytest.raises(DatasetError, match="field 'choices': missing"):
        load_task(path)


@pytest.mark.parametrize(
    ("name", "change", "complaint"),
    [
        ("piqa", {"label": 2}, "field 'label': expected one of 0, 1; found 2"),
        ("piqa", {"sol2": 5}, "field 'sol2': expected text, found the number 5"),
        ("cola", {"label": None}, "field 'label'"),
        ("nli", {"label": "maybe"}, "expected one of 0, 1, entailment, not_entailment; found 'maybe'"),
        ("mmlu", {"answer": 3}, "expected a place from 0 to 2, found 3"),
        ("mmlu", {"choices": ["one"]}, "needs 2 to 10 choices, has 1"),
        ("mmlu", {"choices": ["one", " "]}, r"field 'choices\[1\]'"),
        ("dialogue", {"answers": "C"}, "expected a letter from A to B, found 'C'"),
    ],
)
def test_a_damaged_record_names_file_record_and_field(write, name, change, complaint):
    path = write(f"{name}.jsonl", SOUND[name], SOUND[name] | change)
    with pytest.raises(DatasetError, match=complaint) as caught:
        load_task(path)
    assert f"{name}.jsonl, record 2 (line 2)" in str(caught.value)
    assert "→" in str(caught.value)


def test_samples_are_nested(write):
    task = load_task(write("piqa.jsonl", *[SOUND["piqa"]] * 9))
    few, more = (task.sample(count, seed=1).questions for count in (3, 6))
    assert few == more[:3]
    assert task.sample(None) is task


class Probable:
    """Scores (prompt, choice) by a table of token log-probabilities."""

    def __init__(self, table, refuses=()):
        self.table, self.refuses = table, refuses

    def generate(self, prompts, *, max_new_tokens):
        raise AssertionError("tasks are scored, not generated")

    def score(self, prompts, targets):
        if bad := set(prompts) & set(self.refuses):
            raise CorrigendaError(f"too long: {bad}")
        return [
            TargetScore(row, (False,) * len(row))
            for row in (self.table[pair] for pair in zip(prompts, targets, strict=True))
        ]


def two_questions():
    return Task(
        "choices", "x", "0" * 64, (Question("1", "A:", ("yes", "no way"), 0), Question("2", "B:", ("up", "down"), 1))
    )


def test_accuracy_by_hand():
    model = Probable(
        {
            # whole: -3 against -4, so "yes", right; per byte: -3/3 against -4/6, so "no way", wrong
            ("A:", "yes"): (-3.0,),
            ("A:", "no way"): (-2.0, -2.0),
            # whole: -1 against -2, so "up", wrong; per byte: -1/2 against -2/4, a tie that the first takes
            ("B:", "up"): (-1.0,),
            ("B:", "down"): (-2.0,),
        }
    )
    score = score_task(model, two_questions(), batch=1)
    assert score.accuracy == 0.5
    assert score.accuracy_norm == 0.0
    # one of two: deviation sqrt(2 · 0.5²) = 0.7071, over sqrt(2)
    assert score.to_dict() == {"value": 0.5, "norm": 0.0, "n": 2, "stderr": 0.5, "unscored": 0}


def test_drop_by_hand():
    table = {("A:", "yes"): (-1.0,), ("A:", "no way"): (-2.0,), ("B:", "up"): (-2.0,), ("B:", "down"): (-1.0,)}
    before = score_task(Probable(table), two_questions())
    after = score_task(Probable(table | {("B:", "up"): (-0.5,)}), two_questions())
    found = compare(before, after)
    assert (found["before"]["value"], found["after"]["value"], found["drop"]) == (1.0, 0.5, 0.5)
    assert found["drop_stderr"] == pytest.approx(0.5)


def test_a_refused_question_is_unscored():
    table = {("A:", "yes"): (-1.0,), ("A:", "no way"): (-2.0,)}
    score = score_task(Probable(table, refuses={"B:"}), two_questions())
    assert score.to_dict() == {"value": 1.0, "norm": 1.0, "n": 1, "stderr": None, "unscored": 1}
    assert "too long" in score.picks[1].reason
    nothing = score_task(Probable({}, refuses={"A:", "B:"}), two_questions())
    assert (nothing.accuracy, nothing.accuracy_norm) == (None, None)
    assert compare(score, nothing)["drop"] is None
    assert not math.isnan(score.accuracy)


def test_shared_files(data):
    assert len(load_task(data / "piqa_valid.jsonl").questions) == 1838
    names = {load_task(path).name for path in (data / "other_tasks").glob("*.jsonl")}
    assert names == {"cola", "dialogue", "mmlu", "mrpc", "nli", "rte", "sentiment", "sst2"}
