"""An editor of weights behind the contract of what the evaluation suite scores."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from corrigenda.edit import Edit
from corrigenda.errors import MissingStatistics
from corrigenda.lm.scoring import TargetScore, greedy, score_targets
from corrigenda.param_editors.editor import Editor, Progress, editor, files_read
from corrigenda.param_editors.keeping import Keep
from corrigenda.param_editors.sampling import Contexts, sample_contexts
from corrigenda.param_editors.statistics import Statistics, collect_from_model, find
from corrigenda.param_editors.update import Consolidation

if TYPE_CHECKING:
    from corrigenda.lm.loading import LanguageModel
    from corrigenda.param_editors.params import EditorParams

DEFAULT_TOKENS = 20_000
"""Tokens sampled from the model when there are no statistics at all."""


class EditedWeights:
    """A model whose weights take edits, and lose them again, the last ones first.

    Args:
        lm: The model, changed in place.
        method: Name of an editor, or one.
        params: Hyper-parameters; the preset by default.
        stats: Second moments; by default the best in the cache, or sampled from the model where there are none.
        seed: Of contexts and everything else that is drawn.
        batch_size: Most rows of a forward pass when answering.
        progress: Told stage by stage.
        keep: Folder for what was found, so that a run that is killed goes on where it stopped when the same edits are
            made again; see :mod:`corrigenda.param_editors.keeping`.
    """

    def __init__(
        self,
        lm: LanguageModel,
        method: str | Editor,
        *,
        params: EditorParams | None = None,
        stats: Statistics | None = None,
        seed: int = 0,
        batch_size: int = 32,
        progress: Progress | None = None,
        keep: Path | None = None,
    ) -> None:
        self.lm, self.seed, self.batch_size, self.progress = lm, seed, batch_size, progress
        self.editor = editor(method) if isinstance(method, str) else method
        self.params = params or self.editor.params_type.preset(self.editor.name, lm)
        self.stats = stats
        self.chain: list[Consolidation] = []
        """What is in the weights, in order."""
        self.contexts: Contexts | None = None
        """Beginnings in front of the prompts, once they are there."""
        self._keep = None if keep is None else Keep(keep, lm)

    def prepare(self) -> None:
        """Get statistics and contexts, where the editor needs them and they are not here yet."""
        if self.editor.needs_statistics and self.stats is None:
            self.stats = self._statistics()
        if self.contexts is None and hasattr(self.params, "contexts") and not self.lm.is_encoder_decoder:
            # Sampled once, from the unedited model: an edit then does the same whatever was edited before.
            self.contexts = sample_contexts(self.lm, self.params.contexts, self.seed)

    def edit(self, edits: Sequence[Edit]) -> _Undo:
        """Write ``edits`` on top of what is there; they are in force when this returns."""
        self.prepare()
        done = self._applied(edits) if self._keep is None else self._resumed(self._keep, edits)
        self.chain.append(done)
        return _Undo(self, done)

    def _applied(self, edits: Sequence[Edit]) -> Consolidation:
        return self.editor.apply(
            self.lm,
            edits,
            params=self.params,
            stats=self.stats,
            seed=self.seed,
            progress=self.progress,
            previous=self.chain[-1] if self.chain else None,
            contexts=self.contexts,
        )

    def _resumed(self, keep: Keep, edits: Sequence[Edit]) -> Consolidation:
        """Return what an earlier run made of ``edits`` in this state, else make it and keep it."""
        about = [self.editor.name, self.params.to_dict(), self.stats and self.stats.digest, self.seed, self.contexts]
        about += files_read(self.editor, self.lm, self.params)
        path = keep.path(self.chain, edits, about)
        if (found := keep.find(path)) is not None:
            return found
        with keep.values(self.chain).used():
            done = self._applied(edits)
        try:
            keep.put(path, done)
        except OSError:
            done.revert()  # an edit that raises has not happened
            raise
        return done

    def generate(self, prompts: Sequence[str], *, max_new_tokens: int) -> list[str]:
        """Continue each prompt greedily up to a natural stop, at most ``max_new_tokens`` tokens."""
        return greedy(self.lm, prompts, max_new_tokens=max_new_tokens, batch_size=self.batch_size)

    def score(self, prompts: Sequence[str], targets: Sequence[str]) -> list[TargetScore]:
        """Score each target as the continuation of its prompt, teacher-forced."""
        return score_targets(self.lm, prompts, targets, batch_size=self.batch_size)

    def _statistics(self) -> Statistics:
        try:
            return find(self.lm, self.params.layers)
        except MissingStatistics:
            return collect_from_model(self.lm, self.params.layers, DEFAULT_TOKENS, progress=self.progress)


class _Undo:
    """Reverts one consolidation and takes it out of the chain."""

    def __init__(self, model: EditedWeights, done: Consolidation) -> None:
        self.model, self.consolidation = model, done

    def revert(self) -> None:
        """Put the weights back bit for bit; consolidations on top of it must have been reverted before."""
        self.consolidation.revert()
        self.model.chain.remove(self.consolidation)
