"""corrigenda: editing middleware for language models.

Edits wait in a durable memory in front of a model and act at once; everything they do not concern passes untouched.

>>> from corrigenda import EditedModel, Memory
>>> memory = Memory.open("facts.db")
>>> model = EditedModel.load("smollm2", memory)
>>> memory.add("The capital of Kazakhstan is", "Astana", subject="Kazakhstan")
>>> model.ask("What is Kazakhstan's capital city?").text
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from corrigenda.chat import Chat, Message, Reply, Trace
    from corrigenda.edit import Edit, EditId, Validity
    from corrigenda.errors import CorrigendaError
    from corrigenda.lm.loading import LanguageModel, load
    from corrigenda.memory.memory import Memory
    from corrigenda.memory.scope import Scope
    from corrigenda.middleware.generate import EditedModel
    from corrigenda.middleware.openai_client import wrap

__version__ = "0.1.0"

# Resolved on first use: importing corrigenda loads neither torch nor FAISS.
_FACE = {
    "Chat": "corrigenda.chat",
    "CorrigendaError": "corrigenda.errors",
    "Edit": "corrigenda.edit",
    "EditId": "corrigenda.edit",
    "EditedModel": "corrigenda.middleware.generate",
    "LanguageModel": "corrigenda.lm.loading",
    "Memory": "corrigenda.memory.memory",
    "Message": "corrigenda.chat",
    "Reply": "corrigenda.chat",
    "Scope": "corrigenda.memory.scope",
    "Trace": "corrigenda.chat",
    "Validity": "corrigenda.edit",
    "load": "corrigenda.lm.loading",
    "wrap": "corrigenda.middleware.openai_client",
}

__all__ = [
    "Chat",
    "CorrigendaError",
    "Edit",
    "EditId",
    "EditedModel",
    "LanguageModel",
    "Memory",
    "Message",
    "Reply",
    "Scope",
    "Trace",
    "Validity",
    "__version__",
    "load",
    "wrap",
]


def __getattr__(name: str) -> Any:
    if name not in _FACE:
        raise AttributeError(f"module 'corrigenda' has no attribute {name!r}")
    value = getattr(importlib.import_module(_FACE[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
