"""Case: one edit request (or several that belong together) and the probes that show whether it took.

A dataset is a sequence of cases. What a probe asks for follows from its role:

=================  ==============================================================================
role               passes when
=================  ==============================================================================
``reliability``    the edit's own prompt gets the new answer
``generalization`` another wording of the prompt gets the new answer
``portability``    a consequence of the edit gets its (new) answer: alias, reversed, one hop
``multi_hop``      a question over several facts, edited ones among them, gets its new answer
``locality``       a prompt outside the editing scope gets the same answer as before the edit
``retraction``     a prompt of an edit that was taken back gets the same answer as before the edit
=================  ==============================================================================
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from corrigenda.edit import Edit, fold

Role: TypeAlias = Literal["reliability", "generalization", "portability", "multi_hop", "locality", "retraction"]
ANSWER_ROLES: tuple[Role, ...] = ("reliability", "generalization", "portability", "multi_hop")
"""Roles whose probes ask for one of the expected answers."""
UNCHANGED_ROLES: tuple[Role, ...] = ("locality", "retraction")
"""Roles whose probes ask for the answer from before."""
ROLES: tuple[Role, ...] = (*ANSWER_ROLES, *UNCHANGED_ROLES)


@dataclass(frozen=True, slots=True)
class Probe:
    """One prompt and what it should give.

    Attributes:
        role: What the probe shows; see the table above.
        prompt: The text that the model continues, or a question.
        answers: Accepted answers; the first is the canonical one (the target of the teacher-forced metrics),
            the rest are other spellings. For ``locality``: what is true, for readers; the score does not
            look at it.
        kind: A finer label within the role ("paraphrase", "Subject_Aliasing").
        rival: The answer that the first accepted one competes with in ROME's *success* columns: the old answer where
            the new one is wanted, the new one where the old one is to stay. Without it the probe has no such column.
    """

    role: Role
    prompt: str
    answers: tuple[str, ...]
    kind: str
    rival: str | None = None


@dataclass(frozen=True, slots=True)
class Case:
    """Edits that are made together, and the probes that score them.

    Attributes:
        id: Unique within its dataset.
        edits: At least one. They hold nothing that a generalization probe asks: no paraphrases.
        probes: At least one of role ``reliability``.
        writing: Beginnings of texts about the edit's subject, for fluency and consistency.
        references: True texts about others of whom the edit's target is true, for consistency.
    """

    id: str
    edits: tuple[Edit, ...]
    probes: tuple[Probe, ...]
    writing: tuple[str, ...] = ()
    references: tuple[str, ...] = ()

    @property
    def relation(self) -> str | None:
        """The relation of the first edit."""
        return self.edits[0].relation


def sample(cases: Sequence[Case], limit: int | None, seed: int) -> list[Case]:
    """Return ``limit`` cases (``None``: all) in an order that depends on ``seed`` and the case ids alone.

    Samples of one seed are nested: the first 10 of 100 are the 10. Ordering by a hash rather than by a random
    generator keeps the choice the same under every version of Python, and when records are appended to the
    file.
    """
    order = sorted(cases, key=lambda case: hashlib.sha256(f"{seed}/{case.id}".encode()).digest())
    return order if limit is None else order[:limit]


_DISTRACTED = "distracted"


def distracted(case: Case, count: int) -> Case:
    """Return ``case`` with its first ``count`` neighbours asked once more, the edit's statement in front.

    A model that repeats what it has just read says the edit's target there (Hoelscher-Obermaier et al. 2023; "distract
    neighbourhood" in Yao et al. 2023, §5).
    """
    near = [probe for probe in case.probes if probe.role == "locality"][:count]
    statement = case.edits[0].statement
    more = tuple(dataclasses.replace(probe, prompt=f"{statement} {probe.prompt}", kind=_DISTRACTED) for probe in near)
    return dataclasses.replace(case, probes=case.probes + more)


def edit_set_hash(cases: Iterable[Case]) -> str:
    """Return the SHA-256 over the edits' ids in the order in which they are made."""
    ids = [edit.id for case in cases for edit in case.edits]
    return hashlib.sha256(json.dumps(ids).encode()).hexdigest()


def superseded(cases: Sequence[Case]) -> dict[str, str]:
    """Map the cases whose target is not the one in force after the whole sequence to the case that has the last word.

    Two edits contradict each other when they share subject and relation, or the prompt, and differ in the
    target. Once both are made, the earlier target is no longer the right answer, unless a still later case has it too.
    """
    latest: dict[tuple[str, ...], tuple[str, str]] = {}
    for case in cases:
        for edit in case.edits:
            latest.update(dict.fromkeys(_contested(edit), (case.id, edit.target)))
    result: dict[str, str] = {}
    for case in cases:
        for edit in case.edits:
            for owner, target in map(latest.__getitem__, _contested(edit)):
                if fold(target) != fold(edit.target) and owner != case.id:
                    result[case.id] = owner
    return result


def _contested(edit: Edit) -> list[tuple[str, ...]]:
    """Return what only one target can be in force for: the prompt, and the subject with the relation."""
    keys: list[tuple[str, ...]] = [(edit.namespace, "prompt", fold(edit.prompt))]
    return keys if edit.conflict_key is None else [*keys, edit.conflict_key]


class Claims:
    """What a set of live edits lays claim to: locality probes that cannot keep their old answer among them.

    With many edits live at once, the neighbour of one edit may be what another edit changes. Such a probe is left
    unscored. It is recognised by its prompt (the same as a reliability or generalization prompt) or by its relation
    and a subject: it holds the subject of another edit of the same relation, as whole words.
    """

    def __init__(self, cases: Iterable[Case]) -> None:
        self._prompts: dict[str, str] = {}
        self._subjects: dict[str, dict[str, str]] = {}
        for case in cases:
            for probe in case.probes:
                if probe.role in ("reliability", "generalization"):
                    self._prompts[fold(probe.prompt)] = case.id
            for edit in case.edits:
                if edit.relation is not None and edit.subject is not None:
                    named = self._subjects.setdefault(fold(edit.relation), {})
                    named[" ".join(_words(edit.subject))] = case.id

    def owner(self, case: Case, probe: Probe) -> str | None:
        """Return the id of the other case that ``probe`` belongs to, or ``None``."""
        prompt = probe.prompt
        if probe.kind == _DISTRACTED:  # the statement in front names the case's own subject and target
            prompt = prompt.removeprefix(f"{case.edits[0].statement} ")
        found = self._prompts.get(fold(prompt))
        if found is None and case.relation is not None:
            named = self._subjects.get(fold(case.relation), {})
            found = self._by_subject(named, _words(prompt), own=case.id)
        return None if found == case.id else found

    @staticmethod
    def _by_subject(named: dict[str, str], words: list[str], own: str) -> str | None:
        """Return whose subject occurs in ``words`` first; the case ``own`` does not hide others."""
        runs = (
            " ".join(words[start:end])
            for start in range(len(words))
            for end in range(start + 1, min(len(words), start + _LONGEST_NAME) + 1)
        )
        return next((named[run] for run in runs if named.get(run, own) != own), None)


_LONGEST_NAME = 12


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", fold(text))
