"""Short and other forms of words in names: Bill is William, a Chevy is a Chevrolet."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

_FILE = Path(__file__).parent / "weights" / "short_forms.txt"


def same_word(word: str, other: str) -> bool:
    """Tell whether two different folded words stand for each other in names: "bill" and "william"."""
    return other in _forms().get(word, ())


@lru_cache(maxsize=1)
def _forms() -> dict[str, frozenset[str]]:
    """Return what goes with what: the first of a group with the others, which do not go together: Liam, Billy."""
    found: dict[str, frozenset[str]] = {}
    for line in _FILE.read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            continue
        first, *others = line.split("; ")
        found[first] = found.get(first, frozenset()) | frozenset(others)
        for other in others:
            found[other] = found.get(other, frozenset()) | {first}
    return found
