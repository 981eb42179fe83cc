"""LangChain's messages and prompts, in the light of the edits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from langchain_core.language_models import LanguageModelInput
from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    ChatMessage,
    HumanMessage,
    SystemMessage,
    convert_to_messages,
)
from langchain_core.prompt_values import ChatPromptValue, PromptValue, StringPromptValue
from langchain_core.runnables.config import run_in_executor

from corrigenda.chat import Trace
from corrigenda.memory.memory import Memory
from corrigenda.middleware.desk import Desk

_KINDS = ((HumanMessage, "user"), (AIMessage, "assistant"), (SystemMessage, "system"))
_ROLES = {"human": "user", "ai": "assistant"}


def role_of(message: BaseMessage) -> str:
    """Return OpenAI's role for ``message``, a piece of a stream for one; LangChain's own type where there is none."""
    for kind, role in _KINDS:
        if isinstance(message, kind):
            return role
    return _ROLES.get(message.role, message.role) if isinstance(message, ChatMessage) else message.type


class Reviser:
    """Puts edits into LangChain's messages.

    Args:
        memory: The edits.
        **settings: ``strategy``, ``scope``, ``namespace``; see :class:`~corrigenda.middleware.desk.Desk`.
    """

    def __init__(self, memory: Memory, **settings: Any) -> None:
        self.desk = Desk(memory, **settings)

    def messages(self, messages: Sequence[BaseMessage]) -> tuple[list[BaseMessage], Trace]:
        """Return what to say instead, the same message objects as far as nothing changes, and the trace."""
        body, trace = self.desk.revise("chat", {"messages": _rows(messages)})
        return _read(body["messages"], messages), trace

    async def amessages(self, messages: Sequence[BaseMessage]) -> tuple[list[BaseMessage], Trace]:
        """Do what :meth:`messages` does; judging happens in a thread."""
        body, trace = await self.desk.arevise("chat", {"messages": _rows(messages)})
        return _read(body["messages"], messages), trace

    def input(self, given: LanguageModelInput) -> LanguageModelInput:
        """Return a prompt of the same kind as ``given``."""
        if isinstance(given, str | StringPromptValue):
            text = given if isinstance(given, str) else given.text
            (message,) = self.messages([HumanMessage(text)])[0][-1:]
            revised = str(message.content)
            return revised if isinstance(given, str) else StringPromptValue(text=revised)
        if isinstance(given, PromptValue):
            return ChatPromptValue(messages=self.messages(given.to_messages())[0])
        return self.messages(ChatPromptValue(messages=convert_to_messages(given)).to_messages())[0]

    async def ainput(self, given: LanguageModelInput) -> LanguageModelInput:
        """Do what :meth:`input` does, in a thread."""
        return await run_in_executor(None, self.input, given)


def _rows(messages: Sequence[BaseMessage]) -> list[dict[str, Any]]:
    """Return the messages as turns of a request body; ``place`` survives when a turn's text is changed."""
    return [
        {"role": role_of(message), "content": message.content, "place": place} for place, message in enumerate(messages)
    ]


def _read(turns: Sequence[dict[str, Any]], messages: Sequence[BaseMessage]) -> list[BaseMessage]:
    """Return ``turns`` as messages: the caller's own objects as far as their text is the same."""
    result: list[BaseMessage] = []
    for turn in turns:
        if "place" not in turn:
            result.append((SystemMessage if turn["role"] == "system" else HumanMessage)(turn["content"]))
        elif turn["content"] is messages[turn["place"]].content:
            result.append(messages[turn["place"]])
        else:
            result.append(messages[turn["place"]].model_copy(update={"content": turn["content"]}))
    return result
