"""Where the subject of an edit ends in its prompt: the token at which locate-then-edit methods work."""

from __future__ import annotations

from typing import Any

from corrigenda.errors import SubjectNotFound


def last_subject_token(tokenizer: Any, prompt: str, subject: str) -> int:
    """Return the place of the subject's last token among the tokens of ``prompt``, counted from the first.

    The tokens are those of ``tokenizer(prompt)``, beginning-of-text token included where there is one. When
    the subject occurs more than once, the last occurrence counts; an exact occurrence wins over one in
    another case.

    Raises:
        SubjectNotFound: It does not occur in the prompt, or is empty.
    """
    end = _end_of(prompt, subject)
    encoded = tokenizer(prompt, split_special_tokens=True, return_offsets_mapping=tokenizer.is_fast)
    if not tokenizer.is_fast:
        return _by_decoding(tokenizer, list(encoded["input_ids"]), prompt, end)
    # Tokens without text of their own (beginning of text) span nothing; the last one that begins in the subject is it.
    spans = enumerate(encoded["offset_mapping"])
    return max(place for place, (start, stop) in spans if start < min(end, stop))


def _end_of(prompt: str, subject: str) -> int:
    wanted = subject.strip()
    if wanted:
        for text, name in ((prompt, wanted), (prompt.lower(), wanted.lower())):
            # Lower-casing may change the length of a few letters; then places in it would be wrong.
            if len(text) == len(prompt) and (start := text.rfind(name)) >= 0:
                return start + len(name)
    raise SubjectNotFound(
        f"the subject {subject!r} does not occur in the prompt {prompt!r}",
        remedy="Write the subject into the prompt as it is, or correct the subject.",
    )


def _by_decoding(tokenizer: Any, ids: list[int], prompt: str, end: int) -> int:
    """For tokenizers without offsets: the shortest beginning of the tokens whose text covers the subject."""
    wanted = "".join(prompt[:end].split())
    for count in range(1, len(ids)):
        text = tokenizer.decode(ids[:count], skip_special_tokens=True, clean_up_tokenization_spaces=False)
        if len("".join(text.replace("�", "").split())) >= len(wanted):
            return count - 1
    return len(ids) - 1
