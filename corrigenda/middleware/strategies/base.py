"""The seam: a strategy takes a request and the edits in scope, and returns a plan.

Most strategies are a :class:`Strategy` and no more: the scope classifier has said which edits concern the request. One
that finds out by itself (GRACE, by what the model feels; MemPrompt, by what users said before) or asks the model
several times (MeLLo) is :class:`Guiding` as well, and yields what it needs.

Strategies register under the entry-point group ``corrigenda.strategies``, ours and everyone's. The registry is lazy
(a strategy is imported when it is asked for) and strict (two packages that claim one name are an error).
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from corrigenda.chat import Chat
from corrigenda.errors import CorrigendaError, UnknownName

if TYPE_CHECKING:
    from corrigenda.lm.loading import LanguageModel
    from corrigenda.lm.stopping import Stop
    from corrigenda.memory.scope import Candidate
    from corrigenda.middleware.consult import Decision, Need

GROUP = "corrigenda.strategies"
"""The entry-point group; a value is ``package.module:Class``, called without arguments."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What the model is asked instead.

    Attributes:
        request: The changed request. The options are the caller's.
        prefix: What the answer is made to begin with; part of the answer. For a completion it brings its leading space.
        stop: What ends the answer besides the caller's own rule; ``None`` for nothing.
        strategy: Which strategy it is from, for the trace: ``ike``, or ``auto/constrained``.
        bare_line: The answer is one bare value that the model was asked for on a line of its own, so that neither the
            space before it nor what follows the line belongs to it.
        answer: The reply as a whole, where it is known already; no model is asked then.
        worker: What answers instead of the bare model; ``None`` for the bare model. Plans of one worker share batches.
        detail: What the worker has to know about this plan. Its ``repr`` tells details apart.
    """

    request: Chat
    prefix: str = ""
    stop: Stop | None = None
    strategy: str = ""
    bare_line: bool = False
    answer: str | None = None
    worker: Worker | None = None
    detail: Any = None

    @property
    def own(self) -> bool:
        """Whether the reply, or its beginning, is the strategy's: the changed request alone does not bring it about."""
        return bool(self.prefix) or self.answer is not None or self.worker is not None


class Worker(Protocol):
    """What answers a plan instead of the bare model: another model, or the same one with something laid into it."""

    def model(self, lm: LanguageModel | None) -> LanguageModel:
        """Return the model that is asked where the caller's is ``lm``; the plan's request is a prompt for it.

        Args:
            lm: ``None`` where the caller's model is out of reach, behind an API.
        """
        ...

    def at_work(self, lm: LanguageModel, details: Sequence[Any], columns: int) -> AbstractContextManager[None]:
        """Return a context in which the model answers one batch as the plans want it.

        What is asked inside, from this thread, is prompts of ``columns`` columns, padded on the left, and their
        continuations: row ``i`` (with several sequences a row, the ``i``-th group of rows) belongs to the plan with
        ``details[i]``. Other threads use the model as it is.
        """
        ...


@dataclass(frozen=True)
class Room:
    """How much text the model can take.

    Attributes:
        tokens: Most tokens of a prompt, answer not included.
        count: Returns how many tokens a text has.
    """

    tokens: int = 1 << 30
    count: Callable[[str], int] = len

    def fits(self, text: str) -> bool:
        """Tell whether ``text`` is short enough."""
        # No token is shorter than a character in the tokenizers in use, so short texts need no counting.
        return len(text.encode()) <= self.tokens or self.count(text) <= self.tokens


UNLIMITED = Room()


@runtime_checkable
class Strategy(Protocol):
    """Turns a request and the edits that concern it into a plan. Pure: it reads nothing and asks no model."""

    name: str
    """For the trace."""

    def plan(self, request: Chat, edits: Sequence[Candidate], *, room: Room = UNLIMITED) -> Plan:
        """Return what to ask instead of ``request``.

        Args:
            request: What the caller asked.
            edits: The edits in scope, most probable first; at least one.
            room: What the plan has to fit into; the plan leaves out what it can do without.
        """
        ...


@runtime_checkable
class Guiding(Strategy, Protocol):
    """A strategy that takes the whole flow into its hands, from requests to decisions."""

    def consult(self, requests: Sequence[Chat], *, namespace: str, room: Room) -> Generator[Need, Any, list[Decision]]:
        """Decide what becomes of each of ``requests``, yielding what has to be known.

        Written once, it is driven from plain and from asynchronous code: see :mod:`corrigenda.middleware.consult`.
        """
        ...


def available() -> tuple[str, ...]:
    """Return the names of the registered strategies, sorted."""
    return tuple(sorted(_registered()))


def create(name: str) -> Strategy:
    """Return the strategy registered as ``name``, imported now.

    Raises:
        UnknownName: Nothing is registered under that name, or what is registered is no strategy.
        CorrigendaError: Two packages registered the name.
    """
    known = _registered()
    if name not in known:
        raise UnknownName.among("strategy", name, list(known))
    points = known[name]
    if len(points) > 1:
        places = ", ".join(sorted(point.value for point in points))
        raise CorrigendaError(
            f"the strategy {name!r} is registered {len(points)} times: {places}",
            remedy="Uninstall one of the packages, or pass the strategy itself instead of its name.",
        )
    factory: Any = points[0].load()
    strategy = factory()
    if not isinstance(strategy, Strategy):
        raise UnknownName(
            f"{points[0].value} is registered as strategy {name!r}, but has no name and plan()",
            remedy="See corrigenda.middleware.strategies.base.Strategy.",
        )
    return strategy


def _registered() -> dict[str, list[EntryPoint]]:
    found: dict[str, list[EntryPoint]] = {}
    for point in entry_points(group=GROUP):
        same = found.setdefault(point.name, [])
        # A package that is found twice on the path (an editable install and its source) is no conflict.
        if all(point.value != other.value for other in same):
            same.append(point)
    return found
