"""What a request asks for, told by its wording; and edits and queries as lines that cannot pose as anything else."""

from __future__ import annotations

import re
import unicodedata

from corrigenda.edit import Edit
from corrigenda.memory.scope import Candidate

LABELS = ("New Fact", "Prompt", "Answer")
"""What opens a line of a demonstration."""

_LABEL = re.compile(rf"\b({'|'.join(LABELS)})(\s*)[:：]", re.IGNORECASE)

MAX_ASKED_WORDS = 40
"""Longest sentence, in words, that is taken for a plain question."""


def one_line(text: str) -> str:
    """Return ``text`` as data for one line: white space and control characters collapsed, labels without colon.

    Lines separate the parts of a demonstration, and a label opens one; text from outside has neither. Strings that
    look like a model's control tokens are spelled out where text becomes tokens (:mod:`corrigenda.lm.tokens`).
    """
    spaced = "".join(" " if unicodedata.category(char) in ("Cc", "Zl", "Zp") else char for char in text)
    return _LABEL.sub(r"\1 –", " ".join(spaced.split()))


def statement(edit: Edit) -> str:
    """Return the edit on one line, without a full stop that is not its own."""
    return f"{one_line(edit.prompt)} {one_line(edit.target)}"


def asked_part(query: str, candidate: Candidate) -> str:
    """Return the end of ``query`` that asks: from the beginning of the sentence that the edit was found for.

    "The mill has five floors. The owner of TechNet is" asks "The owner of TechNet is".
    """
    start = query.rfind(candidate.segment)
    return query[start:].strip() if start >= 0 else query.strip()


_QUESTION = re.compile(
    r"\b(who|whom|whose|what|which|where|when|how (?:many|much|old|tall|long|far|large|big))\b", re.I
)
_SECOND = re.compile(
    r"\b(?:and|or|but|then|also)\b[,\s]+(?:also\s+|then\s+)?(?:who|whom|whose|what|which|where|when|why|how|is|are|"
    r"was|were|does|do|did|explain|describe|tell|list|write|give)\b",
    re.I,
)
_LONG_ANSWER = re.compile(
    r"\b(why|explain\w*|describ\w*|compar\w*|summari[sz]\w*|discuss\w*|translat\w*|rewrit\w*|essays?|poems?|stor(?:y|ies)|"
    r"step by step|in detail|reasons?|pros and cons|difference|advantages?|list of|say about|think of|true or false|"
    r"correct that|true that)\b",
    re.I,
)
_TASK = re.compile(
    r"^\s*(?:(?:please|now|so|then|can you|could you|would you|will you|i want you to|i need you to|let's)[,\s]+)*"
    r"(?:write|compose|create|draft|generate|make|list|outline|plan|suggest|recommend|imagine|pretend|act|translate|"
    r"classify|rate|rank|fix|correct|check|proofread|edit|convert|count|calculate|help|teach|show)\b",
    re.I,
)
_YES_NO = re.compile(
    r"^\s*(?:and|so|but|well)?[,\s]*(?:is|are|was|were|do|does|did|has|have|had|can|could|will|would|should)\b"
    r"(?!.*\btell me\b)",
    re.I,
)
_ENDED = re.compile(r"[.!…;][\"'”’)\]]*\s*$")


def asks_for_object(asked: str, *, completion: bool) -> bool:
    """Tell whether ``asked`` is answered by naming one thing: a plain question, or a sentence that lacks its end.

    Errs towards no: a request for a poem, an explanation, two things at once, or yes or no, is not one.

    Args:
        asked: What :func:`asked_part` returned.
        completion: Whether the text is to be continued, so that it may end in the middle of a sentence.
    """
    text = asked.strip()
    if not text or len(text.split()) > MAX_ASKED_WORDS or text.count("?") > 1 or "\n" in text:
        return False
    if _LONG_ANSWER.search(text) or _TASK.search(text) or _SECOND.search(text):
        return False
    if text.endswith(("?", "？")):
        return _QUESTION.search(text) is not None and not _YES_NO.search(text)
    if _ENDED.search(text):
        return False
    # In a conversation few turns are beginnings of sentences: a question without its mark, or a verb at the end.
    return completion or _QUESTION.match(text) is not None or _LACKS_END.search(text) is not None


_LACKS_END = re.compile(r"\b(is|are|was|were|in|by|of|as|at|on|to|for|from|named|called|speaks?|plays?)$", re.I)
