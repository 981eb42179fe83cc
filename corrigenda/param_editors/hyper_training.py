"""Training hypernetworks: they see a fact's edit, and are judged by other wordings of it and by what must not change.

A step takes ``batch_size`` facts. For each, the gradient of the edit becomes an update; under it, another wording must
say the target (the edit loss), and prompts that the edit does not concern must keep their distribution (KL)::

    mend    edit_weight · edit + keep_weight · KL
    ke      edit + μ · (KL − margin)      μ ascends; the margin falls while it is kept

Blocks below the first one written are run once for all texts. Every step draws its facts from (seed, step) alone, so a
training that was killed goes on where it was. Facts of ``held_out`` subjects choose the best state and the end.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from corrigenda.errors import DatasetError, InvalidParams, ModelDamaged, UnstableUpdate
from corrigenda.param_editors.anatomy import Anatomy
from corrigenda.param_editors.gradients import Factors, edited_by_row, gradient_factors
from corrigenda.param_editors.hypernetwork import Hypernetwork, TrainedEditor
from corrigenda.param_editors.params import require, require_whole
from corrigenda.param_editors.upper import Text, Upper

if TYPE_CHECKING:
    from corrigenda.lm.loading import LanguageModel

Report = Callable[[dict[str, float]], None]
"""Called with the figures of a step."""


@dataclass(frozen=True, slots=True)
class TrainingFact:
    """A fact to learn editing on.

    Attributes:
        prompt: The edit's prompt.
        target: Its target.
        wordings: Other prompts for the same.
        unrelated: Prompts that the edit does not concern; at least one.
        group: Facts of one group (the subject) are together in training or held out.
    """

    prompt: str
    target: str
    wordings: tuple[str, ...]
    unrelated: tuple[str, ...]
    group: str = ""


@dataclass(frozen=True)
class Recipe:
    """How networks are trained.

    Attributes:
        steps: Most steps.
        batch_size: Facts of a step.
        lr: Learning rate of Adam for the networks.
        step_lr: The same for the learned step sizes.
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

    steps: int = 1_500
    batch_size: int = 8
    lr: float = 3e-4
    step_lr: float = 1e-4
    edit_weight: float = 0.3
    keep_weight: float = 1.0
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
        for name in ("steps", "batch_size", "check_every", "patience"):
            require_whole(self, name, least=1)
        for name in ("lr", "step_lr", "clip", "margin", "margin_factor", "margin_least"):
            require(self, name, above=0)
        for name in ("edit_weight", "keep_weight", "held_out"):
            require(self, name, least=0)
        if self.held_out > 0.5:
            raise InvalidParams(f"held_out must be at most 0.5, not {self.held_out}")


@dataclass(frozen=True, slots=True)
class _Fact:
    """Places of a fact's texts."""

    edit: int
    wordings: tuple[int, ...]
    unrelated: tuple[int, ...]


def train(
    editor: TrainedEditor,
    lm: LanguageModel,
    facts: Sequence[TrainingFact],
    out: Path,
    *,
    params: Any,
    recipe: Recipe,
    report: Report | None = None,
) -> dict[str, Any]:
    """Train ``editor``'s networks for ``lm`` and write the best state to ``out``; goes on where a killed one was.

    Returns:
        Figures of the best state on held-out facts, and of the training.

    Raises:
        DatasetError: Too few facts, or one without other wordings or unrelated prompts.
        UnstableUpdate: The loss is not finite.
    """
    kept, held = split(facts, recipe)
    anatomy = Anatomy(lm)
    trainer = _Trainer(editor, anatomy, [*kept, *held], len(kept), params, recipe)
    draft = out.with_name(out.name + ".part")
    trainer.resume(draft)
    while trainer.step < recipe.steps and trainer.stale < recipe.patience:
        figures = trainer.train_step()
        if trainer.step % recipe.check_every == 0 or trainer.step == recipe.steps:
            figures |= trainer.evaluate()
            trainer.save(draft)
        if report is not None:
            report({"step": float(trainer.step)} | figures)
    about = {"rank": params.rank, "layers": list(params.layers), "recipe": asdict(recipe), "facts": len(kept)}
    about |= {"model": lm.name, "steps": trainer.step, "held_out": trainer.best_figures}
    trainer.network.load_state_dict(trainer.best)
    editor.save(trainer.network, out, about)
    draft.unlink(missing_ok=True)
    return about


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


