"""Shadows on live traffic: what the edited weights say alone, where the memory has just answered.

For some share of the requests that one shadow fired for, the same is asked again without memory once the client has
its answer, and what is said goes to the :class:`~corrigenda.param_editors.consolidation.probation.Probation`. One look
at a time: under load looks are left out, never queued.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from corrigenda.chat import Chat, Trace
from corrigenda.errors import CorrigendaError, InvalidRequest
from corrigenda.middleware.gateway.replies import Refusal
from corrigenda.middleware.wire import Endpoint, asked, text_of
from corrigenda.param_editors.consolidation.editions import Editions
from corrigenda.param_editors.consolidation.marks import editions_of
from corrigenda.param_editors.consolidation.probation import TOKENS, Probation

if TYPE_CHECKING:
    from corrigenda.memory.memory import Memory
    from corrigenda.middleware.gateway.local import LocalModel
    from corrigenda.middleware.gateway.upstream import Upstream

log = logging.getLogger("corrigenda.gateway")

SHARE = 0.05
"""Share of the requests in question that are looked at, by default."""
TALK_TOKENS = 64
"""Tokens of an answer in a conversation: a sentence, which may begin with the question."""

Alone = Callable[[Endpoint, Mapping[str, Any], Chat], Awaitable[str | None]]
"""Asks the edited weights alone; ``None`` where they are not what is behind the gateway now."""


class Shadowing:
    """Looks at shadows. Used on the event loop.

    Args:
        memory: Where the shadows live.
        home: Where editions are kept.
        base: The base model, as plans name it.
        share: Of the requests that a shadow fired for, 0…1.
        seed: Which ones.

    Raises:
        InvalidRequest: A share out of range.
    """

    def __init__(self, memory: Memory, home: Path, base: str, *, share: float = SHARE, seed: int = 0) -> None:
        if not 0 <= share <= 1:
            raise InvalidRequest(f"share={share} is out of range", remedy="0…1; 0 never looks.")
        self.memory, self.home, self.base, self.share = memory, home, base, share
        self.alone: Alone | None = None
        self._random = random.Random(seed)
        self._under_way: asyncio.Task[None] | None = None

    def editions(self) -> Editions | None:
        """Return the editions of the base model, once there are any."""
        found = [one for one in Editions.all(self.home) if one.model == self.base]
        return found[0] if len(found) == 1 else None

    def note(self, endpoint: Endpoint, data: bytes, trace: Trace | None) -> None:
        """Perhaps look at what has just been answered: a few dictionary look-ups, and the rest in the background.

        Args:
            endpoint: Where it was asked.
            data: The request, as the client made it.
            trace: Which edits fired.
        """
        if self.alone is None or trace is None or len(trace.fired) != 1 or endpoint == "responses":
            return
        if self._under_way is not None or self._random.random() >= self.share:
            return
        edit_id = trace.fired[0].edit_id
        if editions_of(self.memory.get(edit_id)):
            body = json.loads(data)
            (question,) = asked(endpoint, body)
            self._under_way = asyncio.get_running_loop().create_task(self._look(endpoint, body, question.chat, edit_id))

    async def close(self) -> None:
        """Wait for the look that is under way."""
        if self._under_way is not None:
            await asyncio.wait((self._under_way,))

    async def _look(self, endpoint: Endpoint, body: Mapping[str, Any], chat: Chat, edit_id: str) -> None:
        assert self.alone is not None
        try:
            said = await self.alone(endpoint, body, chat)
            if said is not None:
                await asyncio.to_thread(self._judge, said, edit_id, not chat.completion)
        except (CorrigendaError, Refusal, OSError, LookupError, TypeError) as error:
            log.warning("a shadow could not be looked at: %s", type(error).__name__)
        finally:
            self._under_way = None

    def _judge(self, said: str, edit_id: str, talk: bool) -> None:
        editions = self.editions()
        if editions is not None:
            Probation(editions, self.memory).note(said, [edit_id], talk=talk)


def asking_upstream(upstream: Upstream, target: Callable[[], str | None]) -> Alone:
    """Return how an upstream is asked for the adapter in force, on the gateway's own account.

    Args:
        upstream: Which.
        target: Returns the name of the adapter, ``None`` when none is in force.
    """

    async def alone(endpoint: Endpoint, body: Mapping[str, Any], chat: Chat) -> str | None:
        name = await asyncio.to_thread(target)
        if name is None:
            return None
        question: dict[str, Any] = {"model": name, "temperature": 0}
        if endpoint == "completions":
            answer = await upstream.ask("/v1/completions", {**question, "prompt": chat.query, "max_tokens": TOKENS})
            return str(answer["choices"][0]["text"])
        question |= {"messages": body["messages"], "max_tokens": TALK_TOKENS}
        answer = await upstream.ask("/v1/chat/completions", question)
        return text_of(answer["choices"][0]["message"]["content"])

    return alone


def asking_here(model: LocalModel, editions: Callable[[], Editions | None]) -> Alone:
    """Return how the local model is asked without its memory, where it was loaded from the edition in force.

    Args:
        model: Which.
        editions: Of the base model.
    """

    def in_force() -> bool:
        found = editions()
        # A folder's model goes by the folder's name, and editions' names are used once.
        return found is not None and found.current().edition == model.name

    async def alone(endpoint: Endpoint, body: Mapping[str, Any], chat: Chat) -> str | None:
        if not await asyncio.to_thread(in_force):
            return None
        return await model.alone(chat, TOKENS if chat.completion else TALK_TOKENS)

    return alone
