"""Knowledge: what is known of things besides the edits, by tables that a user supplies or by the model itself."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from corrigenda.chat import Chat
from corrigenda.edit import fold
from corrigenda.errors import DatasetError
from corrigenda.middleware.consult import Asking
from corrigenda.middleware.relations import Relation, Relations
from corrigenda.middleware.strategies import hops
from corrigenda.paths import numbered_lines, read_text

Question: TypeAlias = tuple[str, Relation]
"""A thing, and the respect in which it is asked about."""


class Knowledge(Protocol):
    """Knows other names of things, and facts about them.

    Attributes:
        name: For the provenance of what is concluded from it.
    """

    name: str

    def aliases(self, thing: str) -> Sequence[str]:
        """Return other names of ``thing``, without itself."""
        ...

    def objects(self, questions: Sequence[Question]) -> list[tuple[str, ...]]:
        """Return for each question what it knows: nothing, one answer, or several."""
        ...


class Tables:
    """Tables of aliases and of facts.

    Args:
        aliases: Name → other names of the same thing. Every name of a row stands for all of it.
        facts: Triples (thing, name of the relation, object).
        name: See :class:`Knowledge`.
    """

    def __init__(
        self,
        aliases: Mapping[str, Sequence[str]] | None = None,
        facts: Iterable[tuple[str, str, str]] = (),
        *,
        name: str = "tables",
    ) -> None:
        self.name = name
        self._rows: dict[str, dict[str, None]] = {}
        for thing, others in (aliases or {}).items():
            for one in (thing, *others):
                self._rows.setdefault(fold(one), {}).update(dict.fromkeys((thing, *others)))
        self._facts: dict[tuple[str, str], dict[str, None]] = {}
        for thing, relation, answer in facts:
            self._facts.setdefault((fold(thing), fold(relation)), {})[answer] = None

    @classmethod
    def read(cls, *, aliases: Path | None = None, facts: Path | None = None) -> Tables:
        """Read the tables from files.

        Args:
            aliases: JSON, an object of name → list of names; or JSON lines ``{"name": …, "aliases": […]}``.
            facts: JSON lines: ``["Osaka", "country", "Japan"]``, or an object with subject, relation, object.

        Raises:
            DatasetError: Not readable, or not of that form; names the line.
        """
        names = ", ".join(path.name for path in (aliases, facts) if path is not None)
        rows = dict(_alias_rows(aliases)) if aliases is not None else {}
        return cls(rows, list(_fact_rows(facts)) if facts is not None else [], name=names or "tables")

    def aliases(self, thing: str) -> Sequence[str]:
        """See :class:`Knowledge`."""
        return [other for other in self._rows.get(fold(thing), {}) if fold(other) != fold(thing)]

    def objects(self, questions: Sequence[Question]) -> list[tuple[str, ...]]:
        """See :class:`Knowledge`; a thing is found under any of its names."""
        return [self._of(thing, relation) for thing, relation in questions]

    def _of(self, thing: str, relation: Relation) -> tuple[str, ...]:
        for name in (thing, *self.aliases(thing)):
            if (found := self._facts.get((fold(name), fold(relation.name)))) is not None:
                return tuple(found)
        return ()


class ModelKnowledge:
    """What the bare model says when it is asked, one answer a question. It makes things up: have them reviewed.

    Args:
        ask: Asks the model.
        relations: What is known about questions.
        name: Of the model.
    """

    def __init__(self, ask: Asking, *, relations: Relations | None = None, name: str = "model") -> None:
        self.name = name
        self._ask = ask
        self._relations = relations or Relations.built_in()

    def aliases(self, thing: str) -> Sequence[str]:
        """Return nothing: a model asked for other names of a thing nearly always says some."""
        return ()

    def objects(self, questions: Sequence[Question]) -> list[tuple[str, ...]]:
        """See :class:`Knowledge`."""
        if not questions:
            return []
        texts = [hops.prompt(relation.question, thing, relation, self._relations) for thing, relation in questions]
        said = self._ask([Chat.of(text, **hops.OPTIONS) for text in texts])
        return [(answer,) if (answer := hops.clean(text)) else () for text in said]


class Several:
    """Several sources, the first that knows counts; aliases are those of all."""

    def __init__(self, sources: Sequence[Knowledge]) -> None:
        self.sources = tuple(sources)
        self.name = ", ".join(source.name for source in sources) or "nothing"

    def aliases(self, thing: str) -> Sequence[str]:
        """See :class:`Knowledge`."""
        return list(dict.fromkeys(name for source in self.sources for name in source.aliases(thing)))

    def objects(self, questions: Sequence[Question]) -> list[tuple[str, ...]]:
        """See :class:`Knowledge`."""
        known: list[tuple[str, ...]] = [()] * len(questions)
        for source in self.sources:
            open_ = [place for place, found in enumerate(known) if not found]
            for place, found in zip(open_, source.objects([questions[place] for place in open_]), strict=True):
                known[place] = found
        return known


def _alias_rows(path: Path) -> Iterator[tuple[str, list[str]]]:
    text = read_text(path)
    try:
        whole: Any = json.loads(text)
    except json.JSONDecodeError:
        whole = None
    if isinstance(whole, dict) and set(whole) != {"name", "aliases"}:
        for name, others in whole.items():
            yield name, _names(others, f"{path}, {name!r}")
        return
    for number, row in _lines(text, path):
        if not isinstance(row, dict) or not isinstance(row.get("name"), str):
            raise DatasetError(f"{path}, line {number}: expected an object with 'name' and 'aliases'")
        yield row["name"], _names(row.get("aliases"), f"{path}, line {number}")


def _names(found: object, where: str) -> list[str]:
    if not isinstance(found, list) or any(not isinstance(name, str) or not name.strip() for name in found):
        raise DatasetError(f"{where}: aliases must be a list of texts")
    return found


def _fact_rows(path: Path) -> Iterator[tuple[str, str, str]]:
    for number, row in _lines(read_text(path), path):
        parts = [row.get(key) for key in ("subject", "relation", "object")] if isinstance(row, dict) else row
        if not isinstance(parts, list) or len(parts) != 3 or any(not isinstance(part, str) for part in parts):
            raise DatasetError(
                f"{path}, line {number}: expected three texts", remedy='Write it as ["Osaka", "country", "Japan"].'
            )
        yield parts[0], parts[1], parts[2]


def _lines(text: str, path: Path) -> Iterator[tuple[int, Any]]:
    for number, line in numbered_lines(text):
        try:
            yield number, json.loads(line)
        except json.JSONDecodeError as error:
            raise DatasetError(f"{path}, line {number}: not JSON: {error}") from error
