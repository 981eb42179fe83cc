"""SERAC's counterfactual model: a small language model that answers by the edits it is shown.

It reads a record (see :mod:`corrigenda.middleware.strategies.demonstrations`) without demonstrations::

    Prompt: {what is asked}
    New Fact: {an edit}
    New Fact: {another}
    Answer:

and an adapter on SmolLM2-135M has taught it to finish it: with the target of the edit that answers, in the form asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING

from corrigenda.edit import Edit
from corrigenda.middleware.strategies.adapter import Adapter
from corrigenda.middleware.strategies.wording import one_line, statement

if TYPE_CHECKING:
    from corrigenda.lm.loading import LanguageModel

ADAPTER = "serac.safetensors"
"""File name of the adapter."""


def record(query: str, edits: Sequence[Edit]) -> str:
    """Return the open record that asks ``query`` in the light of ``edits``."""
    facts = "".join(f"New Fact: {statement(edit)}\n" for edit in edits)
    return f"Prompt: {one_line(query)}\n{facts}Answer:"


@dataclass(frozen=True, eq=False)
class Counterfactual:
    """A language model and its adapter.

    Attributes:
        lm: The model under the adapter.
        adapter: Laid over it while it answers.
    """

    lm: LanguageModel
    adapter: Adapter

    @classmethod
    def load(cls, folder: Path | None = None, *, near: LanguageModel | None = None) -> Counterfactual:
        """Load the adapter in ``folder``, by default the package's own, and the model that it was trained on.

        Args:
            folder: Where ``corrigenda serac train`` wrote it.
            near: A model that is loaded already: used if it is the adapter's own, so that nothing is held twice.

        Raises:
            UnknownModel: No adapter there, or its model is not here yet.
            ModelDamaged: The adapter cannot be read.
            UnsupportedArchitecture: It does not fit its model.
        """
        adapter = shipped() if folder is None else Adapter.load(folder / ADAPTER)
        base = str(adapter.about.get("base", "smollm2"))
        if near is None or near.fingerprint != adapter.about.get("fingerprint"):
            near = _base(base)
        adapter.check(near.model)
        return cls(near, adapter)


@lru_cache(maxsize=1)
def shipped() -> Adapter:
    """Return the adapter that comes with the package."""
    with as_file(files("corrigenda.middleware") / "data" / ADAPTER) as path:
        return Adapter.load(path)


@lru_cache(maxsize=2)
def _base(name: str) -> LanguageModel:
    from corrigenda.lm.loading import load

    return load(name)
