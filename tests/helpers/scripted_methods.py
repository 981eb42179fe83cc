"""A method whose answers are written down, and cases to try it on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from corrigenda.edit import Edit
from corrigenda.errors import CorrigendaError, SubjectNotFound
from corrigenda.eval.case import Case, Probe
from corrigenda.lm.scoring import TargetScore


@dataclass
class Scripted:
    """A method whose answers are written down: everything a metric says about it can be worked out by hand.

    ``edited`` maps (target of a live edit, prompt) to an answer; any other prompt gets its ``bare`` answer.
    ``first_choices`` maps (prompt, target) to which of the target's tokens the model would choose.
    """

    bare: dict[str, str] = field(default_factory=dict)
    edited: dict[tuple[str, str], str] = field(default_factory=dict)
    first_choices: dict[tuple[str, str], tuple[bool, ...]] = field(default_factory=dict)
    edited_choices: dict[tuple[str, str], tuple[bool, ...]] = field(default_factory=dict)
    refuses: frozenset[str] = frozenset()
    too_long: frozenset[str] = frozenset()
    forgets_to_undo: bool = False
    live: list[Edit] = field(default_factory=list)
    calls: list[tuple[str, int]] = field(default_factory=list)
    limits: dict[str, int] = field(default_factory=dict)

    def edit(self, edits: Sequence[Edit]) -> ScriptedUndo:
        if any(edit.target in self.refuses for edit in edits):
            raise SubjectNotFound("the subject is not in the prompt")
        self.live += edits
        return ScriptedUndo(self, tuple(edits))

    def generate(self, prompts: Sequence[str], *, max_new_tokens: int) -> list[str]:
        self.calls.append(("generate", len(prompts)))
        if bad := self.too_long & set(prompts):
            raise CorrigendaError(f"too long: {sorted(bad)}")
        self.limits |= dict.fromkeys(prompts, max_new_tokens)
        return [self._answer(prompt) for prompt in prompts]

    def score(self, prompts: Sequence[str], targets: Sequence[str]) -> list[TargetScore]:
        self.calls.append(("score", len(prompts)))
        table = {**self.first_choices, **self.edited_choices} if self.live else self.first_choices
        found = [table.get(pair, (True,)) for pair in zip(prompts, targets, strict=True)]
        return [TargetScore((-0.5,) * len(row), row) for row in found]

    def _answer(self, prompt: str) -> str:
        for edit in reversed(self.live):
            if (edit.target, prompt) in self.edited:
                return self.edited[edit.target, prompt]
        return self.bare.get(prompt, "")


@dataclass
class ScriptedUndo:
    owner: Scripted
    edits: tuple[Edit, ...]

    def revert(self) -> None:
        if not self.owner.forgets_to_undo:
            for edit in self.edits:
                self.owner.live.remove(edit)


def make_case(name: str, subject: str, target: str, *, relation: str | None = "capital") -> Case:
    """A capital: its own prompt, two wordings, two neighbours."""
    prompt = f"The capital of {subject} is"
    return Case(
        name,
        (Edit(prompt, target, subject=subject, relation=relation),),
        (
            Probe("reliability", prompt, (target,), "prompt"),
            Probe("generalization", f"{subject}'s capital is", (target, f"{target} City"), "paraphrase"),
            Probe("generalization", f"What is the capital of {subject}?", (target,), "question"),
            Probe("locality", f"The river of {subject} is", ("Seine",), "neighbour"),
            Probe("locality", f"The king of {subject} is", ("Louis",), "neighbour"),
        ),
    )
