"""Where the subject of an edit ends in its prompt: the token at which locate-then-edit methods work."""

from __future__ import annotations

from typing import Any

from corrigenda.errors import SubjectNotFound
from corrigenda.lm.plain import plain_encoding


def last_subject_token(tokenizer: Any, prompt: str, subject: str, *, start: int = 0) -> int:
    """Return the place of the subject's last token among the tokens of ``prompt``, counted from the first.

    The tokens are those of ``tokenizer(prompt)``, beginning-of-text token included where there is one. When
    the subject occurs more than once, the last occurrence counts; one that is not part of a longer word wins over
    others ("Rome" is not looked for in "Romeo"), and then an exact one over one in another case.

    Args:
        tokenizer: Of the model.
        prompt: The text.
        subject: What is looked for.
        start: Where in ``prompt`` the edit's own words begin; what stands before them is a context.

    Raises:
        SubjectNotFound: It does not occur in the prompt, or is empty.
    """
    end = start + _end_of(prompt[start:], subject)
    encoded = plain_encoding(tokenizer, prompt, return_offsets_mapping=tokenizer.is_fast)
    if not tokenizer.is_fast:
        return _by_decoding(tokenizer, list(encoded["input_ids"]), prompt, end)
    # Tokens without text of their own (beginning of text) span nothing; the last one that begins in the subject is it.
    spans = enumerate(encoded["offset_mapping"])
    return max(place for place, (start, stop) in spans if start < min(end, stop))


def _end_of(prompt: str, subject: str) -> int:
    wanted = subject.strip()
    # Lower-casing may change the length of a few letters; then places in it would be wrong.
    lower = [(prompt.lower(), wanted.lower())] if len(prompt.lower()) == len(prompt) else []
    cases = [(prompt, wanted), *lower] if wanted else []
    # Scripts without spaces have no words to tell apart: there, any occurrence is taken in the end.
    for find in (_rfind_word, str.rfind):
        for text, name in cases:
            if (start := find(text, name)) >= 0:
                return start + len(name)
    raise SubjectNotFound(
        f"the subject {subject!r} does not occur in the prompt {prompt!r}",
        remedy="Write the subject into the prompt as it is, or correct the subject.",
    )


def _rfind_word(text: str, name: str) -> int:
    """Return where ``name`` last stands in ``text`` with no letter or digit on either side; −1 for nowhere."""
    start = text.rfind(name)
    while start >= 0:
        around = text[max(start - 1, 0) : start] + text[start + len(name) :][:1]
        if not any(map(str.isalnum, around)):
            return start
        start = text.rfind(name, 0, start + len(name) - 1)
    return -1


def _by_decoding(tokenizer: Any, ids: list[int], prompt: str, end: int) -> int:
    """For tokenizers without offsets: the shortest beginning of the tokens whose text covers the subject."""
    wanted = "".join(prompt[:end].split())
    for count in range(1, len(ids)):
        text = tokenizer.decode(ids[:count], skip_special_tokens=True, clean_up_tokenization_spaces=False)
        if len("".join(text.replace("�", "").split())) >= len(wanted):
            return count - 1
    return len(ids) - 1
