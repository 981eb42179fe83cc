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
======================================  ==========================================================

``attribute_prompts`` and ``generation_prompts`` serve other metrics and are not read yet.
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
    probes = [Probe("reliability", edit.prompt, (edit.target,), "prompt")]
    probes += [
        Probe("generalization", prompt, (edit.target,), "paraphrase") for prompt in record.texts("paraphrase_prompts")
    ]
    probes += [Probe("locality", prompt, (old,), "neighborhood") for prompt in record.texts("neighborhood_prompts")]
    return Case(case_id(record, number), (edit,), tuple(probes))


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
