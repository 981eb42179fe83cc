"""KN: finding the few neurons that a fact hangs on, and writing the new answer into them (Dai et al., ACL 2022).

The neurons are found by :mod:`.attribution`, over the edit's prompt, its paraphrases, and the prompt behind sampled
beginnings. Then, for every neuron found, the column of the down-projection that it writes changes::

    update    −= λ₁·e(old answer),  += λ₂·e(new answer)      e: the output embedding of the answer's first token
    suppress  = 0

On decoders the paper's own figures are low, and Hase et al. (NeurIPS 2023) find that where a fact can be read off is a
poor guide to where it can be changed; the method is here to be compared with.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch

from corrigenda.edit import Edit
from corrigenda.errors import InvalidEdit, InvalidParams, UnsupportedArchitecture, about
from corrigenda.lm.packed import packed
from corrigenda.lm.tokens import pad, token_ids
from corrigenda.param_editors.anatomy import Anatomy
from corrigenda.param_editors.attribution import KnowledgeNeuron, attributions, refine
from corrigenda.param_editors.draft import Draft
from corrigenda.param_editors.editor import Progress, checked_params
from corrigenda.param_editors.forwards import call
from corrigenda.param_editors.params import EditorParams, require, require_whole
from corrigenda.param_editors.rows import target_ids
from corrigenda.param_editors.sampling import Contexts, every, sample_contexts
from corrigenda.param_editors.statistics import Statistics
from corrigenda.param_editors.update import Consolidation

if TYPE_CHECKING:
    from corrigenda.lm.loading import LanguageModel

MODES = ("update", "suppress")


@dataclass(frozen=True)
class KNParams(EditorParams):
    """Hyper-parameters of KN; ``layers`` are the blocks that are searched.

    Attributes:
        mode: "update" writes the new answer, "suppress" only takes the old one away.
        old_weight, new_weight: λ₁ and λ₂.
        steps: Points of the integration.
        threshold, share, most, least: See :func:`corrigenda.param_editors.attribution.refine`.
        contexts: (length, how many) of sampled beginnings, besides the bare prompt.
    """

    mode: str = "update"
    old_weight: float = 1.0
    new_weight: float = 8.0
    steps: int = 20
    threshold: float = 0.2
    share: float = 0.7
    most: int = 5
    least: int = 2
    contexts: tuple[tuple[int, int], ...] = ((5, 4),)

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "contexts", tuple(tuple(group) for group in self.contexts))
        if self.mode not in MODES:
            raise InvalidParams(f"mode must be one of {', '.join(MODES)}, not {self.mode!r}")
        for name in ("old_weight", "new_weight", "threshold", "share"):
            require(self, name, least=0)
        for name in ("steps", "most", "least"):
            require_whole(self, name, least=1)


class KN:
    """Knowledge neurons, found and rewritten."""

    name = "kn"
    params_type: type[EditorParams] = KNParams
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
        """Find each edit's neurons and rewrite them; see :meth:`corrigenda.param_editors.editor.Editor.apply`."""
        chosen: Any = checked_params(params, self.params_type, self.name, lm)
        if lm.is_encoder_decoder:
            raise UnsupportedArchitecture(f"{lm.name} is an encoder-decoder", remedy="Use mend, ke, calinet or ft-m.")
        anatomy = Anatomy(lm)
        with Draft(lm, self.name, max_norm_ratio=chosen.max_norm_ratio) as draft:
            if not edits:
                return draft.finish([], chosen.to_dict())
            if contexts is None:
                contexts = sample_contexts(lm, chosen.contexts, seed)
            beginnings = every(contexts)
            details = []
            for place, edit in enumerate(edits):
                with about(edit):
                    with draft.timed("attribution"), packed(lm.model, gradients=True):
                        old, neurons = find_neurons(anatomy, edit, chosen, beginnings)
                    self._write(anatomy, edit, old, neurons, chosen, draft)
                details.append({"edit": edit.id, "neurons": [asdict(neuron) for neuron in neurons]})
                if progress is not None:
                    progress("edits", place + 1, len(edits))
            return draft.finish(edits, chosen.to_dict(), details={"edits": details})

    def _write(
        self, anatomy: Anatomy, edit: Edit, old: int, neurons: Sequence[KnowledgeNeuron], params: KNParams, draft: Draft
    ) -> None:
        lm = anatomy.lm
        (new, *_) = target_ids(lm, edit.prompt, edit.target)[1]
        if new == old and params.mode == "update":
            raise InvalidEdit(
                f"the old and the new answer to {edit.prompt!r} begin with the same token, and KN writes first tokens",
                remedy="Use another editor for this edit.",
            )
        rows = lm.model.get_output_embeddings().weight.detach().float()
        change = params.new_weight * rows[new] - params.old_weight * rows[old]
        for layer in sorted({neuron.layer for neuron in neurons}):
            site = anatomy.mlp_out(layer)
            places = torch.tensor([neuron.index for neuron in neurons if neuron.layer == layer], device=lm.device)
            columns = site.matrix[:, places].float()  # (d, n)
            left = -columns if params.mode == "suppress" else change[:, None].expand_as(columns)
            draft.add(site, left, torch.nn.functional.one_hot(places, site.matrix.shape[1]).float())


def find_neurons(
    anatomy: Anatomy, edit: Edit, params: KNParams, contexts: Sequence[str] = ("",)
) -> tuple[int, list[KnowledgeNeuron]]:
    """Return the first token of what the model says now, and the neurons it hangs on, the strongest first.

    Args:
        anatomy: The model.
        edit: Its ``old_answer`` is explained, or the model's first choice where there is none.
        params: See :class:`KNParams`.
        contexts: Beginnings in front of the prompt, ``""`` for none.
    """
    lm = anatomy.lm
    old = old_token(lm, edit)
    prompts = [context + edit.prompt for context in contexts] + list(edit.paraphrases)
    tables = [attributions(anatomy, prompt, old, layers=params.layers, steps=params.steps) for prompt in prompts]
    limits = {"threshold": params.threshold, "share": params.share}
    return old, refine(tables, params.layers, **limits, most=params.most, least=params.least)


@torch.no_grad()
def old_token(lm: LanguageModel, edit: Edit) -> int:
    """Return the first token of the edit's old answer, or of what the model would say."""
    if edit.old_answer:
        return target_ids(lm, edit.prompt, edit.old_answer)[1][0]
    return int(call(lm, pad(lm, [token_ids(lm, edit.prompt)]))[0, -1].argmax())
