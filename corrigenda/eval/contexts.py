"""Contexts: how a probe is put to the model.

===============  ===============================================================================================
context          the model reads
===============  ===============================================================================================
``completion``   the prompt as it stands, and continues it
``question``     one user turn, through the model's chat template: a question as it is, the beginning of a
                 statement as a sentence to complete
``instruction``  the same turn after a system turn that asks for the bare answer
===============  ===============================================================================================

In a conversation a model answers in sentences ("The capital of France is Lyon."), so there an answer is right that
holds an accepted one anywhere in its first sentence, as whole words; see :mod:`corrigenda.eval.normalise`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from corrigenda.chat import Chat
from corrigenda.errors import UnknownName

if TYPE_CHECKING:
    from corrigenda.lm.loading import LanguageModel

CONVERSATION_TOKENS = 32
"""Fewest tokens of an answer in a conversation: there is a sentence around the fact."""


@dataclass(frozen=True, slots=True)
class Context:
    """One way of asking.

    Attributes:
        name: As in results files.
        chat: Whether the prompt becomes a turn of a conversation.
        system: The system turn, if any.
    """

    name: str
    chat: bool
    system: str = ""

    def request(self, prompt: str) -> Chat:
        """Return ``prompt`` as the request that the model gets."""
        if not self.chat:
            return Chat.of(prompt)
        turn = prompt if prompt.rstrip().endswith("?") else f"Complete this sentence with what belongs there: {prompt}"
        turns = [{"role": "user", "content": turn}]
        return Chat.of([{"role": "system", "content": self.system}, *turns] if self.system else turns)

    def render(self, lm: LanguageModel, prompt: str) -> str:
        """Return ``prompt`` as the text that ``lm`` reads."""
        if not self.chat:
            return prompt
        from corrigenda.lm.tokens import render

        return render(lm, self.request(prompt))


COMPLETION = Context("completion", chat=False)
QUESTION = Context("question", chat=True)
INSTRUCTION = Context("instruction", chat=True, system="Answer with the bare fact: a name, a word or a number.")
CONTEXTS: Mapping[str, Context] = MappingProxyType(
    {context.name: context for context in (COMPLETION, QUESTION, INSTRUCTION)}
)
"""Every context by name."""


def context(name: str) -> Context:
    """Return the context ``name``.

    Raises:
        UnknownName: None is called so.
    """
    if name not in CONTEXTS:
        raise UnknownName.among("context", name, list(CONTEXTS))
    return CONTEXTS[name]
