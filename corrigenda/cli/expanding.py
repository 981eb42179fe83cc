"""What ``corrigenda edit add --expand`` and ``corrigenda edit expand`` share: sources, proposals, review."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from corrigenda.cli.common import console, load_model, print_table
from corrigenda.errors import UnknownName

if TYPE_CHECKING:
    from corrigenda.edit import Edit
    from corrigenda.memory.encoder import Encoder
    from corrigenda.memory.memory import Memory
    from corrigenda.middleware.expansion import Expansion
    from corrigenda.middleware.knowledge import Knowledge

Aliases = Annotated[
    Path | None, typer.Option("--alias-table", help="JSON: name → other names; or JSON lines with name, aliases.")
]
Facts = Annotated[
    Path | None, typer.Option("--facts", help='JSON lines: ["Osaka", "country", "Japan"]; sources of consequences.')
]
AskModel = Annotated[
    str | None, typer.Option("--ask-model", help="Ask this model for consequences, too. It makes things up: review.")
]
ManyValued = Annotated[
    list[str] | None,
    typer.Option("--many-valued", help="A relation with several answers: nothing follows; repeatable."),
]
RelationFile = Annotated[Path | None, typer.Option("--relations", help="JSON lines: relations besides the built-in.")]
Reword = Annotated[
    bool, typer.Option("--reword", help="Add other wordings of the relation, which editors of weights learn from.")
]
Review = Annotated[bool, typer.Option("--review", help="Ask about each proposal; with --json only list them.")]


@dataclass(frozen=True)
class Sources:
    """What an evaluation adds with each edit.

    Attributes:
        kinds: Kinds of :func:`corrigenda.middleware.expansion.expand`; none by default.
        aliases, facts: Files of tables.
    """

    kinds: tuple[str, ...] = ()
    aliases: Path | None = None
    facts: Path | None = None

    def __post_init__(self) -> None:
        if self.kinds:
            from corrigenda.middleware.expansion import KINDS

            if unknown := sorted(set(self.kinds) - set(KINDS)):
                raise UnknownName.among("kind of expansion", unknown[0], KINDS)

    def expanding(
        self, encoder: Encoder, allowed: Callable[[str], bool] = lambda wording: True
    ) -> Callable[[Sequence[Edit]], list[Expansion]] | None:
        """Return what proposes, or ``None`` where nothing is to be added; ``allowed`` is that of ``expand``."""
        if not self.kinds:
            return None
        from corrigenda.middleware.expansion import expand

        knowledge = knowledge_from(self.aliases, self.facts, None, quiet=True)
        return lambda edits: expand(edits, knowledge, encoder, kinds=self.kinds, allowed=allowed)

    def described(self) -> dict[str, Any]:
        """Return the settings for a results file: kinds, and the files with their SHA-256."""
        if not self.kinds:
            return {}
        files = {"alias_table": self.aliases, "facts": self.facts}
        marks = {
            name: {"file": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
            for name, path in files.items()
            if path is not None
        }
        return {"expansion": {"kinds": list(self.kinds), **marks}}


@dataclass(frozen=True)
class Wanted:
    """What ``--expand`` was asked to do about one edit.

    Attributes:
        review: Whether each proposal is to be confirmed.
        aliases, facts: Files of tables.
        ask_model: Name of a model that is asked, too.
        many_valued: Relations with several answers, from which nothing follows.
        relations: File of relations besides the built-in.
        reword: Whether paraphrases are wanted as well.
    """

    review: bool
    aliases: Path | None
    facts: Path | None
    ask_model: str | None
    many_valued: list[str] | None
    relations: Path | None
    reword: bool = False

    def options(self) -> dict[str, bool]:
        """Return which of the options were given, by name."""
        return {
            "--review": self.review,
            "--alias-table": self.aliases is not None,
            "--facts": self.facts is not None,
            "--ask-model": self.ask_model is not None,
            "--many-valued": bool(self.many_valued),
            "--relations": self.relations is not None,
            "--reword": self.reword,
        }

    def proposing(self, *, quiet: bool) -> Callable[[Edit, Memory], Expansion]:
        """Read the files and load the model; return what says what follows from an edit, and adds nothing."""
        from corrigenda.middleware.expansion import FOLLOWING, KINDS, expand
        from corrigenda.middleware.relations import Relations

        knowledge = knowledge_from(self.aliases, self.facts, self.ask_model, quiet=quiet)
        table = Relations.read(self.relations) if self.relations is not None else None
        kinds = KINDS if self.reword else FOLLOWING
        many = self.many_valued or ()

        def proposed(edit: Edit, memory: Memory) -> Expansion:
            (found,) = expand([edit], knowledge, memory.encoder, kinds=kinds, relations=table, many_valued=many)
            return found

        return proposed


def knowledge_from(aliases: Path | None, facts: Path | None, ask_model: str | None, *, quiet: bool) -> Knowledge:
    """Return the sources that the options name, tables before the model."""
    from corrigenda.middleware.knowledge import ModelKnowledge, Several, Tables

    sources: list[Knowledge] = []
    if aliases is not None or facts is not None:
        sources.append(Tables.read(aliases=aliases, facts=facts))
    if ask_model is not None:
        from corrigenda.middleware.asking import bare_answers

        lm = load_model(ask_model, quiet=quiet)
        sources.append(ModelKnowledge(lambda requests: bare_answers(lm, requests), name=lm.name))
    return Several(sources)


def rewording(allowed: Callable[[str], bool] = lambda wording: True) -> Callable[[Sequence[Edit]], list[Edit]]:
    """Return what adds paraphrases to edits; ``allowed`` is that of ``expand``."""
    from corrigenda.memory.encoder import MiniLM

    propose = Sources(("paraphrase",)).expanding(MiniLM.load(), allowed)
    assert propose is not None
    return lambda edits: [found.edit for found in propose(edits)]


def reviewed(found: Expansion) -> Expansion:
    """Ask about each alias, paraphrase and derived edit; return those that the user wants."""
    refused = {name for name in found.aliases if not typer.confirm(f"also known as {name!r}?", default=True)}
    refused |= {text for text in found.paraphrases if not typer.confirm(f"the same as {text!r}?", default=True)}
    for edit in found.derived:
        console().print(f"[dim]{escape(edit.source or '')}[/]", highlight=False)
        if not typer.confirm(f"{edit.statement}", default=True):
            refused.add(edit.id)
    return found.without(refused)


def rows_of(found: Expansion) -> dict[str, Any]:
    """Return the proposals as a JSON-ready dict."""
    return {
        "relation": found.relation.name if found.relation is not None else None,
        "aliases": list(found.aliases),
        "paraphrases": list(found.paraphrases),
        "derived": [{"id": edit.id, **edit.to_dict()} for edit in found.derived],
    }


def show(found: Expansion, derived: list[Edit]) -> None:
    """Print what was added."""
    rows = [["alias", name, ""] for name in found.aliases]
    rows += [["paraphrase", text, ""] for text in found.paraphrases]
    rows += [[edit.relation or "", edit.statement, edit.id[:12]] for edit in derived]
    skipped = len(found.derived) - len(derived)
    print_table(f"{len(rows)} found", ["relation", "what follows", "id"], rows)
    if skipped:
        console().print(f"[dim]{skipped} left out: live already, or against a live edit[/]", highlight=False)
