"""What a gate asks a model: questions with a free answer, and choices; plain values, to be sent to workers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING

from corrigenda.lm.scoring import greedy, score_targets

if TYPE_CHECKING:
    from corrigenda.lm.loading import LanguageModel

BATCH = 32


@dataclass(frozen=True, slots=True)
class Question:
    """One thing to ask.

    Attributes:
        prompt: What the model continues.
        tokens: Most tokens of a free answer.
        options: Where there are any, the answer is the number of the one that the model finds likeliest, by
            the log-probability of the whole option; −1 where it says NaN.
    """

    prompt: str
    tokens: int = 8
    options: tuple[str, ...] = ()


Answer = str | int


def answer_task(lm: LanguageModel, questions: Sequence[Question]) -> list[Answer]:
    """Return the model's answers, in order: free ones greedily up to a natural stop."""
    answers: list[Answer] = [""] * len(questions)
    for tokens in sorted({question.tokens for question in questions if not question.options}):
        places = [n for n, question in enumerate(questions) if question.tokens == tokens and not question.options]
        texts = greedy(lm, [questions[n].prompt for n in places], max_new_tokens=tokens, batch_size=BATCH)
        for place, text in zip(places, texts, strict=True):
            answers[place] = text
    choices = [(n, option) for n, question in enumerate(questions) for option in question.options]
    scores = score_targets(
        lm, [questions[n].prompt for n, _ in choices], [option for _, option in choices], batch_size=BATCH
    )
    found: dict[int, list[float]] = {}
    for (n, _), score in zip(choices, scores, strict=True):
        found.setdefault(n, []).append(score.log_prob)
    for n, values in found.items():
        # A model that says NaN chooses nothing; compared with anything, NaN would pass for the first option.
        answers[n] = values.index(max(values)) if all(map(isfinite, values)) else -1
    return answers
