"""Editing methods by name, as the evaluation suite needs them: ``none``, registered strategies, registered editors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from corrigenda.cli.expanding import Sources, rewording
from corrigenda.errors import InvalidRequest, UnknownName
from corrigenda.eval.cache import Cached
from corrigenda.eval.contexts import COMPLETION, Context
from corrigenda.eval.editable import Bare, Editable, Undo

if TYPE_CHECKING:
    from pathlib import Path

    from corrigenda.edit import Edit
    from corrigenda.eval.protocol import Progress
    from corrigenda.lm.loading import LanguageModel
    from corrigenda.param_editors.editable import EditedWeights

Reword: TypeAlias = "Callable[[Sequence[Edit]], list[Edit]]"
NONE = "none"
"""The method that does nothing: the unedited model, the baseline of every table."""


@dataclass(frozen=True)
class Method:
    """A method, ready to be scored.

    Attributes:
        editable: The method.
        collecting: See :class:`corrigenda.eval.protocol.Run`.
        settings: What it was set to, for the results file.
        watch: Takes a progress report for the stages within an edit, where a method has any.
    """

    editable: Editable
    collecting: Callable[[], AbstractContextManager[None]] | None
    settings: dict[str, Any]
    watch: Callable[[Progress], None] | None = None


def known_methods() -> list[str]:
    """Return the names of all methods."""
    from corrigenda.middleware.strategies.base import available
    from corrigenda.param_editors.editor import editors

    return [NONE, *available(), *sorted(editors())]


def is_editor(name: str) -> bool:
    """Tell whether the method ``name`` edits weights."""
    from corrigenda.param_editors.editor import editors

    return name in editors()


@contextmanager
def open_method(
    name: str,
    lm: LanguageModel,
    unedited: Cached,
    *,
    threshold: float | None = None,
    expansion: Sources = Sources(),  # noqa: B008 - a frozen value
    allowed: Callable[[str], bool] = lambda wording: True,
    context: Context = COMPLETION,
    seed: int = 0,
    keep: Path | None = None,
) -> Iterator[Method]:
    """Open the method ``name``; what it keeps on disk is removed at the end.

    Args:
        name: One of :func:`known_methods`.
        lm: The model.
        unedited: The same without edits, asked in the same context.
        threshold: Of the scope classifier, for strategies.
        expansion: What is added with each edit; editors of weights take paraphrases only.
        allowed: Which wordings may be added as paraphrases: none that is asked.
        context: How prompts are put to the model.
        seed: Of editors of weights.
        keep: Folder in which editors of weights keep what they found, so that a killed run goes on.

    Raises:
        UnknownName: No such method.
        InvalidRequest: An expansion that an editor of weights does not take.
    """
    if name not in (known := known_methods()):
        raise UnknownName.among("method", name, known)
    if name == NONE:
        yield Method(unedited, unedited.collecting, {})
        return
    from corrigenda.param_editors.editor import editors

    if name in editors():
        yield _open_editor(name, lm, context, seed, keep, expansion, allowed)
        return
    with _open_strategy(name, lm, unedited, context, threshold, expansion, allowed) as method:
        yield method


@contextmanager
def _open_strategy(
    name: str,
    lm: LanguageModel,
    unedited: Cached,
    context: Context,
    threshold: float | None,
    expansion: Sources,
    allowed: Callable[[str], bool],
) -> Iterator[Method]:
    """Open a strategy in front of a memory of its own."""
    from corrigenda.cli.eval_memory import PassingThrough, Remembering
    from corrigenda.memory.encoder import MiniLM
    from corrigenda.middleware.editable import EditableModel

    encoder = Remembering(MiniLM.load())
    settled: dict[str, Any] = {"scope_threshold": threshold, "expanding": expansion.expanding(encoder, allowed)}
    with EditableModel(lm, strategy=name, encoder=encoder, **settled) as edited:
        settings = {
            "strategy": name,
            "scope_threshold": edited.model.scope.threshold,
            "encoder": encoder.fingerprint,
            **expansion.described(),
        }
        front = PassingThrough(edited, unedited, context)
        yield Method(front, front.collecting, settings)


def _open_editor(
    name: str,
    lm: LanguageModel,
    context: Context,
    seed: int,
    keep: Path | None,
    expansion: Sources,
    allowed: Callable[[str], bool],
) -> Method:
    """Return an editor of weights with the preset for ``lm``."""
    from corrigenda.param_editors.editable import EditedWeights

    reword = _rewording(name, expansion, allowed)
    edited = EditedWeights(lm, name, seed=seed, keep=keep)

    def watch(report: Progress) -> None:
        # A stage of one step is over before anyone has read its name.
        edited.progress = lambda stage, done, total: report(stage, done, total) if total > 1 else None

    settings = {"editor": name, "params": edited.params.to_dict(), **expansion.described()}
    return Method(Weights(edited, context, reword), None, settings, watch)


def _rewording(name: str, expansion: Sources, allowed: Callable[[str], bool]) -> Reword:
    """Return what adds paraphrases to edits, if they are wanted."""
    if set(expansion.kinds) - {"paraphrase"} or expansion.aliases is not None or expansion.facts is not None:
        raise InvalidRequest(
            f"{name} edits weights, to which paraphrases can be added and nothing else",
            remedy="Leave out the other kinds of --expand, and tables.",
        )
    return rewording(allowed) if expansion.kinds else list


class Weights(Bare):
    """A model whose weights take edits, asked in a context.

    Args:
        edited: The model.
        context: How prompts are put to it.
        reword: What is done to edits before.
    """

    def __init__(self, edited: EditedWeights, context: Context, reword: Reword = list) -> None:
        super().__init__(edited.lm, batch_size=edited.batch_size, context=context)
        self.edited, self.reword = edited, reword

    def edit(self, edits: Sequence[Edit]) -> Undo:
        """Write the edits into the weights."""
        return self.edited.edit(self.reword(edits))
