"""Mentions: which names of live edits occur in a text, in time that depends on the text and not on the edits.

Text is cut into tokens: words and numbers, case-folded; every character of a script written without spaces. A name is
found where its tokens follow each other, so "Windows NT 3.5" is not in "Windows NT 3.51", and punctuation, hyphens and
a possessive 's do not matter.
"""

from __future__ import annotations

import re
import sys
import threading
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice

from corrigenda.edit import EditId

MAX_NAME_TOKENS = 32
"""Longer names are sentences: nobody mentions them, and looking for them would cost every query."""
_LONGEST_WORD = 64

_SPACELESS = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_ASCII_TOKEN = re.compile(r"\d+(?:[.,]\d+)+(?!\w)|'[sS](?!\w)|\w+(?:\+\+|#)?(?!\w)|\w+")
# Capitalised for standing first in a sentence, or in a question put as a headline: no part of the name that follows.
_OPENERS = frozenset(
    """
    a about according after also am an and are as at be because been before but by can compare consider could
    define describe did discuss do does during every explain find for from give had has have he her his how i
    if in is it its let list may might must my name no not of on or our please say she should show so some
    state such summarise summarize tell than that the their then there these they this those to translate
    under until was we were what when where whether which while who whom whose why will with would write yes
    you your
    """.split()  # noqa: SIM905 - a hundred words read better without quotes
)


@dataclass(frozen=True, slots=True)
class Token:
    """One token of a text: ``text[start:end]``, and its folded form."""

    folded: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Mention:
    """A name of live edits, found in a text.

    Attributes:
        edit_ids: The edits that go by the name, in the order in which they became live.
        name: The name, as the first of them spells it.
        start, end: It is ``text[start:end]``.
        extended: A capitalised word or a number stands right beside it, as in "Windows NT 3.5 *Server*": the text
            may speak of something else with a longer name.
        nested: It lies inside a longer mention.
    """

    edit_ids: tuple[EditId, ...]
    name: str
    start: int
    end: int
    extended: bool = False
    nested: bool = False


def tokenize(text: str) -> list[Token]:
    """Cut ``text`` into tokens; places count its own characters, whatever its normal form."""
    pattern = _ASCII_TOKEN if text.isascii() else _token_pattern()
    return [Token(_fold(match.group()), *match.span()) for match in pattern.finditer(text)]


def name_tokens(name: str) -> tuple[str, ...]:
    """Return the folded tokens of a name; empty for one of punctuation only."""
    pattern = _ASCII_TOKEN if name.isascii() else _token_pattern()
    return tuple(map(_fold, pattern.findall(name)))


def _fold(token: str) -> str:
    # Words come again. Longer tokens are none, and remembering them would keep whole queries in memory.
    return _fold_word(token) if len(token) <= _LONGEST_WORD else _fold_word.__wrapped__(token)


@lru_cache(maxsize=65_536)
def _fold_word(token: str) -> str:
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", token).casefold())
    return folded.replace("’", "'").replace(" ", "")  # ﷺ is a phrase in form NFKC; here it stays one token


@lru_cache(maxsize=1)
def _token_pattern() -> re.Pattern[str]:
    # A word with an accent written as a mark of its own is one word; Python's \w leaves such marks out.
    marks = [chr(code) for code in range(0x300, min(0x20000, sys.maxunicode)) if _is_mark(chr(code))]
    word = rf"[^\W{_SPACELESS}](?:[^\W{_SPACELESS}]|[{_ranges(marks)}])*"
    single = f"[{_SPACELESS}]"
    return re.compile(rf"\d+(?:[.,]\d+)+(?!\w)|['’][sS](?!\w)|{word}(?:\+\+|#)?(?!\w)|{word}|{single}")


def _is_mark(char: str) -> bool:
    return unicodedata.category(char).startswith("M") and not re.match(f"[{_SPACELESS}]", char)


def _ranges(chars: Sequence[str]) -> str:
    """Return ``chars``, sorted, as the inside of a character class."""
    spans: list[list[int]] = []
    for code in map(ord, chars):
        if spans and code == spans[-1][1] + 1:
            spans[-1][1] = code
        else:
            spans.append([code, code])
    return "".join(f"{chr(first)}-{chr(last)}" for first, last in spans)


