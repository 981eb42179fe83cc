"""MEMIT: many edits at once, spread over several layers (Meng et al. 2023).

δ is found at the output of the last of the layers, so z = h + δ is what the block should say. Then, from the lowest
layer up, with the keys K and states h of the model as it has become so far, each of the layers left takes an equal
share of what is missing::

    R = (z − h) / (layers left),    Δ = R·Kᵀ(λC + KKᵀ)⁻¹

solved in float64. EMMET and AlphaEdit differ in the last factor only, and PMET in z.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from corrigenda.edit import Edit
from corrigenda.param_editors.anatomy import Anatomy
from corrigenda.param_editors.anchor import Anchor
from corrigenda.param_editors.draft import Draft
from corrigenda.param_editors.editor import Progress, checked_params
from corrigenda.param_editors.keys import subject_keys, values_at
from corrigenda.param_editors.params import EditorParams, require
from corrigenda.param_editors.rows import check_edits
from corrigenda.param_editors.sampling import Contexts, sample_contexts
from corrigenda.param_editors.solve import memit_factor, memit_factor_direct
from corrigenda.param_editors.statistics import Statistics, find
from corrigenda.param_editors.targets import Targets, ValueParams, value_targets
from corrigenda.param_editors.update import Consolidation

if TYPE_CHECKING:
    from corrigenda.lm.loading import LanguageModel


@dataclass(frozen=True)
class SpreadParams(ValueParams):
    """Hyper-parameters of the editors that spread an update over layers.

    Attributes:
        v_decay, clamp, contexts: As in :class:`~corrigenda.param_editors.targets.ValueParams`, with MEMIT's values.
    """

    v_decay: float = 0.5
    clamp: float = 0.75
    contexts: tuple[tuple[int, int], ...] = ((10, 5),)


@dataclass(frozen=True)
class MEMITParams(SpreadParams):
    """Hyper-parameters of MEMIT.

    Attributes:
        moment_weight: λ, how many old keys C stands for, > 0; higher changes less.
    """

    moment_weight: float = 15_000.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, "moment_weight", above=0)


class Spread:
    """What MEMIT, EMMET, AlphaEdit and PMET have in common; subclasses say how to solve and what is aimed at."""

    name = ""
    params_type: type[EditorParams] = SpreadParams
    needs_statistics = True

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
        """Write the edits together; see :meth:`corrigenda.param_editors.editor.Editor.apply`."""
        chosen: Any = checked_params(params, self.params_type, self.name, lm)
        check_edits(lm, edits)
        anatomy = Anatomy(lm)
        for layer in chosen.layers:
            anatomy.mlp_out(layer)
        stats = stats or find(lm, chosen.layers)
        with Draft(lm, self.name, max_norm_ratio=chosen.max_norm_ratio) as draft:
            if not edits:
                return draft.finish([], chosen.to_dict(), carry=previous.carry if previous else None)
            if contexts is None:
                with draft.timed("contexts"):
                    contexts = sample_contexts(lm, chosen.contexts, seed)
            with draft.timed("values"):
                targets = self.targets(anatomy, edits, contexts, chosen, progress)
            shifts, anchor = targets.shifts[-1], None
            if chosen.norm_anchor:
                fed = self.fed(anatomy, edits, chosen)
                shifts, anchor = Anchor.of(previous).hold(fed, shifts)
            goal = targets.base[-1].double() + shifts.double()  # z, (n, d)
            keys: dict[int, torch.Tensor] = {}
            for place, layer in enumerate(chosen.layers):
                keys[layer] = self._write(anatomy, edits, contexts, chosen, stats, draft, goal, layer, previous)
                if progress is not None:
                    progress("layers", place + 1, len(chosen.layers))
            draft.notes += stats.notes(chosen.layers)
            details = self._details(anatomy, edits, chosen, targets, goal)
            carry = self.carry(keys, previous) | (anchor.carried() if anchor is not None else {})
            return draft.finish(edits, chosen.to_dict(), details=details, carry=carry)

    def _write(
        self,
        anatomy: Anatomy,
        edits: Sequence[Edit],
        contexts: Contexts,
        params: Any,
        stats: Statistics,
        draft: Draft,
        goal: torch.Tensor,
        layer: int,
        previous: Consolidation | None,
    ) -> torch.Tensor:
        """Write one layer and return its keys K (d_in, n)."""
        with draft.timed("keys"):
            keys = self.keys(anatomy, edits, contexts, layer).T.cpu()  # (d_in, n)
            missing = (goal - self.reached(anatomy, edits, params)).T.cpu()  # (d, n)
        left = len(params.layers) - params.layers.index(layer)
        with draft.timed("solve"):
            factor = self.factor(stats, layer, keys, params, previous)  # (n, d_in)
            draft.add(anatomy.mlp_out(layer), missing / self.share(left), factor)
        return keys

    def _details(
        self,
        anatomy: Anatomy,
        edits: Sequence[Edit],
        params: Any,
        targets: Targets,
        goal: torch.Tensor,
    ) -> dict[str, Any]:
        missed = (goal - self.reached(anatomy, edits, params)).norm(dim=1)
        aimed = targets.shifts[-1].double().norm(dim=1)
        return {
            "edits": [
                {"edit": edit.id, "nll": targets.loss[n], "steps": targets.steps[n], "shift": float(aimed[n])}
                | {"missed": float(missed[n])}
                for n, edit in enumerate(edits)
            ]
        }

    def targets(
        self,
        anatomy: Anatomy,
        edits: Sequence[Edit],
        contexts: Contexts,
        params: Any,
        progress: Progress | None,
    ) -> Targets:
        """Find δ; the last of the shifts is what the layers are to bring about."""
        first = params.layers[-1] + 1
        return value_targets(anatomy, edits, contexts, params, first=first, progress=progress)

    def keys(self, anatomy: Anatomy, edits: Sequence[Edit], contexts: Contexts, layer: int) -> torch.Tensor:
        """Return the mean keys of ``edits`` at ``layer``: (n, d_in) float64."""
        return subject_keys(anatomy, edits, contexts, layer).mean

    def reached(self, anatomy: Anatomy, edits: Sequence[Edit], params: Any) -> torch.Tensor:
        """Return what the model says now where ``targets`` aimed: (n, d) float64."""
        last = params.layers[-1]
        return values_at(anatomy, edits, anatomy.block_name(last), last)

    def fed(self, anatomy: Anatomy, edits: Sequence[Edit], params: Any) -> torch.Tensor:
        """Return what the feed-forward of the last layer says now: (n, d) float64."""
        last = params.layers[-1]
        return values_at(anatomy, edits, anatomy.mlp_out(last).module, last)

    def share(self, left: int) -> float:
        """Return by what the residual is divided when ``left`` layers, this one included, are left."""
        return float(left)

    def factor(
        self, stats: Statistics, layer: int, keys: torch.Tensor, params: Any, previous: Consolidation | None
    ) -> torch.Tensor:
        """Return X (n, d_in) with Δ = R·X."""
        raise NotImplementedError

    def carry(self, keys: dict[int, torch.Tensor], previous: Consolidation | None) -> dict[str, torch.Tensor]:
        """Return what the next consolidation of the chain needs."""
        return {}


class MEMIT(Spread):
    """Many edits at once, least squares against old memories."""

    name = "memit"
    params_type: type[EditorParams] = MEMITParams

    def factor(
        self, stats: Statistics, layer: int, keys: torch.Tensor, params: Any, previous: Consolidation | None
    ) -> torch.Tensor:
        """Return Kᵀ(λC + KKᵀ)⁻¹, by whichever form is cheaper."""
        if keys.shape[1] > keys.shape[0]:
            return memit_factor_direct(stats.moment(layer).matrix, keys, params.moment_weight)
        return memit_factor(stats.factor(layer), keys, params.moment_weight)
