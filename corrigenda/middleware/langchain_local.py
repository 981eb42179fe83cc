"""A model of this process with its edits, as a chat model of LangChain."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.language_models import LangSmithParams
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.messages.ai import UsageMetadata
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from pydantic import ConfigDict

from corrigenda.chat import Message, Role
from corrigenda.middleware.langchain_cache import CachedChatModel, identity
from corrigenda.middleware.langchain_messages import role_of

if TYPE_CHECKING:
    from corrigenda.memory.memory import Memory
    from corrigenda.middleware.generate import EditedModel

_ROLES: dict[str, Role] = {"user": "user", "assistant": "assistant", "system": "system", "developer": "system"}


class LocalChatModel(CachedChatModel):
    """A model of this process with its edits, as a chat model.

    Attributes:
        edited: The model.
        max_tokens: Longest answer.
        temperature: 0 is greedy.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    edited: Any
    max_tokens: int = 64
    temperature: float = 0.0

    @property
    def _llm_type(self) -> str:
        return "corrigenda-local"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        edited: EditedModel = self.edited
        own = {"model": edited.lm.name, "max_tokens": self.max_tokens, "temperature": self.temperature}
        own |= {"edits_in_force": edited.edits_in_force}
        return {**own, **identity(edited.memory, edited.namespace, edited.strategy)}

    @property
    def _edits(self) -> Memory:
        memory: Memory = self.edited.memory
        return memory

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        params = super()._get_ls_params(stop=stop, **kwargs)
        return {**params, "ls_provider": "corrigenda", "ls_model_name": kwargs.get("model", self.edited.lm.name)}

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        edited: EditedModel = self.edited
        turns = _turns(messages)
        reply = edited.ask(turns, **self._options(stop, kwargs))
        message = AIMessage(
            reply.text,
            usage_metadata=self._usage(turns, reply.text),
            response_metadata={"model_name": edited.lm.name, "corrigenda": reply.trace.to_dict()},
        )
        return ChatResult(generations=[ChatGeneration(message=message)])

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        edited: EditedModel = self.edited
        turns, said = _turns(messages), ""
        with edited.stream(turns, **self._options(stop, kwargs)) as pieces:
            for piece in pieces:
                said += piece
                chunk = ChatGenerationChunk(message=AIMessageChunk(content=piece))
                if run_manager:
                    run_manager.on_llm_new_token(piece, chunk=chunk)
                yield chunk
        metadata = {"model_name": edited.lm.name, "corrigenda": pieces.trace.to_dict()}
        last = AIMessageChunk(
            content="", usage_metadata=self._usage(turns, said), response_metadata=metadata, chunk_position="last"
        )
        yield ChatGenerationChunk(message=last)

    def _options(self, stop: list[str] | None, kwargs: dict[str, Any]) -> dict[str, Any]:
        options: dict[str, Any] = {
            "max_new_tokens": kwargs.get("max_tokens", self.max_tokens),
            "temperature": kwargs.get("temperature", self.temperature),
        }
        return options | ({"stop": tuple(stop)} if stop else {})

    def _usage(self, turns: Sequence[Message], said: str) -> UsageMetadata:
        count = self.edited.lm.tokenizer
        asked = sum(len(count(turn.content, add_special_tokens=False).input_ids) for turn in turns)
        answered = len(count(said, add_special_tokens=False).input_ids) if said else 0
        return UsageMetadata(input_tokens=asked, output_tokens=answered, total_tokens=asked + answered)


def _turns(messages: Sequence[BaseMessage]) -> list[Message]:
    """Return the messages as turns of text; tools' results are told as the user's."""
    turns = [(role_of(message), str(message.text)) for message in messages]
    return [Message(_ROLES.get(role, "user"), text) for role, text in turns if text.strip()]
