"""MeLLo: the model takes a question apart; each part is answered, looked up among the edits, and checked.

Zhong et al. 2023, "MQuAKE: Assessing Knowledge Editing in Language Models via Multi-Hop Questions". Four worked
examples show the model the form; then, four rounds at most::

    Question: …
    Subquestion: …                 ← the model
    Generated answer: …            ← the model
    Retrieved fact: …              ← the nearest edit, or "none"
    Check: …, so the answer is …   ← the model, and on to the next subquestion, or
    Final answer: …                ← the model

Other than in the paper, an edit that is too far from the subquestion is not shown (``floor``), so the model is not made
to decide about an unrelated fact; the examples are our own; and to a chat model each round is a turn. What the rounds
bring to no end, or to one without an edit, is left to the scope classifier and another strategy.

It takes a model that follows the form: the paper's GPT-J answers 10 % of MQuAKE so, with 3,000 edits. For small models
there is :mod:`corrigenda.middleware.strategies.graph`.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any

from corrigenda.chat import Chat, Fired, Message, Trace
from corrigenda.edit import fold
from corrigenda.errors import InvalidRequest
from corrigenda.lm.stopping import Stop
from corrigenda.memory.memory import Hit
from corrigenda.memory.scope import Candidate
from corrigenda.middleware.consult import Ask, Decision, Means, Need, Refresh, decision, judged
from corrigenda.middleware.strategies.base import UNLIMITED, Plan, Room, Strategy
from corrigenda.middleware.strategies.ike import IKE
from corrigenda.middleware.strategies.wording import one_line, statement

MAX_ROUNDS = 4
"""Most subquestions of one request, as in the paper."""
FLOOR = 0.6
"""Cosine from which an edit is shown as a retrieved fact, −1…1; higher shows fewer."""
LONGEST_ROUND = 256
"""Most tokens the model says at a stretch, as in the paper."""
NONE = "none"
"""Stands for the fact where no edit is near."""

_STOP = Stop(newline=False, sentence=False, texts=("Retrieved fact:", "\n\n", "\nQuestion:"))
_OWN_LABEL = re.compile(r"\b(Question|Subquestion|Retrieved fact|Generated|Check)(\s*)[:：]", re.IGNORECASE)
_RULES = (
    "Answer the question step by step, in exactly the form of the examples. Write one Subquestion and one "
    "Generated answer, and stop. You will be told a Retrieved fact. Then write the Check, and go on with the next "
    "Subquestion, or give the Final answer in as few words as possible."
)


@dataclass(frozen=True, slots=True)
class Nearest:
    """Needed: the edit that is nearest to each of ``queries``."""

    queries: tuple[str, ...]
    namespace: str

    def fulfil(self, means: Means, /) -> list[Hit | None]:
        """Return one edit, or ``None`` where there are none at all, per query."""
        found = means.memory.search(means.memory.encoder.encode(self.queries), 1, self.namespace)
        return [hits[0] if hits else None for hits in found]


@dataclass(frozen=True, slots=True)
class Exchange:
    """One round.

    Attributes:
        said: What the model said up to the point where a fact is needed.
        subquestion, tentative: What it asks itself, and its own answer.
        hit: The edit that was shown; ``None`` where none was near enough.
    """

    said: str
    subquestion: str
    tentative: str
    hit: Hit | None

    @property
    def fact(self) -> str:
        """The fact, as the model sees it."""
        return NONE if self.hit is None else data(statement(self.hit.edit))


@dataclass(slots=True)
class Thread:
    """One request, thought through.

    Attributes:
        request: The request.
        exchanges: The rounds so far.
        last: What the model said at last, where that held no further subquestion.
        over: Whether it is done, with an answer or without.
    """

    request: Chat
    exchanges: list[Exchange] = field(default_factory=list)
    last: str = ""
    over: bool = False

    @property
    def answer(self) -> str:
        """The final answer; empty when the model gave none."""
        return _line(self.last, "Final answer")

    @property
    def used(self) -> list[Hit]:
        """The edits that the model went by: their targets are in what it concluded right after."""
        later = [*(exchange.said for exchange in self.exchanges[1:]), self.last]
        return [
            exchange.hit
            for exchange, text in zip(self.exchanges, later, strict=False)
            if exchange.hit is not None and fold(exchange.hit.edit.target) in fold(text)
        ]

    def ask(self) -> Chat:
        """Return what the model is asked next."""
        question = f"Question: {data(self.request.query)}\n"
        rounds = [(item.said.rstrip(), f"\nRetrieved fact: {item.fact}\n") for item in self.exchanges]
        options = {"max_new_tokens": LONGEST_ROUND, "stop": _STOP}
        if self.request.completion:
            text = f"{examples()}\n{question}" + "".join(said + fact for said, fact in rounds)
            return Chat((Message("user", text),), completion=True, options=options)
        # The rules stand in the user's turn: chat templates of Gemma's kind refuse a system turn.
        turns = [Message("user", f"{_RULES}\n\n{examples()}\n{question}")]
        for said, fact in rounds:
            turns += [Message("assistant", said), Message("user", fact.strip())]
        return Chat(tuple(turns), options=options)

    def hear(self, said: str) -> tuple[str, str] | None:
        """Take in what the model said; return (subquestion, its own answer) when a fact is to be looked up."""
        subquestion = _line(said, "Subquestion")
        if _line(said, "Final answer") or not subquestion or len(self.exchanges) >= MAX_ROUNDS:
            self.last, self.over = said, True
            return None
        return subquestion, _line(said, "Generated answer")

    def notes(self) -> tuple[str, ...]:
        """Return the rounds as lines of a trace."""
        lines = [
            f"{item.subquestion} {item.tentative} "
            f"({'no edit near' if item.hit is None else f'edit {item.hit.edit.id}, cosine {item.hit.similarity:.2f}'})"
            for item in self.exchanges
        ]
        return (*lines, f"final answer: {self.answer or 'none'}")


class MeLLo:
    """Decompose, retrieve, check.

    Args:
        floor: See :data:`FLOOR`; −1 shows whatever is nearest, as in the paper.
        otherwise: What takes requests of which the rounds make nothing; IKE by default.

    Raises:
        InvalidRequest: A floor outside −1…1.
    """

    name = "mello"
    asks_model = True
    """It thinks aloud in the model's own words, which a gateway cannot ask for on a client's account."""

    def __init__(self, *, floor: float = FLOOR, otherwise: Strategy | None = None) -> None:
        if not -1 <= floor <= 1:
            raise InvalidRequest(f"floor={floor} is not a cosine", remedy="Give a number from -1 to 1.")
        self.floor = floor
        self.otherwise: Strategy = otherwise or IKE()

    def plan(self, request: Chat, edits: Sequence[Candidate], *, room: Room = UNLIMITED) -> Plan:
        """Leave what the rounds make nothing of to ``otherwise``; see :class:`.base.Strategy`."""
        return self.otherwise.plan(request, edits, room=room)

    def consult(self, requests: Sequence[Chat], *, namespace: str, room: Room) -> Generator[Need, Any, list[Decision]]:
        """See :class:`~corrigenda.middleware.strategies.base.Guiding`."""
        yield Refresh()
        threads = [Thread(request) for request in requests]
        near = yield from self._near([request.query for request in requests], namespace)
        for thread, hit in zip(threads, near, strict=True):
            thread.over = hit is None  # without any edit there is nothing to think through
        while going := [thread for thread in threads if not thread.over]:
            yield from self._round(going, namespace, room)
        left = [thread.request for thread in threads if not (thread.used and thread.answer)]
        version, found = yield from judged(left, namespace)
        others = iter([decision(item, found.get(place), self, room, version) for place, item in enumerate(left)])
        return [self._decided(thread, version) if thread.used and thread.answer else next(others) for thread in threads]

    def _near(self, queries: Sequence[str], namespace: str) -> Generator[Need, Any, list[Hit | None]]:
        return (yield Nearest(tuple(queries), namespace)) if queries else []

    def _round(self, threads: Sequence[Thread], namespace: str, room: Room) -> Generator[Need, Any, None]:
        asked = {place: thread.ask() for place, thread in enumerate(threads)}
        for place, chat in list(asked.items()):
            if not room.fits("\n".join(turn.content for turn in chat.messages)):
                threads[place].over = True
                del asked[place]
        said = (yield Ask(tuple(asked.values()))) if asked else []
        open_ = [
            (threads[place], text, heard)
            for place, text in zip(asked, said, strict=True)
            if (heard := threads[place].hear(text)) is not None
        ]
        hits = yield from self._near([subquestion for _, _, (subquestion, _) in open_], namespace)
        for (thread, text, (subquestion, tentative)), hit in zip(open_, hits, strict=True):
            near = hit if hit is not None and hit.similarity >= self.floor else None
            thread.exchanges.append(Exchange(text, subquestion, tentative, near))

    def _decided(self, thread: Thread, version: int) -> Decision:
        request = thread.request
        fired = tuple(
            Fired(hit.edit.id, hit.similarity, hit.similarity - self.floor, hit.edit.statement) for hit in thread.used
        )
        space = " " if request.completion and not request.query[-1:].isspace() else ""
        plan = Plan(request, answer=space + thread.answer, strategy=self.name)
        return Decision(request, plan, Trace(fired, self.name, version, notes=thread.notes()))


def data(text: str) -> str:
    """Return ``text`` on one line, without anything that could pose as a part of the form."""
    return _OWN_LABEL.sub(r"\1 –", one_line(text))


@cache
def examples() -> str:
    """Return the worked examples; the facts are invented."""
    return (files("corrigenda.middleware") / "data" / "mello.txt").read_text(encoding="utf-8")


def _line(text: str, label: str) -> str:
    """Return what stands on the last line of ``text`` that begins with ``label``; empty for none."""
    found = re.findall(rf"^\s*{label}\s*:[ \t]*(.+)$", text, re.MULTILINE | re.IGNORECASE)
    return found[-1].strip().rstrip(".") if found else ""
