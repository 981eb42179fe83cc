"""The contract of an editor of weights, and the door through which editors come in.

Built-in editors register in the entry-point group :data:`GROUP` like anyone else's; nothing is imported before it is
asked for by name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import sha256
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from corrigenda.edit import Edit
from corrigenda.errors import InvalidParams, UnknownName

if TYPE_CHECKING:
    from corrigenda.lm.loading import LanguageModel
    from corrigenda.param_editors.params import EditorParams
    from corrigenda.param_editors.sampling import Contexts
    from corrigenda.param_editors.statistics import Statistics
    from corrigenda.param_editors.update import Consolidation

GROUP = "corrigenda.editors"
"""The entry-point group."""

Progress = Callable[[str, int, int], None]
"""Called with (stage, done, total)."""


class Editor(Protocol):
    """Prints edits into weights.

    Attributes:
        name: As registered.
        params_type: Its hyper-parameters.
        needs_statistics: Whether it uses second moments.
    """

    name: str
    params_type: type[EditorParams]
    needs_statistics: bool

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
        """Change ``lm`` so that the edits hold, and return what was done.

        Either all of the update is written, or the model is as before and an error says why.

        Args:
            lm: The model, changed in place.
            edits: Together in force afterwards; none is allowed and does nothing.
            params: Hyper-parameters; by default the preset for the model's architecture.
            stats: Second moments of the unedited model; by default the best in the cache.
            seed: Of everything that is drawn at random.
            progress: Told stage by stage.
            previous: The consolidation before this one, of the same editor on the same model; a chain lets AlphaEdit
                protect the keys of earlier edits.
            contexts: Beginnings in front of the prompts; by default sampled from the model as it is. Those of the
                unedited model can be passed again and again.

        Raises:
            InvalidParams, MissingStatistics, SubjectNotFound, UnsupportedArchitecture, UnstableUpdate
        """
        ...


def editors() -> dict[str, EntryPoint]:
    """Return all registered editors by name; nothing is imported.

    Raises:
        InvalidParams: Two packages claim one name.
    """
    found: dict[str, EntryPoint] = {}
    for point in entry_points(group=GROUP):
        if point.name in found and found[point.name].value != point.value:
            raise InvalidParams(
                f"two editors are called {point.name!r}: {found[point.name].value} and {point.value}",
                remedy="Uninstall one of the packages.",
            )
        found[point.name] = point
    return found


def editor(name: str) -> Editor:
    """Return a new editor by its name.

    Raises:
        UnknownName: None is called so; suggests neighbours.
        InvalidParams: What another package registered under it is no editor.
    """
    known = editors()
    if name not in known:
        raise UnknownName.among("editor", name, list(known))
    made: Editor = known[name].load()()
    if lacking := [part for part in ("name", "params_type", "needs_statistics", "apply") if not hasattr(made, part)]:
        raise InvalidParams(
            f"{known[name].value} is registered as the editor {name!r}, but has no {', '.join(lacking)}",
            remedy="See corrigenda.param_editors.editor.Editor.",
        )
    return made


def files_read(made: Editor, lm: LanguageModel, params: EditorParams) -> list[str]:
    """Return the sha256 of every file but statistics that the editor works from: trained networks.

    An editor that reads any names them in a method ``reads(lm, params)``.
    """
    paths: Sequence[Path] = getattr(made, "reads", lambda lm, params: ())(lm, params)
    return [sha256(path.read_bytes()).hexdigest() for path in paths]


def checked_params(given: Any, kind: type[EditorParams], method: str, lm: LanguageModel) -> Any:
    """Return ``given`` if it is of the right kind, or the preset when it is ``None``."""
    if given is None:
        return kind.preset(method, lm)
    if not isinstance(given, kind):
        raise InvalidParams(f"{method} takes {kind.__name__}, not {type(given).__name__}")
    return given
