"""SERAC: what is in scope is answered by a second, small model that has been shown the edit; the rest by the first.

Mitchell et al. 2022, "Memory-Based Model Editing at Scale". The scope classifier is that of the memory; the
counterfactual model is an adapter on SmolLM2-135M (the paper's is T5-small), trained by ``corrigenda serac train``. It
answers in the first model's place and needs nothing of it, so the first may be a black box behind an API: see
:class:`corrigenda.middleware.front.Front`.

The paper takes the most probable edit alone. Here a question with several edits in scope shows all of them.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from corrigenda.chat import Chat, Message
from corrigenda.lm.stopping import LINE
from corrigenda.memory.scope import Candidate
from corrigenda.middleware.strategies.base import UNLIMITED, Plan, Room
from corrigenda.middleware.strategies.counterfactual import Counterfactual, record
from corrigenda.middleware.strategies.wording import plain_question

if TYPE_CHECKING:
    from corrigenda.lm.loading import LanguageModel

MAX_FACTS = 8
"""Most edits of one request, the most probable ones."""
MAX_ASKED = 2_000
"""Longest query that the counterfactual model is shown, in characters: the end of it, where the question is."""


class SERAC:
    """A counterfactual model for what is in scope.

    Args:
        model: The counterfactual model; by default the package's adapter, loaded at the first request in scope.
        folder: Where another adapter lies; instead of ``model``.
    """

    name = "serac"

    def __init__(self, *, model: Counterfactual | None = None, folder: Path | None = None) -> None:
        self._counterfactual = model
        self._folder = folder
        self._loading = threading.Lock()

    def plan(self, request: Chat, edits: Sequence[Candidate], *, room: Room = UNLIMITED) -> Plan:
        """See :class:`~corrigenda.middleware.strategies.base.Strategy`."""
        if (plain := plain_question(request, edits)) is not None:
            answering, asked = [plain[0]], plain[1]
        else:
            answering, asked = list(edits[:MAX_FACTS]), request.query[-MAX_ASKED:]
        while len(answering) > 1 and not room.fits(_shown(asked, answering)):
            answering.pop()  # the least probable goes first
        changed = Chat((Message("user", _shown(asked, answering)),), completion=True, options=request.options)
        return Plan(changed, stop=LINE, strategy=self.name, bare_line=True, worker=self)

    def counterfactual(self, near: LanguageModel | None = None) -> Counterfactual:
        """Return the counterfactual model; loaded now if it was not. See :meth:`Counterfactual.load` for ``near``."""
        with self._loading:
            if self._counterfactual is None:
                self._counterfactual = Counterfactual.load(self._folder, near=near)
            return self._counterfactual

    def model(self, lm: LanguageModel | None) -> LanguageModel:
        """Return the model under the adapter; ``lm`` itself where that is the one."""
        return self.counterfactual(lm).lm

    @contextmanager
    def at_work(self, lm: LanguageModel, details: Sequence[Any], columns: int) -> Iterator[None]:
        """Lay the adapter over the model. See :class:`~corrigenda.middleware.strategies.base.Worker`."""
        counterfactual = self.counterfactual()
        with counterfactual.adapter.over(counterfactual.lm.model):
            yield


def _shown(asked: str, edits: Sequence[Candidate]) -> str:
    return record(asked, [candidate.edit for candidate in edits])
