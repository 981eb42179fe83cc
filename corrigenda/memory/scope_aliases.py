"""Other names that are common knowledge: Tennessee is the Volunteer State, and the NYT the New York Times.

An edit's own ``aliases`` come first; these are for what nobody lists. The groups are in ``weights/aliases.txt``.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from corrigenda.memory.names import name_words

_FILE = Path(__file__).parent / "weights" / "aliases.txt"
_ARTICLES = frozenset({"the", "a", "an"})

_Key = tuple[str, ...]


@lru_cache(maxsize=65_536)
def other_names(name: str) -> tuple[str, ...]:
    """Return the names that mean the same as ``name``, case, accents and an article aside; often none."""
    key = _key(name)
    return tuple(other for other in _names().get(key, ()) if _key(other) != key)


def _key(name: str) -> _Key:
    words = name_words(name)
    return words[1:] if words[:1] and words[0] in _ARTICLES else words


@lru_cache(maxsize=1)
def _names() -> dict[_Key, tuple[str, ...]]:
    found: dict[_Key, tuple[str, ...]] = {}
    for line in _FILE.read_text(encoding="utf-8").splitlines():
        group = () if line.startswith("#") else line.split("; ")
        for name in group:
            found[_key(name)] = tuple(dict.fromkeys([*found.get(_key(name), ()), *group]))
    return found
