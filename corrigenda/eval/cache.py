"""Answers of an unedited model, asked once.

Greedy answers are a function of the weights, the prompt and the decoding settings, so they can be kept. :class:`Cached`
stands in front of a bare model and remembers what it said, in memory and, when given a file, on disk. Put a memory's
adapter on top of it and every prompt that no edit concerns is answered from the cache: exactly what the bare model says
to exactly that prompt. An editor of weights must never sit on top of it.

One more thing it can do: :meth:`Cached.collecting` notes which prompts would be asked without asking them, so that the
prompts of many small calls run as one large batch afterwards.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from corrigenda.errors import CorrigendaError
from corrigenda.eval.editable import Answers, Distributions, NextToken, Nothing, Undo, Writes

if TYPE_CHECKING:
    from corrigenda.edit import Edit
    from corrigenda.lm.scoring import TargetScore

log = logging.getLogger(__name__)

Key: TypeAlias = str
VERSION = 1
"""Raise when the way answers are made changes: older files are then left aside."""


@dataclass
class _Wanted:
    """What would be asked: (prompt, limit), (prompt, target), and tokens by prompt."""

    texts: dict[tuple[str, int], None] = field(default_factory=dict)
    pairs: dict[tuple[str, str], None] = field(default_factory=dict)
    nexts: dict[str, tuple[int, ...]] = field(default_factory=dict)


class Cached:
    """A bare model that is asked each thing once.

    Args:
        base: The model; its answers must depend on prompt and token limit alone.
        path: File to keep the answers in, JSON Lines, appended to; made when missing. Its name must tell the model
            (see :func:`cache_file`). ``None``: memory only, as where it cannot be read or written.

    Attributes:
        hits: Questions answered from the cache.
        misses: Questions that the model was asked.
        new_texts: Continuations that the model made, for counting tokens.
    """

    def __init__(self, base: Answers, path: Path | None = None) -> None:
        self.base = base
        self.path = path
        self.hits = 0
        self.misses = 0
        self.new_texts: list[str] = []
        self._answers: dict[Key, str] = {}
        self._scores: dict[Key, tuple[list[float], list[bool]]] = {}
        self._next: dict[Key, NextToken] = {}
        self._written: dict[Key, list[str]] = {}
        self._wanted: _Wanted | None = None
        if path is not None:
            self._read(path)

    @property
    def is_collecting(self) -> bool:
        """Whether questions are only noted at the moment."""
        return self._wanted is not None

    def edit(self, edits: Sequence[Edit]) -> Undo:
        """Do nothing: the unedited model is the baseline of every table."""
        return Nothing()

    def generate(self, prompts: Sequence[str], *, max_new_tokens: int) -> list[str]:
        """Continue each prompt as the model does; ``""`` for unknown ones while collecting."""
        keys = [_key(prompt, max_new_tokens) for prompt in prompts]
        if self._wanted is not None:
            wanted = ((prompt, key) for prompt, key in zip(prompts, keys, strict=True) if key not in self._answers)
            self._wanted.texts.update({(prompt, max_new_tokens): None for prompt, _ in wanted})
            return [self._answers.get(key, "") for key in keys]
        missing = {key: prompt for key, prompt in zip(keys, prompts, strict=True) if key not in self._answers}
        self._count(len(keys), len(missing))
        if missing:
            texts = self.base.generate(list(missing.values()), max_new_tokens=max_new_tokens)
            new = dict(zip(missing, texts, strict=True))
            self.new_texts += texts
            self._answers |= new
            self._append({"key": key, "text": text} for key, text in new.items())
        return [self._answers[key] for key in keys]

    def score(self, prompts: Sequence[str], targets: Sequence[str]) -> list[TargetScore]:
        """Score each target as the model does; improbable placeholders for unknown ones while collecting."""
        from corrigenda.lm.scoring import TargetScore

        pairs = list(zip(prompts, targets, strict=True))
        keys = [_key(*pair) for pair in pairs]
        if self._wanted is not None:
            self._wanted.pairs.update(
                {pair: None for pair, key in zip(pairs, keys, strict=True) if key not in self._scores}
            )
            return [TargetScore((-100.0,), (False,)) for _ in pairs]
        missing = {key: pair for key, pair in zip(keys, pairs, strict=True) if key not in self._scores}
        self._count(len(keys), len(missing))
        if missing:
            asked = list(missing.values())
            made = self.base.score([prompt for prompt, _ in asked], [target for _, target in asked])
            new = {
                key: ([round(value, 6) for value in score.log_probs], list(score.argmax_matches))
                for key, score in zip(missing, made, strict=True)
            }
            self._scores |= new
            self._append({"key": key, "log_probs": row[0], "matches": row[1]} for key, row in new.items())
        return [TargetScore(tuple(self._scores[key][0]), tuple(self._scores[key][1])) for key in keys]

    def next_tokens(self, prompts: Sequence[str], among: Sequence[Sequence[int]] | None = None) -> list[NextToken]:
        """Return the distribution after each prompt; kept in memory only, and by the tokens asked for.

        Raises:
            CorrigendaError: The model gives no distributions.
        """
        if not isinstance(self.base, Distributions):
            raise CorrigendaError("the method gives no distributions")
        wanted = [tuple(ids) for ids in among] if among is not None else [()] * len(prompts)
        found = [self._known(prompt, ids) for prompt, ids in zip(prompts, wanted, strict=True)]
        missing = [place for place, item in enumerate(found) if item is None]
        if self._wanted is not None:
            self._wanted.nexts.update({prompts[place]: wanted[place] for place in missing})
            return [item or NextToken(ids, (-100.0,) * len(ids), -1) for item, ids in zip(found, wanted, strict=True)]
        self._count(len(prompts), len(missing))
        if missing:
            ids = [wanted[place] for place in missing] if among is not None else None
            for place, item in zip(missing, self.base.next_tokens([prompts[p] for p in missing], ids), strict=True):
                self._next[_key(prompts[place], *wanted[place])] = found[place] = item
        return [item for item in found if item is not None]

    def _known(self, prompt: str, ids: tuple[int, ...]) -> NextToken | None:
        item = self._next.get(_key(prompt, *ids)) or self._next.get(_key(prompt))
        return item if item is not None and ids in ((), item.ids) else None

    def write(self, prompts: Sequence[str], *, tokens: int, seed: int) -> list[str]:
        """Continue each prompt by ``tokens`` tokens; what was written once is remembered, in memory only.

        Raises:
            CorrigendaError: The model writes no long texts.
        """
        if not isinstance(self.base, Writes):
            raise CorrigendaError("the method writes no long texts")
        key = _key(*prompts, tokens, seed)
        if key not in self._written:
            self._written[key] = self.base.write(prompts, tokens=tokens, seed=seed)
        return self._written[key]

    @contextmanager
    def collecting(self) -> Iterator[None]:
        """Note what is asked inside instead of answering it; ask all of it at once at the end.

        Callers inside get placeholders, so what they conclude from answers must be thrown away.
        """
        noted = self._wanted = _Wanted()
        try:
            yield
        finally:
            self._wanted = None
        by_limit: dict[int, list[str]] = {}
        for prompt, limit in noted.texts:
            by_limit.setdefault(limit, []).append(prompt)
        # What the model refuses in a batch it will refuse again when it is asked in earnest, prompt by prompt.
        with suppress(CorrigendaError):
            for limit, prompts in by_limit.items():
                self.generate(prompts, max_new_tokens=limit)
            if noted.pairs:
                self.score([prompt for prompt, _ in noted.pairs], [target for _, target in noted.pairs])
            if noted.nexts:
                self.next_tokens(list(noted.nexts), list(noted.nexts.values()) if any(noted.nexts.values()) else None)

    def _count(self, asked: int, missing: int) -> None:
        self.misses += missing
        self.hits += asked - missing

    def _read(self, path: Path) -> None:
        """Read what is kept; a line torn by a kill is worth nothing and skipped."""
        try:
            lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
        except FileNotFoundError:
            return
        except OSError as error:
            self._do_without(error)
            return
        for line in lines:
            try:
                row = json.loads(line)
                if "text" in row:
                    self._answers[str(row["key"])] = str(row["text"])
                else:
                    self._scores[str(row["key"])] = (list(row["log_probs"]), list(row["matches"]))
            except (ValueError, KeyError, TypeError):
                continue

    def _append(self, rows: Iterator[dict[str, Any]] | Any) -> None:
        if self.path is None:
            return
        # A line of its own also after a torn one. One write: other processes may append to the same file.
        text = "\n" + "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(text)
        except OSError as error:
            self._do_without(error)

    def _do_without(self, error: OSError) -> None:
        """Keep answers in memory only from now on: a cache saves work, it must not cost any."""
        log.warning("the unedited model's answers are not kept for later runs in %s: %s", self.path, error.strerror)
        self.path = None


def cache_file(folder: Path, fingerprint: str, settings: object) -> Path:
    """Return the cache file in ``folder`` for a model and its decoding settings (anything ``repr`` tells apart)."""
    text = f"{VERSION} {fingerprint} {settings!r}"
    return folder / "eval" / f"answers-{hashlib.sha256(text.encode()).hexdigest()[:32]}.jsonl"


def _key(*parts: object) -> Key:
    return hashlib.sha256(json.dumps(parts, ensure_ascii=False).encode("utf-8", "surrogatepass")).hexdigest()[:32]
