"""Probation: do the weights answer alone? Shadows that prove it retire from memory; the others stay.

Every time a shadow fires on live traffic, the edited model can be asked the same thing without its memory. What it
says is noted, and an edit has served its probation when it was right often enough, for long enough::

    probation = Probation(editions, memory)
    probation.observe(lm, prompt, fired)                 # on live traffic, for some share of the requests
    probation.check(lm)                                  # or: ask the edits' own prompts and paraphrases now
    probation.retire()
"""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from corrigenda.edit import Edit, EditId
from corrigenda.errors import InvalidRequest
from corrigenda.eval.normalise import matches, mentions
from corrigenda.lm.scoring import greedy
from corrigenda.param_editors.consolidation import marks
from corrigenda.param_editors.consolidation.editions import Editions

if TYPE_CHECKING:
    from corrigenda.lm.loading import LanguageModel
    from corrigenda.memory.memory import Memory

TOKENS = 16
"""Tokens that the edited model gets to answer alone."""


@dataclass(frozen=True)
class Terms:
    """What it takes to retire.

    Attributes:
        days: Least time since the promotion, 0 and more.
        asked: Least number of times the edited model was asked alone, 1 and more.
        right: Least share of these in which it was right, 0…1.
    """

    days: float = 7.0
    asked: int = 3
    right: float = 0.95

    def __post_init__(self) -> None:
        if self.days < 0 or self.asked < 1 or not 0 <= self.right <= 1:
            raise InvalidRequest(f"{self} cannot be met or means nothing", remedy="days ≥ 0, asked ≥ 1, right 0…1.")


@dataclass(frozen=True)
class Standing:
    """How one shadow is doing.

    Attributes:
        edit: Which.
        promotion: Where it was printed.
        asked: Times the edited model was asked alone.
        right: Of these, how often it was right.
        since: When the promotion was made.
        due: Whether it may retire.
    """

    edit: Edit
    promotion: str
    asked: int
    right: int
    since: datetime
    due: bool


class Probation:
    """The shadows of the promotions in force, and what is known of how they answer alone.

    Args:
        editions: Of the model.
        memory: Where the shadows live.
    """

    def __init__(self, editions: Editions, memory: Memory) -> None:
        self.editions, self.memory = editions, memory
        self.path = editions.folder / "shadows.jsonl"

    def shadows(self) -> dict[EditId, tuple[Edit, str]]:
        """Return the shadows of the promotions in force, with the promotion."""
        found: dict[EditId, tuple[Edit, str]] = {}
        for name in self.editions.current().promotions:
            found |= {edit.id: (edit, name) for edit in marks.shadows(self.memory, name)}
        return found

    def observe(self, lm: LanguageModel, prompt: str, fired: Iterable[str]) -> dict[EditId, bool]:
        """Ask the edited model ``prompt`` alone, for the shadows among the edits that ``fired`` on it.

        Args:
            lm: The model in force, without memory.
            prompt: As the user asked it, in the form in which the model is to continue it.
            fired: Ids of the edits that the memory brought in; where several did, none can be told apart, and
                nothing is noted.

        Returns:
            For each shadow that was looked at, whether the model was right.
        """
        found = self._shadow(fired)
        return {} if found is None else self._look(lm, [(*found, prompt)])

    def note(self, said: str, fired: Iterable[str], *, talk: bool = False) -> dict[EditId, bool]:
        """Note what the edited model said alone, where somebody else asked it; as :meth:`observe` otherwise.

        Args:
            said: Its answer.
            fired: Ids of the edits that the memory brought in.
            talk: Whether it was asked in a conversation: then the target may stand anywhere in the answer.
        """
        found = self._shadow(fired)
        if found is None:
            return {}
        edit, promotion = found
        right = (mentions if talk else matches)(said, (edit.target, *edit.target_aliases))
        self._note([{"edit": edit.id, "promotion": promotion, "right": right}])
        return {edit.id: right}

    def _shadow(self, fired: Iterable[str]) -> tuple[Edit, str] | None:
        """Return the shadow that fired alone, with its promotion."""
        ids = list(fired)
        return self.shadows().get(EditId(ids[0])) if len(ids) == 1 else None

    def check(self, lm: LanguageModel) -> dict[EditId, bool]:
        """Ask the edited model every shadow's own prompt and paraphrases, alone; tell which had all right."""
        asked = [
            (edit, promotion, prompt)
            for edit, promotion in self.shadows().values()
            for prompt in (edit.prompt, *edit.paraphrases)
        ]
        return self._look(lm, asked)

    def standings(self, terms: Terms | None = None, *, now: datetime | None = None) -> list[Standing]:
        """Return how every shadow is doing."""
        wanted, moment = terms or Terms(), now or datetime.now(UTC)
        counts: dict[tuple[str, str], list[bool]] = defaultdict(list)
        edition = self.editions.current().edition
        for row in self._rows():
            if row["edition"] == edition:  # other weights than those in force prove nothing
                counts[row["edit"], row["promotion"]].append(row["right"])
        made = {name: self.editions.promotion(name)["made"] for name in self.editions.current().promotions}
        found = []
        for edit, promotion in self.shadows().values():
            seen, since = counts[edit.id, promotion], datetime.fromisoformat(made[promotion])
            good = bool(seen) and sum(seen) >= wanted.right * len(seen)
            due = good and len(seen) >= wanted.asked and moment - since >= timedelta(days=wanted.days)
            found.append(Standing(edit, promotion, len(seen), sum(seen), since, due))
        return found

    def retire(self, terms: Terms | None = None, *, now: datetime | None = None) -> list[EditId]:
        """Let the shadows that are due retire from memory; return which."""
        due: dict[str, list[EditId]] = defaultdict(list)
        for standing in self.standings(terms, now=now):
            if standing.due:
                due[standing.promotion].append(standing.edit.id)
        return [edit_id for name, ids in due.items() for edit_id in marks.retire(self.memory, ids, name)]

    def _look(self, lm: LanguageModel, asked: Sequence[tuple[Edit, str, str]]) -> dict[EditId, bool]:
        if not asked:
            return {}
        answers = greedy(lm, [prompt for _, _, prompt in asked], max_new_tokens=TOKENS)
        verdicts: dict[EditId, bool] = {}
        rows = []
        for (edit, promotion, _), answer in zip(asked, answers, strict=True):
            right = matches(answer, (edit.target, *edit.target_aliases))
            verdicts[edit.id] = verdicts.get(edit.id, True) and right
            rows.append({"edit": edit.id, "promotion": promotion, "right": right})
        self._note(rows)
        return verdicts

    def _note(self, rows: Sequence[dict[str, Any]]) -> None:
        """Write rows down, with the edition that was asked and the time."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        asked = {"edition": self.editions.current().edition, "when": now}
        data = "".join(json.dumps(row | asked) + "\n" for row in rows)
        handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        try:
            size = os.fstat(handle).st_size
            torn = bool(size) and os.pread(handle, 1, size - 1) != b"\n"  # by a full disk, or a kill
            os.write(handle, ("\n" * torn + data).encode())  # one write: lines of several processes do not mix
        finally:
            os.close(handle)

    def _rows(self) -> list[dict[str, Any]]:
        if not self.path.exists():
            return []
        rows = []
        for line in self.path.read_text(encoding="utf-8", errors="replace").splitlines():
            with suppress(ValueError):  # a cut-off line was never noted
                rows.append(json.loads(line))
        return rows
