"""Causal tracing: at which token and layer a fact passes (Meng et al. 2022, section 2).

The subject's embeddings are disturbed by noise, so that the model no longer says what it knew. Then one state, of one
token behind one block, is put back as it was: the more probable the answer becomes again, the more passes there. The
layers to edit are those with the largest effect at the subject's last token.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from corrigenda.errors import InvalidParams, MissingExtra, UnsupportedArchitecture
from corrigenda.lm.hooks import Override, Tap, first_tensor
from corrigenda.lm.plain import plain_encoding
from corrigenda.lm.tokens import Batch, last_subject_token, token_ids
from corrigenda.param_editors.anatomy import Anatomy
from corrigenda.param_editors.forwards import call
from corrigenda.param_editors.rows import target_ids

if TYPE_CHECKING:
    from corrigenda.lm.loading import LanguageModel

PARTS = ("block", "mlp", "attention")
WINDOW = 10
"""Layers around one that are put back together for mlp and attention, which each add little; a tenth of them counts."""


@dataclass(frozen=True)
class Trace:
    """What putting back each state does.

    Attributes:
        prompt, subject, answer: The question.
        part: What was put back: the state behind a block, or what its feed-forward or attention adds.
        tokens: Text of each token of the prompt.
        subject_end: Place of the subject's last token.
        clean: Probability of the answer's first token, 0…1, undisturbed.
        corrupted: The same with noise on the subject; mean over samples.
        effects: Tokens × layers: the same with that state put back; mean over samples.
    """

    prompt: str
    subject: str
    answer: str
    part: str
    tokens: tuple[str, ...]
    subject_end: int
    clean: float
    corrupted: float
    effects: tuple[tuple[float, ...], ...]

    @property
    def best_layer(self) -> int:
        """The layer with the largest effect at the subject's last token."""
        row = self.effects[self.subject_end]
        return max(range(len(row)), key=row.__getitem__)

    def to_dict(self) -> dict[str, Any]:
        """Return everything, JSON-ready."""
        return asdict(self) | {"best_layer": self.best_layer}

    def save_png(self, path: str | Path) -> None:
        """Draw the heat map.

        Raises:
            MissingExtra: matplotlib is not installed.
        """
        try:
            from matplotlib.backends.backend_agg import FigureCanvasAgg
            from matplotlib.figure import Figure
        except ImportError as error:
            raise MissingExtra.named("trace", "matplotlib") from error
        figure = Figure(figsize=(1.5 + 0.16 * len(self.effects[0]), 1.2 + 0.22 * len(self.tokens)), layout="tight")
        FigureCanvasAgg(figure)
        axes = figure.subplots()
        image = axes.imshow(self.effects, aspect="auto", cmap="Purples", vmin=self.corrupted)
        marked = [f"{text}*" if place == self.subject_end else text for place, text in enumerate(self.tokens)]
        axes.set_yticks(range(len(self.tokens)), labels=[_visible(text) for text in marked])
        axes.set_xlabel(f"layer whose {self.part} is put back")
        figure.colorbar(image).set_label(f"p({_visible(self.answer.strip())})")
        figure.savefig(path, dpi=150)


def _visible(text: str) -> str:
    """Escape what no font has: control characters, line breaks."""
    return repr(text)[1:-1]


@torch.no_grad()
def trace(
    lm: LanguageModel,
    prompt: str,
    subject: str,
    *,
    answer: str | None = None,
    part: str = "block",
    noise: float = 3.0,
    samples: int = 10,
    seed: int = 0,
    progress: Callable[[str, int, int], None] | None = None,
) -> Trace:
    """Trace one prompt.

    Args:
        lm: A decoder.
        prompt: Text up to the answer.
        subject: As it stands in the prompt.
        answer: What to look at; by default what the model would say.
        part: One of :data:`PARTS`.
        noise: Size of the disturbance, in standard deviations of the embeddings, > 0.
        samples: Disturbances that are averaged over, ≥ 1.
        seed: Of the noise.
        progress: Told after each layer.

    Raises:
        SubjectNotFound, UnsupportedArchitecture, InvalidParams
    """
    if part not in PARTS or noise <= 0 or samples < 1:
        raise InvalidParams(f"part {part!r}, noise {noise:g}, samples {samples}: one of {PARTS}, > 0, ≥ 1 are needed")
    if lm.is_encoder_decoder:
        raise UnsupportedArchitecture(f"{lm.name} is an encoder-decoder; tracing is for decoders")
    anatomy = Anatomy(lm)
    ids = token_ids(lm, prompt)
    first, last = _span(lm, prompt, subject)
    runs = _Runs(anatomy, ids, (first, last), part, noise, samples, seed)
    clean = runs.clean_logits.softmax(-1)
    token = int(clean.argmax()) if answer is None else target_ids(lm, prompt, answer)[1][0]
    effects = torch.zeros(len(ids), anatomy.map.count)
    for layer in range(anatomy.map.count):
        effects[:, layer] = runs.restored(layer, token)
        if progress is not None:
            progress("layers", layer + 1, anatomy.map.count)
    return Trace(
        prompt=prompt,
        subject=subject,
        answer=lm.tokenizer.decode([token]) if answer is None else answer,
        part=part,
        tokens=tuple(lm.tokenizer.decode([one]) for one in ids),
        subject_end=last,
        clean=float(clean[token]),
        corrupted=float(runs.corrupted(token)),
        effects=tuple(tuple(row) for row in effects.tolist()),
    )


