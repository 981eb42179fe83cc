"""How to make the figures again: one line a results file."""

from __future__ import annotations

import shlex
from typing import Any

from corrigenda.eval.report.entries import Entry

COLUMNS = ("results", "command", "edits hash", "started", "seconds", "commit")


def row_of(entry: Entry) -> tuple[str, ...]:
    """Return what is said of ``entry``, in the order of :data:`COLUMNS`."""
    results = entry.results
    return (
        entry.path.name,
        command(results),
        str(results["edits"]["sha256"])[:12],
        str(results["started"])[:16].replace("T", " "),
        f"{results['cost']['wall_seconds']:,.0f}",
        str(results["commit"] or "–")[:12],
    )


def command(results: Any) -> str:
    """Return the command that makes these results."""
    data, settings = results["data"], results["settings"]
    words = ["corrigenda", "eval", "run", "--data", data["name"].replace("builtin.jsonl", "builtin")]
    words += ["--method", results["method"], "--protocol", results["protocol"], "--seed", str(data["seed"])]
    if data["limit"] is not None:
        words += ["--limit", str(data["limit"])]
    if settings.get("context", "completion") != "completion":
        words += ["--context", settings["context"]]
    for name, flag in (("together", "--edits-per-batch"), ("retracted", "--retract")):
        if settings.get(name):
            words += [flag, str(settings[name])]
    if "at_edit" in settings:
        words += ["--at-edit", str(settings["at_edit"])]
    if settings.get("checkpoints"):
        words += ["--checkpoints", ",".join(map(str, settings["checkpoints"]))]
    words += ["--no-teacher-forced"] if settings.get("forced") is False else []
    words += [f"--{name}" for name in ("success", "divergence") if settings.get(name)]
    for name in ("writing", "distract"):
        words += [f"--{name}", str(settings[name])] if settings.get(name) else []
    if settings.get("judge"):
        words += ["--judge", settings["judge"]]
    for task in settings.get("tasks", ()):
        words += ["--task", task["file"]]
    if settings.get("tasks"):
        words += ["--task-limit", str(max(task["n"] for task in settings["tasks"]))]
    words += _of_the_method(settings)
    if (tokens := settings.get("max_new_tokens", {}).get("locality")) is not None:
        words += ["--locality-tokens", str(tokens)]
    if (shard := results.get("shard", [1, 1])) != [1, 1]:
        words += ["--shard", "/".join(map(str, shard))]
    return shlex.join([*words, "--model", results["model"]["name"]])


def _of_the_method(settings: Any) -> list[str]:
    """Return the options that only some methods have: when edits fire, and what is added with them."""
    words = ["--threshold", str(settings["scope_threshold"])] if "scope_threshold" in settings else []
    expansion = settings.get("expansion", {"kinds": []})
    for kind in expansion["kinds"]:
        words += ["--expand", kind]
    for name, flag in (("alias_table", "--alias-table"), ("facts", "--facts")):
        words += [flag, expansion[name]["file"]] if name in expansion else []
    return words


def versions(entries: list[Entry]) -> str:
    """Return the versions of what the figures depend on, where all runs agree."""
    names: dict[str, set[str]] = {}
    for entry in entries:
        for name, version in entry.results["versions"].items():
            names.setdefault(name, set()).add(str(version))
    return ", ".join(f"{name} {' / '.join(sorted(found))}" for name, found in names.items())
