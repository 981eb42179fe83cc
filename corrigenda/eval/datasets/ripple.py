"""RippleEdits: what follows from an edit, in six criteria.

Format: Cohen et al. 2023, "Evaluating the Ripple Effects of Knowledge Editing in Language Models".

=================================  ==================================================================
field                              becomes
=================================  ==================================================================
``edit.prompt``                    the edit: a statement, cut into prompt and target
``edit.previous_fact.prompt``      its old answer: the same statement before
``Logical_Generalization``,        portability probes, labelled with the criterion
``Compositionality_I``, ``…_II``,
``Subject_Aliasing``
``Relation_Specificity``,          locality probes, labelled with the criterion
``Forgetfulness``
=================================  ==================================================================

The files hold no labels of subject and target by themselves. The target is what follows the words that the statement
has in common with the one before; without one before, what follows the last " is " or " are ". The subject is what
follows the relation's name, or the last " of ". A test may have several queries, each becomes a probe; one without
answers is left out, as in the original code. The spelling ``Relation_Specifity`` of the published example is read too.
The tests' conditions (is the model able to answer at all?) are not applied: compare with the method ``none``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import takewhile
from typing import Literal

from corrigenda.edit import Edit, fold
from corrigenda.eval.case import Case, Probe
from corrigenda.eval.datasets.counterfact import case_id
from corrigenda.eval.datasets.records import Fields

NAME = "ripple"
KEYS = frozenset({"edit", "Logical_Generalization", "Subject_Aliasing"})
_CRITERIA: tuple[tuple[str, Literal["portability", "locality"]], ...] = (
    ("Logical_Generalization", "portability"),
    ("Compositionality_I", "portability"),
    ("Compositionality_II", "portability"),
    ("Subject_Aliasing", "portability"),
    ("Relation_Specificity", "locality"),
    ("Forgetfulness", "locality"),
)


def read(record: Fields, number: int) -> Case:
    """Build the case of ``record``, the ``number``-th of its file (1-based).

    Raises:
        DatasetError: A field is missing, of the wrong type, or the statement cannot be cut.
    """
    told = record.within("edit")
    before = told.within("previous_fact").text("prompt") if "previous_fact" in told else None
    prompt, target, old = _cut(told, told.text("prompt"), before)
    relation = told.text("relation") if "relation" in told else None
    with told.building_edit():
        edit = Edit(
            prompt,
            target,
            subject=_subject(prompt, relation),
            relation=relation,
            old_answer=None if old is None or fold(old) == fold(target) else old,
        )
    probes = [Probe("reliability", edit.prompt, (target,), "prompt", edit.old_answer)]
    for criterion, role in _CRITERIA:
        probes += _probes(record, criterion, role)
    return Case(case_id(record, number), (edit,), tuple(probes))


def _cut(fields: Fields, statement: str, before: str | None) -> tuple[str, str, str | None]:
    """Cut ``statement`` into prompt and target, and the one ``before`` into prompt and old answer."""
    words = statement.rstrip(".").split(" ")
    if before is not None:
        others = before.rstrip(".").split(" ")
        shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(words, others, strict=False)))
        if 0 < shared < min(len(words), len(others)):
            return " ".join(words[:shared]), " ".join(words[shared:]), " ".join(others[shared:])
    verbs = [place for place, word in enumerate(words[:-1]) if word in ("is", "are")]
    if not verbs:
        fields.fail("prompt", f"cannot be cut into prompt and target: {statement!r}")
    return " ".join(words[: verbs[-1] + 1]), " ".join(words[verbs[-1] + 1 :]), None


def _subject(prompt: str, relation: str | None) -> str | None:
    """Return what ``prompt`` is about; ``None`` when it does not tell."""
    bare = prompt
    for verb in (" is", " are"):
        bare = bare.removesuffix(verb)
    # Not by casefold(), which changes lengths: "Weiß" has four letters, "weiss" five.
    mark = f"{relation.replace('_', ' ')} of " if relation else ""
    if mark and (found := re.search(re.escape(mark), bare, re.IGNORECASE)):
        return bare[found.end() :].strip() or None
    return bare.rpartition(" of ")[2].strip() if " of " in bare else None


def _probes(record: Fields, criterion: str, role: Literal["portability", "locality"]) -> Iterator[Probe]:
    key = "Relation_Specifity" if criterion == "Relation_Specificity" and criterion not in record else criterion
    if key not in record:
        return
    for test in record.each(key):
        for query in test.each("test_queries", least=1):
            answers = []
            for answer in query.each("answers"):
                listed = answer.texts("aliases") if "aliases" in answer else ()
                answers += [answer.answer("value"), *listed]
            if answers:
                yield Probe(role, query.text("prompt"), tuple(dict.fromkeys(answers)), criterion)
