"""CaliNET: a small feed-forward beside one block, trained on a batch of facts (Dong et al., Findings of EMNLP 2022).

::

    FFN'(x) = FFN(x) + W_out · act(W_in · x)

with everything else frozen. What it reads is what the block's own feed-forward reads, after its normalisation, and it
is gated where that is. The output side starts at zero (the published code does not do that), so that an untrained
adapter changes nothing. It is trained on every fact in several wordings: the prompt, the edit's paraphrases, and the
prompt behind sampled beginnings. ``keep_weight`` adds, beyond the paper, a divergence on the same prompts about other
subjects, for locality.

Which statements a model gets wrong is told by :mod:`.detection`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from corrigenda.edit import Edit
from corrigenda.errors import InvalidParams, UnstableUpdate
from corrigenda.lm.hooks import Tap, first_tensor, with_first_tensor
from corrigenda.lm.packed import packed
from corrigenda.param_editors.anatomy import Anatomy
from corrigenda.param_editors.draft import Draft
from corrigenda.param_editors.editor import Progress, checked_params
from corrigenda.param_editors.neurons import Neurons, activation_name, activations, takes_bias
from corrigenda.param_editors.others import OTHERS
from corrigenda.param_editors.params import EditorParams, require, require_whole
from corrigenda.param_editors.sampling import Contexts, every, sample_contexts
from corrigenda.param_editors.statistics import Statistics
from corrigenda.param_editors.update import Consolidation
from corrigenda.param_editors.upper import Text, Upper

if TYPE_CHECKING:
    from corrigenda.lm.loading import LanguageModel


@dataclass(frozen=True)
class CaliNETParams(EditorParams):
    """Hyper-parameters of CaliNET; ``layers`` is one block.

    Attributes:
        width: Neurons; 64 for 100 facts in the paper.
        lr: Learning rate of Adam, after a linear warm-up.
        warm_up: Steps of the warm-up.
        steps: Most steps.
        batch_size: Texts of a step.
        stop_loss: Done when the mean loss of the texts of an epoch falls below.
        keep_weight: Weight of the divergence on prompts about other subjects; 0 is the paper's method.
        others: How many other subjects each prompt is asked about, for that.
        contexts: (length, how many) of sampled beginnings, besides the bare prompt.
    """

    width: int = 64
    lr: float = 5e-3
    warm_up: int = 20
    steps: int = 600
    batch_size: int = 32
    stop_loss: float = 0.02
    keep_weight: float = 1.0
    others: int = 2
    contexts: tuple[tuple[int, int], ...] = ((5, 2),)

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.layers) != 1:
            raise InvalidParams(f"CaliNET stands beside one block, not {self.layers}")
        object.__setattr__(self, "contexts", tuple(tuple(group) for group in self.contexts))
        require(self, "lr", above=0)
        require(self, "stop_loss", least=0)
        require(self, "keep_weight", least=0)
        for name in ("width", "steps", "batch_size"):
            require_whole(self, name, least=1)
        for name in ("warm_up", "others"):
            require_whole(self, name, least=0)


class CaliNET:
    """A calibration feed-forward for a batch of facts."""

    name = "calinet"
    params_type: type[EditorParams] = CaliNETParams
    needs_statistics = False
    adds_neurons = True

    def apply(
        self,
        lm: LanguageModel,
        edits: Sequence[Edit],
        *,
        params: EditorParams | None = None,
        stats: Statistics | None = None,
        seed: int = 0,
        progress: Progress | None = None,
        previous: Consolidation | None = None,
        contexts: Contexts | None = None,
    ) -> Consolidation:
        """Train one adapter on all edits together; see :meth:`corrigenda.param_editors.editor.Editor.apply`."""
        chosen: Any = checked_params(params, self.params_type, self.name, lm)
        anatomy = Anatomy(lm)
        anatomy.mlp_out(chosen.layers[0])
        with Draft(lm, self.name, max_norm_ratio=chosen.max_norm_ratio) as draft:
            if not edits:
                return draft.finish([], chosen.to_dict())
            if contexts is None:
                contexts = (("",),) if lm.is_encoder_decoder else sample_contexts(lm, chosen.contexts, seed)
            generator = torch.Generator().manual_seed(seed)
            with draft.timed("texts"):
                texts = _wordings(lm, edits, every(contexts))
                others = _others(lm, edits, chosen, generator)
                with packed(lm.model):
                    upper = Upper(anatomy, texts + others, chosen.layers[0])
            adapter = Adapter(lm, chosen.layers[0], chosen.width, generator)
            # The model only passes gradients on here; those of the adapter are computed in full precision.
            with draft.timed("training"), packed(lm.model, gradients=True, half=True):
                loss, steps = _train(adapter, upper, len(texts), chosen, generator, progress)
            details = {"loss": loss, "steps": steps, "texts": len(texts)}
            return draft.finish(edits, chosen.to_dict(), details=details, neurons=[adapter.neurons()])


class Adapter:
    """The neurons in training: random towards the input, zero towards the output."""

    def __init__(self, lm: LanguageModel, layer: int, width: int, generator: torch.Generator) -> None:
        self.lm, self.layer = lm, layer
        self.activation = activation_name(lm)
        d = lm.layers.hidden_size

        def drawn() -> torch.Tensor:
            weights: torch.Tensor = (torch.randn(width, d, generator=generator) / d**0.5).to(lm.device)
            weights.requires_grad_()
            return weights

        self.up = drawn()
        self.gate = drawn() if lm.layers.gated else None
        self.bias = torch.zeros(width, device=lm.device).requires_grad_() if takes_bias(lm, layer) else None
        self.down = torch.zeros(d, width, device=lm.device).requires_grad_()

    @property
    def leaves(self) -> list[torch.Tensor]:
        """What is trained."""
        return [part for part in (self.up, self.gate, self.bias, self.down) if part is not None]

    def __enter__(self) -> None:
        modules, layers = dict(self.lm.model.named_modules()), self.lm.layers
        read = layers.mlp_in(self.layer)[0]
        self._tap = Tap(self.lm.model, [read], outputs=False, detach=False)
        self._tap.__enter__()

        def add(module: Any, args: Any, output: Any) -> Any:
            x = self._tap.inputs[read]
            added = activations(x.float(), self.up, self.gate, self.bias, self.activation) @ self.down.T
            return with_first_tensor(output, first_tensor(output) + added.to(x.dtype))

        self._handle = modules[layers.mlp_out(self.layer)].register_forward_hook(add)

    def __exit__(self, *error: object) -> None:
        self._handle.remove()
        self._tap.__exit__(None, None, None)

    def neurons(self) -> Neurons:
        """Return what was trained."""
        gate = None if self.gate is None else self.gate.detach().cpu()
        bias = None if self.bias is None else self.bias.detach().cpu()
        return Neurons(self.layer, self.up.detach().cpu(), self.down.detach().cpu(), self.activation, gate, bias)


def _wordings(lm: LanguageModel, edits: Sequence[Edit], contexts: Sequence[str]) -> list[Text]:
    texts = []
    for edit in edits:
        prompts = [context + edit.prompt for context in contexts] + list(edit.paraphrases)
        texts += [Text.of(lm, prompt, edit.target) for prompt in prompts]
    return texts


def _others(lm: LanguageModel, edits: Sequence[Edit], params: CaliNETParams, generator: torch.Generator) -> list[Text]:
    if not params.keep_weight:
        return []
    texts = []
    for edit in edits:
        if edit.subject and edit.subject in edit.prompt:
            for place in torch.randperm(len(OTHERS), generator=generator)[: params.others].tolist():
                texts.append(Text.of(lm, edit.prompt.replace(edit.subject, OTHERS[place])))
    return texts


def _train(
    adapter: Adapter,
    upper: Upper,
    facts: int,
    params: CaliNETParams,
    generator: torch.Generator,
    progress: Progress | None,
) -> tuple[float, int]:
    """Run Adam; return the mean loss of the last epoch, and the steps."""
    optimiser = torch.optim.Adam(adapter.leaves, lr=params.lr)
    losses: list[float] = []
    mean = float("inf")
    order: list[int] = []
    for step in range(1, params.steps + 1):
        if not order:
            order = torch.randperm(facts, generator=generator).tolist()
            mean = sum(losses) / len(losses) if losses else mean
            losses = []
            if mean < params.stop_loss:
                break
        places, order = order[: params.batch_size], order[params.batch_size :]
        for group in optimiser.param_groups:
            group["lr"] = params.lr * min(1.0, step / max(params.warm_up, 1))
        with torch.enable_grad(), adapter:
            told = upper.nll(places)
        loss = told.mean() + params.keep_weight * _divergence(adapter, upper, facts, params, generator)
        if not bool(loss.isfinite()):
            raise UnstableUpdate("the loss of the adapter is not finite", remedy="Lower lr.")
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(adapter.leaves, 1.0)
        optimiser.step()
        losses += told.tolist()
        if progress is not None:
            progress("steps", step, params.steps)
    return (sum(losses) / len(losses) if losses else mean), step


def _divergence(
    adapter: Adapter, upper: Upper, facts: int, params: CaliNETParams, generator: torch.Generator
) -> torch.Tensor:
    """Return KL(before ‖ after) behind some prompts about other subjects."""
    rest = len(upper) - facts
    if not rest or not params.keep_weight:
        return torch.zeros((), device=adapter.lm.device)
    count = max(1, params.batch_size // 2)
    places = [facts + place for place in torch.randperm(rest, generator=generator)[:count].tolist()]
    with torch.no_grad():
        before = upper.logits(places)[:, -1].float().log_softmax(-1)
    with torch.enable_grad(), adapter:
        after = upper.logits(places)[:, -1].float().log_softmax(-1)
    return (before.exp() * (before - after)).sum(-1).mean()