class _Trainer:
    """Networks, optimiser, texts, and the best state so far."""

    def __init__(
        self,
        editor: TrainedEditor,
        anatomy: Anatomy,
        facts: Sequence[TrainingFact],
        kept: int,
        params: Any,
        recipe: Recipe,
    ) -> None:
        self.recipe, self.anatomy = recipe, anatomy
        self.network: Hypernetwork = editor.build(anatomy.lm, params, seed=recipe.seed).to(anatomy.lm.device)
        steps = [part for name, part in self.network.named_parameters() if name == "step_sizes"]
        rest = [part for name, part in self.network.named_parameters() if name != "step_sizes"]
        groups = [{"params": rest, "lr": recipe.lr}, {"params": steps, "lr": recipe.step_lr}]
        self.optimiser = torch.optim.Adam([group for group in groups if group["params"]])
        texts: list[Text] = []
        self.facts = [_lay_out(anatomy.lm, fact, texts) for fact in facts]
        self.kept = kept
        self.upper = Upper(anatomy, texts, params.layers[0])
        self.step, self.stale = 0, 0
        self.multiplier, self.margin = 1.0, recipe.margin
        self.best: dict[str, torch.Tensor] = _copied(self.network)
        self.best_figures: dict[str, float] = {}

    def train_step(self) -> dict[str, float]:
        """Take one step and return its losses."""
        recipe = self.recipe
        generator = torch.Generator().manual_seed(recipe.seed * 1_000_003 + self.step)
        drawn = torch.randperm(self.kept, generator=generator)[: recipe.batch_size].tolist()
        facts = [self.facts[place] for place in drawn]
        told, kept = self.losses(facts, generator, learn=True)
        if recipe.constrained:
            loss = told + self.multiplier * (kept - self.margin)
        else:
            loss = recipe.edit_weight * told + recipe.keep_weight * kept
        if not bool(loss.isfinite()):
            raise UnstableUpdate(f"the loss is not finite at step {self.step}", remedy="Lower lr.")
        self.optimiser.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(self.network.parameters(), recipe.clip)
        self.optimiser.step()
        if recipe.constrained:  # gradient ascent on the multiplier, which stays positive
            self.multiplier = min(max(self.multiplier + 0.1 * float(kept.detach() - self.margin), 0.0), 100.0)
        self.step += 1
        return {"loss": float(loss.detach()), "edit": float(told.detach()), "keep": float(kept.detach())}

    def losses(
        self, facts: Sequence[_Fact], generator: torch.Generator, *, learn: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the edit loss and the divergence of these facts, each edited alone."""
        updates = self._updates(facts, learn)
        wordings = [_one(fact.wordings, generator) for fact in facts]
        unrelated = [_one(fact.unrelated, generator) for fact in facts]
        model = self.anatomy.lm.model
        with torch.no_grad():
            before = self.upper.logits(unrelated)[:, -1].float().log_softmax(-1)
        with torch.enable_grad():
            with edited_by_row(model, updates):
                told = self.upper.nll(wordings).mean()
            with edited_by_row(model, updates):
                after = self.upper.logits(unrelated)[:, -1].float().log_softmax(-1)
            kept = (before.exp() * (before - after)).sum(-1).mean()
        return told, kept

    def _updates(self, facts: Sequence[_Fact], learn: bool) -> dict[str, Factors]:
        edits = [fact.edit for fact in facts]
        gradients = gradient_factors(self.upper, edits, self.network.modules_written)
        with torch.enable_grad():
            return self.network.updates(gradients, [self.upper.texts[place] for place in edits], learn=learn)

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Score the held-out facts, remember the state if it is the best, and return the figures."""
        sums = {"told": 0.0, "reliability": 0.0, "generalization": 0.0, "kept": 0.0, "locality": 0.0}
        model, size = self.anatomy.lm.model, self.recipe.batch_size
        held = self.facts[self.kept :]
        for start in range(0, len(held), size):
            facts = held[start : start + size]
            updates = self._updates(facts, learn=False)
            wordings, unrelated = [fact.wordings[-1] for fact in facts], [fact.unrelated[0] for fact in facts]
            before = self.upper.logits(unrelated)[:, -1].float().log_softmax(-1)
            with edited_by_row(model, updates):
                sums["told"] += float(self.upper.nll(wordings).sum())
                sums["reliability"] += sum(self.upper.right([fact.edit for fact in facts]))
                sums["generalization"] += sum(self.upper.right(wordings))
                after = self.upper.logits(unrelated)[:, -1].float().log_softmax(-1)
            sums["kept"] += float((before.exp() * (before - after)).sum())
            sums["locality"] += float((before.argmax(-1) == after.argmax(-1)).sum())
        figures = {f"held_{name}": value / len(held) for name, value in sums.items()}
        self._judge(figures)
        return figures

    def _judge(self, figures: dict[str, float]) -> None:
        if self.recipe.constrained and figures["held_kept"] <= self.margin:
            self.margin = max(self.margin * self.recipe.margin_factor, self.recipe.margin_least)
        # What is wanted is both at once: the smaller of what is said and what is kept counts most.
        parts = [figures[f"held_{name}"] for name in ("reliability", "generalization", "locality")]
        score = min(parts) + 0.1 * sum(parts)
        if score > self.best_figures.get("score", -1.0):
            self.best, self.best_figures, self.stale = _copied(self.network), figures | {"score": score}, 0
        else:
            self.stale += 1

    def save(self, path: Path) -> None:
        """Write everything that going on needs; the file appears whole or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        state = {"network": self.network.state_dict(), "optimiser": self.optimiser.state_dict(), "best": self.best}
        rest = {name: getattr(self, name) for name in _KEPT}
        draft = path.with_name(f".{path.name}.{os.getpid()}")
        torch.save(state | {"rest": json.dumps(rest), "recipe": self._mark()}, draft)
        draft.replace(path)

    def resume(self, path: Path) -> None:
        """Go on from what :meth:`save` wrote, if it belongs to the same training."""
        if not path.is_file():
            return
        try:
            state = torch.load(path, weights_only=True, map_location=self.anatomy.lm.device)
            if state["recipe"] != self._mark():
                return  # another recipe, or other facts: begin anew
            self.network.load_state_dict(state["network"])
            self.optimiser.load_state_dict(state["optimiser"])
        except (OSError, EOFError, KeyError, RuntimeError, ValueError, UnpicklingError) as error:
            raise ModelDamaged(f"{path} cannot be read", remedy="Delete it to begin anew.") from error
        self.best = state["best"]
        for name, value in json.loads(state["rest"]).items():
            setattr(self, name, value)

    def _mark(self) -> str:
        return json.dumps([asdict(self.recipe), len(self.facts), self.kept, self.network.modules_written])


_KEPT = ("step", "stale", "multiplier", "margin", "best_figures")


def _lay_out(lm: LanguageModel, fact: TrainingFact, texts: list[Text]) -> _Fact:
    """Append the texts of a fact to ``texts`` and return their places."""
    start = len(texts)
    wordings = (fact.prompt, *fact.wordings)
    texts.append(Text.of(lm, fact.prompt, fact.target))
    texts += [Text.of(lm, wording, fact.target) for wording in fact.wordings]
    texts += [Text.of(lm, prompt) for prompt in fact.unrelated]
    ends = start + len(wordings)
    return _Fact(start, tuple(range(start, ends)), tuple(range(ends, len(texts))))


def _one(places: Sequence[int], generator: torch.Generator) -> int:
    return places[int(torch.randint(len(places), (1,), generator=generator))]


def _copied(network: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
