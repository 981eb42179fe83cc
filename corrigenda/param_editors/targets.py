"""Value targets: the shift δ at the subject's last token that makes the model say the target.

Minimised for each edit over its δ (ROME, eq. 4), by Adam, at most ``v_steps`` times::

    mean over contexts and target tokens of −log p(token)
      + kl_factor · KL(p_δ ‖ p_0) on the essence prompt
      + v_decay · ‖δ‖ / ‖v₀‖²

and ‖δ‖ is held below ``clamp`` · ‖v₀‖. Edits are optimised side by side: the loss is a sum and Adam works element by
element, so an edit gets the δ that it would get alone. An edit that is done leaves the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

import torch

from corrigenda.edit import Edit
from corrigenda.errors import InvalidParams, UnstableUpdate
from corrigenda.lm.packed import packed
from corrigenda.param_editors.forwards import Resumed
from corrigenda.param_editors.keeping import current_values
from corrigenda.param_editors.params import EditorParams, require, require_whole
from corrigenda.param_editors.rows import Row, essence_rows, target_rows
from corrigenda.param_editors.sampling import every

if TYPE_CHECKING:
    from corrigenda.param_editors.anatomy import Anatomy, Site
    from corrigenda.param_editors.sampling import Contexts

CHUNK_TOKENS = 320
"""Tokens from the subjects on, padding included, that are optimised side by side; bounds memory, and more would not be
faster on a CPU."""
PACKED_TOKENS = 160
"""Tokens from the subjects on from which it pays to lay out the weights anew, which takes memory; a single edit has
about 20."""

Progress = Callable[[str, int, int], None]
"""Called with (stage, done, total)."""
Early = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
"""A stopping rule: (nll, kl, whether the target is the first choice everywhere), each (edits,), to (weight of the nll,
whether done)."""


@dataclass(frozen=True)
class ValueParams(EditorParams):
    """How value targets are found.

    Attributes:
        v_steps: Most steps of Adam.
        v_lr: Its learning rate.
        kl_factor: Weight of the divergence on the essence prompt.
        v_decay: Weight of ‖δ‖/‖v₀‖².
        clamp: Largest ‖δ‖/‖v₀‖.
        stop_loss: An edit is done when its loss falls below.
        essence: The essence prompt, with {} for the subject.
        kl_at: Where the divergence is read: at the "end" of the essence prompt, as the ROME paper means, or at the
            "subject", as its reference code does.
        contexts: (length, how many) of each group of sampled contexts, besides the bare prompt.
        value_contexts: How many of the contexts, the bare prompt included, the loss runs over; 0 is all. Keys are
            averaged over all in any case.
        paraphrases: Whether the edit's own paraphrases are searched too: the sampled contexts stand in front of its
            wordings in turn. They cost nothing, and edits without any are not touched by it.
        v_half: Whether products of the search are in bfloat16, on processors that have instructions for that: 1.5 times
            as fast. Single edits then run from copies of the weights too, which take half as much room as a batch's
            otherwise. Searches end at the same loss, with a δ two to four per cent away; all that is computed from δ
            stays in float64.
        norm_anchor: Whether values are rescaled to the length that they have in the model before the first edit of a
            chain; for hundreds of edits in sequence. See :mod:`corrigenda.param_editors.anchor`.
    """

    v_steps: int = 20
    v_lr: float = 0.5
    kl_factor: float = 0.0625
    v_decay: float = 0.5
    clamp: float = 4.0
    stop_loss: float = 0.05
    essence: str = "{} is a"
    kl_at: str = "subject"
    contexts: tuple[tuple[int, int], ...] = ((5, 10), (10, 10))
    value_contexts: int = 0
    paraphrases: bool = True
    v_half: bool = False
    norm_anchor: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "contexts", tuple(tuple(group) for group in self.contexts))
        require_whole(self, "v_steps", least=0)
        require_whole(self, "value_contexts", least=0)
        require(self, "v_lr", above=0)
        require(self, "clamp", above=0)
        for name in ("kl_factor", "v_decay", "stop_loss"):
            require(self, name, least=0)
        if self.kl_at not in ("end", "subject"):
            raise InvalidParams(f"kl_at must be 'end' or 'subject', not {self.kl_at!r}")
        for name in ("paraphrases", "v_half", "norm_anchor"):
            if not isinstance(getattr(self, name), bool):
                raise InvalidParams(f"{name} must be true or false, not {getattr(self, name)!r}")
        if self.essence.count("{}") != 1:
            raise InvalidParams(f"essence needs one {{}} for the subject: {self.essence!r}")
        groups: tuple[tuple[int, ...], ...] = self.contexts
        if not all(len(group) == 2 and min(group) >= 1 for group in groups):
            raise InvalidParams(f"contexts must be pairs of length and number, not {self.contexts!r}")


VALUE_FIELDS = frozenset(field.name for field in fields(ValueParams)) - {"layers", "max_norm_ratio", "norm_anchor"}
"""What δ depends on, besides the model, the edits, the contexts and where it is added."""


@dataclass(frozen=True)
class Targets:
    """Value targets of n edits.

    Attributes:
        shifts: δ, (n, d) float32, one for each thing that was shifted.
        base: v₀, likewise: what was shifted, at the bare prompt.
        loss: Negative log-likelihood per target token at the last δ that was looked at; n values.
        steps: Steps that each edit took.
    """

    shifts: tuple[torch.Tensor, ...]
    base: tuple[torch.Tensor, ...]
    loss: tuple[float, ...] = field(default=())
    steps: tuple[int, ...] = field(default=())

    def each(self) -> Iterator[Targets]:
        """Yield the targets edit by edit."""
        for place in range(len(self.loss)):
            one = slice(place, place + 1)
            shifts, base = (tuple(tensor[one] for tensor in tensors) for tensors in (self.shifts, self.base))
            yield Targets(shifts, base, self.loss[one], self.steps[one])

    @classmethod
    def together(cls, parts: Sequence[Targets], device: torch.device) -> Targets:
        """Return the targets of several edits as one, on ``device``."""
        return cls(
            tuple(torch.cat(tensors).to(device) for tensors in zip(*(part.shifts for part in parts), strict=True)),
            tuple(torch.cat(tensors).to(device) for tensors in zip(*(part.base for part in parts), strict=True)),
            tuple(value for part in parts for value in part.loss),
            tuple(value for part in parts for value in part.steps),
        )


def value_targets(
    anatomy: Anatomy,
    edits: Sequence[Edit],
    contexts: Contexts,
    params: ValueParams,
    *,
    first: int,
    modules: Sequence[str] = (),
    early: Early | None = None,
    progress: Progress | None = None,
) -> Targets:
    """Optimise δ for each edit.

    Args:
        anatomy: The model as it is now.
        edits: n edits whose prompts hold their subjects.
        contexts: Groups; the first is the bare prompt.
        params: See :class:`ValueParams`.
        first: The first block to run with the shift; see :class:`corrigenda.param_editors.forwards.Resumed`.
        modules: What is shifted; by default the state that enters ``first``.
        early: Replaces the stopping rule.
        progress: Told after each edit.

    Raises:
        UnstableUpdate: A δ or a loss is not finite.
    """
    beginnings = every(contexts)
    beginnings = beginnings[: params.value_contexts or len(beginnings)]
    about = [_wanted(params, early), first, list(modules), beginnings]
    values = current_values()
    done = {place: found for place, edit in enumerate(edits) if values and (found := values.get(about, edit))}
    todo = [edit for place, edit in enumerate(edits) if place not in done]
    places = [place for place in range(len(edits)) if place not in done]
    for numbers, made in _found(anatomy, todo, beginnings, params, first, modules, early):
        for number, own in zip(numbers, made.each(), strict=True):
            done[places[number]] = own
            if values:
                values.put(about, todo[number], own)
        if progress is not None:
            progress("values", len(done), len(edits))
    return Targets.together([done[place] for place in range(len(edits))], anatomy.lm.device)


def _wanted(params: ValueParams, early: Early | None) -> dict[str, Any]:
    """Return the hyper-parameters that δ depends on; with a stopping rule of its own, the method's as well."""
    return {name: value for name, value in params.to_dict().items() if name in VALUE_FIELDS or early is not None}


