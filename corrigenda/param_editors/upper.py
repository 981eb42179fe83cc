"""Texts that are run again and again through the upper blocks only: what the blocks below make of them is kept.

Trained editors change the last blocks, and see thousands of texts many times. Encoder-decoders are run whole.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from corrigenda.errors import InvalidParams
from corrigenda.lm.decoding import answer_logits
from corrigenda.lm.hooks import first_tensor
from corrigenda.lm.tokens import last_subject_token, pad, token_ids
from corrigenda.param_editors.forwards import BlockForm, batches, call, ended_after, replaced
from corrigenda.param_editors.rows import target_ids

if TYPE_CHECKING:
    from corrigenda.lm.loading import LanguageModel
    from corrigenda.param_editors.anatomy import Anatomy


@dataclass(frozen=True, slots=True)
class Text:
    """A prompt and what should follow.

    Attributes:
        source: Tokens of the prompt.
        target: Tokens that should follow; empty where only the distribution behind the prompt matters.
        focus: Place of the one token whose gradient is read, the subject's last; None for all tokens.
    """

    source: tuple[int, ...]
    target: tuple[int, ...] = ()
    focus: int | None = None

    @classmethod
    def of(cls, lm: LanguageModel, prompt: str, target: str | None = None, subject: str | None = None) -> Text:
        """Tokenise; the target as it stands behind the prompt, in which ``subject``, if given, has to be found."""
        if lm.is_encoder_decoder:
            answer = lm.tokenizer(target or "", add_special_tokens=False).input_ids
            return cls(tuple(token_ids(lm, prompt)), tuple(token for token in answer if token not in lm.eos_ids))
        if target is None:
            return cls(tuple(token_ids(lm, prompt)))
        source, answer = target_ids(lm, prompt, target)
        focus = None if subject is None else last_subject_token(lm.tokenizer, prompt, subject)
        return cls(tuple(source), tuple(answer), focus)

    @property
    def row(self) -> tuple[int, ...]:
        """What a decoder reads: everything but the last token."""
        return self.source + self.target[:-1]

    @property
    def width(self) -> int:
        """Places of the output that matter."""
        return max(1, len(self.target))


class Upper:
    """Texts, ready to be run through the blocks from ``first`` on.

    Args:
        anatomy: The model. Its blocks below ``first`` must not change while this is used.
        texts: n texts.
        first: The first block to run again, 0…number of blocks − 1.
        progress: Told (texts done, of how many).
    """

    def __init__(
        self,
        anatomy: Anatomy,
        texts: Sequence[Text],
        first: int,
        *,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        if not 0 <= first < anatomy.map.count:
            raise InvalidParams(f"there is no block {first}")
        self.anatomy, self.lm, self.texts, self.first = anatomy, anatomy.lm, list(texts), first
        self._states: dict[int, torch.Tensor] = {}
        self._form = BlockForm()
        if first and not self.lm.is_encoder_decoder:
            self._run_below(progress)

    def __len__(self) -> int:
        """Count the texts."""
        return len(self.texts)

    @torch.no_grad()
    def _run_below(self, progress: Callable[[int, int], None] | None) -> None:
        blocks, kept = self.anatomy.blocks, []
        handle = blocks[self.first - 1].register_forward_hook(lambda m, args, output: kept.append(output))
        try:
            with ended_after(blocks, self.first - 1):
                for places in batches([len(text.row) for text in self.texts]):
                    call(self.lm, pad(self.lm, [self.texts[place].row for place in places]))
                    output = kept.pop()
                    self._form = BlockForm.of(output)
                    for place, state in zip(places, first_tensor(output), strict=True):
                        self._states[place] = state[-len(self.texts[place].row) :].clone()
                    if progress is not None:
                        progress(len(self._states), len(self.texts))
        finally:
            handle.remove()

    def logits(self, places: Sequence[int]) -> torch.Tensor:
        """Return logits (rows, keep, V) of the last places of each text; keep is the longest :attr:`Text.width`."""
        texts = [self.texts[place] for place in places]
        keep = max(text.width for text in texts)
        if self.lm.is_encoder_decoder:
            return answer_logits(self.lm, [text.source for text in texts], [text.target for text in texts])
        batch = pad(self.lm, [text.row for text in texts])
        if not self._states:
            return call(self.lm, batch, keep=keep)
        width = batch.input_ids.shape[1]
        state = torch.stack([nn.functional.pad(s, (0, 0, width - len(s), 0)) for s in map(self._states.get, places)])  # type: ignore[arg-type]
        with replaced(self._form.forwards(self.anatomy.blocks[: self.first], state)):
            return call(self.lm, batch, keep=keep)

    def nll(self, places: Sequence[int], logits: torch.Tensor | None = None) -> torch.Tensor:
        """Return the mean negative log-likelihood of a target token of each text: (rows,), with gradients."""
        logits = self.logits(places) if logits is None else logits
        found = []
        for row, place in zip(logits, places, strict=True):
            target = self.texts[place].target
            ids = torch.tensor(target, device=row.device)
            found.append(nn.functional.cross_entropy(row[-len(target) :].float(), ids))
        return torch.stack(found)

    @torch.no_grad()
    def right(self, places: Sequence[int], logits: torch.Tensor | None = None) -> list[bool]:
        """Tell of each text whether every target token is the first choice, teacher-forced."""
        logits = self.logits(places) if logits is None else logits
        found = []
        for row, place in zip(logits, places, strict=True):
            target = self.texts[place].target
            found.append(row[-len(target) :].argmax(-1).tolist() == list(target))
        return found
