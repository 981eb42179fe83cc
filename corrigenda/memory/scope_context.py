"""What earlier messages supply: who "she" is, which country "there" means, what "And Norway?" asks about it.

Rules, not a model: a message is completed only when it points back in one of a few clear ways, and the judge decides
about the completed question as about any other. Names come from the last exchange that names something.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from corrigenda.memory.mentions import Mention
from corrigenda.memory.segments import segments
from corrigenda.memory.texts import capitalised_runs, word_set

MOST_NAMES = 2
"""Most names that a pronoun is tried with, the last mentioned first."""
_EXCHANGE = 2  # messages that are looked at together: a question and its answer
_LOOKED_AT = 6  # how many messages back a name may lie
_MOST_CHARACTERS = 4_000  # of a longer message the end counts

_KINDS = (
    "company|country|city|town|village|state|region|place|person|man|woman|band|group|film|movie|show|series|book|novel|"
    "song|album|team|club|organi[sz]ation|player|actor|actress|singer|writer|author|politician|product|game|car|"
    "university|school|museum|airport|mountain|river|lake|island|building|newspaper|magazine|channel|language"
)
_POSSESSIVE = re.compile(rf"\b(?:his|its|their|her(?=\s+\w)|(?:this|that|the) (?:{_KINDS})'s)\b", re.IGNORECASE)
_PERSONAL = re.compile(
    rf"\b(?:he|she|it|they|him|her|them|(?:this|that) (?:{_KINDS})|"
    rf"the (?:{_KINDS})(?!\s+(?:of|in|that|which|who|where)\b))\b",
    re.IGNORECASE,
)
_THERE = re.compile(
    r"(?<!is )(?<!are )(?<!was )(?<!were )(?<!he['’]s )(?<!it['’]s )(?<!they['’]re )"
    r"\bthere\b(?! (?:is|are|was|were|a|an|any)\b)",
    re.IGNORECASE,
)
_SHORTENED = re.compile(r"\b(?:he|she|it|they)(?:'|’)(?:s|re)\b", re.IGNORECASE)
_PRONOUN = re.compile(
    rf"(?P<shortened>{_SHORTENED.pattern})|(?P<possessive>{_POSSESSIVE.pattern})"
    rf"|(?P<personal>{_PERSONAL.pattern})|(?P<there>{_THERE.pattern})",
    re.IGNORECASE,
)
_INSTEAD = {"shortened": "{} is", "possessive": "{}'s", "personal": "{}", "there": "in {}"}
# "The company Apple" says which; "the company CEO" does not, nor "the company German?" or "the company Monday?".
_CALLED = re.compile(
    r"(?<=[a-z])\s+(?:[\"“«]|(?!(?:Today|(?:Mon|Tues|Wednes|Thurs|Fri|Satur|Sun)day|January|February|"
    r"March|April|May|June|July|August|September|October|November|December)\b)[A-Z][a-z])"
)
_BEING = re.compile(r"\b(?:is|are|was|were|isn['’]t|aren['’]t|wasn['’]t|weren['’]t)\s+$", re.IGNORECASE)
_INITIALS = re.compile(r"(?<!\S)[^\w\s]*(\w)")
_OPENING = re.compile(r"(?:^|[.!?…:])\W*$")
_ELLIPSIS = re.compile(
    r"(?:and|or|also|what about|how about)\s+(?:(?:the|a)\s+)?(?P<what>[a-z][a-z -]{2,40}?)\s*\??", re.I
)
_OTHER = re.compile(
    r"(?:and|or|also|what about|how about)\s+(?:(?:for|in|of|at|with|by)\s+)?(?P<name>[^?.!]{2,60}?)\s*\??",
    re.IGNORECASE,
)
_NO_NAMES = word_set("i i'm i'd i'll i've ok okay yes no thanks hello hi sure")

Mentions = Callable[[str], Sequence[Mention]]


def completed(text: str, before: Sequence[str], mentions: Mentions) -> list[str]:
    """Return what ``text`` asks in full, in one or more readings; empty when it points back to nothing.

    Args:
        text: A sentence of a message.
        before: What was said before it, oldest first.
        mentions: Finds the names of live edits in a text.
    """
    if not before:
        return []
    body = text.strip()
    if (other := _OTHER.fullmatch(body)) and _is_name(other["name"]):
        question = _asked_before(before, mentions)
        return [question(other["name"])] if question else []
    fill = _points_back(body)
    if fill is None or mentions(body):
        return []
    return [fill(name) for name in _names_before(before, mentions)]


def _points_back(text: str) -> Callable[[str], str] | None:
    """Return how to complete ``text`` with a name, if it needs one."""
    if (short := _ELLIPSIS.fullmatch(text)) and not _POSSESSIVE.search(text) and not _runs(text):
        return lambda name: f"What is the {short['what']} of {name}?"
    pronouns = _pronouns(text)
    return (lambda name: _filled(text, pronouns, name)) if pronouns else None


def _pronouns(text: str) -> list[re.Match[str]]:
    """Return what points back in ``text``, without names that are spelt as pronouns: "Who directed It Follows?".

    A capital tells them apart where no sentence begins. It tells nothing in a headline, whose words all have one.
    """
    found = list(_PRONOUN.finditer(text))
    if not any(initial.islower() for initial in _INITIALS.findall(text)):
        return found
    return [match for match in found if _pronominal(match, text)]


def _pronominal(match: re.Match[str], text: str) -> bool:
    """Tell whether what is spelt as a pronoun is one, in a text that is no headline."""
    before = text[: match.start()]
    if not match[0][0].islower() and not _OPENING.search(before):
        return False
    is_kind = " " in match[0] and match.lastgroup == "personal"
    # Behind "is the company" stands what it is, not its name.
    return not (is_kind and _CALLED.match(text, match.end()) and not _BEING.search(before))


def _filled(text: str, pronouns: Sequence[re.Match[str]], name: str) -> str:
    """Return ``text`` with ``name`` for the pronouns. The name is not read: it may hold words that look like some."""
    pieces, end = [], 0
    for match in pronouns:
        pieces += [text[end : match.start()], _INSTEAD[str(match.lastgroup)].format(name)]
        end = match.end()
    return "".join([*pieces, text[end:]])


def _names_before(before: Sequence[str], mentions: Mentions) -> list[str]:
    """Return the names of live edits in the last exchange that names anything, the last mentioned first."""
    recent = [message[-_MOST_CHARACTERS:] for message in reversed(before[-_LOOKED_AT:])]
    for start in range(0, len(recent), _EXCHANGE):
        exchange = recent[start : start + _EXCHANGE]
        found = [
            message[mention.start : mention.end]
            for message in exchange
            for mention in sorted(mentions(message), key=lambda mention: -mention.start)
            if not mention.nested and not mention.extended
        ]
        if found:
            return list(dict.fromkeys(found))[:MOST_NAMES]
        if any(_runs(message) for message in exchange):
            return []  # it speaks of something that no edit is about
    return []


def _asked_before(before: Sequence[str], mentions: Mentions) -> Callable[[str], str] | None:
    """Return the last question that was asked about some name, to be asked about another."""
    for message in reversed(before[-_LOOKED_AT:]):
        for segment in reversed(segments(message[-_MOST_CHARACTERS:])):
            text = segment.text.strip()
            spans = [(mention.start, mention.end) for mention in mentions(text) if not mention.nested] or _runs(text)
            if text.endswith("?") and spans and not _OTHER.fullmatch(text):
                start, end = max(spans, key=lambda span: span[1] - span[0])
                return lambda name, text=text, start=start, end=end: text[:start] + name + text[end:]  # type: ignore[misc]
    return None


def _is_name(text: str) -> bool:
    """Tell whether ``text`` is a name and nothing else: "the Congo", but not "who owns Omni"."""
    runs = _runs(text)
    return len(runs) == 1 and text[: runs[0][0]].strip().casefold() in ("", "the") and not text[runs[0][1] :].strip()


def _runs(text: str) -> list[tuple[int, int]]:
    """Return the capitalised names in ``text``, without the first word of a sentence that is only its beginning."""
    found = []
    for start, end in capitalised_runs(text):
        words = [word for word in text[start:end].split() if word.casefold() not in _NO_NAMES]
        alone = (
            len(words) == 1
            and (start == 0 or text[:start].rstrip().endswith((".", "!", "?")))
            and text[end:].strip(" ?.!")
        )
        if words and not alone:
            found.append((start, end))
    return found