def _found(
    anatomy: Anatomy,
    edits: Sequence[Edit],
    contexts: Sequence[str],
    params: ValueParams,
    first: int,
    modules: Sequence[str],
    early: Early | None,
) -> Iterator[tuple[list[int], Targets]]:
    """Optimise chunk by chunk; yield which edits, by their places, and their targets."""
    lm = anatomy.lm
    rows = target_rows(lm, edits, contexts, reworded=params.paraphrases)
    rows += essence_rows(lm, edits, params.essence, at_subject=params.kl_at == "subject")
    enough = params.v_half or sum(len(row.ids) - row.subject for row in rows) >= PACKED_TOKENS
    with laid_out(anatomy, first, when=enough, half=params.v_half):
        for places in _chunks(rows, len(edits)):
            own = [row for place in places for row in rows if row.edit == place]
            renamed = {place: number for number, place in enumerate(places)}
            own = [Row(renamed[row.edit], row.ids, row.subject, row.target) for row in own]
            yield places, _Chunk(anatomy, own, len(places), params, first, modules).optimise(early)


def _chunks(rows: Sequence[Row], edits: int) -> list[list[int]]:
    """Group edits of similar length, about :data:`CHUNK_TOKENS` tokens from the subjects on in each group."""
    longest, count = [0] * edits, [0] * edits
    for row in rows:
        longest[row.edit] = max(longest[row.edit], len(row.ids) - row.subject)
        count[row.edit] += 1
    groups: list[list[int]] = []
    room = 0
    for place in sorted(range(edits), key=lambda place: -longest[place]):
        size = longest[groups[-1][0] if groups else place] * count[place]
        if not groups or size > room:
            groups.append([])
            room = CHUNK_TOKENS
            size = longest[place] * count[place]
        groups[-1].append(place)
        room -= size
    return groups


