"""GRACE: edits as entries of a codebook inside the model, found by what the model feels at the end of a prompt.

Hartvigsen et al. 2023, "Aging with GRACE: Lifelong Model Editing with Discrete Key-Value Adaptors". A key is what the
feed-forward of one block is given at the prompt's last token, a value what it returns instead when a prompt comes
within the key's deferral radius. No scope classifier takes part. Nothing else in the model changes: a prompt within no
radius goes to it untouched, and its answer is the bare model's token for token.

Where the reference code, or the paper, leaves room:

* The place is the prompt's last token, found once. While the answer is generated the input is one token long (with a
  key-value cache) or grows (without); the value stays where it was, and new tokens are not looked up again. So an
  answer is the same with and without cache, in a batch and streamed.
* The initial radius is no absolute 1.0, but a share of how near look-alike prompts come in this model and layer.
* A value is trained for every edit and depends on no other; what follows from several is a fold
  (:mod:`corrigenda.memory.codebook`). So a retracted edit is gone as if it had never been.

Keys and values are kept with the memory, in its store, by model and recipe: the next process trains nothing.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np
import torch

from corrigenda.chat import Chat, Fired, Message, Trace
from corrigenda.edit import Edit
from corrigenda.errors import CorrigendaError, InvalidRequest
from corrigenda.lm.hooks import Override
from corrigenda.lm.tokens import check_length, plain_ids, render, token_ids
from corrigenda.memory.codebook import Codebook, Entry, Found, initial_radius
from corrigenda.memory.ledger import DERIVED
from corrigenda.memory.memory import Memory
from corrigenda.memory.scope import Candidate
from corrigenda.memory.vectors import text_hash
from corrigenda.middleware.consult import Decision, Means, Need, Refresh
from corrigenda.middleware.strategies.base import UNLIMITED, Plan, Room
from corrigenda.middleware.strategies.grace_values import Recipe, check_supported, last_states, values

if TYPE_CHECKING:
    from corrigenda.lm.loading import LanguageModel

DEPTH = 2 / 3
"""Where in the model the codebook lies by default, 0…1: deep enough that a key is about the whole prompt, shallow
enough that the blocks above can spell a target of several tokens."""
SCALE = 0.5
"""Initial radius as a share of the distance between look-alike prompts, 0…1."""
FORMAT = 1
"""Counts changes of what is kept in the store."""
_TRAINED = 64
"""Values that are kept in the store at a time: what a kill loses at most."""
_WORDINGS = (
    "The mother tongue of {} is",
    "{} was born in the city of",
    "Which company employs {}?",
    "{} is located in",
    "The capital of {} is",
    "Who founded {}?",
    "What does {} play?",
    "{} works in the field of",
)
_NAMES = (
    "John Smith", "John Smythe", "Joan Smith", "Alfred Berg", "Albert Berg", "Marie Laurent", "Maria Laurent",
    "Northfield", "Northford", "Eastfield", "Velmar 3", "Velmar 4", "Lake Orlin", "Lake Orton", "Harbour Films",
    "Harbor Films",
)  # fmt: skip
"""Look-alikes, which must not be taken for one another: the unit of the radius."""


@dataclass(frozen=True)
class Deferral:
    """Needed: which entry of the codebook each of ``requests`` falls to; ``None`` defers it to the model."""

    grace: GRACE
    requests: tuple[Chat, ...]
    namespace: str

    def fulfil(self, means: Means, /) -> list[Found | None]:
        """Train what is missing, run the prompts up to the layer, look them up.

        Raises:
            CorrigendaError: There is no model in this process.
        """
        if means.lm is None:
            raise _out_of_reach()
        return self.grace.look_up(means.lm, means.memory, self.requests, self.namespace)


class GRACE:
    """A codebook of keys and values inside the model.

    Args:
        layer: The block whose feed-forward it is laid into, 0…; by default at :data:`DEPTH` of the model.
        scale: See :data:`SCALE`; higher takes in more wordings, and more that is not meant.
        recipe: How values are trained.

    Raises:
        InvalidRequest: ``scale`` outside 0…1.
    """

    name = "grace"

    def __init__(self, *, layer: int | None = None, scale: float = SCALE, recipe: Recipe | None = None) -> None:
        if not 0 < scale <= 1:
            raise InvalidRequest(f"scale={scale} is not a share", remedy="Give a number above 0, at most 1.")
        self.layer = layer
        self.scale = scale
        self.recipe = recipe or Recipe()
        self._lock = threading.Lock()
        self._models: WeakKeyDictionary[Any, _Laid] = WeakKeyDictionary()

    def plan(self, request: Chat, edits: Sequence[Candidate], *, room: Room = UNLIMITED) -> Plan:
        """Refuse: what the scope classifier found is no ground to change what the model feels."""
        raise CorrigendaError(
            "GRACE finds edits in the model, not by a scope classifier", remedy="Drive GRACE.consult instead of plan."
        )

    def consult(self, requests: Sequence[Chat], *, namespace: str, room: Room) -> Generator[Need, Any, list[Decision]]:
        """See :class:`~corrigenda.middleware.strategies.base.Guiding`."""
        version: int = yield Refresh()
        asking = [place for place, request in enumerate(requests) if any(m.role == "user" for m in request.messages)]
        began = time.perf_counter()
        found: list[Found | None] = yield Deferral(self, tuple(requests[place] for place in asking), namespace)
        spent = {"search": (time.perf_counter() - began) * 1e3 / max(len(asking), 1)}
        by_place = dict(zip(asking, found, strict=True))
        decisions = []
        for place, request in enumerate(requests):
            hit = by_place.get(place)
            plan = None if hit is None else Plan(request, strategy=self.name, worker=self, detail=hit.entry)
            trace = Trace(() if hit is None else (_fired(hit),), None if hit is None else self.name, version, spent)
            decisions.append(Decision(request, plan, trace))
        return decisions

    def look_up(
        self, lm: LanguageModel, memory: Memory, requests: Sequence[Chat], namespace: str
    ) -> list[Found | None]:
        """Return which entry each of ``requests`` falls to. Trains the values of edits that have none yet."""
        edits = memory.live(namespace)
        if not edits or not requests:
            return [None] * len(requests)
        laid = self.laid(lm)
        found: list[Found | None] = [None] * len(requests)
        for chat in {not request.completion for request in requests}:
            places = [place for place, request in enumerate(requests) if request.completion is not chat]
            rows = [token_ids(lm, render(lm, requests[place])) for place in places]
            for row in rows:
                check_length(lm, row)
            book = laid.book(memory, edits, namespace, chat=chat)
            keys, _ = last_states(lm, rows, laid.layer)
            for place, hit in zip(places, book.find(keys.cpu().numpy()), strict=True):
                found[place] = hit
        return found

    def laid(self, lm: LanguageModel) -> _Laid:
        """Return what belongs to one model: the layer, the radius, the codebooks.

        Raises:
            UnsupportedArchitecture: An encoder-decoder, or an architecture without layer map.
            InvalidRequest: No such layer.
        """
        with self._lock:
            if (laid := self._models.get(lm.model)) is None:
                check_supported(lm)
                layer = round(DEPTH * lm.layers.count) if self.layer is None else self.layer
                lm.layers.mlp(layer)
                laid = self._models[lm.model] = _Laid(lm, layer, self.scale, self.recipe)
            return laid

    def model(self, lm: LanguageModel | None) -> LanguageModel:
        """Return ``lm``: it is the caller's model that answers."""
        if lm is None:
            raise _out_of_reach()
        return lm

    @contextmanager
    def at_work(self, lm: LanguageModel, details: Sequence[Any], columns: int) -> Iterator[None]:
        """Lay the values of ``details``, entries, over the prompts' last tokens. See :class:`Worker`."""
        module = lm.layers.mlp(self.laid(lm).layer)
        values = torch.from_numpy(np.stack([entry.value for entry in details])).to(lm.device)  # (rows, d)
        with Override(lm.model, {module: _Laying(values, columns)}):
            yield


