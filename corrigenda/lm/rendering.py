"""A conversation as the text a model was trained to read, and which parts of that text are control."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from jinja2.exceptions import TemplateError  # torch and chat templates need jinja2 too

from corrigenda.chat import Chat
from corrigenda.errors import InvalidRequest

if TYPE_CHECKING:
    from corrigenda.lm.loading import LanguageModel

Run = tuple[str, bool]
"""A stretch of text, and whether it is one control token."""

_ROLES = {"system": "System", "user": "User", "assistant": "Assistant"}


class Rendered(str):
    """A conversation written out by a chat template; remembers what the template wrote.

    As text it is what any str is. Adding text to its end keeps the memory: what is added is data.

    Attributes:
        runs: The text in stretches; those marked True are control tokens of the template.
        hostile: Whether a message contains a string that reads like a control token.
    """

    runs: tuple[Run, ...]
    hostile: bool

    def __new__(cls, runs: Sequence[Run], *, hostile: bool) -> Rendered:
        """Join ``runs``."""
        text = super().__new__(cls, "".join(run for run, _ in runs))
        text.runs, text.hostile = tuple(runs), hostile
        return text

    def __add__(self, other: str) -> Rendered:
        """Return the conversation with ``other`` after it, as data."""
        # Whether the addition is harmless is not known here: spelling it out is right in either case.
        return Rendered(_merged([*self.runs, (other, False)]), hostile=self.hostile or bool(other))


def render(lm: LanguageModel, chat: Chat) -> str:
    """Return the text that ``chat`` is put to ``lm`` as.

    A completion is returned unchanged. A conversation goes through the model's chat template and asks for the
    next assistant turn; a model without template gets ``User: …`` lines and ``Assistant:`` at the end.

    Raises:
        InvalidRequest: The template refuses the conversation, as Gemma's does a system turn.
    """
    if chat.completion:
        return chat.messages[-1].content
    if not lm.has_chat_template:
        lines = [f"{_ROLES[turn.role]}: {turn.content}" for turn in chat.messages]
        return "\n".join([*lines, "Assistant:"])
    contents = [turn.content for turn in chat.messages]
    roles = [turn.role for turn in chat.messages]
    pieces = _pieces(lm.tokenizer, roles, contents)
    control = control_tokens(lm.tokenizer)
    runs: list[Run] = []
    for text, from_template in pieces:
        parts = control.split(text) if from_template and control else [text]
        runs += [(part, place % 2 == 1) for place, part in enumerate(parts) if part]
    data = [text for text, from_template in pieces if not from_template]
    hostile = control is not None and any(control.search(text) for text in data)
    return Rendered(_merged(runs), hostile=hostile)


def _pieces(tokenizer: Any, roles: Sequence[str], contents: Sequence[str]) -> list[tuple[str, bool]]:
    """Return the rendered conversation as (text, whether the template wrote it)."""
    # The template is run on stand-ins for the messages, so that what it wrote can be told from what was put
    # in.
    stand_ins = [f"\ue000{place}\ue001" for place in range(len(contents))]
    split = re.split("\ue000(\\d+)\ue001", _apply(tokenizer, roles, stand_ins))
    whole = _apply(tokenizer, roles, contents)
    # Some templates strip the messages; whichever reading gives the template's own text is taken.
    for texts in (contents, [text.strip() for text in contents]):
        pieces = [(texts[int(part)] if place % 2 else part, place % 2 == 0) for place, part in enumerate(split)]
        if "".join(text for text, _ in pieces) == whole:
            return pieces
    return pieces


def _apply(tokenizer: Any, roles: Sequence[str], contents: Sequence[str]) -> str:
    turns = [{"role": role, "content": content} for role, content in zip(roles, contents, strict=True)]
    try:
        text: str = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    except TemplateError as error:
        raise InvalidRequest(
            f"the model's chat template refuses the conversation: {error}",
            remedy="Put the system turn's text into the first user turn, and let user and assistant turns alternate.",
        ) from error
    return text


def control_tokens(tokenizer: Any) -> re.Pattern[str] | None:
    """Return a pattern of every string that the tokenizer reads as one control token; longest first."""
    added = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
    names = sorted({*added, *tokenizer.all_special_tokens}, key=len, reverse=True)
    return re.compile("(" + "|".join(map(re.escape, names)) + ")") if names else None


def _merged(runs: Sequence[Run]) -> list[Run]:
    """Join neighbouring stretches of data, so that they are tokenised as one text."""
    merged: list[Run] = []
    for text, is_control in runs:
        if merged and not is_control and not merged[-1][1]:
            merged[-1] = (merged[-1][0] + text, False)
        elif text:
            merged.append((text, is_control))
    return merged
