"""The public face is pinned, and importing it is free of heavy libraries and side effects."""

from __future__ import annotations

import subprocess
import sys

import pytest

import corrigenda

FACE = [
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


def test_the_face_is_what_it_was():
    assert corrigenda.__all__ == FACE
    assert dir(corrigenda) == FACE
    for name in FACE:
        assert name == "__version__" or getattr(corrigenda, name).__name__ == name


def test_unknown_names_are_refused():
    with pytest.raises(AttributeError, match="no attribute 'Nope'"):
        corrigenda.Nope  # noqa: B018


def test_importing_it_loads_nothing_heavy():
    heavy = ["torch", "faiss", "redis", "transformers", "onnxruntime", "numpy"]
    code = f"import sys, corrigenda, corrigenda.cli.main; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert done.stderr == ""
