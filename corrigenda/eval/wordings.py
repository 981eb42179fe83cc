"""Which wordings a data set asks. What is asked must not be told, or generalization is measured on what was taught."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, cached_property

from corrigenda.edit import fold
from corrigenda.eval.case import Case


class Asked:
    """The wordings of all generalization probes and all edits of some cases, whoever they are about.

    Args:
        cases: Cases; those whose edits name no subject ask nothing that could be told of another.
    """

    def __init__(self, cases: Sequence[Case]) -> None:
        self.cases = cases
        self.allows = cache(self._allows)
        """Tells whether a wording, {} for the subject, is none of these; a prompt may begin with something else."""

    @cached_property
    def _frames(self) -> set[str]:
        # Found when the first wording is judged: most evaluations add none.
        found: set[str] = set()
        for case in self.cases:
            asked = [probe.prompt for probe in case.probes if probe.role == "generalization"]
            for edit in case.edits:
                if edit.subject is not None:
                    found |= {_frame(text, edit.subject) for text in (edit.prompt, *asked)}
        return found

    def _allows(self, wording: str) -> bool:
        own = fold(wording)
        return not any(frame.endswith(own) for frame in self._frames)


def _frame(text: str, subject: str) -> str:
    return fold(text).replace(fold(subject), "{}")
