"""KnowEdit's Sanitation: forget some answers, retain the others.

Format: Ishibashi and Shimodaira 2023, "Knowledge Sanitization of Large Language Models", as EasyEdit reads it: one
object with two lists.

==========================  ==============================================================================
field                       becomes
==========================  ==============================================================================
``K_F[].question``          an edit's prompt, and its reliability probe
``K_F[].target_new``        its target: a refusal
``K_F[].ground_truth``      its old answer, what is to be forgotten
``K_R[].question``          locality probes, two a case in turn: what is to be retained
==========================  ==============================================================================
"""

from __future__ import annotations

from collections.abc import Sequence

from corrigenda.edit import Edit, fold
from corrigenda.eval.case import Case, Probe
from corrigenda.eval.datasets.records import Fields

NAME = "sanitation"
KEYS = frozenset({"K_F", "K_R"})
RETAINED = 2
"""Locality probes of a case."""


def read_all(whole: Fields) -> tuple[Case, ...]:
    """Build the cases of a file.

    Raises:
        DatasetError: A field is missing or of the wrong type.
    """
    forget, retain = whole.each("K_F", least=1), whole.each("K_R", least=1)
    return tuple(_case(item, retain, number) for number, item in enumerate(forget))


def _case(record: Fields, retain: Sequence[Fields], number: int) -> Case:
    target, old = record.answer("target_new"), record.answer("ground_truth")
    with record.building_edit():
        edit = Edit(record.text("question"), target, old_answer=None if fold(old) == fold(target) else old)
    probes = [Probe("reliability", edit.prompt, (target,), "forget", edit.old_answer)]
    for place in range(RETAINED):
        kept = retain[(number * RETAINED + place) % len(retain)]
        probes.append(Probe("locality", kept.text("question"), (kept.answer("ground_truth"),), "retain"))
    return Case(str(number + 1), (edit,), tuple(dict.fromkeys(probes)))
