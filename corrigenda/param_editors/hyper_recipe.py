"""What hypernetworks are trained on and how: facts, their texts, the split, and the recipe."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from corrigenda.errors import DatasetError, InvalidParams
from corrigenda.param_editors.params import require, require_whole
from corrigenda.param_editors.upper import Text

if TYPE_CHECKING:
    from corrigenda.lm.loading import LanguageModel


@dataclass(frozen=True, slots=True)
class TrainingFact:
    """A fact to learn editing on.

    Attributes:
        prompt: The edit's prompt.
        target: Its target.
        wordings: Other prompts for the same.
        unrelated: Prompts that the edit does not concern; at least one.
        group: Facts of one group (the subject) are together in training or held out.
        subject: As it stands in ``prompt``; wanted where the networks read the gradient at the subject.
    """

    prompt: str
    target: str
    wordings: tuple[str, ...]
    unrelated: tuple[str, ...]
    group: str = ""
    subject: str | None = None


@dataclass(frozen=True)
class Recipe:
    """How networks are trained.

    Attributes:
        steps: Most steps.
        batch_size: Facts of a step.
        keep_batch: Those of them whose divergence is measured; all by default.
        unrelated: Most unrelated prompts of a fact.
        max_tokens: Other wordings longer than this are left out, but for the shortest: a step costs by the token.
        lr: Learning rate of Adam for the networks.
        step_lr: The same for the logarithms of the learned step sizes.
        edit_weight, keep_weight: Weights of the two losses, without a constraint.
        constrained: Whether KL is held below a margin by a Lagrange multiplier instead.
        margin, margin_factor, margin_least: The margin, by what it falls at an evaluation at which it was kept, and
            where it ends.
        held_out: Share of the groups that choose the best state, 0…0.5.
        check_every: Steps between evaluations.
        patience: Evaluations without a better state, after which training ends.
        clip: Largest norm of a gradient.
        seed: Of the networks, the split and the order.
    """

    steps: int = 700
    batch_size: int = 8
    keep_batch: int | None = 6
    unrelated: int = 4
    max_tokens: int = 24
    lr: float = 1e-3
    step_lr: float = 0.02
    edit_weight: float = 1.0
    keep_weight: float = 2.0
    constrained: bool = False
    margin: float = 0.1
    margin_factor: float = 0.8
    margin_least: float = 1e-3
    held_out: float = 0.05
    check_every: int = 100
    patience: int = 6
    clip: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "unrelated", "max_tokens", "check_every", "patience"):
            require_whole(self, name, least=1)
        if self.keep_batch is not None:
            require_whole(self, "keep_batch", least=1)
        for name in ("lr", "step_lr", "clip", "margin", "margin_factor", "margin_least"):
            require(self, name, above=0)
        for name in ("edit_weight", "keep_weight", "held_out"):
            require(self, name, least=0)
        if self.held_out > 0.5:
            raise InvalidParams(f"held_out must be at most 0.5, not {self.held_out}")


@dataclass(frozen=True, slots=True)
class PlacedFact:
    """Places of a fact's texts."""

    edit: int
    wordings: tuple[int, ...]
    unrelated: tuple[int, ...]


def split(facts: Sequence[TrainingFact], recipe: Recipe) -> tuple[list[TrainingFact], list[TrainingFact]]:
    """Return the facts to train on and those held out, by group."""
    for number, fact in enumerate(facts):
        if not fact.wordings or not fact.unrelated:
            missing = "other wordings" if not fact.wordings else "unrelated prompts"
            raise DatasetError(f"fact {number}, {fact.prompt!r}, has no {missing}", remedy="Leave it out.")
    groups = sorted({fact.group or fact.prompt for fact in facts})
    order = torch.randperm(len(groups), generator=torch.Generator().manual_seed(recipe.seed)).tolist()
    out = {groups[place] for place in order[: math.ceil(recipe.held_out * len(groups))]}
    kept = [fact for fact in facts if (fact.group or fact.prompt) not in out]
    held = [fact for fact in facts if (fact.group or fact.prompt) in out]
    if len(kept) < recipe.batch_size or not held:
        raise DatasetError(
            f"{len(facts)} facts are too few: {len(kept)} to train on, {len(held)} held out",
            remedy=f"Give more, or a smaller batch than {recipe.batch_size}, or a larger share to hold out.",
        )
    return kept, held


def lay_out(lm: LanguageModel, fact: TrainingFact, texts: list[Text], focused: bool, recipe: Recipe) -> PlacedFact:
    """Append the texts of a fact to ``texts`` and return their places."""
    start = len(texts)
    texts.append(Text.of(lm, fact.prompt, fact.target, (fact.subject or "") if focused else None))
    wordings = sorted((Text.of(lm, wording, fact.target) for wording in fact.wordings), key=lambda text: len(text.row))
    texts += [text for place, text in enumerate(wordings) if not place or len(text.row) <= recipe.max_tokens]
    ends = len(texts)
    texts += [Text.of(lm, prompt) for prompt in fact.unrelated[: recipe.unrelated]]
    return PlacedFact(start, tuple(range(start, ends)), tuple(range(ends, len(texts))))


def one(places: Sequence[int], generator: torch.Generator) -> int:
    """Draw one of them."""
    return places[int(torch.randint(len(places), (1,), generator=generator))]
