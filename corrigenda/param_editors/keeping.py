"""Work that survives a kill: value targets as they are found, and consolidations as they are made.

Both are costly to find and small to keep. A folder holds them under the hash of everything that they depend on: the
weights that were there (the model's fingerprint, and what each consolidation left behind), the edits, the contexts and
the hyper-parameters. So a run that is started again goes on where it stopped, and nothing found in one state of the
weights is ever used in another: published code caches values by case, which is wrong after any other edit.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError

from corrigenda.param_editors.files import read_consolidation, read_tensors, write_consolidation, write_tensors
from corrigenda.param_editors.update import digest

if TYPE_CHECKING:
    from corrigenda.edit import Edit
    from corrigenda.lm.loading import LanguageModel
    from corrigenda.param_editors.targets import Targets
    from corrigenda.param_editors.update import Consolidation

_current: ContextVar[Values | None] = ContextVar("kept values", default=None)


@dataclass(frozen=True)
class Values:
    """Where value targets of one state of the weights are kept.

    Attributes:
        folder: Where.
        state: Names the weights.
    """

    folder: Path
    state: str

    @contextmanager
    def used(self) -> Iterator[None]:
        """Let :func:`corrigenda.param_editors.targets.value_targets` keep what it finds inside the block."""
        token = _current.set(self)
        try:
            yield
        finally:
            _current.reset(token)

    def get(self, about: Any, edit: Edit) -> Targets | None:
        """Return the targets of one edit; ``None`` when they are not there.

        Args:
            about: Everything else that they depend on, JSON-ready.
            edit: The edit.
        """
        return _read_targets(self._path(about, edit))

    def put(self, about: Any, edit: Edit, made: Targets) -> None:
        """Keep the targets of one edit."""
        tensors = {f"shift-{place}": tensor.cpu().contiguous() for place, tensor in enumerate(made.shifts)}
        tensors |= {f"base-{place}": tensor.cpu().contiguous() for place, tensor in enumerate(made.base)}
        head = {"loss": json.dumps(made.loss), "steps": json.dumps(made.steps)}
        write_tensors(self._path(about, edit), tensors, head)

    def _path(self, about: Any, edit: Edit) -> Path:
        of = [edit.prompt, edit.target, edit.subject, *edit.paraphrases]
        return self.folder / f"value-{_name([self.state, about, *of])}.safetensors"


def current_values() -> Values | None:
    """Return where value targets are to be kept, if anywhere."""
    return _current.get()


@contextmanager
def values_after(changed: torch.Tensor) -> Iterator[None]:
    """Keep value targets apart from those of before ``changed`` was changed: for edits made one after the other."""
    values = _current.get()
    if values is None:
        yield
        return
    with Values(values.folder, _name([values.state, digest(changed)])).used():
        yield


@dataclass(frozen=True)
class Keep:
    """A folder for the work of one model.

    Attributes:
        folder: Where; made when something is kept. May be shared by methods and runs.
        lm: The model.
    """

    folder: Path
    lm: LanguageModel

    def values(self, chain: Sequence[Consolidation]) -> Values:
        """Return where values of the weights with ``chain`` in them are kept."""
        return Values(self.folder, self._state(chain))

    def path(self, chain: Sequence[Consolidation], edits: Sequence[Edit], about: Any) -> Path:
        """Return the file of the consolidation of ``edits`` on top of ``chain``; ``about`` is JSON-ready."""
        name = _name([self._state(chain), about, [edit.to_dict() for edit in edits]])
        return self.folder / f"edits-{name}.safetensors"

    def find(self, path: Path) -> Consolidation | None:
        """Return the consolidation that ``path`` holds, written into the model again; ``None`` when there is none.

        Raises:
            ModelDamaged, NotRevertible: The file, or the weights, are not what they were.
        """
        if not path.is_file():
            return None
        done = read_consolidation(path, self.lm)
        done.write(self.lm)
        return done

    def put(self, path: Path, done: Consolidation) -> None:
        """Keep ``done`` without the original weights, which are the model's own: only what was added takes room.

        Updates of full rank take the room of whole weights; they are made again instead.
        """
        if all(update.rank is not None for update in done.updates):
            write_consolidation(done, path, originals=False)

    def _state(self, chain: Sequence[Consolidation]) -> str:
        written = [update.after for done in chain for update in done.updates]
        # Added neurons are no weights: without them, every edit of a chain would pass for the first.
        written += [group.digest for done in chain for group in done.neurons]
        return _name([self.lm.fingerprint, str(self.lm.dtype), written])


def _read_targets(path: Path) -> Targets | None:
    from corrigenda.param_editors.targets import Targets

    try:
        tensors, meta = read_tensors(path)
    except (OSError, SafetensorError):  # not there, or torn: found again
        return None
    count = len(tensors) // 2
    return Targets(
        _numbered(tensors, "shift", count),
        _numbered(tensors, "base", count),
        tuple(json.loads(meta["loss"])),
        tuple(json.loads(meta["steps"])),
    )


def _numbered(tensors: dict[str, torch.Tensor], kind: str, count: int) -> tuple[torch.Tensor, ...]:
    return tuple(tensors[f"{kind}-{place}"] for place in range(count))


def _name(what: Any) -> str:
    return hashlib.sha256(json.dumps(what, ensure_ascii=False, default=list).encode()).hexdigest()[:32]
