"""LangChain's own standard tests, over a real local model."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("langchain_tests")

from langchain_core.language_models import BaseChatModel
from langchain_tests.integration_tests import ChatModelIntegrationTests, RetrieversIntegrationTests
from langchain_tests.unit_tests import ChatModelUnitTests

from corrigenda.memory.memory import Memory
from corrigenda.middleware.langchain import EditedChatModel, EditRetriever, LocalChatModel
from corrigenda.testing import FixedEncoder

pytestmark = pytest.mark.real_model
_SHARED: dict[str, Any] = {}


@pytest.fixture(scope="module", autouse=True)
def shared() -> Iterator[None]:
    """Load the model once; LangChain's classes take parameters as properties, not as fixtures."""
    from corrigenda.middleware.generate import EditedModel

    with tempfile.TemporaryDirectory() as folder, Memory.open(Path(folder) / "f.db", encoder=FixedEncoder()) as memory:
        for place in ("Kazakhstan", "Peru", "Nigeria", "Norway", "Chad", "Oman"):
            memory.add(f"The capital of {place} is", "Xanadu", subject=place)
        _SHARED.update(memory=memory, edited=EditedModel.load("smollm2", memory))
        yield
        _SHARED.clear()


class Wrapped:
    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return EditedChatModel

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"inner": LocalChatModel(edited=_SHARED["edited"], max_tokens=12), "memory": _SHARED["memory"]}

    @property
    def has_tool_calling(self) -> bool:
        return False  # SmolLM2-135M has no tool calls

    @property
    def has_structured_output(self) -> bool:
        return False


class Local(Wrapped):
    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return LocalChatModel

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"edited": _SHARED["edited"]}


class TestEditedUnit(Wrapped, ChatModelUnitTests):
    pass


class TestLocalUnit(Local, ChatModelUnitTests):
    pass


class TestEditedIntegration(Wrapped, ChatModelIntegrationTests):
    pass


class TestRetriever(RetrieversIntegrationTests):
    @property
    def retriever_constructor(self) -> type[EditRetriever]:
        return EditRetriever

    @property
    def retriever_constructor_params(self) -> dict[str, Any]:
        return {"memory": _SHARED["memory"], "in_scope": False}

    @property
    def retriever_query_example(self) -> str:
        return "The capital of Peru is"
