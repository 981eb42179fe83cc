"""MQuAKE-CF, -T and -CF-3k-v2.

Format: Zhong et al. 2023, "MQuAKE: Assessing Knowledge Editing in Language Models via Multi-Hop Questions".

=================================  =======================================================
field                              becomes
=================================  =======================================================
``requested_rewrite``              the edits, one to four, made together
``requested_rewrite[].question``   a generalization probe: the edit's fact, asked
``questions``                      multi-hop probes, three wordings of one question
``new_answer``, its aliases        what they should get
=================================  =======================================================

In ``multi_hop`` each wording counts by itself; ``multi_hop_any`` counts a record as right
when any of its three wordings is, as the original does.
"""

from __future__ import annotations

from corrigenda.eval.case import Case, Probe
from corrigenda.eval.datasets.counterfact import case_id, rewrite_edit
from corrigenda.eval.datasets.records import Fields

NAME = "mquake"
KEYS = frozenset({"requested_rewrite", "questions", "new_answer"})


def read(record: Fields, number: int) -> Case:
    """Build the case of ``record``, the ``number``-th of its file (1-based).

    Raises:
        DatasetError: A field is missing or of the wrong type.
    """
    edits, probes = [], []
    for rewrite in record.each("requested_rewrite", least=1):
        _, edit = rewrite_edit(rewrite)
        edits.append(edit)
        probes.append(Probe("reliability", edit.prompt, (edit.target,), "prompt", edit.old_answer))
        if "question" in rewrite:
            question = rewrite.text("question")
            probes.append(Probe("generalization", question, (edit.target,), "question", edit.old_answer))
    aliases = record.texts("new_answer_alias") if "new_answer_alias" in record else ()
    answers = tuple(dict.fromkeys((record.answer("new_answer"), *aliases)))
    kind = f"{len(record.each('new_single_hops'))}_hops" if "new_single_hops" in record else "question"
    probes += [Probe("multi_hop", text, answers, kind) for text in record.texts("questions", least=1)]
    return Case(case_id(record, number), tuple(edits), tuple(probes))
