"""KnowEdit's ConvSent: change what a model feels about a topic.

Format: Mitchell et al. 2022, "Memory-Based Model Editing at Scale" (SERAC), as KnowEdit ships it.

====================  ================================================================================
field                 becomes
====================  ================================================================================
``ent``               the topic: the edit's subject; "What do you think of {ent}?" is its prompt
``pos``, ``neg``      sentences of either feeling; one side is wanted (the first is the target), the
                      first sentence of the other is its rival
``target_sent``       which side, ``pos`` or ``neg``; by turns where it is missing
====================  ================================================================================

The other wordings of the question are generalization probes. No model says these very sentences, so the generated
columns are near zero by construction: the *success* columns (is the wanted sentence more probable than the other?) are
the ones to read.
"""

from __future__ import annotations

from corrigenda.edit import Edit
from corrigenda.eval.case import Case, Probe
from corrigenda.eval.datasets.counterfact import case_id
from corrigenda.eval.datasets.records import Fields

NAME = "convsent"
KEYS = frozenset({"ent", "pos", "neg"})
PROMPT = "What do you think of {}?"
WORDINGS = ("How do you feel about {}?", "What is your opinion of {}?", "How do you view {}?")


def read(record: Fields, number: int) -> Case:
    """Build the case of ``record``, the ``number``-th of its file (1-based).

    Raises:
        DatasetError: A field is missing or of the wrong type.
    """
    sides = {side: record.texts(side, least=1, limit=1_000) for side in ("pos", "neg")}
    side = record.text("target_sent") if "target_sent" in record else ("pos", "neg")[number % 2]
    if side not in sides:
        record.fail("target_sent", f"expected pos or neg, found {side!r}")
    wanted, rival = sides[side], sides["neg" if side == "pos" else "pos"][0]
    topic = record.text("ent")
    with record.building_edit():
        edit = Edit(PROMPT.format(topic), wanted[0], subject=topic, relation="sentiment")
    probes = [Probe("reliability", edit.prompt, wanted, side, rival)]
    probes += [Probe("generalization", wording.format(topic), wanted, side, rival) for wording in WORDINGS]
    return Case(case_id(record, number), (edit,), tuple(probes))
