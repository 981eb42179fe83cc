"""What a request asks for, told by its wording; and edits and queries as lines that cannot pose as anything else."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

from corrigenda.chat import Chat
from corrigenda.edit import Edit
from corrigenda.memory.scope import Candidate
from corrigenda.memory.segments import segments
from corrigenda.memory.texts import find_name, frame

LABELS = ("New Fact", "Prompt", "Answer", "Facts")
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
    return query[max(query.rfind(candidate.segment), 0) :].strip()


_QUESTION = re.compile(
    r"\b(who|whom|whose|what|which|where|when|how (?:many|much|old|tall|long|far|large|big))\b", re.I
)
_SECOND = re.compile(
    r"\b(?:and|or|but|then|also)\b[,\s]+(?=(?:also\s+|then\s+)?(?:who|whom|whose|what|which|where|when|why|how|is|are|"
    r"was|were|does|do|did|explain|describe|tell|list|write|give)\b)",
    re.I,
)
_PROSE = re.compile(
    r"\b(why|explain\w*|describ\w*|compar\w*|summari[sz]\w*|discuss\w*|translat\w*|rewrit\w*|essays?|poems?|stor(?:y|ies)|"
    r"step by step|in detail|reasons?|pros and cons|difference|advantages?|list of|say about|think of|true or false|"
    r"correct that|true that)\b",
    re.I,
)
_TASK = re.compile(
    r"\s*(?:(?:please|now|so|then|can you|could you|would you|will you|i want you to|i need you to|let's)[,\s]+)*"
    r"(?:write|compose|create|draft|generate|make|list|outline|plan|suggest|recommend|imagine|pretend|act|translate|"
    r"classify|rate|rank|fix|correct|check|proofread|edit|convert|count|calculate|help|teach|show|explain|describe|"
    r"compare|summari[sz]e|discuss|rewrite|why)\b",
    re.I,
)
_YES_NO = re.compile(
    r"\s*(?:and|so|but|well)?[,\s]*(?:is|are|was|were|do|does|did|has|have|had|can|could|will|would|should)\b"
    r"(?!.*\btell me\b)",
    re.I,
)
_ENDED = re.compile(r"[.!…;][\"'”’)\]]*$")
_LACKS_END = re.compile(r"\b(is|are|was|were|in|by|of|as|at|on|to|for|from|named|called|speaks?|plays?)$", re.I)


def asks_for_object(asked: str, edit: Edit, *, completion: bool) -> bool:
    """Tell whether ``asked`` is answered by naming one thing; words of the subject of ``edit`` do not count.

    See :func:`asks_for_one_thing`.
    """
    return asks_for_one_thing(asked, edit.names, completion=completion)


def asks_for_one_thing(asked: str, names: Sequence[str], *, completion: bool) -> bool:
    """Tell whether ``asked`` is answered by naming one thing: a plain question, or a sentence that lacks its end.

    Errs towards no: a request for a poem, an explanation, two things at once, or yes or no, is not one.

    Args:
        asked: What :func:`asked_part` returned.
        names: Of what it is about; their words ("Toy *Story*", "*Who* Dares Wins") do not count.
        completion: Whether the text is to be continued, so that it may end in the middle of a sentence.
    """
    if len(asked.split()) > MAX_ASKED_WORDS or "\n" in asked.strip():
        return False
    text = _without_names(asked, names).strip()
    if not text or text.count("?") > 1 or _TASK.match(text) or _SECOND.search(text):
        return False
    if text.endswith(("?", "？")):
        return bool(_QUESTION.search(text)) and not _YES_NO.match(text) and not _PROSE.search(text)
    if _ENDED.search(text):
        return False
    if completion:
        return True
    # In a conversation few turns are beginnings of sentences: a question without its mark, or a verb at the end.
    return bool(_QUESTION.match(text) or _LACKS_END.search(text)) and not _PROSE.search(text)


def _without_names(text: str, names: Sequence[str]) -> str:
    for name in sorted(names, key=len, reverse=True):
        text = frame(text, find_name(text, name))
    return text


def plain_question(request: Chat, edits: Sequence[Candidate]) -> tuple[Candidate, str] | None:
    """Return the edit that answers ``request``, and the part that asks; ``None`` when it is no plain question.

    Several edits may bear on one question; the most probable that answers it directly counts.
    """
    direct = [candidate for candidate in edits if candidate.verdict == "direct"]
    if not direct or any(candidate.segment != direct[0].segment for candidate in direct):
        return None
    asked = asked_part(request.query, direct[0])
    return (direct[0], asked) if asks_for_object(asked, direct[0].edit, completion=request.completion) else None


def plain_questions(request: Chat, edits: Sequence[Candidate]) -> tuple[Candidate, ...]:
    """Return the edits that answer a request of several plain questions, in the order of the questions.

    Empty when some question is no plain one, or has no edit or two, or some edit no question.
    """
    asking = [segment.text for segment in segments(request.query) if segment.asked]
    clauses = [clause for text in asking for clause in _clauses(text)]
    answers = []
    for clause in clauses:
        fitting = [item for item in edits if any(find_name(clause, name) for name in item.edit.names)]
        if len(fitting) != 1 or fitting[0].verdict != "direct":
            return ()
        if not asks_for_object(clause, fitting[0].edit, completion=False):
            return ()
        answers.append(fitting[0])
    used = {item.edit.id for item in answers}
    return tuple(answers) if len(used) == len(answers) == len(edits) else ()


def _clauses(text: str) -> list[str]:
    """Cut "what is A, and who is B?" into "what is A?" and "who is B?"."""
    clauses = [clause.strip(" ,") for clause in _SECOND.split(text)]
    mark = "?" if text.endswith("?") else ""
    return [*(clause + mark for clause in clauses[:-1]), clauses[-1]]
