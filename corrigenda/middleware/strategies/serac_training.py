"""Training SERAC's counterfactual model: an adapter that finishes records by the facts in them.

Three kinds of examples, drawn from edits with known wordings (Mitchell et al. 2022, §3.3, supervised):

* the edit's own prompt, and other wordings of it: the target;
* the same with a look-alike fact beside it (same relation, another subject): still the target of the right one;
* hard negatives, a fact that does not answer what is asked: what is true anyway.

The model is run in bfloat16 while it learns, the adapter is kept in float32. What is learnt is written down every few
steps, so that a run that was stopped goes on where it was.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from corrigenda.edit import Edit, fold
from corrigenda.errors import DatasetError, InvalidParams
from corrigenda.lm.tokens import pad, plain_ids, token_ids
from corrigenda.middleware.strategies.adapter import Adapter
from corrigenda.middleware.strategies.counterfactual import ADAPTER, record

if TYPE_CHECKING:
    from corrigenda.lm.loading import LanguageModel

Progress = Callable[[str], None]
_STATE = "training.pt"


@dataclass(frozen=True, slots=True)
class Material:
    """One edit and what is asked about it.

    Attributes:
        edit: The edit.
        asked: Its prompt and other wordings; the answer is its target.
        beside: (query, true answer) that it does not answer, hard negatives.
    """

    edit: Edit
    asked: tuple[str, ...]
    beside: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Recipe:
    """How the adapter is trained.

    Attributes:
        steps: Batches.
        batch: Examples a batch.
        rate: Peak learning rate of AdamW; rises over the first tenth of the steps, then falls to 0.
        rank, alpha: See :class:`~corrigenda.middleware.strategies.adapter.Adapter`.
        first: The first block that is adapted, as a share of the depth, 0…1.
        beside: Share of hard negatives.
        crowded: Share of examples with look-alike facts.
        held_out: Share of the material that is kept for the report.
        seed: Fixes everything.
    """

    steps: int = 40
    batch: int = 16
    rate: float = 1e-3
    rank: int = 8
    alpha: float = 16.0
    first: float = 1 / 3
    beside: float = 0.1
    crowded: float = 0.25
    held_out: float = 0.05
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "rank"):
            if getattr(self, name) < 1:
                raise InvalidParams(f"{name} must be at least 1, not {getattr(self, name)}")
        for name in ("first", "beside", "crowded", "held_out"):
            if not 0 <= getattr(self, name) < 1:
                raise InvalidParams(f"{name} must be from 0 to below 1, not {getattr(self, name)}")


def train(
    lm: LanguageModel,
    material: Sequence[Material],
    out: Path,
    recipe: Recipe | None = None,
    progress: Progress = lambda line: None,
    *,
    fingerprint: str | None = None,
) -> dict[str, Any]:
    """Train an adapter on ``lm`` and write it into the folder ``out``; return the report.

    Args:
        lm: The model, best in bfloat16; its weights are not changed.
        material: What it learns from.
        out: Made if missing. A run of the same recipe that was stopped there is continued.
        recipe: How.
        progress: Told a line now and then.
        fingerprint: Of the model as it will be used, for the adapter's description.

    Raises:
        DatasetError: Too little material.
    """
    recipe = recipe or Recipe()
    learnt, held = split(material, recipe)
    out.mkdir(parents=True, exist_ok=True)
    adapter = Adapter.fresh(lm.model, adapted(lm, recipe.first), rank=recipe.rank, alpha=recipe.alpha, seed=recipe.seed)
    run = _Run(lm, adapter, learnt, recipe, out / _STATE)
    losses = run(progress)
    adapter.about = {"base": lm.name, "fingerprint": fingerprint or lm.fingerprint, "recipe": asdict(recipe)}
    report = {"learnt_from": len(learnt), "held_out": len(held), "loss": losses[-1] if losses else None}
    report |= {"agreement": agreement(lm, adapter, held[:200])}
    adapter.about["report"] = report
    adapter.save(out / ADAPTER)
    (out / "serac.json").write_text(json.dumps(adapter.about, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    (out / _STATE).unlink(missing_ok=True)
    return report


def adapted(lm: LanguageModel, first: float) -> list[str]:
    """Return the linear layers of the blocks from share ``first`` of the depth on, by name."""
    blocks = [lm.layers.block(place) for place in range(round(first * lm.layers.count), lm.layers.count)]
    return [
        name
        for name, module in lm.model.named_modules()
        if isinstance(module, torch.nn.Linear) and any(name.startswith(f"{block}.") for block in blocks)
    ]


def split(material: Sequence[Material], recipe: Recipe) -> tuple[list[Material], list[Material]]:
    """Return what is learnt from and what is held out, by subject: no subject is in both."""
    rng = random.Random(recipe.seed)
    subjects = sorted({fold(item.edit.subject or item.edit.prompt) for item in material})
    rng.shuffle(subjects)
    kept = set(subjects[: max(1, round(recipe.held_out * len(subjects)))])
    held = [item for item in material if fold(item.edit.subject or item.edit.prompt) in kept]
    learnt = [item for item in material if fold(item.edit.subject or item.edit.prompt) not in kept]
    if not learnt or not held:
        raise DatasetError(f"{len(material)} edits are too few to train on", remedy="Give two subjects at least.")
    rng.shuffle(held)
    return learnt, held


def examples(material: Sequence[Material], recipe: Recipe, count: int) -> list[tuple[str, str]]:
    """Return ``count`` pairs (open record, answer), drawn by the recipe's seed."""
    rng = random.Random(recipe.seed + 1)
    alike: dict[str | None, list[Edit]] = {}
    for item in material:
        alike.setdefault(item.edit.relation, []).append(item.edit)
    with_beside = [item for item in material if item.beside]
    found = []
    for _ in range(count):
        if with_beside and rng.random() < recipe.beside:
            item = rng.choice(with_beside)
            query, answer = rng.choice(item.beside)
        else:
            item = rng.choice(material)
            query, answer = rng.choice(item.asked), item.edit.target
        facts = [item.edit]
        if rng.random() < recipe.crowded:
            others = rng.sample(alike[item.edit.relation], min(3, len(alike[item.edit.relation])))
            facts += [edit for edit in others if edit.id != item.edit.id][: rng.randint(1, 2)]
            rng.shuffle(facts)
        found.append((record(query, facts), answer))
    return found


