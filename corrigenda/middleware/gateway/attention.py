"""Attention: does anything in this request concern an edit? Asked on the event loop, so it must cost microseconds.

Judging encodes the request and takes milliseconds of a core. Most traffic names nothing that any edit is about, and
need not be judged: a look into the table of names says so.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from corrigenda.chat import Chat
from corrigenda.memory.memory import Memory
from corrigenda.memory.mentions import Names, tokenize
from corrigenda.memory.texts import word_set

LONG = 20_000
"""Characters, of all texts together, from which a request is judged unseen: looking would hold up everyone else."""
_RARE = 8
"""A word that occurs in the names of more edits than this tells nothing about any of them."""
_SHORT = 4
"""Shorter words that are part of a name tell nothing, unless they are numbers."""
_TURNS = 6
"""Earlier turns that a question may point back to; of a long one its end counts."""
_END = 4_000
_BACK = re.compile(
    r"\b(?:he|she|it|they|him|her|them|his|hers|its|their|theirs|there|this|that|these|those|one|ones|same|former|latter)"
    r"\b|^\s*(?:and|or|also|then|so|but|what about|how about)\b|^.{0,60}$|\bthe (?:\w+)\b",
    re.IGNORECASE | re.DOTALL,
)
"""Ways of pointing back, and more: it errs towards looking at what was said before."""
OPENERS = word_set(
    "what which where when whose whom that this these those does have will would could should please tell give write "
    "explain describe list compare after before because while there their then than from with about into your also "
    "summarize summarise translate imagine suppose complete answer question"
)
"""Words that are capitalised for opening a sentence."""


class Attention:
    """Tells whether a text may concern an edit; errs towards yes.

    Args:
        memory: Where the edits are.
    """

    def __init__(self, memory: Memory) -> None:
        self.memory = memory
        self._seen = -1
        self._nameless: dict[str, bool] = {}

    def may_concern(self, chats: Sequence[Chat], namespace: str) -> bool:
        """Tell whether any of ``chats`` may concern a live edit of ``namespace``.

        Yes when the question holds a name or alias of one, or a word that few names have ("Lindqvist" for "Anna
        Lindqvist"), or points back ("Who is its president?") to a turn that does; yes also while some edit goes by no
        name at all, since only its meaning can be compared.
        """
        if self._has_nameless(namespace):
            return True
        names = self.memory.names(namespace)
        if not len(names):
            return False
        seen = 0
        for text in (text for chat in chats for text in _looked_at(chat)):
            seen += len(text)
            if seen > LONG or names.find(text) or self._partly(text, names):
                return True
        return False

    @staticmethod
    def _partly(text: str, names: Names) -> bool:
        shouted = text.isupper()
        for token in tokenize(text):
            head = text[token.start]
            # "company" is part of many names and tells nothing; "Lindqvist" does. Scripts without case are all names.
            if head.islower() or shouted or token.folded in OPENERS:
                continue
            if len(token.folded) < _SHORT and head.isascii() and not head.isdigit():
                continue
            if 0 < len(names.names_with_token(token.folded, _RARE + 1)) <= _RARE:
                return True
        return False

    def _has_nameless(self, namespace: str) -> bool:
        version = self.memory.version
        if version != self._seen:
            self._nameless.clear()
            self._seen = version
        if namespace not in self._nameless:
            # Of all times: when an edit begins to hold, the ledger says nothing new.
            self._nameless[namespace] = any(not edit.names for edit in self.memory.live_whenever(namespace))
        return self._nameless[namespace]


def _looked_at(chat: Chat) -> Iterator[str]:
    """Yield the question, and the turns before it that it may point back to."""
    asking = [place for place, turn in enumerate(chat.messages) if turn.role == "user"]
    if not asking:
        return
    question = chat.messages[asking[-1]].content
    yield question
    if _BACK.search(question):
        before = [turn.content for turn in chat.messages[: asking[-1]] if turn.role != "system"]
        yield from (text[-_END:] for text in before[-_TURNS:])
