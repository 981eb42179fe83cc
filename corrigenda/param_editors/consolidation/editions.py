"""Editions: where promotions lie, which of them are in force, and the lock that keeps jobs apart.

::

    HOME/MODEL-FINGERPRINT/
      about.json              the base model
      lock                    held by the one job that may work on this model
      current.json            what is in force; replaced atomically, and the only thing that ever is
      targets/                value targets by content, for jobs that ask for the same; may be deleted
      answers/                what the edition printed on says to a gate's questions, by content; likewise
      jobs/ID/                the plan of a job and all it has worked out
      promotions/NAME/        what a promotion printed: updates, edits, scores; never changed
      editions/NAME/          what servers load: checkpoint, adapter or delta, manifest, card; never changed

Whoever reads ``current.json`` finds whole folders behind every name in it.
"""

from __future__ import annotations

import fcntl
import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from corrigenda.errors import InvalidRequest, ModelLocked, UnknownName
from corrigenda.param_editors.consolidation.durable import read_json, write_json

DEFAULT_HOME = Path("corrigenda.editions")


@dataclass(frozen=True)
class Current:
    """What is in force.

    Attributes:
        generation: Counts changes, from 0.
        edition: Name of the edition; ``None`` is the base model.
        promotions: What is printed in it, in order.
        past: All editions and promotions that were ever in force, and are not now.
        unsettled: A promotion whose edits the ledger may not show yet as what they are: shadows if it is in force,
            ordinary edits if not. Whoever holds the lock next sees to it.
    """

    generation: int = 0
    edition: str | None = None
    promotions: tuple[str, ...] = ()
    past: tuple[str, ...] = ()
    unsettled: str | None = None

    def after(self, edition: str | None, promotions: tuple[str, ...], unsettled: str) -> Current:
        """Return the state in which ``edition`` is in force instead."""
        before = dict.fromkeys([*self.past, *self.promotions, *([self.edition] if self.edition else [])])
        past = tuple(name for name in before if name not in promotions and name != edition)
        return Current(self.generation + 1, edition, promotions, past, unsettled)


class Editions:
    """The editions of one base model. Build it with :meth:`of` or :meth:`find`.

    Args:
        folder: Of this model.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.jobs, self.promotions, self.editions = (folder / n for n in ("jobs", "promotions", "editions"))

    @classmethod
    def of(cls, home: Path, model: str, fingerprint: str) -> Editions:
        """Return the editions of ``model``; nothing is written."""
        return cls(home / f"{slug(model)}-{fingerprint[:8]}")

    @classmethod
    def find(cls, home: Path, model: str | None = None) -> Editions:
        """Return the editions of the model called ``model``, or of the only one in ``home``.

        Raises:
            InvalidRequest: None, or several.
        """
        found = [one for one in cls.all(home) if model is None or one.model == model]
        if len(found) == 1:
            return found[0]
        if not found:
            raise InvalidRequest(
                f"{home} has no editions{f' of {model}' if model else ''}",
                remedy="Run a plan first, or say where they are: --home.",
            )
        names = ", ".join(f"{one.model} ({one.folder.name})" for one in found)
        raise InvalidRequest(f"{home} has editions of {names}", remedy="Say which: --model.")

    @classmethod
    def all(cls, home: Path) -> list[Editions]:
        """Return the editions of every model in ``home``."""
        return [cls(path.parent) for path in sorted(home.glob("*/about.json"))]

    @property
    def model(self) -> str:
        """The base model, as it is loaded."""
        return str(self.about()["model"])

    def about(self) -> dict[str, Any]:
        """Return model and fingerprint of the base."""
        row: dict[str, Any] = read_json(self.folder / "about.json")
        return row

    def settle(self, model: str, fingerprint: str) -> None:
        """Make the folder, once."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if not (self.folder / "about.json").exists():
            write_json(self.folder / "about.json", {"model": model, "fingerprint": fingerprint})

    def current(self) -> Current:
        """Return what is in force."""
        path = self.folder / "current.json"
        if not path.exists():
            return Current()
        row: dict[str, Any] = read_json(path)
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in row.items()
        }
        return Current(**values)

    def switch(self, new: Current) -> None:
        """Put ``new`` in force, durably and in one step."""
        write_json(self.folder / "current.json", asdict(new))

    def path(self) -> Path | None:
        """Return the folder of the edition in force; ``None`` for the base model."""
        name = self.current().edition
        return None if name is None else self.editions / name

    def promotion(self, name: str) -> dict[str, Any]:
        """Return the record of a promotion.

        Raises:
            UnknownName: There is none of that name.
        """
        path = self.promotions / name / "promotion.json"
        if not name or not path.is_file():
            raise UnknownName.among("promotion", name, self.names())
        row: dict[str, Any] = read_json(path)
        return row

    def names(self) -> list[str]:
        """Return the names of all promotions ever, oldest first."""
        return sorted((path.parent.name for path in self.promotions.glob("*/promotion.json")), key=version)

    def next_version(self) -> int:
        """Return a version number that no promotion or edition has had."""
        used = [version(path.name) for place in (self.promotions, self.editions) for path in place.glob("*")]
        return max(used, default=0) + 1

    @contextmanager
    def locked(self, what: str) -> Iterator[None]:
        """Keep other jobs on this model out for a block. The lock falls with the process that holds it.

        Raises:
            ModelLocked: Another job is at it.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "lock").open("a+", encoding="utf-8") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                raise ModelLocked(
                    f"another job works on this model: {file.read().strip() or 'it is just starting'}",
                    remedy="Wait until it is done; a killed one lets go by itself.",
                ) from None
            file.seek(0)
            file.truncate()
            file.write(f"{what}, process {os.getpid()} on {socket.gethostname()}")
            file.flush()
            try:
                yield
            finally:
                file.seek(0)
                file.truncate()
                file.flush()

    def holder(self) -> str | None:
        """Return who holds the lock, ``None`` when nobody does."""
        path = self.folder / "lock"
        if not path.exists():
            return None
        with path.open("r+", encoding="utf-8") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return file.read().strip() or "a job that is just starting"
            return None


def slug(text: str) -> str:
    """Return ``text`` as a part of a file name: the last part of a path, letters, digits, dots and dashes."""
    tail = text.rstrip("/").rpartition("/")[2]
    return re.sub(r"[^a-z0-9.]+", "-", tail.lower()).strip("-.")[:60] or "model"


def version(name: str) -> int:
    """Return the number in ``…-v12-…``; 0 without one."""
    found = re.search(r"-v(\d+)-", name)
    return int(found[1]) if found else 0
