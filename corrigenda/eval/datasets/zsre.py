"""zsRE as MEND ships it.

Format: Levy et al. 2017; De Cao et al. 2021; Mitchell et al. 2022, "Fast Model Editing at Scale".

=================  ====================================================================
field              becomes
=================  ====================================================================
``src``            the edit's prompt, a question
``alt``            the edit's target
``answers``        the true answers; the first is the edit's old answer
``rephrase``       a generalization probe
``loc``            a locality probe: a Natural Questions question about something else
``loc_ans``        its true answer, for readers
=================  ====================================================================

``loc`` reads ``nq question: who wrote the guitar solo in beat it``. The prefix belongs to the prompt of the
T5 model of the original work, so it is taken off, and the rest becomes a question as ``src`` is one: first
letter in upper case, a question mark at the end.
"""

from __future__ import annotations

from corrigenda.edit import Edit, fold
from corrigenda.eval.case import Case, Probe
from corrigenda.eval.datasets.counterfact import case_id
from corrigenda.eval.datasets.records import Fields

NAME = "zsre"
KEYS = frozenset({"src", "alt", "rephrase", "loc"})
_PREFIX = "nq question:"


def read(record: Fields, number: int) -> Case:
    """Build the case of ``record``, the ``number``-th of its file (1-based).

    Raises:
        DatasetError: A field is missing or of the wrong type.
    """
    true = record.texts("answers", least=1)
    target = record.answer("alt")
    with record.building_edit():
        edit = Edit(
            record.text("src"),
            target,
            subject=record.text("subject"),
            old_answer=None if fold(true[0]) == fold(target) else true[0],
        )
    loc_answer = (record.answer("loc_ans"),) if "loc_ans" in record else ()
    probes = (
        Probe("reliability", edit.prompt, (target,), "question", edit.old_answer),
        Probe("generalization", record.text("rephrase"), (target,), "rephrase", edit.old_answer),
        Probe("locality", question(record, "loc"), loc_answer, "natural_questions"),
    )
    return Case(case_id(record, number), (edit,), probes)


def question(record: Fields, key: str) -> str:
    """Return the text of ``key`` without ``nq question:``, as a question: ``Who wrote …?``."""
    text = record.text(key)
    if text.casefold().startswith(_PREFIX):
        text = text[len(_PREFIX) :].strip()
    if not text.rstrip("?").strip():
        record.fail(key, "holds no question")
    text = text[0].upper() + text[1:]
    return text if text.endswith("?") else text.rstrip(".") + "?"