class Names:
    """The names of the live edits of one namespace. Adding, removing and finding do not slow down with their number.

    Safe to share between threads.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._entries: dict[str, dict[EditId, str]] = {}
        # First token of a name -> bit n set: some name of n tokens begins so. Bits are never cleared: a stale one
        # costs a look-up, counting them would cost memory for a million names.
        self._lengths: dict[str, int] = {}
        self._inverted: dict[str, dict[str, None]] | None = None

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, edit_id: EditId, names: Iterable[str]) -> None:
        """Let ``edit_id`` go by ``names``."""
        with self._lock:
            for name in names:
                tokens = name_tokens(name)
                if not 0 < len(tokens) <= MAX_NAME_TOKENS:
                    continue
                key = " ".join(tokens)
                self._entries.setdefault(key, {}).setdefault(edit_id, name)
                self._lengths[tokens[0]] = self._lengths.get(tokens[0], 0) | 1 << len(tokens)
                if self._inverted is not None:
                    _invert(self._inverted, key)

    def remove(self, edit_id: EditId, names: Iterable[str]) -> None:
        """Undo :meth:`add` with the same arguments."""
        with self._lock:
            for name in names:
                key = " ".join(name_tokens(name))
                entry = self._entries.get(key)
                if entry is None or entry.pop(edit_id, None) is None or entry:
                    continue
                del self._entries[key]
                if self._inverted is not None:
                    for token in key.split(" "):
                        self._inverted[token].pop(key, None)

    def find(self, text: str, holds: Callable[[EditId], bool] = lambda _: True) -> list[Mention]:
        """Return the mentions in ``text``, longest first, then from left to right; nested ones too.

        Args:
            text: Any text.
            holds: Tells whether an edit counts.
        """
        tokens = tokenize(text)
        found = self._find([token.folded for token in tokens], holds)
        found.sort(key=lambda item: (item[0] - item[1], item[0]))
        return self._mentions(text, tokens, found)

    def names_with_token(self, token: str, limit: int = 64) -> list[str]:
        """Return up to ``limit`` names that have ``token`` among their tokens, oldest first.

        The table behind it is built on the first call and kept up to date from then on.
        """
        with self._lock:
            if self._inverted is None:
                inverted: dict[str, dict[str, None]] = {}
                for key in self._entries:
                    _invert(inverted, key)
                self._inverted = inverted
            keys = self._inverted.get(_fold(token), {})
            return [next(iter(self._entries[key].values())) for key in islice(keys, limit)]

    def ids_named(self, name: str) -> tuple[EditId, ...]:
        """Return the edits that go by ``name``, whatever the case and punctuation; empty for none."""
        with self._lock:
            return tuple(self._entries.get(" ".join(name_tokens(name)), ()))

    def _find(
        self, folded: Sequence[str], holds: Callable[[EditId], bool]
    ) -> list[tuple[int, int, str, tuple[EditId, ...]]]:
        """Return first and last token (exclusive), name and edits of each mention."""
        found = []
        with self._lock:
            for first, word in enumerate(folded):
                mask = self._lengths.get(word, 0)
                while mask:
                    length = mask.bit_length() - 1
                    mask ^= 1 << length
                    entry = self._entries.get(" ".join(folded[first : first + length]))
                    if entry is None or first + length > len(folded):
                        continue
                    if ids := tuple(edit_id for edit_id in entry if holds(edit_id)):
                        found.append((first, first + length, entry[ids[0]], ids))
        return found

    @staticmethod
    def _mentions(
        text: str, tokens: list[Token], found: list[tuple[int, int, str, tuple[EditId, ...]]]
    ) -> list[Mention]:
        covered = [-1] * len(tokens)  # which mention, longest first, covers a token
        mentions = []
        for number, (first, stop, name, ids) in enumerate(found):
            cover = covered[first]
            nested = cover >= 0 and found[cover][0] <= first and stop <= found[cover][1]
            if not nested:
                covered[first:stop] = [number] * (stop - first)
            mentions.append(
                Mention(
                    ids, name, tokens[first].start, tokens[stop - 1].end, _extended(text, tokens, first, stop), nested
                )
            )
        return mentions


def _invert(inverted: dict[str, dict[str, None]], key: str) -> None:
    """Enter ``key``, the tokens of a name, under each of them."""
    for token in key.split(" "):
        inverted.setdefault(token, {})[key] = None


def _extended(text: str, tokens: list[Token], first: int, stop: int) -> bool:
    beside = stop < len(tokens) and _joined(text, tokens[stop - 1].end, tokens[stop].start)
    if beside and _name_like(text, tokens[stop], sentence_start=False):
        return True
    if first > 0 and _joined(text, tokens[first - 1].end, tokens[first].start):
        before = tokens[first - 1]
        opens = first == 1 or not _joined(text, tokens[first - 2].end, before.start)
        return _name_like(text, before, sentence_start=opens)
    return False


def _joined(text: str, end: int, start: int) -> bool:
    """Tell whether only spaces, a hyphen, slash, ampersand or a full stop of an initial lie between two tokens."""
    gap = text[end:start].strip()
    return gap in ("", "-", "‐", "–", "/", "&", "'", "’") or (gap == "." and end >= 1 and _is_initial(text, end))


def _is_initial(text: str, end: int) -> bool:
    return text[end - 1].isupper() and (end < 2 or not text[end - 2].isalnum())


def _name_like(text: str, token: Token, *, sentence_start: bool) -> bool:
    head = text[token.start]
    if head.isdigit():
        return True
    if not head.isupper():
        return False
    return token.folded not in _OPENERS or (
        not sentence_start and token.end - token.start > 1 and _shouted(text, token)
    )


def _shouted(text: str, token: Token) -> bool:
    """Tell whether an opener like IT or US stands in capitals: a name then, unless the whole text is in capitals."""
    return text[token.start : token.end].isupper() and not text.isupper()
