"""Every error this package raises on purpose, in one tree.

::

    CorrigendaError
    ├── InvalidEdit (ValueError)            an edit that cannot be kept: empty, too long, not text, contradicts itself
    ├── ConflictingEdit (ValueError)        another live edit speaks of the same subject and relation
    ├── UnknownEdit (LookupError)           no such edit id in this memory
    ├── InvalidRequest (ValueError)         a query that cannot be answered: empty, too long, not text
    ├── ImportFailed (ValueError)           a file of edits with bad lines; names each
    ├── StoreError
    │   ├── StoreDamaged                    the file is not a ledger, or is cut off
    │   ├── StoreTooNew                     written by a later version of corrigenda
    │   ├── StoreNotWritable (OSError)      read-only, no permission, disk full
    │   ├── StoreUnavailable (ConnectionError)  the server that has the ledger does not answer
    │   └── StoreBusy (TimeoutError)        another process holds the write lock
    │       └── LedgerMoved                 another writer was faster; whoever decides, decides again
    ├── ModelError
    │   ├── UnknownModel (LookupError)      neither a known name, nor a folder, nor a GGUF file
    │   ├── ModelDamaged (ValueError)       truncated or unreadable weights, NaN or infinity among them
    │   ├── EncoderMismatch                 the vectors of a ledger are another encoder's
    │   └── UnsupportedArchitecture         no LayerMap for it, or not to be run in batches with a cache
    ├── EditorError
    │   ├── InvalidParams (ValueError)      hyper-parameters that an editor of weights refuses
    │   ├── MissingStatistics (LookupError) no second moments for this model and layer
    │   ├── MissingTraining (LookupError)   networks of an editor that was not trained for this model
    │   ├── UnstableUpdate (ArithmeticError) NaN, infinity or an exploding update; nothing was written
    │   └── NotRevertible (ValueError)      the weights are not those that the update left behind
    ├── ConsolidationError
    │   ├── ModelLocked (TimeoutError)      another job works on this model
    │   ├── NothingToPrint (ValueError)     no edit was selected that can be printed
    │   ├── PlanOutdated (ValueError)       the plan was made for another model, edition or memory than there is now
    │   ├── GateClosed (RuntimeError)       the gate let nothing through; nothing was promoted
    │   └── ServerRefused (ConnectionError) a model server did not take, or let go of, an adapter
    ├── SubjectNotFound (LookupError)       the subject does not occur in the prompt
    ├── DatasetError (ValueError)           names file, record and field
    ├── EvaluationError (RuntimeError)      an evaluation cannot go on or be trusted: an undo that left traces, ...
    ├── UnknownName (LookupError)           nothing registered under that name; suggests neighbours
    └── MissingExtra (ImportError)          an optional dependency; says which pip line installs it

Messages hold the offending value, what is allowed, and the remedy. Errors learn which edit they are about on the way
up: ``with about(edit): ...``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from typing import Any


class CorrigendaError(Exception):
    """Base of all errors of this package.

    Args:
        message: What is wrong, with the offending value.
        remedy: What to do about it, one sentence; printed on a line of its own.
    """

    def __init__(self, message: str, *, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy
        self.edit: Any = None
        """The edit the error is about, where one is (set by :func:`about`)."""

    def __str__(self) -> str:
        return f"{self.message}\n  → {self.remedy}" if self.remedy else self.message


class InvalidEdit(CorrigendaError, ValueError):
    """An edit that cannot be kept: empty, too long, not text, or contradicting itself."""


class ConflictingEdit(CorrigendaError, ValueError):
    """Another live edit speaks of the same subject and relation, and the rule is to refuse."""


class UnknownEdit(CorrigendaError, LookupError):
    """No edit of that id in this memory."""


class InvalidRequest(CorrigendaError, ValueError):
    """A query that cannot be answered: empty, too long, or not text."""


class ImportFailed(CorrigendaError, ValueError):
    """A file of edits holds lines that cannot be read; ``bad_lines`` maps line numbers to reasons."""

    def __init__(self, message: str, *, bad_lines: dict[int, str], remedy: str = "") -> None:
        super().__init__(message, remedy=remedy)
        self.bad_lines = bad_lines


class StoreError(CorrigendaError):
    """The place where the ledger lives failed."""


class StoreDamaged(StoreError):
    """The file is not a ledger, or is cut off."""


class StoreTooNew(StoreError):
    """The ledger was written by a later version of corrigenda."""


class StoreNotWritable(StoreError, OSError):
    """Read-only folder, missing permission, or a full disk: nothing was written."""

    # OSError's own __str__ shows errno fields; ours shows message and remedy.
    __str__ = CorrigendaError.__str__


class StoreBusy(StoreError, TimeoutError):
    """Another process held the write lock for longer than the time-out: nothing was written."""

    __str__ = CorrigendaError.__str__


class StoreUnavailable(StoreError, ConnectionError):
    """The server that has the ledger does not answer, or may not write now.

    A write that ends in it may be there all the same, a big one above all: the server may finish what nobody waits for
    any more. Writing again later is safe.
    """

    __str__ = CorrigendaError.__str__


class LedgerMoved(StoreBusy):
    """Another writer appended since the decision was made: nothing was written. Decide again on the latest state."""


class ModelError(CorrigendaError):
    """A language model or encoder could not be used."""


class UnknownModel(ModelError, LookupError):
    """Neither a known name, nor a folder with weights, nor a GGUF file."""


class ModelDamaged(ModelError, ValueError):
    """Truncated or unreadable weights, or NaN or infinity among them."""


class EncoderMismatch(ModelError):
    """The vectors of a ledger are another encoder's: comparing them with this one's would be comparing noise."""


class UnsupportedArchitecture(ModelError):
    """No ``LayerMap`` knows where this architecture keeps its parts, or it cannot be run in batches with a cache."""


class EditorError(CorrigendaError):
    """An editor of weights could not do its work; the weights are as before."""


class InvalidParams(EditorError, ValueError):
    """Hyper-parameters of the wrong name, type or range, or none at all for this model."""


class MissingStatistics(EditorError, LookupError):
    """No second moments of keys for this model and layer."""


class MissingTraining(EditorError, LookupError):
    """An editor that has to be trained was not trained for this model."""


class UnstableUpdate(EditorError, ArithmeticError):
    """An update that is not finite, or so large that it would wreck the model; nothing was written."""


class NotRevertible(EditorError, ValueError):
    """The weights are not those that the update left behind, so putting back the originals would lose other changes."""


class ConsolidationError(CorrigendaError):
    """Printing edits into an edition of a model could not go on; the edition in force is as before."""


class ModelLocked(ConsolidationError, TimeoutError):
    """Another job works on this model; only one may."""

    __str__ = CorrigendaError.__str__


class NothingToPrint(ConsolidationError, ValueError):
    """No edit was selected that can be printed."""


class PlanOutdated(ConsolidationError, ValueError):
    """The plan was made for another model, edition or memory than there is now."""


class GateClosed(ConsolidationError, RuntimeError):
    """The gate let nothing through: there is nothing to promote."""


class ServerRefused(ConsolidationError, ConnectionError):
    """A model server did not take, or let go of, an adapter, or cannot be reached."""

    __str__ = CorrigendaError.__str__


class SubjectNotFound(CorrigendaError, LookupError):
    """The subject does not occur in the prompt."""


class DatasetError(CorrigendaError, ValueError):
    """A dataset file that cannot be read; the message names file, record and field."""


class EvaluationError(CorrigendaError, RuntimeError):
    """An evaluation cannot go on or be trusted: an undo that left traces, a journal of other settings."""


class UnknownName(CorrigendaError, LookupError):
    """Nothing is registered under that name."""

    @classmethod
    def among(cls, kind: str, name: str, known: Sequence[str]) -> UnknownName:
        """Build the error for ``name``, with the known names and the nearest as suggestion."""
        near = get_close_matches(name, known, n=1)
        hint = f"Did you mean {near[0]!r}? " if near else ""
        return cls(f"unknown {kind} {name!r}", remedy=f"{hint}Known: {', '.join(sorted(known)) or 'none'}.")


class MissingExtra(CorrigendaError, ImportError):
    """An optional dependency is not installed."""

    @classmethod
    def named(cls, extra: str, module: str) -> MissingExtra:
        """Build the error for ``module``, which the extra ``extra`` brings."""
        return cls(f"this needs {module!r}, which is not installed", remedy=f"pip install 'corrigenda[{extra}]'")


def brief(error: Exception) -> str:
    """Return what is wrong, without the remedy; of an exception that is none of ours, its kind as well."""
    return error.message if isinstance(error, CorrigendaError) else repr(error)


@contextmanager
def about(edit: Any) -> Iterator[None]:
    """Attach ``edit`` to any :class:`CorrigendaError` raised inside that does not yet know its edit."""
    try:
        yield
    except CorrigendaError as error:
        if error.edit is None:
            error.edit = edit
        raise