class _Run:
    """The steps of one training run."""

    def __init__(
        self, lm: LanguageModel, adapter: Adapter, material: Sequence[Material], recipe: Recipe, state: Path
    ) -> None:
        self.lm, self.adapter, self.recipe, self.state = lm, adapter, recipe, state
        self.rows = examples(material, recipe, recipe.steps * recipe.batch)
        for tensor in adapter.parameters:
            tensor.requires_grad_()
        self.optimiser = torch.optim.AdamW(adapter.parameters, lr=recipe.rate, weight_decay=0.0)
        self.losses: list[float] = []
        self._resume()

    def __call__(self, progress: Progress) -> list[float]:
        """Take the steps that are left; return the loss of each step so far."""
        try:
            with self.adapter.over(self.lm.model), torch.enable_grad():
                for step in range(len(self.losses), self.recipe.steps):
                    for group in self.optimiser.param_groups:
                        group["lr"] = self.recipe.rate * self._share(step)
                    loss = self._loss(self.rows[step * self.recipe.batch : (step + 1) * self.recipe.batch])
                    gradients = torch.autograd.grad(loss, self.adapter.parameters)
                    for tensor, gradient in zip(self.adapter.parameters, gradients, strict=True):
                        tensor.grad = gradient
                    torch.nn.utils.clip_grad_norm_(self.adapter.parameters, 1.0)
                    self.optimiser.step()
                    self.losses.append(float(loss.detach()))
                    if (step + 1) % 10 == 0:
                        self._keep()
                        progress(f"step {step + 1}/{self.recipe.steps}: loss {sum(self.losses[-10:]) / 10:.3f}")
        finally:
            for tensor in self.adapter.parameters:
                tensor.requires_grad_(False)
        return self.losses

    def _share(self, step: int) -> float:
        rise = max(1, self.recipe.steps // 10)
        return min((step + 1) / rise, (self.recipe.steps - step) / max(1, self.recipe.steps - rise))

    def _loss(self, rows: Sequence[tuple[str, str]]) -> torch.Tensor:
        """Return the negative log-likelihood of a token of the answers, the line's end included."""
        lm = self.lm
        prompts = [token_ids(lm, text) for text, _ in rows]
        answers = [plain_ids(lm.tokenizer, f" {answer}\n") for _, answer in rows]
        batch = pad(lm, [[*prompt, *answer[:-1]] for prompt, answer in zip(prompts, answers, strict=True)])
        longest = max(map(len, answers))
        wanted = torch.tensor([[-100] * (longest - len(row)) + row for row in answers], device=lm.device)  # (R, T)
        logits = lm.model(**batch.model_inputs(), use_cache=False, logits_to_keep=longest).logits[:, -longest:]
        return torch.nn.functional.cross_entropy(logits.float().transpose(1, 2), wanted, ignore_index=-100)

    def _keep(self) -> None:
        state = {
            "recipe": asdict(self.recipe),
            "losses": self.losses,
            "tensors": [tensor.detach() for tensor in self.adapter.parameters],
            "optimiser": self.optimiser.state_dict(),
        }
        fresh = self.state.with_suffix(".new")
        torch.save(state, fresh)
        fresh.replace(self.state)

    def _resume(self) -> None:
        if not self.state.is_file():
            return
        state = torch.load(self.state, weights_only=True)
        if state["recipe"] != asdict(self.recipe):
            return
        for tensor, kept in zip(self.adapter.parameters, state["tensors"], strict=True):
            tensor.data.copy_(kept)
        self.optimiser.load_state_dict(state["optimiser"])
        self.losses = list(state["losses"])


@torch.inference_mode()
def agreement(lm: LanguageModel, adapter: Adapter, held: Sequence[Material]) -> float:
    """Return the share of held-out wordings whose answer is the target, generated greedily."""
    from corrigenda.lm.scoring import greedy
    from corrigenda.lm.stopping import LINE

    pairs = [(record(query, [item.edit]), item.edit.target) for item in held for query in item.asked[:2]]
    with adapter.over(lm.model):
        said = greedy(lm, [text for text, _ in pairs], max_new_tokens=16, stop=LINE)
    return sum(fold(text) == fold(target) for text, (_, target) in zip(said, pairs, strict=True)) / len(pairs)
