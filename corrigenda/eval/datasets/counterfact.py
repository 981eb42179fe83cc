"""CounterFact and multi-CounterFact.

Format: Meng et al. 2022, "Locating and Editing Factual Associations in GPT", §3.3.

======================================  ==========================================================
field                                   becomes
======================================  ==========================================================
``requested_rewrite.prompt``            the edit's prompt, with the subject in place of ``{}``
``requested_rewrite.target_new.str``    the edit's target
``requested_rewrite.target_true.str``   the edit's old answer
``paraphrase_prompts``                  generalization probes
``neighborhood_prompts``                locality probes (their true answer is ``target_true``)
``generation_prompts``                  beginnings of texts to write (fluency, consistency)
``attribute_prompts``                   with the target behind them: reference texts for consistency
======================================  ==========================================================

The last two may be missing. The old and the new answer are each other's rivals for ROME's success columns.
multi-CounterFact is the same format, with more than one edit a subject. ROME's own references for consistency are
Wikipedia texts that its data set does not hold; the statements of ``attribute_prompts`` say of others what the edit
says of its subject, and take their place.
"""

from __future__ import annotations

from corrigenda.edit import Edit, fold
from corrigenda.eval.case import Case, Probe
from corrigenda.eval.datasets.records import Fields

NAME = "counterfact"
KEYS = frozenset({"requested_rewrite", "paraphrase_prompts", "neighborhood_prompts"})


def read(record: Fields, number: int) -> Case:
    """Build the case of ``record``, the ``number``-th of its file (1-based).

    Raises:
        DatasetError: A field is missing or of the wrong type.
    """
    rewrite = record.within("requested_rewrite")
    old, edit = rewrite_edit(rewrite)
    new = edit.target
    probes = [Probe("reliability", edit.prompt, (new,), "prompt", old)]
    probes += [Probe("generalization", text, (new,), "paraphrase", old) for text in record.texts("paraphrase_prompts")]
    probes += [Probe("locality", text, (old,), "neighborhood", new) for text in record.texts("neighborhood_prompts")]
    writing = record.texts("generation_prompts") if "generation_prompts" in record else ()
    others = record.texts("attribute_prompts") if "attribute_prompts" in record else ()
    references = tuple(f"{text} {new}." for text in others)
    return Case(case_id(record, number), (edit,), tuple(probes), writing, references)


def rewrite_edit(rewrite: Fields) -> tuple[str, Edit]:
    """Return the old answer and the edit of a ``requested_rewrite`` object, as MQuAKE has them too."""
    template = rewrite.text("prompt")
    if template.count("{}") != 1:
        rewrite.fail("prompt", f"needs exactly one {{}} for the subject: {template!r}")
    subject = rewrite.text("subject")
    target = rewrite.within("target_new").answer("str")
    old = rewrite.within("target_true").answer("str")
    relation = rewrite.text("relation_id") if "relation_id" in rewrite else None
    with rewrite.building_edit():
        edit = Edit(
            template.replace("{}", subject),
            target,
            subject=subject,
            relation=relation,
            old_answer=None if fold(old) == fold(target) else old,
        )
    return old, edit


def case_id(record: Fields, number: int) -> str:
    """Return the record's ``case_id`` as text; its number when it has none."""
    if "case_id" not in record:
        return str(number)
    found = record.value["case_id"]
    if isinstance(found, bool) or not isinstance(found, int | str):
        record.fail("case_id", "expected a number or text")
    return str(found)
