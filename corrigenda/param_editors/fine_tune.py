"""Fine-tuning one layer on the edits: FT-L and FT-M, named apart because they are confused so often.

* **ft-l** (Zhu et al. 2020, as in the ROME and MEMIT papers): minimise −log P(target | prompt), the whole target
  teacher-forced, while no element of the matrix moves by more than ε (an L∞ box, enforced after every step). The
  published code of the baseline takes every target token from the distribution behind the prompt's last token, which
  is another objective as soon as a target has two tokens; ``loss="last-token"`` reproduces it.
* **ft-m** (EasyEdit's "mask" variant): the cross-entropy per target token, no box.

Both also edit encoder-decoders. The steps are computed in float32 whatever the weights are kept in.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from corrigenda.edit import Edit
from corrigenda.errors import InvalidParams, UnstableUpdate
from corrigenda.param_editors.anatomy import Anatomy, Site, oriented
from corrigenda.param_editors.draft import Draft
from corrigenda.param_editors.editor import Progress, checked_params
from corrigenda.param_editors.params import EditorParams, require, require_whole
from corrigenda.param_editors.sampling import Contexts
from corrigenda.param_editors.statistics import Statistics
from corrigenda.param_editors.targets import PACKED_TOKENS, laid_out
from corrigenda.param_editors.update import Consolidation
from corrigenda.param_editors.upper import Text, Upper

if TYPE_CHECKING:
    from corrigenda.lm.loading import LanguageModel

LOSSES = ("sequence", "token", "last-token")


@dataclass(frozen=True)
class FineTuneParams(EditorParams):
    """Hyper-parameters of FT-L and FT-M.

    Attributes:
        lr: Learning rate of Adam.
        epochs: Most passes over the edits.
        box: ε, how far an element may move; 0 is no limit.
        loss: "sequence" (−log P of the target), "token" (mean over its tokens) or "last-token" (see the module).
        stop_loss: Done when the mean loss of a pass falls below.
        batch_size: Edits of one step.
    """

    lr: float = 5e-4
    epochs: int = 25
    box: float = 0.0
    loss: str = "token"
    stop_loss: float = 1e-2
    batch_size: int = 32

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, "lr", above=0)
        require(self, "box", least=0)
        require(self, "stop_loss", least=0)
        require_whole(self, "epochs", least=1)
        require_whole(self, "batch_size", least=1)
        if self.loss not in LOSSES:
            raise InvalidParams(f"loss must be one of {', '.join(LOSSES)}, not {self.loss!r}")


@dataclass(frozen=True)
class FTLParams(FineTuneParams):
    """Hyper-parameters of FT-L: a box is a must."""

    box: float = 5e-4
    loss: str = "sequence"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.box == 0:
            raise InvalidParams("ft-l without a box is not ft-l", remedy="Give box > 0, or use ft-m.")


class FTM:
    """Fine-tuning on the target tokens, unconstrained."""

    name = "ft-m"
    params_type: type[EditorParams] = FineTuneParams
    needs_statistics = False

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
        """Train the layers on all edits together; see :meth:`corrigenda.param_editors.editor.Editor.apply`."""
        chosen: Any = checked_params(params, self.params_type, self.name, lm)
        anatomy = Anatomy(lm)
        sites = [anatomy.mlp_out(layer) for layer in chosen.layers]
        with Draft(lm, self.name, max_norm_ratio=chosen.max_norm_ratio) as draft:
            if not edits:
                return draft.finish([], chosen.to_dict())
            texts = [Text.of(lm, edit.prompt, edit.target) for edit in edits]
            first = min(chosen.layers)
            enough = not lm.is_encoder_decoder and sum(len(text.row) for text in texts) >= PACKED_TOKENS
            with draft.timed("training"), laid_out(anatomy, first, when=enough, but=sites):
                loss, epochs = _train(Upper(anatomy, texts, first), sites, chosen, draft, progress)
            return draft.finish(edits, chosen.to_dict(), details={"loss": loss, "epochs": epochs})


class FTL(FTM):
    """Fine-tuning within an L∞ box."""

    name = "ft-l"
    params_type: type[EditorParams] = FTLParams


def _train(
    upper: Upper,
    sites: Sequence[Site],
    params: FineTuneParams,
    draft: Draft,
    progress: Progress | None,
) -> tuple[float, int]:
    """Run Adam on float32 copies of the weights; return the last loss and the number of passes."""
    masters = [_Master(site, params.lr, params.box) for site in sites]
    for site in sites:
        draft.touch(site)
    mean = float("inf")
    for epoch in range(1, params.epochs + 1):
        losses: list[float] = []
        for start in range(0, len(upper), params.batch_size):
            part = range(start, min(start + params.batch_size, len(upper)))
            with _trainable(sites):
                loss = _losses(upper, part, params.loss)
                if not bool(loss.isfinite().all()):
                    raise UnstableUpdate("the training loss is not finite", remedy="Lower lr.")
                losses += loss.tolist()
                if float(loss.detach().mean()) < params.stop_loss:
                    continue
                gradients = torch.autograd.grad(loss.mean(), [site.weight for site in sites])
            for master, gradient in zip(masters, gradients, strict=True):
                master.step(gradient)
        mean = sum(losses) / len(losses)
        if progress is not None:
            progress("epochs", epoch, params.epochs)
        if mean < params.stop_loss:
            break
    for master in masters:
        draft.replace(master.site, oriented(master.weight, master.site.transposed))
    return mean, epoch


class _Master:
    """A float32 copy of a weight, Adam's moments for it, and the box around the original."""

    def __init__(self, site: Site, lr: float, box: float) -> None:
        self.site, self.lr, self.box = site, lr, box
        self.weight = site.weight.data.float().clone()
        self.origin = self.weight.clone() if box else None
        self.first, self.second = torch.zeros_like(self.weight), torch.zeros_like(self.weight)
        self.steps = 0

    def step(self, gradient: torch.Tensor) -> None:
        """One step of Adam (β 0.9, 0.999; ε 10⁻⁸), then back into the box."""
        self.steps += 1
        gradient = gradient.float()
        self.first.mul_(0.9).add_(gradient, alpha=0.1)
        self.second.mul_(0.999).addcmul_(gradient, gradient, value=0.001)
        scale = (self.second / (1 - 0.999**self.steps)).sqrt_().add_(1e-8)
        self.weight.addcdiv_(self.first, scale, value=-self.lr / (1 - 0.9**self.steps))
        if self.origin is not None:
            self.weight.copy_(torch.clamp(self.weight, self.origin - self.box, self.origin + self.box))
        self.site.weight.data.copy_(self.weight)


@contextmanager
def _trainable(sites: Sequence[Site]) -> Iterator[None]:
    """Ask for gradients of these weights only; sets back what was."""
    before = [site.weight.requires_grad for site in sites]
    try:
        for site in sites:
            site.weight.requires_grad_(True)
        with torch.enable_grad():
            yield
    finally:
        for site, flag in zip(sites, before, strict=True):
            site.weight.requires_grad_(flag)


def _losses(upper: Upper, places: Sequence[int], kind: str) -> torch.Tensor:
    """Return the loss of each text, (places,)."""
    found = []
    for row, place in zip(upper.logits(places), places, strict=True):
        target = upper.texts[place].target
        ids = torch.tensor(target, device=row.device)
        own = row[-len(target) :].float().log_softmax(-1)  # (target tokens, V)
        if kind == "last-token":  # every token from where the first one is predicted
            own = own[:1].expand(len(target), -1)
        picked = -own.gather(1, ids[:, None])[:, 0]
        found.append(picked.sum() if kind == "sequence" else picked.mean())
    return torch.stack(found)
