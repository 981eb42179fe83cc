"""Edits as rows of tokens: contexts in front of the prompt, where the subject ends, which tokens are to follow."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from corrigenda.edit import Edit
from corrigenda.errors import InvalidEdit, SubjectNotFound, UnsupportedArchitecture, about
from corrigenda.lm.tokens import check_length, last_subject_token, plain_ids, token_ids

if TYPE_CHECKING:
    from corrigenda.lm.loading import LanguageModel

BARE = ("",)
"""No context: the prompt alone."""


@dataclass(frozen=True, slots=True)
class Row:
    """One text about one edit.

    Attributes:
        edit: Which edit, by its place.
        ids: Tokens of context and prompt, and of the target but its last.
        subject: Place of the subject's last token.
        target: Tokens that should follow, in the last places; empty for a text that is to stay as it is.
    """

    edit: int
    ids: tuple[int, ...]
    subject: int
    target: tuple[int, ...] = ()


def check_edits(lm: LanguageModel, edits: Sequence[Edit]) -> None:
    """Refuse what locate-then-edit methods cannot work on.

    Raises:
        UnsupportedArchitecture: An encoder-decoder.
        SubjectNotFound: An edit without a subject, or whose prompt does not hold it.
        InvalidEdit: Two edits give one prompt two targets.
    """
    if lm.is_encoder_decoder:
        raise UnsupportedArchitecture(
            f"{lm.name} is an encoder-decoder; values at the subject's last token are defined for decoders",
            remedy="Use ft-l or ft-m.",
        )
    targets: dict[str, str] = {}
    for edit in edits:
        with about(edit):
            if edit.subject is None:
                raise SubjectNotFound(
                    f"the edit {edit.prompt!r} names no subject", remedy="Give the subject as it stands in the prompt."
                )
            last_subject_token(lm.tokenizer, edit.prompt, edit.subject)
            if targets.setdefault(edit.prompt, edit.target) != edit.target:
                raise InvalidEdit(
                    f"{edit.prompt!r} shall be both {targets[edit.prompt]!r} and {edit.target!r}",
                    remedy="Give one of them.",
                )


def target_ids(lm: LanguageModel, prompt: str, target: str) -> tuple[list[int], list[int]]:
    """Return the tokens of a prompt and those of a target that follows it after a space.

    The target is tokenised where it stands, behind the prompt: no token that begins a text, and the leading space
    inside its first token where the tokenizer does so.
    """
    source = token_ids(lm, prompt)
    text = target if prompt[-1:].isspace() or target[:1].isspace() else f" {target}"
    whole = token_ids(lm, prompt + text)
    answer = whole[len(source) :] if whole[: len(source)] == source else plain_ids(lm.tokenizer, text)
    check_length(lm, source + answer, room=0)
    return source, answer


def wordings(lm: LanguageModel, edit: Edit) -> tuple[str, ...]:
    """Return the prompt, then the paraphrases that hold the subject: the others have no place for a value."""
    found = [edit.prompt]
    for text in edit.paraphrases:
        with suppress(SubjectNotFound):
            last_subject_token(lm.tokenizer, text, edit.subject or "")
            found.append(text)
    return tuple(found)


def target_rows(
    lm: LanguageModel, edits: Sequence[Edit], contexts: Sequence[str], *, reworded: bool = False
) -> list[Row]:
    """Return a row for each edit and context, edits outermost, contexts in order.

    Args:
        lm: The model.
        edits: The edits.
        contexts: What stands in front; the first is the bare prompt's.
        reworded: Let the contexts after the first take turns with the edit's :func:`wordings`, paraphrases first: as
            many rows as without.
    """
    rows = []
    for place, edit in enumerate(edits):
        turns = wordings(lm, edit) if reworded else (edit.prompt,)
        for turn, context in enumerate(contexts):
            with about(edit):
                text = context + turns[turn % len(turns)]
                source, answer = target_ids(lm, text, edit.target)
                subject = last_subject_token(lm.tokenizer, text, edit.subject or "", start=len(context))
                rows.append(Row(place, tuple(source + answer[:-1]), subject, tuple(answer)))
    return rows


def key_rows(lm: LanguageModel, edits: Sequence[Edit], contexts: Sequence[str]) -> list[tuple[int, ...]]:
    """Return tokens up to the subject's last, for each edit and context, edits outermost."""
    return [row.ids[: row.subject + 1] for row in target_rows(lm, edits, contexts)]


def essence_rows(lm: LanguageModel, edits: Sequence[Edit], template: str, *, at_subject: bool) -> list[Row]:
    """Return one row an edit that says what the subject is, ``"{} is a"``: what an edit should leave alone.

    Args:
        lm: The model.
        edits: The edits.
        template: With one ``{}`` for the subject.
        at_subject: End the row at the subject's last token, where the reference code of ROME reads it, rather than
            at the end of the prompt, which the paper means.
    """
    rows = []
    for place, edit in enumerate(edits):
        text = template.replace("{}", edit.subject or "")
        subject = last_subject_token(lm.tokenizer, text, edit.subject or "")
        ids = token_ids(lm, text)
        rows.append(Row(place, tuple(ids[: subject + 1] if at_subject else ids), subject))
    return rows