@contextmanager
def laid_out(
    anatomy: Anatomy, first: int, *, when: bool = True, half: bool = False, but: Sequence[Site] = ()
) -> Iterator[None]:
    """Lay out the weights for speed, for one search or for many: twice from block ``first`` on, where gradients run.

    Args:
        anatomy: The model.
        first: The first block that gradients run through. What is shifted may be read there: it stays in float32.
        when: Whether there is enough to do for that; without effect otherwise.
        half: Whether the blocks above it run in bfloat16; see :attr:`ValueParams.v_half`.
        but: Matrices that are going to change meanwhile.
    """
    if not when:
        yield
        return
    model, blocks = anatomy.lm.model, anatomy.blocks
    changing = [model.get_submodule(site.module) for site in but]
    with (
        packed(model, blocks[:first], but=changing),
        packed(model, blocks[first : first + 1], gradients=True, but=changing),
        packed(model, [*blocks[first + 1 :], anatomy.head], gradients=True, half=half, but=changing),
    ):
        yield


class _Chunk:
    """Edits that are optimised side by side: n of them, R rows, T target tokens in all rows together."""

    def __init__(
        self,
        anatomy: Anatomy,
        rows: Sequence[Row],
        edits: int,
        params: ValueParams,
        first: int,
        modules: Sequence[str],
    ) -> None:
        self.params, self.n, self.device = params, edits, anatomy.lm.device
        self.rows = list(rows)
        self.resumed = Resumed(anatomy, [row.ids for row in rows], [row.subject for row in rows], first, modules)
        leading = [next(place for place, row in enumerate(rows) if row.edit == edit) for edit in range(edits)]
        self.base = [base[leading] for base in self.resumed.base]  # n × (d), at the bare prompt
        self.sizes = [base.norm(dim=1) for base in self.base]
        self._index(list(range(edits)))

    def _index(self, active: list[int]) -> None:
        """Lay out where in the logits of the rows still there each target token is predicted."""
        self.active = active
        number = {edit: place for place, edit in enumerate(active)}
        self.owner = torch.tensor([number[row.edit] for row in self.rows], device=self.device)  # (R,)
        of_edit = [sum(bool(row.target) and row.edit == edit for row in self.rows) for edit in active]
        spots: list[tuple[int, int, int, int, float]] = []
        for place, row in enumerate(self.rows):
            for step, token in enumerate(row.target):
                owner = number[row.edit]
                weight = 1 / (len(row.target) * of_edit[owner])
                spots.append((place, step - len(row.target), token, owner, weight))
        *whole, weights = zip(*spots, strict=True)
        self.row, self.column, self.token, self.of = (torch.tensor(part, device=self.device) for part in whole)  # (T,)
        self.weight = torch.tensor(weights, device=self.device)  # (T,)
        essence = [place for place, row in enumerate(self.rows) if not row.target]
        self.essence = torch.tensor(essence, device=self.device)
        last = torch.full_like(self.essence, -1)
        # What the head is run on: the target's tokens, then the end of each essence prompt.
        self.wanted = torch.cat([self.row, self.essence]), torch.cat([self.column, last])  # (T + active,) each
        self.unshifted = self.resumed.last_logits[self.essence].log_softmax(-1)  # (n, V)

    def optimise(self, early: Early | None) -> Targets:
        """Run Adam until all edits are done."""
        shifts = [torch.zeros_like(base) for base in self.base]
        moments = [(torch.zeros_like(base), torch.zeros_like(base)) for base in self.base]
        losses, steps = [float("nan")] * self.n, [0] * self.n
        for step in range(self.params.v_steps + 1):
            here = torch.tensor(self.active, device=self.device)
            leaves = [shift[here].requires_grad_() for shift in shifts]
            with torch.enable_grad():
                loss, nll, over = self._loss(leaves, early)
            for place, edit in enumerate(self.active):
                losses[edit], steps[edit] = float(nll[place]), step
            if step == self.params.v_steps or bool(over.all()):
                break
            if not bool(loss.isfinite().all()):
                raise UnstableUpdate("the loss of a value target is not finite", remedy="Lower v_lr.")
            gradients = torch.autograd.grad(loss.sum(), leaves)
            going = here[~over]
            for number, gradient in enumerate(gradients):
                self._adam(shifts[number], moments[number], gradient[~over], going, step + 1)
                self._clamp(shifts[number], self.sizes[number], going)
            if bool(over.any()):
                self._drop(over)
        return Targets(tuple(shifts), tuple(self.base), tuple(losses), tuple(steps))

    def _loss(
        self,
        leaves: Sequence[torch.Tensor],
        early: Early | None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return loss, negative log-likelihood and whether done, each (active,)."""
        logits = self.resumed.logits([leaf[self.owner] for leaf in leaves], *self.wanted).float()  # (T + active, V)
        spots = logits[: len(self.token)]  # (T, V)
        log_p = spots.log_softmax(-1)[torch.arange(len(self.token), device=self.device), self.token]
        zero = torch.zeros(len(self.active), device=self.device)
        nll = zero.index_add(0, self.of, -log_p * self.weight)
        shifted = logits[len(self.token) :].log_softmax(-1)  # (active, V)
        kl = (shifted.exp() * (shifted - self.unshifted)).sum(-1)  # KL(p_δ ‖ p_0), (active,)
        decay = zero
        for leaf, size in zip(leaves, self.sizes, strict=True):
            # ‖δ‖ has no gradient at 0, where every δ starts; a tiny constant under the root gives it the gradient 0.
            decay = decay + (leaf.square().sum(1) + 1e-24).sqrt() / size[self.active].square()
        rest = self.params.kl_factor * kl + self.params.v_decay * decay
        if early is None:
            loss = nll + rest
            return loss, nll.detach(), (loss < self.params.stop_loss).detach()
        right = (spots.argmax(-1) == self.token).float()
        all_right = zero.index_add(0, self.of, (1 - right) * self.weight) == 0
        weight, over = early(nll.detach(), kl.detach(), all_right)
        return weight * nll + rest, nll.detach(), over

    def _adam(
        self,
        shift: torch.Tensor,
        moments: tuple[torch.Tensor, torch.Tensor],
        gradient: torch.Tensor,
        places: torch.Tensor,
        step: int,
    ) -> None:
        """One step of Adam (β 0.9, 0.999; ε 10⁻⁸) on the rows ``places``; all rows have taken the same steps."""
        first, second = moments
        first[places] = 0.9 * first[places] + 0.1 * gradient
        second[places] = 0.999 * second[places] + 0.001 * gradient.square()
        scale = (second[places] / (1 - 0.999**step)).sqrt() + 1e-8
        shift[places] -= self.params.v_lr * first[places] / (1 - 0.9**step) / scale

    def _clamp(self, shift: torch.Tensor, size: torch.Tensor, places: torch.Tensor) -> None:
        norm = shift[places].norm(dim=1)
        limit = self.params.clamp * size[places]
        shift[places] *= torch.where(norm > limit, limit / norm.clamp(min=1e-30), torch.ones_like(norm))[:, None]

    def _drop(self, over: torch.Tensor) -> None:
        """Let edits that are done leave the batch."""
        left = [edit for edit, done in zip(self.active, over.tolist(), strict=True) if not done]
        kept = [place for place, row in enumerate(self.rows) if row.edit in set(left)]
        self.rows = [self.rows[place] for place in kept]
        self.resumed.keep(torch.tensor(kept, device=self.device))
        self._index(left)
