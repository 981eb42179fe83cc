"""Expansion: what follows from an edit, found when it is made rather than when somebody asks.

==============  =====================================================================================================
kind            what it is, for "The capital of the Netherlands is → Chicago"
==============  =====================================================================================================
``alias``       other names of the subject, kept with the edit: "Holland"
``inverse``     the statement read backwards: "Chicago is the capital of → the Netherlands"
``one_hop``     what is true of the new answer: "The country of the capital of the Netherlands is → United States"
``paraphrase``  other wordings, kept with the edit: "What is the capital of the Netherlands?". Only when asked for: a
                memory knows a paraphrase when it sees one; editors of weights search their values in these, too.
==============  =====================================================================================================

Where the knowledge comes from is up to the caller: tables, the model, anything of the form
:class:`~corrigenda.middleware.knowledge.Knowledge`. Nothing is added by looking: :func:`expand` proposes, a person or a
program chooses, :func:`adopt` adds. A derived edit names its parent, says on what grounds it was made, holds as
long as its parent holds, and goes when its parent goes.

From a relation of which a thing may have several objects nothing follows: that somebody is a painter does not say that
they are nothing else, and many were born in Rome.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias, get_args

from corrigenda.edit import MAX_LIST, Edit, fold
from corrigenda.errors import InvalidRequest
from corrigenda.memory.encoder import Encoder
from corrigenda.memory.memory import Memory
from corrigenda.memory.texts import frame_text
from corrigenda.middleware.knowledge import Knowledge
from corrigenda.middleware.relations import Relation, Relations

Kind: TypeAlias = Literal["alias", "inverse", "one_hop", "paraphrase"]
KINDS: tuple[Kind, ...] = get_args(Kind)
FOLLOWING: tuple[Kind, ...] = ("alias", "inverse", "one_hop")
"""What :func:`expand` looks for unless told otherwise."""
REWORDINGS = 4
"""Most paraphrases that are added to an edit: editors of weights search values behind about as many contexts."""
TAG = "derived"
"""Label of derived edits."""


@dataclass(frozen=True, slots=True)
class Expansion:
    """What follows from one edit.

    Attributes:
        edit: The edit, with the aliases and paraphrases that were found.
        relation: The relation that it was taken to be of; ``None`` for none known, and nothing but aliases follows.
        aliases: Names that are new.
        derived: Edits that follow, the inverse first.
        paraphrases: Wordings that are new.
    """

    edit: Edit
    relation: Relation | None = None
    aliases: tuple[str, ...] = ()
    derived: tuple[Edit, ...] = ()
    paraphrases: tuple[str, ...] = ()

    def without(self, refused: Collection[str]) -> Expansion:
        """Return what is left when aliases, paraphrases and the ids of derived edits in ``refused`` are taken out."""

        def left(texts: tuple[str, ...], new: tuple[str, ...]) -> tuple[str, ...]:
            return tuple(text for text in texts if text not in new or text not in refused)

        return replace(
            self,
            edit=self.edit.replace(
                aliases=left(self.edit.aliases, self.aliases),
                paraphrases=left(self.edit.paraphrases, self.paraphrases),
            ),
            aliases=left(self.aliases, self.aliases),
            paraphrases=left(self.paraphrases, self.paraphrases),
            derived=tuple(edit for edit in self.derived if edit.id not in refused),
        )


def expand(
    edits: Sequence[Edit],
    knowledge: Knowledge,
    encoder: Encoder,
    *,
    kinds: Collection[str] = FOLLOWING,
    relations: Relations | None = None,
    many_valued: Collection[str] = (),
    allowed: Callable[[str], bool] = lambda wording: True,
) -> list[Expansion]:
    """Return what follows from each of ``edits``. Nothing is added anywhere.

    Args:
        edits: Those with a subject; from others nothing follows.
        knowledge: Who is asked.
        encoder: Tells which relation an edit is of where its ``relation`` names none.
        kinds: Which kinds to look for; by default all but paraphrases.
        relations: The relations; the package's own by default.
        many_valued: Names of further relations of which a thing may have several objects.
        allowed: Which wordings, {} for the subject, may become paraphrases; an evaluation leaves out what it asks.

    Raises:
        InvalidRequest: An unknown kind.
    """
    if unknown := sorted(set(kinds) - set(KINDS)):
        raise InvalidRequest(f"unknown kind of expansion {unknown[0]!r}", remedy=f"Allowed: {', '.join(KINDS)}.")
    table = relations or Relations.built_in()
    many = {fold(name) for name in many_valued}
    meant = _relations_of(edits, table, encoder)
    named = [edit if "alias" not in kinds else _with_aliases(edit, knowledge) for edit in edits]
    if "paraphrase" in kinds:
        named = [_reworded(edit, relation, allowed) for edit, relation in zip(named, meant, strict=True)]
    found = [
        relation if relation is not None and not relation.many and fold(relation.name) not in many else None
        for relation in meant
    ]
    backwards = [_inverse(edit, relation, table, knowledge, many) for edit, relation in zip(named, found, strict=True)]
    onwards = _onwards(named, found, table, knowledge, many) if "one_hop" in kinds else [[] for _ in edits]
    return [
        Expansion(
            new,
            relation,
            tuple(name for name in new.aliases if name not in old.aliases),
            (*(inverse if "inverse" in kinds else ()), *further),
            tuple(text for text in new.paraphrases if text not in old.paraphrases),
        )
        for old, new, relation, inverse, further in zip(edits, named, found, backwards, onwards, strict=True)
    ]


def adopt(memory: Memory, expansions: Iterable[Expansion]) -> list[Edit]:
    """Add edits and what follows from them to ``memory``; return the derived edits that are live now.

    An edit that is live already gets its new aliases and paraphrases. What contradicts a live edit is not derived.
    """
    chosen = list(expansions)
    for item in chosen:
        if memory.is_live(item.edit.id):
            if item.aliases or item.paraphrases:
                names, wordings = item.edit.aliases, item.edit.paraphrases
                memory.amend(item.edit.id, reason="expanded", aliases=names, paraphrases=wordings)
        else:
            memory.add(item.edit)
    return memory.add_consequences([edit for item in chosen for edit in item.derived])


def _relations_of(edits: Sequence[Edit], table: Relations, encoder: Encoder) -> list[Relation | None]:
    """Return which relation each edit is of, by name or by wording."""
    meant = table.meant([frame_text(edit) for edit in edits], encoder)
    return [
        (table.named(edit.relation) or like) if edit.subject is not None else None
        for edit, like in zip(edits, meant, strict=True)
    ]


def _with_aliases(edit: Edit, knowledge: Knowledge) -> Edit:
    if edit.subject is None:
        return edit
    known = {fold(name) for name in edit.names}
    new = [name for name in knowledge.aliases(edit.subject) if fold(name) not in known]
    return edit.replace(aliases=(*edit.aliases, *new)[:MAX_LIST]) if new else edit


def _reworded(edit: Edit, relation: Relation | None, allowed: Callable[[str], bool]) -> Edit:
    """Return the edit in the wordings of its relation as well: they say the same, however many objects there are."""
    if edit.subject is None or relation is None:
        return edit
    known = {fold(text) for text in (edit.prompt, *edit.paraphrases)}
    prompts = [prompt.format(edit.subject) for prompt in relation.prompts if allowed(prompt)]
    new = [text for text in prompts if fold(text) not in known]
    room = max(0, REWORDINGS - len(edit.paraphrases))
    return edit.replace(paraphrases=(*edit.paraphrases, *new[:room])) if new[:room] else edit


def _inverse(
    edit: Edit, relation: Relation | None, table: Relations, knowledge: Knowledge, many: Collection[str]
) -> list[Edit]:
    """Return the edit read backwards, or nothing where that has no single answer."""
    inverse = table.named(relation.inverse) if relation is not None else None
    if inverse is None or inverse.many or fold(inverse.name) in many or edit.subject is None:
        return []
    return [
        _derived(
            edit,
            inverse.statement.format(edit.target),
            edit.subject,
            subject=edit.target,
            relation=inverse.name,
            aliases=tuple(dict.fromkeys((*edit.target_aliases, *knowledge.aliases(edit.target))))[:MAX_LIST],
            target_aliases=edit.aliases,
            source=f"the inverse of {edit.id}",
        )
    ]


def _onwards(
    edits: Sequence[Edit],
    relations: Sequence[Relation | None],
    table: Relations,
    knowledge: Knowledge,
    many: Collection[str],
) -> list[list[Edit]]:
    """Return for each edit what is known of its target, told of its subject."""
    steps = [
        (place, onward)
        for place, relation in enumerate(relations)
        if relation is not None
        for onward in table.table.values()
        if set(onward.of) & set(relation.object) and not onward.many and fold(onward.name) not in many
        if fold(onward.name) != fold(relation.inverse)
    ]
    answers = knowledge.objects([(edits[place].target, onward) for place, onward in steps])
    found: list[list[Edit]] = [[] for _ in edits]
    for (place, onward), objects in zip(steps, answers, strict=True):
        edit, relation = edits[place], relations[place]
        if len(objects) != 1 or relation is None or edit.subject is None:
            continue  # nothing known, or no single answer
        found[place].append(
            _derived(
                edit,
                onward.statement.format(relation.phrase.format(edit.subject)),
                objects[0],
                subject=edit.subject,
                relation=chain(relation, onward),
                aliases=edit.aliases,
                target_aliases=tuple(knowledge.aliases(objects[0]))[:MAX_LIST],
                source=f"{edit.id}, and {onward.name} of {edit.target} by {knowledge.name}",
            )
        )
    return found


def chain(first: Relation, onward: Relation) -> str:
    """Return the name of the relation that leads over ``first`` and then ``onward``."""
    return f"{first.name} / {onward.name}"


def _derived(edit: Edit, prompt: str, target: str, *, source: str, **fields: object) -> Edit:
    return Edit(
        prompt,
        target,
        author=edit.author,
        source=source,
        tags=(TAG,),
        validity=edit.validity,
        namespace=edit.namespace,
        parent=edit.id,
        **fields,  # type: ignore[arg-type]
    )
