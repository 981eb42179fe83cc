"""MemPrompt's word tasks: what a user means by a question.

Format: Madaan et al. 2022, "Memory-assisted prompt editing to improve GPT-3 after deployment". A file of tasks holds
``meta`` (the words), ``type`` and ``template_id``; the wordings are in ``templates.json`` next to it.

===========================  ===================================================================================
what                         becomes
===========================  ===================================================================================
the question                 the edit's prompt: "What is like < good > ?"
the answer                   its target: "the synonym for good is great"; the bare word is right as well
the word asked about         its subject; the type of question is its relation
the other wordings           generalization probes (up to two): questions of the type in the same words
another type's question      a locality probe about the same word: what is asked there is not what was corrected
===========================  ===================================================================================

An answer here corrects one question; MemPrompt's own measure, whether the *intent* is understood for other words, is
that of its strategy and not of an edit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from string import Formatter

from corrigenda.edit import Edit
from corrigenda.errors import DatasetError
from corrigenda.eval.case import Case, Probe
from corrigenda.eval.datasets.records import Fields, read_object

NAME = "memprompt"
KEYS = frozenset({"meta", "type", "template_id"})
_SUBJECTS = ("word1", "word")
_ANSWERS = ("word2", "definition", "sentence")


def reader(path: Path) -> Callable[[Fields, int], Case]:
    """Return the function that reads the records of ``path``, with the wordings next to it.

    Raises:
        DatasetError: There is no ``templates.json``, or it is damaged.
    """
    beside = path.with_name("templates.json")
    if not beside.exists():
        raise DatasetError(
            f"{path.name} needs templates.json in the same folder",
            remedy="Take the wordings from the data set's source as well.",
        )
    whole = read_object(beside)
    templates: dict[str, Fields] = {}
    for group in sorted(whole.value, key=lambda name: not path.stem.startswith(name)):
        for template in whole.each(group):
            templates.setdefault(template.text("template_id"), template)
    return lambda record, number: read(record, number, templates)


def read(record: Fields, number: int, templates: Mapping[str, Fields]) -> Case:
    """Build the case of ``record``, the ``number``-th of its file (1-based), with its wordings.

    Raises:
        DatasetError: A field is missing, of the wrong type, or names no template.
    """
    name = record.text("template_id")
    if name not in templates:
        record.fail("template_id", f"templates.json has no {name!r}")
    own, words = templates[name], record.within("meta")
    word, answer = _one(words, _SUBJECTS), _one(words, _ANSWERS)
    target = _fill(own, "answer", words)
    with record.building_edit():
        edit = Edit(_fill(own, "question", words), target, subject=word, relation=record.text("type"))
    right = tuple(dict.fromkeys((target, answer)))
    probes = [Probe("reliability", edit.prompt, right, "question")]
    for other in templates.values():
        if other is not own and other.value.get("type") == own.value.get("type"):
            probes.append(Probe("generalization", _fill(other, "question", words), right, "wording"))
    foreign = next((item for item in templates.values() if item.value.get("type") != own.value.get("type")), None)
    if foreign is not None:
        named = Fields(dict.fromkeys(_SUBJECTS, word), record.where, record.path)
        probes.append(Probe("locality", _fill(foreign, "question", named), (), "other_type"))
    return Case(str(number), (edit,), tuple(dict.fromkeys(probes)))


def _one(words: Fields, keys: tuple[str, ...]) -> str:
    """Return the text of the first of ``keys`` that is there."""
    found = next((key for key in keys if key in words), keys[0])
    return words.answer(found)


def _fill(template: Fields, key: str, words: Fields) -> str:
    """Put the words into a wording; its braces hold names of words and nothing else."""
    texts = {name: words.text(name) for name in words.value}
    wording = template.text(key)
    try:
        fields = [found for found in Formatter().parse(wording) if found[1] is not None]
    except ValueError as error:
        words.fail("", f"the wording {wording!r} cannot be filled in: {error}")
    for _, name, width, conversion in fields:
        if name not in texts:
            words.fail("", f"the wording {wording!r} needs {name!r}")
        if width or conversion:
            words.fail("", f"the wording {wording!r} wants {name!r} in another form")
    return wording.format_map(texts)
