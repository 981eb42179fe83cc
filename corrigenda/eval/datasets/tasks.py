"""Tasks that an edit should leave alone, as multiple choice: PIQA, GLUE's, MMLU, dialogues, or a file of one's own.

==================  =====================================================  ============================================
task                fields of a record                                     question (choices)
==================  =====================================================  ============================================
``piqa``            ``goal``, ``sol1``, ``sol2``, ``label`` (0 or 1)       the goal (both solutions)
``cola``            ``sentence``, ``label`` (1: acceptable)                is it grammatical? (no, yes)
``sst2``            ``sentence``, ``label`` (1: positive)                  positive or negative? (negative, positive)
``sentiment``       as ``sst2``
``mrpc``            ``sentence1``, ``sentence2``, ``label`` (1: the same)  do they mean the same? (no, yes)
``rte``, ``nli``    ``sentence1``, ``sentence2``, ``label``                does the second follow? (yes, no)
``mmlu``            ``question``, ``choices``, ``answer`` (a place)        the question and the choices (A, B, C, D)
``dialogue``        ``article``, ``options``, ``answers`` (a letter)       the dialogue (its continuations)
``choices``         ``prompt``, ``choices``, ``answer`` (a place)          the prompt as it is (the choices)
==================  =====================================================  ============================================

Sources: PIQA (Bisk et al. 2020), GLUE (Wang et al. 2019), MMLU (Hendrycks et al. 2021), MuTual (Cui et al. 2020). The
task is told by the file's name (``piqa_valid.jsonl``), or named as ``piqa=some/file.jsonl``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from corrigenda.errors import UnknownName
from corrigenda.eval.datasets.records import Fields, read_records

_LETTERS = "ABCDEFGHIJ"


@dataclass(frozen=True, slots=True)
class Question:
    """One question with its choices.

    Attributes:
        id: Number of the record, from 1.
        prompt: What the model is given.
        choices: At least two continuations.
        answer: Place of the right one.
    """

    id: str
    prompt: str
    choices: tuple[str, ...]
    answer: int


@dataclass(frozen=True, slots=True)
class Task:
    """The questions of one file.

    Attributes:
        name: Of the task (``piqa``), unique within a run.
        file: Name of the file.
        sha256: Of the file's bytes.
        questions: At least one.
    """

    name: str
    file: str
    sha256: str
    questions: tuple[Question, ...]

    def sample(self, limit: int | None, seed: int = 0) -> Task:
        """Return the task with ``limit`` of its questions; samples of one seed are nested."""
        order = sorted(self.questions, key=lambda item: hashlib.sha256(f"{seed}/{item.id}".encode()).digest())
        return self if limit is None else Task(self.name, self.file, self.sha256, tuple(order[:limit]))


def load_task(source: str | Path) -> Task:
    """Read a task from ``source``: a path, or ``name=path`` where the file's name does not tell the task.

    Raises:
        DatasetError: The file is missing or damaged, or a record breaks the task's format.
        UnknownName: No task is called so.
    """
    name, mark, rest = str(source).partition("=")
    named = bool(mark) and "/" not in name and not Path(source).exists()
    path = Path(rest if named else source)
    kind = name.casefold() if named else _told_by(path)
    if kind not in TASKS:
        raise UnknownName.among("task", kind, list(TASKS))
    records, raw = read_records(path)
    questions = tuple(TASKS[kind](record, number) for number, record in enumerate(records, start=1))
    return Task(kind, path.name, hashlib.sha256(raw).hexdigest(), questions)


def _told_by(path: Path) -> str:
    stem = path.stem.casefold()
    return next((name for name in TASKS if stem.startswith(name)), "choices")


def _piqa(record: Fields, number: int) -> Question:
    choices = (record.text("sol1"), record.text("sol2"))
    return Question(str(number), f"Question: {record.text('goal')}\nAnswer:", choices, _label(record, 2))


def _cola(record: Fields, number: int) -> Question:
    prompt = f"{record.text('sentence')}\nQuestion: Is this sentence grammatical English?\nAnswer:"
    return Question(str(number), prompt, ("no", "yes"), _label(record, 2))


def _sst2(record: Fields, number: int) -> Question:
    prompt = f"{record.text('sentence')}\nQuestion: Is this review positive or negative?\nAnswer:"
    return Question(str(number), prompt, ("negative", "positive"), _label(record, 2))


def _mrpc(record: Fields, number: int) -> Question:
    first, second = record.text("sentence1"), record.text("sentence2")
    prompt = f"First: {first}\nSecond: {second}\nQuestion: Do both sentences mean the same?\nAnswer:"
    return Question(str(number), prompt, ("no", "yes"), _label(record, 2))


def _rte(record: Fields, number: int) -> Question:
    first, second = record.text("sentence1"), record.text("sentence2")
    prompt = f"{first}\nQuestion: Does it follow that {second.rstrip('.')}?\nAnswer:"
    return Question(str(number), prompt, ("yes", "no"), _label(record, 2, ("entailment", "not_entailment")))


def _mmlu(record: Fields, number: int) -> Question:
    choices = _choices(record, "choices")
    listed = "\n".join(f"{letter}. {choice}" for letter, choice in zip(_LETTERS, choices, strict=False))
    letters = tuple(_LETTERS[: len(choices)])
    return Question(str(number), f"{record.text('question')}\n{listed}\nAnswer:", letters, _place(record, len(choices)))


def _dialogue(record: Fields, number: int) -> Question:
    options = _choices(record, "options")
    letter = record.text("answers")
    if letter not in tuple(_LETTERS[: len(options)]):
        record.fail("answers", f"expected a letter from A to {_LETTERS[len(options) - 1]}, found {letter!r}")
    return Question(str(number), record.text("article", 20_000), options, _LETTERS.index(letter))


def _plain(record: Fields, number: int) -> Question:
    choices = _choices(record, "choices")
    return Question(str(number), record.text("prompt", 20_000), choices, _place(record, len(choices)))


TASKS: Mapping[str, Callable[[Fields, int], Question]] = MappingProxyType(
    {
        "piqa": _piqa,
        "cola": _cola,
        "sst2": _sst2,
        "sentiment": _sst2,
        "mrpc": _mrpc,
        "rte": _rte,
        "nli": _rte,
        "mmlu": _mmlu,
        "dialogue": _dialogue,
        "choices": _plain,
    }
)
"""Every task that can be read, by name, with the function that reads one record."""


def _choices(record: Fields, key: str) -> tuple[str, ...]:
    """Return the choices in their order, repetitions kept: their places count."""
    items = record.get(key, list, "a list of texts")
    if not 2 <= len(items) <= len(_LETTERS):
        record.fail(key, f"needs 2 to {len(_LETTERS)} choices, has {len(items)}")
    for place, item in enumerate(items):
        if not isinstance(item, str) or not item.strip():
            record.fail(f"{key}[{place}]", f"expected text, found {item!r}")
    return tuple(item.strip() for item in items)


def _place(record: Fields, count: int) -> int:
    place = record.get("answer", int, "a number")
    if not 0 <= place < count:
        record.fail("answer", f"expected a place from 0 to {count - 1}, found {place}")
    return int(place)


def _label(record: Fields, count: int, names: Sequence[str] = ()) -> int:
    """Return a label that is written as a number, as the text of one, or by name."""
    found = record.get("label", object, "a label")
    if isinstance(found, str) and found in names:
        return list(names).index(found)
    if isinstance(found, str) and found.isdecimal():
        found = int(found)
    if isinstance(found, bool) or not isinstance(found, int) or not 0 <= found < count:
        allowed = ", ".join([*map(str, range(count)), *names])
        record.fail("label", f"expected one of {allowed}; found {found!r}")
    return found
