"""Attention: does anything in this request concern an edit? Asked on the event loop, so it must cost microseconds.

Judging encodes the request and takes milliseconds of a core. Most traffic names nothing that any edit is about, and
need not be judged: a look into the table of names says so.
"""

from __future__ import annotations

from corrigenda.memory.memory import Memory
from corrigenda.memory.mentions import Names, tokenize
from corrigenda.memory.texts import word_set

LONG = 20_000
"""Characters from which a text is judged without a look: tokenising it would hold up everyone else."""
_RARE = 8
"""A word that occurs in the names of more edits than this tells nothing about any of them."""
_SHORT = 4
"""Shorter words that are part of a name tell nothing, unless they are numbers."""
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

    def may_concern(self, texts: list[str], namespace: str) -> bool:
        """Tell whether any of ``texts`` may concern a live edit of ``namespace``.

        Yes when it holds a name or alias of one, or a word that few names have ("Lindqvist" for "Anna Lindqvist");
        yes also while some edit goes by no name at all, since only its meaning can be compared.
        """
        if self._has_nameless(namespace):
            return True
        names = self.memory.names(namespace)
        if not len(names):
            return False
        try:
            return any(len(text) > LONG or bool(names.find(text)) or self._partly(text, names) for text in texts)
        except RuntimeError:
            return True  # the table grew in another thread while it was read

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
            self._nameless[namespace] = any(not edit.names for edit in self.memory.live(namespace))
        return self._nameless[namespace]
