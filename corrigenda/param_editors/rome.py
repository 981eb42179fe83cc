"""ROME and r-ROME: one rank-one update an edit, at one layer (Meng et al. 2022; Gupta et al. 2024).

The matrix W maps the key k of a subject to a value; the update makes it map k* to v* and changes as little as possible
on the keys of ordinary text, whose second moment is C::

    W' = W + (v* − W·k*)·uᵀ / (uᵀ·k*),    u = C⁻¹k*

so W'·k* = v*. ROME's published code takes k and W·k from the bare prompt but u from the average over contexts, which is
what makes some of its edits wreck a model; here

* **rome** uses the bare prompt's key for k* in all three places (called p-ROME in the r-ROME paper),
* **r-rome** uses the average over the contexts in all three,

and v* = W·k* + δ with the same k*.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from corrigenda.edit import Edit
from corrigenda.errors import InvalidParams, about
from corrigenda.param_editors.anatomy import Anatomy
from corrigenda.param_editors.anchor import Anchor
from corrigenda.param_editors.draft import Draft
from corrigenda.param_editors.editor import Progress, checked_params
from corrigenda.param_editors.keeping import values_after
from corrigenda.param_editors.keys import subject_keys
from corrigenda.param_editors.params import EditorParams
from corrigenda.param_editors.rows import check_edits
from corrigenda.param_editors.sampling import Contexts, sample_contexts
from corrigenda.param_editors.solve import rome_direction
from corrigenda.param_editors.statistics import Statistics, find
from corrigenda.param_editors.targets import ValueParams, laid_out, value_targets
from corrigenda.param_editors.update import Consolidation

if TYPE_CHECKING:
    from corrigenda.lm.loading import LanguageModel


@dataclass(frozen=True)
class ROMEParams(ValueParams):
    """Hyper-parameters of ROME and r-ROME: exactly one layer."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.layers) != 1:
            raise InvalidParams(f"ROME writes one layer, not {self.layers}", remedy="layers=(5,)")


class ROME:
    """Rank-one edits with the key of the bare prompt."""

    name = "rome"
    params_type: type[EditorParams] = ROMEParams
    needs_statistics = True
    averaged = False

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
        """Write the edits one after the other; see :meth:`corrigenda.param_editors.editor.Editor.apply`."""
        chosen: ROMEParams = checked_params(params, ROMEParams, self.name, lm)
        check_edits(lm, edits)
        anatomy = Anatomy(lm)
        (layer,) = chosen.layers
        site = anatomy.mlp_out(layer)
        stats = stats or find(lm, chosen.layers)
        rows: list[dict[str, Any]] = []
        with Draft(lm, self.name, max_norm_ratio=chosen.max_norm_ratio) as draft:
            with draft.timed("statistics"):
                factor = stats.factor(layer)
            draft.notes += stats.notes(chosen.layers)
            if contexts is None:
                with draft.timed("contexts"):
                    contexts = sample_contexts(lm, chosen.contexts, seed)
            anchor = Anchor.of(previous) if chosen.norm_anchor else None
            # Only the one matrix changes from edit to edit: all others are laid out once, if there are several.
            with laid_out(anatomy, layer, when=len(edits) > 1, half=chosen.v_half, but=[site]):
                for place, edit in enumerate(edits):
                    with about(edit), values_after(site.weight) if place else nullcontext():
                        row, anchor = self._write(anatomy, edit, contexts, chosen, draft, site, factor, anchor)
                    rows.append(row)
                    if progress is not None:
                        progress("edits", place + 1, len(edits))
            carry = anchor.carried() if anchor is not None else None
            return draft.finish(edits, chosen.to_dict(), details={"edits": rows}, carry=carry)

    def _write(
        self,
        anatomy: Anatomy,
        edit: Edit,
        contexts: Contexts,
        params: ROMEParams,
        draft: Draft,
        site: Any,
        factor: Any,
        anchor: Anchor | None,
    ) -> tuple[dict[str, Any], Anchor | None]:
        (layer,) = params.layers
        with draft.timed("keys"):
            keys = subject_keys(anatomy, [edit], contexts, layer, flat=True)
            key = (keys.mean if self.averaged else keys.bare)[0]  # (d_in,)
        with draft.timed("values"):
            found = value_targets(anatomy, [edit], contexts, params, first=layer, modules=[site.module])
        shifts = found.shifts[0]
        if anchor is not None:
            shifts, anchor = anchor.hold(found.base[0], shifts)
        shift = shifts[0].double().cpu()  # δ = v* − W·k*, (d_out,)
        with draft.timed("solve"):
            direction = rome_direction(factor, key.cpu())
            draft.add(site, (shift / (direction @ key.cpu()))[:, None], direction[None])
        row = {
            "edit": edit.id,
            "nll": found.loss[0],
            "steps": found.steps[0],
            "shift_ratio": float(shift.norm() / found.base[0][0].double().norm()),
        }
        return row, anchor


class RROME(ROME):
    """Rank-one edits with the key averaged over contexts, everywhere."""

    name = "r-rome"
    averaged = True
