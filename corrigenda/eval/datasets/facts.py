"""The format of the built-in set: one well-known fact a line, with everything one can ask around it.

============================  =========================================================================
field                         becomes
============================  =========================================================================
``prompt``, ``target``        the edit; ``subject``, ``relation``, ``old_answer`` (what is true) go with it
``target_aliases``            other right spellings of the target
``paraphrases``               generalization probes (``paraphrase``)
``question``                  a generalization probe (``question``)
``alias``                     a portability probe (``alias``): the subject by another name; a prompt
``reversed``                  a portability probe (``reversed``): ``{"prompt", "answers"}``
``one_hop``                   a portability probe (``one_hop``): ``{"prompt", "answers"}``
``neighbours``                locality probes (``neighbour``): same relation, other subjects
``other_attributes``          locality probes (``other_attribute``): same subject, other relations
============================  =========================================================================

Neighbours and attributes are ``{"prompt", "answer"}``. ``alias``, ``reversed`` and ``one_hop`` may be left
out where a fact has none: not every relation can be reversed.
"""

from __future__ import annotations

from corrigenda.edit import Edit
from corrigenda.eval.case import Case, Probe
from corrigenda.eval.datasets.records import Fields

NAME = "facts"
KEYS = frozenset({"prompt", "target", "neighbours", "other_attributes"})


def read(record: Fields, number: int) -> Case:
    """Build the case of ``record``, the ``number``-th of its file (1-based).

    Raises:
        DatasetError: A field is missing or of the wrong type.
    """
    spellings = record.texts("target_aliases") if "target_aliases" in record else ()
    with record.building_edit():
        edit = Edit(
            record.text("prompt"),
            record.answer("target"),
            subject=record.text("subject"),
            relation=record.text("relation"),
            old_answer=record.answer("old_answer"),
            target_aliases=spellings,
        )
    answers = (edit.target, *edit.target_aliases)
    old = edit.old_answer
    probes = [Probe("reliability", edit.prompt, answers, "prompt", old)]
    probes += [Probe("generalization", text, answers, "paraphrase", old) for text in record.texts("paraphrases")]
    probes.append(Probe("generalization", record.text("question"), answers, "question", old))
    if "alias" in record:
        probes.append(Probe("portability", record.text("alias"), answers, "alias"))
    for kind in ("reversed", "one_hop"):
        if kind in record:
            inner = record.within(kind)
            probes.append(Probe("portability", inner.text("prompt"), inner.texts("answers", least=1), kind))
    for key, kind in (("neighbours", "neighbour"), ("other_attributes", "other_attribute")):
        for inner in record.each(key):
            rival = edit.target if kind == "neighbour" else None
            probes.append(Probe("locality", inner.text("prompt"), (inner.answer("answer"),), kind, rival))
    return Case(record.text("id") if "id" in record else str(number), (edit,), tuple(probes))
