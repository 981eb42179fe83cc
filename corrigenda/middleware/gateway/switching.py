"""Which model the upstream is asked for: clients name the base model, the upstream gets the edition in force.

Promotion loads an adapter on the server first and puts it in force then; the next request goes to it. Rollback puts an
earlier one, or the base, in force, and the next request goes there. Nothing restarts, and clients change nothing.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from corrigenda.param_editors.consolidation.durable import read_json
from corrigenda.param_editors.consolidation.editions import Editions


class ModelSwitch:
    """Rewrites the model's name in requests.

    Args:
        home: Where editions are kept.
        base: The base model, as plans name it; the only one there is, by default.
        served: What clients, and the upstream, call the base model.
    """

    def __init__(self, home: Path, served: str, *, base: str | None = None) -> None:
        self.home, self.served, self.base = home, served, base
        self._stamp: tuple[Path, int] | None = None
        self._target: str | None = None

    def target(self) -> str | None:
        """Return the adapter that is in force, ``None`` for the base model. Costs a look at one file's date."""
        found = [one for one in Editions.all(self.home) if self.base in (None, one.model)]
        path = found[0].folder / "current.json" if len(found) == 1 else None
        if path is None or not path.exists():
            return None
        stamp = (path, path.stat().st_mtime_ns)
        if stamp != self._stamp:
            self._target, self._stamp = _adapter(found[0]), stamp
        return self._target

    def __call__(self, data: bytes) -> bytes:
        """Return the request ``data`` for the model in force; every byte but those of the name stays."""
        target = self.target()
        if target is None:
            return data
        try:
            body = json.loads(data)
        except (ValueError, RecursionError):
            return data  # the upstream says what is wrong with it
        if not isinstance(body, dict) or body.get("model") != self.served:
            return data
        wanted = body | {"model": target}
        return _spliced(data, self.served, target, wanted) or json.dumps(wanted, separators=(",", ":")).encode()


def _adapter(editions: Editions) -> str | None:
    """Return the edition in force if it is one that servers load beside the base model."""
    path = editions.path()
    if path is None or read_json(path / "manifest.json")["kind"] != "lora":
        return None
    return path.name


def _spliced(data: bytes, old: str, new: str, wanted: Any) -> bytes | None:
    """Replace the name where it stands, if that is plain to see; ``None`` if it is not."""
    mark = re.compile(rb'("model"\s*:\s*)' + re.escape(json.dumps(old).encode()))
    changed, count = mark.subn(lambda found: found[1] + json.dumps(new).encode(), data)
    return changed if count == 1 and json.loads(changed) == wanted else None
