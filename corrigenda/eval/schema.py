"""Check a JSON value against a JSON Schema: the part of the standard that our schemas use.

Supported: ``$ref`` to ``#/$defs/…``, ``type`` (one or a list), ``required``, ``properties``, ``additionalProperties``
(false, or a schema), ``items``, ``enum``, ``const``, ``minimum``, ``maximum``, ``minLength``, ``pattern``. A
schema that uses anything else is refused, so that no rule is silently skipped.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

_TYPES: Mapping[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "null": (type(None),),
}
_NOTES = {"$schema", "$id", "$defs", "title", "description"}
_RULES = {
    "$ref",
    "type",
    "required",
    "properties",
    "additionalProperties",
    "items",
    "enum",
    "const",
    "minimum",
    "maximum",
    "minLength",
    "pattern",
}


@cache
def results_schema() -> Mapping[str, Any]:
    """Return the schema of results files."""
    schema: Mapping[str, Any] = json.loads(Path(__file__).with_name("results.schema.json").read_text("utf-8"))
    return schema


def problems(value: object, schema: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with ``value``, each as ``$.path: reason``; empty when it conforms."""
    return list(_check(value, schema, schema, "$"))


def _check(value: Any, rule: Mapping[str, Any], root: Mapping[str, Any], path: str) -> Iterator[str]:
    if unknown := set(rule) - _RULES - _NOTES:
        raise NotImplementedError(f"schema keyword(s) {sorted(unknown)} at {path}")
    if "$ref" in rule:
        target = root["$defs"][rule["$ref"].removeprefix("#/$defs/")]
        yield from _check(value, target, root, path)
    if "type" in rule:
        names = rule["type"] if isinstance(rule["type"], list) else [rule["type"]]
        if not any(_is(value, name) for name in names):
            yield f"{path}: expected {' or '.join(names)}, found {type(value).__name__}"
            return
    if "const" in rule and value != rule["const"]:
        yield f"{path}: expected {rule['const']!r}, found {value!r}"
    if "enum" in rule and value not in rule["enum"]:
        yield f"{path}: {value!r} is not one of {rule['enum']}"
    if isinstance(value, str):
        yield from _check_text(value, rule, path)
    elif isinstance(value, int | float):
        yield from _check_number(value, rule, path)
    elif isinstance(value, dict):
        yield from _check_object(value, rule, root, path)
    elif isinstance(value, list) and "items" in rule:
        for place, item in enumerate(value):
            yield from _check(item, rule["items"], root, f"{path}[{place}]")


def _is(value: object, name: str) -> bool:
    """Tell whether ``value`` is of the JSON type ``name``; Python's bool is no number there."""
    return isinstance(value, _TYPES[name]) and (name == "boolean" or not isinstance(value, bool))


def _check_text(value: str, rule: Mapping[str, Any], path: str) -> Iterator[str]:
    if len(value) < rule.get("minLength", 0):
        yield f"{path}: shorter than {rule['minLength']}"
    if "pattern" in rule and not re.search(rule["pattern"], value):
        yield f"{path}: {value!r} does not match {rule['pattern']}"


def _check_number(value: float, rule: Mapping[str, Any], path: str) -> Iterator[str]:
    if "minimum" in rule and not value >= rule["minimum"]:
        yield f"{path}: {value} is below {rule['minimum']}"
    if "maximum" in rule and not value <= rule["maximum"]:
        yield f"{path}: {value} is above {rule['maximum']}"


def _check_object(value: dict[str, Any], rule: Mapping[str, Any], root: Mapping[str, Any], path: str) -> Iterator[str]:
    for key in rule.get("required", ()):
        if key not in value:
            yield f"{path}: {key!r} is missing"
    named = rule.get("properties", {})
    others = rule.get("additionalProperties", {})
    for key, item in value.items():
        if key in named:
            yield from _check(item, named[key], root, f"{path}.{key}")
        elif others is False:
            yield f"{path}: {key!r} is unknown"
        else:
            yield from _check(item, others, root, f"{path}.{key}")
