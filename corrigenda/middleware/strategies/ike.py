"""IKE: the new fact and a few demonstrations are written in front of the question.

Zheng et al. 2023, "Can We Edit Factual Knowledge by In-Context Learning?". A plain question about one edit becomes::

    Prompt: In which city is Orlo Foods based?
    New Fact: Where is the head office of Orlo Foods? - Lisbon
    Answer: Lisbon

    Prompt: {the sentence that asks}
    New Fact: {prompt of the edit} - {its target}
    Answer:

Anything else (several edits, a poem, a question that takes a step more) keeps its own words, with the facts in front::

    Facts:
    - {the edit}

    {the request}
    Answer with the facts above.

The wordings were chosen on training data with SmolLM2-135M-Instruct (135 million parameters, greedy, the right edit
given). Share of answers that begin with the target, on the edit's own prompt / on paraphrases:

=========================================================  =========  ============  ============
form of the record                                         tokens     CounterFact   zsRE
=========================================================  =========  ============  ============
fact, prompt; no demonstration                             26         1.00 / .85    .75 / .67
fact, answer, prompt, ``Answer:``; 5 demonstrations        185 + 33   .98 / 1.00    .96 / .96
prompt, fact, ``Answer:``; 3 demonstrations                99 + 29    .97 / .96     .99 / .99
the same with a dash before the target (this one)          102 + 30   .99 / .99     .99 / .99
=========================================================  =========  ============  ============

The last two rows are 200 edits of each kind, the others 48. Demonstrations of kind ``retain`` cost two points of zsRE
each way; asking with the last sentence alone, without the unrelated sentences before it, brings eight points of
CounterFact's paraphrases.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from corrigenda.chat import Chat, Message
from corrigenda.errors import InvalidRequest
from corrigenda.lm.stopping import LINE
from corrigenda.memory.scope import Candidate
from corrigenda.middleware.consult import Flow, scoped
from corrigenda.middleware.strategies import unscoped
from corrigenda.middleware.strategies.base import UNLIMITED, Plan, Room
from corrigenda.middleware.strategies.demonstrations import Chooser, Demonstration, Fixed, built_in, record
from corrigenda.middleware.strategies.wording import plain_question, statement

SHOWN = 3
"""Demonstrations by default; enough for SmolLM2-135M."""
MAX_FACTS = 8
"""Most facts of one request, the most probable ones."""


class IKE:
    """In-context knowledge editing.

    Args:
        count: How many demonstrations, ≥ 0; :data:`SHOWN` by default. Each costs about 33 tokens.
        store: Where they come from; the package's own by default.
        retain: Whether demonstrations of kind ``retain`` take part. They teach a model to ignore a fact that does not
            fit; here the scope classifier has decided that already, and they cost reliability.
        choose: How they are chosen from the store; by default always the first, so that all requests of a batch
            begin alike.
        scope: ``False`` leaves the scope classifier out and does as the paper does, with 32 demonstrations of all
            kinds unless ``count`` says otherwise: see :mod:`corrigenda.middleware.strategies.unscoped`.

    Raises:
        InvalidRequest: ``count`` below 0.
    """

    name = "ike"

    def __init__(
        self,
        *,
        count: int | None = None,
        store: Sequence[Demonstration] | None = None,
        retain: bool = False,
        choose: Chooser | None = None,
        scope: bool = True,
    ) -> None:
        if count is None:
            count = SHOWN if scope else unscoped.COUNT
        if count < 0:
            raise InvalidRequest(f"count={count} demonstrations", remedy="Give 0 or more.")
        pool = built_in() if store is None else tuple(store)
        self.count = count
        self.store = pool
        self.scope = scope
        self.choose: Chooser = choose or Fixed([item for item in pool if retain or item.kind != "retain"])

    def plan(self, request: Chat, edits: Sequence[Candidate], *, room: Room = UNLIMITED) -> Plan:
        """See :class:`~corrigenda.middleware.strategies.base.Strategy`."""
        if (plain := plain_question(request, edits)) is not None:
            candidate, asked = plain
            return self._record(request, asked, candidate, room)
        return self._facts(request, edits, room)

    def consult(self, requests: Sequence[Chat], *, namespace: str, room: Room) -> Flow:
        """See :class:`~corrigenda.middleware.strategies.base.Guiding`."""
        if self.scope:
            return scoped(requests, strategy=self, namespace=namespace, room=room)
        return unscoped.unscoped(requests, self.store, self.count, namespace=namespace, room=room)

    def _record(self, request: Chat, asked: str, candidate: Candidate, room: Room) -> Plan:
        """Ask for the missing answer of a record."""
        open_record = record(asked, candidate.edit.prompt, candidate.edit.target)
        shown = [item.text for item in self.choose(asked, self.count)] if self.count else []
        while shown and not room.fits("".join(shown) + open_record):
            shown.pop(0)  # the farthest goes first
        # The record is a text to be continued, also for a chat model: inside a turn it would be answered in prose.
        changed = Chat((Message("user", "".join(shown) + open_record),), completion=True, options=request.options)
        return Plan(changed, stop=LINE, strategy=self.name, bare_line=True)

    def _facts(self, request: Chat, edits: Sequence[Candidate], room: Room) -> Plan:
        """Put the facts in front of the request's own words."""
        lines = [f"- {statement(candidate.edit)}" for candidate in edits[:MAX_FACTS]]
        whole = "\n".join([*(turn.content for turn in request.messages), _REMINDER])
        while len(lines) > 1 and not room.fits("\n".join([*lines, whole])):
            lines.pop()  # the least probable goes first
        before = "\n".join(["Facts:", *lines, "", ""])
        # A text that is to be continued must keep its end.
        return Plan(around(request, before, "" if request.completion else _REMINDER), strategy=self.name)


def as_published() -> IKE:
    """Return IKE without scope classifier, for comparisons: the strategy ``ike-unscoped``."""
    return IKE(scope=False)


_REMINDER = "\nAnswer with the facts above."


def around(request: Chat, before: str, after: str) -> Chat:
    """Return ``request`` with texts before and after its last user turn, which is not changed otherwise."""
    last = max(place for place, turn in enumerate(request.messages) if turn.role == "user")
    turn = request.messages[last]
    changed = replace(turn, content=f"{before}{turn.content}{after}")
    return replace(request, messages=(*request.messages[:last], changed, *request.messages[last + 1 :]))
