"""When an answer is over: a pure rule on text, used both while generating and on finished text.

The rule. White space before the first visible character never ends an answer. After it, an answer ends

* before the first newline (``newline``),
* after the first sentence (``sentence``): one of ``. ! ?``, then any closing quotes or brackets, then white
  space, then something that can begin a sentence, i.e. neither a lower-case letter nor a digit nor a joining
  mark. A full stop after an initial or a dotted abbreviation (``J.``, ``U.S.``) or a word of
  :data:`ABBREVIATIONS` (``Dr.``, ``St.``) ends nothing, and so do the points in ``12.5`` and ``example.com``,
  which no white space follows. ``。！？`` end a sentence by themselves.
* before the first of ``texts``.

The white space before the end goes as well. When in doubt the text goes on: "He lives in the U.S. She too." is one
answer. End-of-sequence tokens always end one; that is the generator's part.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

# Not "no": "Oh no." is an answer, and "No. 5" goes on by itself, because a digit follows.
_SHORT = """
    mr mrs ms dr prof st ste sr jr vs vol fig gen col lt sgt capt cpt cmdr adm rev hon gov sen rep pres
    inc ltd corp co bros mt ft ave blvd rd dept univ approx ca cf al etc ed eds est
    jan feb mar apr jun jul aug sep sept oct nov dec
"""
ABBREVIATIONS = frozenset(_SHORT.split())
"""Words that a full stop shortens, case-folded."""

# A run of marks and a word are tried once, from their first character, and nothing is given back: the time is linear.
_STOP = re.compile(r"""(?<![.!?])(?P<mark>[.!?]++)["'”’»)\]]*+(?=\s++(?P<next>\S))|[。！？]["'”’」』）]*""")
_LAST_WORD = re.compile(r"(?<![^\W\d_])(?P<word>[^\W\d_]++)$")
_DOTTED = re.compile(r"(?:^|[^\w.])(?:[^\W\d_]\.)*[^\W\d_]$")
_JOINING = frozenset(",;:-–—/&+=%")


@dataclass(frozen=True, slots=True)
class Stop:
    """What ends an answer, besides the end-of-sequence token.

    Attributes:
        newline: A newline after the first visible character.
        sentence: The end of the first sentence.
        texts: Any of these, wherever they begin.
    """

    newline: bool = True
    sentence: bool = True
    texts: tuple[str, ...] = ()


NATURAL = Stop()
"""One sentence or one line, whichever ends first."""
LINE = Stop(sentence=False)
"""One line."""
UNTIL_EOS = Stop(newline=False, sentence=False)
"""Whatever the model says until it stops by itself."""


def end(text: str, stop: Stop) -> int | None:
    """Return the place where the answer in ``text`` ends; ``None`` when it may still go on."""
    start = len(text) - len(text.lstrip())
    found = [text.find("\n", start) if stop.newline else -1]
    found += [text.find(mark) for mark in stop.texts if mark]
    if stop.sentence:
        found.append(_sentence_end(text, start))
    place = min((place for place in found if place >= 0), default=None)
    # White space before the end goes too: whether a sentence or the newline after it was seen first must not matter.
    return None if place is None else len(text[:place].rstrip())


def cut(text: str, stop: Stop = NATURAL) -> str:
    """Return ``text`` up to where it ends by ``stop``; all of it when it does not. Idempotent."""
    return text[: end(text, stop)]


def _sentence_end(text: str, start: int) -> int:
    seen = start
    for match in _STOP.finditer(text, start):
        # White space follows every mark, so no word or abbreviation reaches back beyond the one before.
        before, seen = text[seen : match.start()], match.end()
        follows = match["next"]
        if follows is None:
            return match.end()
        if follows.islower() or follows.isdigit() or follows in _JOINING:
            continue
        if match["mark"] == "." and _shortened(before):
            continue
        return match.end()
    return -1


def _shortened(before: str) -> bool:
    """Whether the full stop after ``before`` shortens a word rather than ends a sentence."""
    if _DOTTED.search(before):
        return True
    word = _LAST_WORD.search(before)
    return word is not None and word["word"].casefold() in ABBREVIATIONS


class StopCriterion:
    """The rule as a stopping criterion of transformers' ``generate``: one verdict a row.

    Give it in a list: ``generate(..., stopping_criteria=[StopCriterion(stop, tokenizer, prompt_length)])``,
    and pass what comes back through :func:`cut`.

    Args:
        stop: The rule.
        tokenizer: Turns tokens into text.
        prompt_length: Columns of the prompt, padding included; for an encoder-decoder the decoder's start.
    """

    def __init__(self, stop: Stop, tokenizer: Any, prompt_length: int) -> None:
        self.over = watcher(stop, tokenizer)
        self.prompt_length = prompt_length

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        """Return a bool per row of ``input_ids`` (rows, columns): whether its answer is over."""
        import torch

        rows = input_ids[:, self.prompt_length :].tolist()
        return torch.tensor([self.over(row) for row in rows], dtype=torch.bool, device=input_ids.device)


_WINDOW = 64
"""Tokens looked at while generating: an end is seen when it happens, so the last ones are enough to suspect it."""


def watcher(stop: Stop, tokenizer: Any) -> Callable[[Sequence[int]], bool]:
    """Return a function that tells whether the answer made of these tokens is over by ``stop``."""
    if stop == UNTIL_EOS:
        return lambda tokens: False

    def ends(tokens: Sequence[int]) -> bool:
        text = tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        # Half a character at the end may become a lower-case letter, after which the sentence goes on.
        return end(text.rstrip("�"), stop) is not None

    def over(tokens: Sequence[int]) -> bool:
        # Where the window begins behind "Dr", only the whole answer shows that ". Smith" ends nothing.
        return ends(tokens[-_WINDOW:]) and (len(tokens) <= _WINDOW or ends(tokens))

    return over
