"""Plain JSON Lines of edits, as ``corrigenda`` imports and exports them.

Each line is an :class:`~corrigenda.edit.Edit` as JSON: ``prompt`` and ``target``, optionally ``subject`` and
the rest. ``target_aliases`` count as right answers. ``paraphrases`` become generalization probes and are
taken off the edit that is
made: a method that has been told a wording cannot be tested with it. Two keys are not part of an edit:

* ``locality``: prompts whose answers must stay as they are;
* ``id``: the id of the case, else the number of the record.
"""

from __future__ import annotations

from corrigenda.edit import Edit
from corrigenda.eval.case import Case, Probe
from corrigenda.eval.datasets.records import Fields

NAME = "edits"
KEYS = frozenset({"prompt", "target"})


def read(record: Fields, number: int) -> Case:
    """Build the case of ``record``, the ``number``-th of its file (1-based).

    Raises:
        DatasetError: A field is missing, of the wrong type, or unknown.
    """
    record.text("prompt")
    record.answer("target")
    with record.building_edit():
        told = Edit.from_dict({key: value for key, value in record.value.items() if key not in ("id", "locality")})
    answers = tuple(dict.fromkeys((told.target, *told.target_aliases)))
    old = told.old_answer
    probes = [Probe("reliability", told.prompt, answers, "prompt", old)]
    probes += [Probe("generalization", prompt, answers, "paraphrase", old) for prompt in told.paraphrases]
    if "locality" in record:
        probes += [Probe("locality", prompt, (), "listed") for prompt in record.texts("locality")]
    name = record.text("id") if "id" in record else str(number)
    return Case(name, (told.replace(paraphrases=()),), tuple(probes))
