"""Scores of a case beyond those of its probes: the text that the model writes, and what a judge model says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from corrigenda.errors import CorrigendaError
from corrigenda.eval.asking import Failure, force
from corrigenda.eval.case import ANSWER_ROLES, Case
from corrigenda.eval.editable import Answers, Writes
from corrigenda.eval.journal import Row
from corrigenda.eval.metrics import judged
from corrigenda.eval.writing import Vocabulary, consistency, fluency


class Extra(Protocol):
    """Something that is scored besides probes."""

    def look(self, edited: Answers, rows: Sequence[Row], cases: Mapping[str, Case]) -> None:
        """Ask ``edited``, whose edits are in force, and add to the ``rows`` of ``cases``."""
        ...

    def add(self, rows: Sequence[Row], cases: Mapping[str, Case]) -> None:
        """Add to finished ``rows`` what does not need the edited model."""
        ...


@dataclass(frozen=True)
class Writing:
    """Lets the edited model write about the subject: fluency, and consistency where a case has references.

    Attributes:
        vocabulary: Of all reference texts of the data set.
        tokens: Length of a text.
        texts: Most texts a case.
        seed: Of what is drawn.
    """

    vocabulary: Vocabulary
    tokens: int = 100
    texts: int = 3
    seed: int = 0

    @classmethod
    def over(cls, cases: Sequence[Case], *, tokens: int = 100, texts: int = 3, seed: int = 0) -> Writing:
        """Take the vocabulary from the references of ``cases``."""
        vocabulary = Vocabulary.of(text for case in cases for text in case.references)
        return cls(vocabulary, tokens, texts, seed)

    def look(self, edited: Answers, rows: Sequence[Row], cases: Mapping[str, Case]) -> None:
        """See :class:`Extra`."""
        for row in rows:
            case = cases.get(row["case"])
            if case is None or not case.writing:
                continue
            prompts = list(dict.fromkeys(case.writing))[: self.texts]
            if not isinstance(edited, Writes):
                _missing(row, ("fluency", "consistency"), "the method writes no long texts")
                continue
            try:
                texts = edited.write(prompts, tokens=self.tokens, seed=self.seed)
            except CorrigendaError as error:
                _missing(row, ("fluency", "consistency"), Failure.of(error).reason)
                continue
            row["texts"] = [{"prompt": prompt, "text": text} for prompt, text in zip(prompts, texts, strict=True)]
            whole = [f"{prompt}{text}" for prompt, text in zip(prompts, texts, strict=True)]
            _put(row, "fluency", fluency(whole))
            if case.references:
                _put(row, "consistency", consistency(whole, case.references, self.vocabulary))

    def add(self, rows: Sequence[Row], cases: Mapping[str, Case]) -> None:
        """Do nothing: writing needs the edited model."""


@dataclass(frozen=True)
class Judge:
    """A language model that says whether an answer means what was wanted; a column of its own.

    It is asked whether the answer says the same as one of the accepted ones, and the more probable of " yes" and
    " no" counts. What a small judge says is noisy: read it next to exact matching, not instead of it.

    Attributes:
        model: The judge, unedited.
    """

    model: Answers
    batch: int = field(default=64)

    def look(self, edited: Answers, rows: Sequence[Row], cases: Mapping[str, Case]) -> None:
        """Do nothing: the judge reads answers."""

    def add(self, rows: Sequence[Row], cases: Mapping[str, Case]) -> None:
        """See :class:`Extra`."""
        probes = [
            probe for row in rows for probe in row["probes"] if probe["role"] in ANSWER_ROLES and "after" in probe
        ]
        for start in range(0, len(probes), self.batch):
            some = probes[start : start + self.batch]
            pairs = [(_question(probe), word) for probe in some for word in (" yes", " no")]
            scores = force(self.model, [prompt for prompt, _ in pairs], [word for _, word in pairs])
            for probe, yes, no in zip(some, scores[::2], scores[1::2], strict=True):
                _decide(probe, yes, no)


def _decide(probe: dict[str, Any], yes: Any, no: Any) -> None:
    name = judged(probe["role"])
    for score in (yes, no):
        if isinstance(score, Failure):
            probe["scores"][name] = None
            probe.setdefault("unscored", {})[name] = score.reason
            return
    probe["scores"][name] = float(yes.mean_log_prob > no.mean_log_prob)


def _question(probe: Mapping[str, Any]) -> str:
    wanted = " or ".join(f'"{answer}"' for answer in probe["expected"][:3])
    return (
        f'Question: {probe["prompt"]}\nRight answer: {wanted}\nGiven answer: "{probe["after"].strip()}"\n'
        "Does the given answer say the same as the right answer? Answer yes or no.\nAnswer:"
    )


def _put(row: Row, name: str, value: float | None) -> None:
    if value is None:
        _missing(row, (name,), "the model wrote nothing")
    else:
        row.setdefault("scores", {})[name] = value


def _missing(row: Row, names: Sequence[str], reason: str) -> None:
    for name in names:
        row.setdefault("scores", {})[name] = None
        row.setdefault("unscored", {})[name] = reason
