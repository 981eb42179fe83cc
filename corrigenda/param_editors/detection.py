"""Which facts a model has wrong: Contrastive Knowledge Assessment (Dong et al., Findings of EMNLP 2022)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from corrigenda.edit import Edit
from corrigenda.lm.scoring import score_targets

if TYPE_CHECKING:
    from corrigenda.lm.loading import LanguageModel


@dataclass(frozen=True, slots=True)
class Assessment:
    """How well a model knows a statement.

    Attributes:
        edit: The statement.
        cka: P(target | prompt) against the mean over prompts with other relations, per token (geometric mean); > 0.
        known: Whether ``cka`` exceeds the threshold.
    """

    edit: Edit
    cka: float
    known: bool


NEGATIVE = ("{} has nothing to do with", "{} was never mentioned together with", "The opposite of {} is")
"""Templates that state no relation to the target: what the model says of it behind these is mere association."""


def false_facts(
    lm: LanguageModel, edits: Sequence[Edit], *, threshold: float = 1.0, alpha: float = 1e-6, batch_size: int = 32
) -> list[Assessment]:
    """Assess each statement by contrast (CaliNET, section 2: CKA).

    ::

        CKA = (P(o | s, r) + α) / (mean over r′ of P(o | s, r′) + α)

    with the right relation's prompt against templates that do not state it.

    Args:
        lm: The model.
        edits: Statements; the target is what is taken to be true. Those without a subject are contrasted with the bare
            templates about their prompt.
        threshold: At or below, the model is said not to know it.
        alpha: Keeps the quotient of two small numbers calm.
        batch_size: Rows of a forward pass.
    """
    prompts = [edit.prompt for edit in edits]
    prompts += [template.replace("{}", edit.subject or edit.prompt) for edit in edits for template in NEGATIVE]
    targets = [edit.target for edit in edits] + [edit.target for edit in edits for _ in NEGATIVE]
    scores = score_targets(lm, prompts, targets, batch_size=batch_size)
    chances = torch.tensor([score.mean_log_prob for score in scores]).exp()
    right, wrong = chances[: len(edits)], chances[len(edits) :].view(len(edits), -1).mean(1)
    return [
        Assessment(edit, float(value), bool(value > threshold))
        for edit, value in zip(edits, (right + alpha) / (wrong + alpha), strict=True)
    ]