class _Laying:
    """Replaces the output at one column of a batch: where its prompts end.

    With a key-value cache only the first pass holds that column; without, every pass does.
    """

    def __init__(self, values: torch.Tensor, columns: int) -> None:
        self.values = values
        self.columns = columns
        self.rows = 0

    def __call__(self, states: torch.Tensor) -> torch.Tensor:
        width = self.values.shape[1]
        first = self.rows == 0
        if states.dim() == 3:
            self.rows = len(states)
        elif first:  # OPT has rows and columns in one; the first pass holds the prompts and nothing else
            self.rows = states.numel() // (self.columns * width)
        whole = states.reshape(self.rows, -1, width)
        # A later pass of one column is a new token after a cache, also where the prompt itself has no more than one.
        if whole.shape[1] < self.columns or (whole.shape[1] == 1 and not first):
            return states
        changed = whole.clone()
        each = self.rows // len(self.values)  # beams, or several sequences a row
        changed[:, self.columns - 1] = self.values.repeat_interleave(each, 0).to(states.dtype)
        return changed.view_as(states)


class _Laid:
    """The codebooks of one model.

    Args:
        lm: The model.
        layer: The block.
        scale, recipe: See :class:`GRACE`.
    """

    def __init__(self, lm: LanguageModel, layer: int, scale: float, recipe: Recipe) -> None:
        self.layer = layer
        self._lm = lm
        self._scale, self._recipe = scale, recipe
        self._lock = threading.RLock()
        self._books: WeakKeyDictionary[Memory, dict[tuple[str, bool], tuple[tuple[str, ...], Codebook]]]
        self._books = WeakKeyDictionary()
        self._entries: dict[tuple[str, bool], Entry] = {}

    @cached_property
    def radius(self) -> float:
        """Initial deferral radius, in the units of the layer."""
        groups = []
        for wording in _WORDINGS:
            rows = [token_ids(self._lm, wording.format(name)) for name in _NAMES]
            groups.append(last_states(self._lm, rows, self.layer)[0].cpu().numpy())
        return initial_radius(groups, self._scale)

    @cached_property
    def mark(self) -> str:
        """Under what the store keeps the entries: equal marks, equal keys and values."""
        parts = (self._lm.fingerprint, self.layer, self._recipe, FORMAT)
        return f"{DERIVED}grace/{hashlib.sha256(repr(parts).encode()).hexdigest()[:32]}"

    def book(self, memory: Memory, edits: Sequence[Edit], namespace: str, *, chat: bool) -> Codebook:
        """Return the codebook of ``edits``, all that are live in ``namespace``, for completions or conversations."""
        ids = tuple(edit.id for edit in edits)
        with self._lock:
            books = self._books.setdefault(memory, {})
            known = books.get((namespace, chat))
            if known is None or known[0] != ids:
                self._ready(memory, edits, chat)
                book = Codebook([self._entries[edit.id, chat] for edit in edits], self.radius)
                known = books[namespace, chat] = (ids, book)
            return known[1]

    def _ready(self, memory: Memory, edits: Sequence[Edit], chat: bool) -> None:
        """See to it that each of ``edits`` has an entry: here, in the store, or trained now."""
        missing = [edit for edit in edits if (edit.id, chat) not in self._entries]
        keys = {_store_key(edit, chat): edit for edit in missing}
        for key, data in memory.derived(self.mark, list(keys)).items():
            edit = keys[key]
            if (entry := Entry.from_bytes(edit, data)) is not None:
                self._entries[edit.id, chat] = entry
        for start in range(0, len(missing), _TRAINED):
            part = [edit for edit in missing[start : start + _TRAINED] if (edit.id, chat) not in self._entries]
            if part:
                made = self._trained(part, chat)
                self._entries |= {(entry.edit_id, chat): entry for entry in made}
                rows = {_store_key(edit, chat): entry.to_bytes() for edit, entry in zip(part, made, strict=True)}
                memory.keep_derived(self.mark, rows)

    def _trained(self, edits: Sequence[Edit], chat: bool) -> list[Entry]:
        lm = self._lm
        prompts, targets = [], []
        for edit in edits:
            request = Chat((Message("user", edit.prompt),), completion=not chat)
            prompts.append(token_ids(lm, render(lm, request)))
            check_length(lm, prompts[-1])
            # The mark that closes the answer belongs to it: without, nothing keeps "Rome" from becoming "Romeo".
            closed = edit.target if edit.target.endswith((".", "!", "?")) else f"{edit.target}."
            targets.append(plain_ids(lm.tokenizer, closed if chat else f" {closed}"))
        keys, _ = last_states(lm, prompts, self.layer)
        trained, _ = values(lm, prompts, targets, self.layer, self._recipe)
        rows = zip(edits, keys.cpu().numpy(), trained.cpu().numpy(), strict=True)
        return [Entry.of(edit, key.copy(), value.copy()) for edit, key, value in rows]


def _out_of_reach() -> CorrigendaError:
    return CorrigendaError(
        "GRACE lies inside the model, and there is none in this process",
        remedy="Use it with EditedModel, or choose a strategy for models behind an API (auto, ike, serac).",
    )


def _store_key(edit: Edit, chat: bool) -> bytes:
    return text_hash(f"{edit.id}/{'chat' if chat else 'completion'}")


def _fired(hit: Found) -> Fired:
    """Return a hit as a trace shows it: at the key the probability is 1, at the edge of the radius ½."""
    nearness = 1.0 if hit.radius == 0 else 1 - 0.5 * hit.distance / hit.radius
    return Fired(hit.entry.edit_id, nearness, nearness - 0.5, hit.entry.statement)
