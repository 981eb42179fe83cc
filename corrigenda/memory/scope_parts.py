"""Parts: what of a query is judged, each sentence by itself, completed from what was said before it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from corrigenda.edit import EditId
from corrigenda.memory.mentions import Mention
from corrigenda.memory.names import NameMatch
from corrigenda.memory.scope_context import completed
from corrigenda.memory.segments import Segment, segments


@dataclass(frozen=True, slots=True)
class Named:
    """A name of live edits in a part.

    Attributes:
        ids: The edits.
        match: Where the name stands in the part's text.
        mention: Where it stands in the query; ``None`` if an earlier message supplied it.
    """

    ids: tuple[EditId, ...]
    match: NameMatch
    mention: Mention | None


@dataclass(frozen=True, slots=True)
class Part:
    """A sentence of a query.

    Attributes:
        text: The sentence; completed, where it points back to something said before.
        asked: Whether it asks for something, or is to be continued; nothing else is judged.
        named: The names of live edits in it, nested ones left out.
    """

    text: str
    asked: bool
    named: tuple[Named, ...]


def parts(query: str, context: Sequence[str], mentions: Callable[[str], Sequence[Mention]]) -> list[Part]:
    """Return the parts of ``query``; a sentence that can be read in several ways is several parts.

    Args:
        query: Any text.
        context: Earlier messages, oldest first.
        mentions: Finds the names of live edits in a text.
    """
    there = [mention for mention in mentions(query) if not mention.nested]
    found = []
    for segment in segments(query, [(mention.start, mention.end) for mention in there]):
        named = [_named(mention, segment.start, mention) for mention in there if _inside(mention, segment)]
        said = [*context, query[: segment.start]] if query[: segment.start].strip() else list(context)
        readings = completed(segment.text, said, mentions) if segment.asked else []
        found += [_reading(text, mentions) for text in readings] or [Part(segment.text, segment.asked, tuple(named))]
    return found


def _reading(text: str, mentions: Callable[[str], Sequence[Mention]]) -> Part:
    named = [_named(mention, 0, None) for mention in mentions(text) if not mention.nested]
    return Part(text, True, tuple(named))


def _named(mention: Mention, offset: int, shown: Mention | None) -> Named:
    match = NameMatch(mention.start - offset, mention.end - offset, 1.0, True, 0, mention.name)
    return Named(mention.edit_ids, match, shown)


def _inside(mention: Mention, segment: Segment) -> bool:
    return segment.start <= mention.start and mention.end <= segment.end