def _span(lm: LanguageModel, prompt: str, subject: str) -> tuple[int, int]:
    """Return the places of the subject's first and last token."""
    last = last_subject_token(lm.tokenizer, prompt, subject)
    end = prompt.lower().rfind(subject.strip().lower()) + 1
    if not lm.tokenizer.is_fast or not end:
        return last, last
    encoded = plain_encoding(lm.tokenizer, prompt, return_offsets_mapping=True)
    places = enumerate(encoded["offset_mapping"])
    return min(min(place for place, (_, stop) in places if stop >= end), last), last


class _Runs:
    """Passes over T tokens, with s samples of noise on the subject."""

    def __init__(
        self,
        anatomy: Anatomy,
        ids: list[int],
        subject: tuple[int, int],
        part: str,
        noise: float,
        samples: int,
        seed: int,
    ) -> None:
        self.anatomy, self.ids, self.part, self.samples = anatomy, ids, part, samples
        self.model = anatomy.lm.model
        embeddings = self.model.get_input_embeddings().weight
        self.embeddings = anatomy.map.embeddings
        generator = torch.Generator().manual_seed(seed)
        span = subject[1] - subject[0] + 1
        drawn = torch.randn(samples, span, embeddings.shape[1], generator=generator)
        self.noise = torch.zeros(samples, len(ids), embeddings.shape[1])
        # The same noise for every state that is put back: differences are then due to the state alone.
        self.noise[:, subject[0] : subject[1] + 1] = drawn * noise * float(embeddings.float().std())
        names = [self._name(layer) for layer in range(anatomy.map.count)]
        with Tap(self.model, names, inputs=False) as tap:
            self.clean_logits = self._logits(1)[0]
        self.states = {name: first_tensor(tap.outputs[name]).reshape(1, len(ids), -1)[0] for name in names}

    def corrupted(self, token: int) -> torch.Tensor:
        """Return the mean probability of ``token`` with noise and nothing put back."""
        with Override(self.model, {self.embeddings: self._disturb(1)}):
            return self._logits(self.samples).softmax(-1)[:, token].mean()

    def restored(self, layer: int, token: int) -> torch.Tensor:
        """Return the mean probability with the state of each token put back in turn: (T,)."""
        count = len(self.ids)
        layers = [layer] if self.part == "block" else self._window(layer)
        changes = {self._name(one): self._put_back(self._name(one)) for one in layers}
        with ExitStack() as stack:
            stack.enter_context(Override(self.model, {self.embeddings: self._disturb(count)}))
            stack.enter_context(Override(self.model, changes))
            found = self._logits(count * self.samples).softmax(-1)[:, token]
        return found.view(count, self.samples).mean(1)

    def _logits(self, rows: int) -> torch.Tensor:
        """Return the last logits of so many copies of the prompt: (rows, V)."""
        ids = torch.tensor([self.ids], device=self.anatomy.lm.device).expand(rows, -1)
        positions = torch.arange(len(self.ids), device=ids.device).expand(rows, -1)
        return call(self.anatomy.lm, Batch(ids, torch.ones_like(ids), positions))[:, -1].float()

    def _disturb(self, groups: int) -> Callable[[torch.Tensor], torch.Tensor]:
        return lambda state: state + self.noise.repeat(groups, 1, 1).to(state)

    def _put_back(self, name: str) -> Callable[[torch.Tensor], torch.Tensor]:
        count = len(self.ids)

        def change(state: torch.Tensor) -> torch.Tensor:
            wide = state.clone().view(count, self.samples, count, -1)
            for place in range(count):
                wide[place, :, place] = self.states[name][place]
            return wide.view(state.shape)

        return change

    def _window(self, layer: int) -> list[int]:
        first = max(0, layer - WINDOW // 2)
        return list(range(first, min(self.anatomy.map.count, layer - WINDOW // 2 + WINDOW)))

    def _name(self, layer: int) -> str:
        chosen = {"block": self.anatomy.map.block, "mlp": self.anatomy.map.mlp, "attention": self.anatomy.map.attention}
        return chosen[self.part](layer)
