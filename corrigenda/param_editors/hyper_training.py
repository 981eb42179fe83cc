"""Training hypernetworks: they see a fact's edit, and are judged by other wordings of it and by what must not change.

A step takes ``batch_size`` facts. For each, the gradient of the edit becomes an update; under it, another wording must
say the target (the edit loss), and prompts that the edit does not concern must keep their distribution (KL)::

    mend    edit_weight · edit + keep_weight · KL
    ke      edit + μ · (KL − margin)      μ ascends; the margin falls while it is kept

Blocks below the first one written are run once for all texts. Every step draws its facts from (seed, step) alone, so a
training that was killed goes on where it was. Facts of ``held_out`` subjects choose the best state and the end.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from corrigenda.atomic import draft
from corrigenda.errors import ModelDamaged, UnstableUpdate
from corrigenda.lm.packed import packed
from corrigenda.param_editors.anatomy import Anatomy
from corrigenda.param_editors.forwards import batches
from corrigenda.param_editors.gradients import Factors, edited_by_row, gradient_factors
from corrigenda.param_editors.hyper_recipe import PlacedFact, Recipe, TrainingFact, lay_out, one, split
from corrigenda.param_editors.hypernetwork import Hypernetwork, TrainedEditor
from corrigenda.param_editors.upper import Text, Upper

if TYPE_CHECKING:
    from corrigenda.lm.loading import LanguageModel

Report = Callable[[dict[str, float]], None]
"""Called with the figures of a step."""

_PART_TOKENS = 128  # of a pass with gradients
_LENGTHS = [10 ** (power / 2) for power in range(8)]  # of first steps, by the networks' own


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
    with packed(lm.model, gradients=True, half=True):
        return _train(editor, Anatomy(lm), (kept, held), out, params, recipe, report)


def _train(
    editor: TrainedEditor,
    anatomy: Anatomy,
    facts: tuple[list[TrainingFact], list[TrainingFact]],
    out: Path,
    params: Any,
    recipe: Recipe,
    report: Report | None,
) -> dict[str, Any]:
    kept, held = facts
    trainer = _Trainer(editor, anatomy, [*kept, *held], len(kept), params, recipe)
    draft = out.with_name(out.name + ".part")
    if not trainer.resume(draft):
        trainer.choose_length()
    while trainer.step < recipe.steps and trainer.stale < recipe.patience:
        figures = trainer.train_step()
        if trainer.step % recipe.check_every == 0 or trainer.step == recipe.steps:
            figures |= trainer.evaluate()
            trainer.save(draft)
        if report is not None:
            report({"step": float(trainer.step)} | figures)
    about = {name: getattr(params, name) for name in ("rank", "layers", "tokens", "matrices")}
    about |= {"recipe": asdict(recipe), "facts": len(kept)}
    about |= {"model": anatomy.lm.name, "steps": trainer.step, "held_out": trainer.best_figures}
    trainer.network.load_state_dict(trainer.best)
    editor.save(trainer.network, out, about)
    draft.unlink(missing_ok=True)
    return about


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
        self.recipe, self.anatomy, self._about = recipe, anatomy, params.to_dict()
        self.network: Hypernetwork = editor.build(anatomy.lm, params, seed=recipe.seed).to(anatomy.lm.device)
        steps = [part for name, part in self.network.named_parameters() if name == "log_steps"]
        rest = [part for name, part in self.network.named_parameters() if name != "log_steps"]
        groups = [{"params": rest, "lr": recipe.lr}, {"params": steps, "lr": recipe.step_lr}]
        self.optimiser = torch.optim.Adam([group for group in groups if group["params"]])
        self._rates = [float(group["lr"]) for group in self.optimiser.param_groups]
        texts: list[Text] = []
        focused = params.tokens == "subject"
        self.facts = [lay_out(anatomy.lm, fact, texts, focused, recipe) for fact in facts]
        self.kept, self._learning = kept, True
        self.upper = Upper(anatomy, texts, params.layers[0])
        self._gradients = self._all_gradients() if focused else None
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
        told, kept = self.losses(facts, generator, learn=self._gradients is None)
        if recipe.constrained:
            loss = told + self.multiplier * (kept - self.margin)
        else:
            loss = recipe.edit_weight * told + recipe.keep_weight * kept
        if not bool(loss.isfinite()):
            raise UnstableUpdate(f"the loss is not finite at step {self.step}", remedy="Lower lr.")
        self.optimiser.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(self.network.parameters(), recipe.clip)
        for group, rate in zip(self.optimiser.param_groups, self._rates, strict=True):
            group["lr"] = rate * (1 - self.step / recipe.steps)
        self.optimiser.step()
        if recipe.constrained:  # gradient ascent on the multiplier, which stays positive
            self.multiplier = min(max(self.multiplier + 0.1 * float(kept.detach() - self.margin), 0.0), 100.0)
        self.step += 1
        return {"loss": float(loss.detach()), "edit": float(told.detach()), "keep": float(kept.detach())}

    def losses(
        self, facts: Sequence[PlacedFact], generator: torch.Generator, *, learn: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the edit loss and the divergence of these facts, each edited alone."""
        updates = self._updates(facts, learn)
        wordings = [one(fact.wordings, generator) for fact in facts]
        unrelated = [one(fact.unrelated, generator) for fact in facts[: self.recipe.keep_batch]]
        told, kept = [], []
        for rows in self._parts(wordings):
            with self._edited(updates, rows):
                told.append(self.upper.nll([wordings[row] for row in rows]))
        for rows in self._parts(unrelated):
            places = [unrelated[row] for row in rows]
            with torch.no_grad():
                before = self.upper.logits(places)[:, -1].float().log_softmax(-1)
            with self._edited(updates, rows):
                after = self.upper.logits(places)[:, -1].float().log_softmax(-1)
            kept.append((before.exp() * (before - after)).sum(-1))
        return torch.cat(told).mean(), torch.cat(kept).mean()

    def _parts(self, places: Sequence[int]) -> Iterator[list[int]]:
        """Yield numbers of texts of similar length: padding costs as much as text."""
        return batches([len(self.upper.texts[place].row) for place in places], _PART_TOKENS)

    @contextmanager
    def _edited(self, updates: Mapping[str, Factors], rows: Sequence[int]) -> Iterator[None]:
        owners = torch.tensor(rows, device=self.anatomy.lm.device)
        own = {name: factors.of(owners) for name, factors in updates.items()}
        with edited_by_row(self.anatomy.lm.model, own), torch.set_grad_enabled(self._learning):
            yield

    def _updates(self, facts: Sequence[PlacedFact], learn: bool) -> dict[str, Factors]:
        edits = [fact.edit for fact in facts]
        if self._gradients is None:
            gradients = gradient_factors(self.upper, edits, self.network.modules_written)
        else:
            owners = torch.tensor([self._number[edit] for edit in edits], device=self.anatomy.lm.device)
            gradients = {name: factors.of(owners) for name, factors in self._gradients.items()}
        with torch.set_grad_enabled(self._learning):
            return self.network.updates(gradients, [self.upper.texts[place] for place in edits], learn=learn)

    def _all_gradients(self) -> dict[str, Factors]:
        """Return the gradients of all facts, which are small where one token of each is read.

        The networks' running statistics take in those of training, once.
        """
        edits = [fact.edit for fact in self.facts]
        self._number = {edit: number for number, edit in enumerate(edits)}
        parts: list[dict[str, Factors]] = []
        order: list[int] = []
        for rows in self._parts(edits):
            parts.append(gradient_factors(self.upper, [edits[row] for row in rows], self.network.modules_written))
            order += rows
        back = torch.tensor(order).argsort().to(self.anatomy.lm.device)
        found = {
            name: Factors(
                *(torch.cat([getattr(part[name], side) for part in parts])[back] for side in ("left", "right"))
            )
            for name in self.network.modules_written
        }
        texts = [self.upper.texts[edit] for edit in edits[: self.kept]]
        with torch.no_grad():
            own = torch.arange(self.kept, device=back.device)
            self.network.updates({name: factors.of(own) for name, factors in found.items()}, texts, learn=True)
        return found

    def choose_length(self) -> None:
        """Let untrained networks take the steps of the length that serves best on the first facts."""
        recipe, facts = self.recipe, self.facts[: min(self.kept, self.recipe.batch_size)]
        losses: dict[float, float] = {}
        last = 1.0
        self._learning = False
        for factor in _LENGTHS:
            self.network.lengthen(factor / last)
            last = factor
            generator = torch.Generator().manual_seed(recipe.seed)
            told, kept = self.losses(facts, generator, learn=self._gradients is None and not losses)
            weight = 1.0 if recipe.constrained else recipe.edit_weight
            losses[factor] = weight * float(told) + recipe.keep_weight * float(kept)
        self._learning = True
        best = min(losses, key=lambda factor: losses[factor] if math.isfinite(losses[factor]) else math.inf)
        self.network.lengthen(best / last)
        self.best = _copied(self.network)

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Score the held-out facts, remember the state if it is the best, and return the figures."""
        sums = {"told": 0.0, "reliability": 0.0, "generalization": 0.0, "kept": 0.0, "locality": 0.0}
        model, size = self.anatomy.lm.model, self.recipe.batch_size
        held = self.facts[self.kept :]
        self._learning = False
        for start in range(0, len(held), size):
            facts = held[start : start + size]
            updates = self._updates(facts, learn=False)
            wordings, unrelated = [fact.wordings[-1] for fact in facts], [fact.unrelated[0] for fact in facts]
            before = self.upper.logits(unrelated)[:, -1].float().log_softmax(-1)
            with edited_by_row(model, updates):
                logits = self.upper.logits(wordings)
                sums["told"] += float(self.upper.nll(wordings, logits).sum())
                sums["generalization"] += sum(self.upper.right(wordings, logits))
                sums["reliability"] += sum(self.upper.right([fact.edit for fact in facts]))
                after = self.upper.logits(unrelated)[:, -1].float().log_softmax(-1)
            sums["kept"] += float((before.exp() * (before - after)).sum())
            sums["locality"] += float((before.argmax(-1) == after.argmax(-1)).sum())
        self._learning = True
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
        with draft(path) as part:
            torch.save(state | {"rest": json.dumps(rest), "recipe": self._mark()}, part)

    def resume(self, path: Path) -> bool:
        """Go on from what :meth:`save` wrote, if it belongs to the same training; tell whether it does."""
        if not path.is_file():
            return False
        try:
            state = torch.load(path, weights_only=True, map_location=self.anatomy.lm.device)
            if state["recipe"] != self._mark():
                return False  # another recipe, or other facts: begin anew
            self.network.load_state_dict(state["network"])
            self.optimiser.load_state_dict(state["optimiser"])
        except (OSError, EOFError, KeyError, RuntimeError, ValueError, UnpicklingError) as error:
            raise ModelDamaged(f"{path} cannot be read", remedy="Delete it to begin anew.") from error
        self.best = state["best"]
        for name, value in json.loads(state["rest"]).items():
            setattr(self, name, value)
        return True

    def _mark(self) -> str:
        own = {name: value for name, value in asdict(self.recipe).items() if name != "steps"}  # more may be asked for
        texts = hashlib.sha256(repr(self.upper.texts).encode()).hexdigest()
        return json.dumps([own, self.anatomy.lm.fingerprint, texts, self.kept, self._about])


_KEPT = ("step", "stale", "multiplier", "margin", "best_figures")


def _copied(network: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
