"""KnowEdit and EasyEdit's portability files (Yao et al. 2023; Zhang et al. 2024).

WikiData_counterfact, WikiData_recent, ZsRE and WikiBio; ConvSent and Sanitation have formats of their own.

==========================================  ==========================================================
field                                       becomes
==========================================  ==========================================================
``prompt``, ``target_new``, ``subject``     the edit
``text``, ``labels``, ``concept``           the same in WikiBio: a biography so far, its next sentence, its hero
``ground_truth``                            its old answer (text, or a list of which the first counts)
``rephrase_prompt`` or ``rephrase``         generalization probes (text, or a list of texts)
``portability.<kind>[]``                    portability probes, labelled with the kind
``locality.<kind>[]``                       locality probes, labelled with the kind
==========================================  ==========================================================

A probe's ``ground_truth`` is a list of answers, each a list of spellings; some published files hold plain
text or a flat list instead, and all three are read. A locality probe passes when the answer is the same as
before the edit, whatever was true.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from corrigenda.edit import Edit, fold
from corrigenda.eval.case import Case, Probe
from corrigenda.eval.datasets.counterfact import case_id
from corrigenda.eval.datasets.records import Fields, describe

NAME = "knowedit"
KEYS = frozenset({"prompt", "target_new", "locality"})
WIKIBIO_KEYS = frozenset({"text", "labels", "concept"})


def read(record: Fields, number: int) -> Case:
    """Build the case of ``record``, the ``number``-th of its file (1-based).

    Raises:
        DatasetError: A field is missing or of the wrong type.
    """
    wikibio = "prompt" not in record and "text" in record
    prompt, target_key, subject = ("text", "labels", "concept") if wikibio else ("prompt", "target_new", "subject")
    target = record.answer(target_key)
    old = spellings(record, "ground_truth") if "ground_truth" in record else ()
    with record.building_edit():
        edit = Edit(
            record.text(prompt),
            target,
            subject=record.text(subject),
            old_answer=old[0] if old and fold(old[0]) != fold(target) else None,
        )
    probes = [Probe("reliability", edit.prompt, (target,), "prompt", edit.old_answer)]
    for key in ("rephrase_prompt", "rephrase"):
        if key in record:
            listed = isinstance(record.value[key], list)
            texts = record.texts(key) if listed else (record.text(key),)
            probes += [Probe("generalization", text, (target,), "rephrase", edit.old_answer) for text in texts]
    probes += [*_labelled(record, "portability"), *_labelled(record, "locality")]
    return Case(case_id(record, number), (edit,), tuple(probes))


def _labelled(record: Fields, role: Literal["portability", "locality"]) -> Iterator[Probe]:
    if role not in record:  # WikiBio has no portability, a few records of the others no locality
        return
    groups = record.within(role)
    for kind in groups.value:
        for probe in groups.each(kind):
            prompts = probe.texts("prompt") if isinstance(probe.value.get("prompt"), list) else (probe.text("prompt"),)
            answers = spellings(probe, "ground_truth")
            for prompt in prompts:
                yield Probe(role, prompt, answers, kind)


def spellings(fields: Fields, key: str) -> tuple[str, ...]:
    """Return all accepted spellings of ``key``, from text, a list of texts, or a list of lists of texts."""
    found = fields.get(key, object, "text or a list")
    if isinstance(found, str):
        return (fields.answer(key),)
    if not isinstance(found, list):
        fields.fail(key, f"expected text or a list, found {describe(found)}")
    flat = []
    for place, item in enumerate(found):
        for text in item if isinstance(item, list) else [item]:
            if not isinstance(text, str):
                fields.fail(f"{key}[{place}]", f"expected text, found {describe(text)}")
            # Published files hold a few empty spellings; they accept nothing, so nothing is lost without
            # them.
            if text.strip():
                flat.append(text.strip())
    if not flat:
        fields.fail(key, "holds no answer")
    return tuple(dict.fromkeys(flat))
