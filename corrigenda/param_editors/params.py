"""Hyper-parameters: frozen, checked, strict about names; and the presets that come with the package.

A preset belongs to an architecture, told by its configuration and not by a name, so a renamed folder finds its preset.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Self

from corrigenda.errors import InvalidParams, UnknownName

if TYPE_CHECKING:
    from corrigenda.lm.loading import LanguageModel


@dataclass(frozen=True)
class EditorParams:
    """What all editors have in common.

    Attributes:
        layers: Blocks whose down-projection is written, from 0, ascending; at least one.
        max_norm_ratio: Largest ‖Δ‖/‖W‖ (Frobenius) of a written matrix, > 0; above, the update is refused.
    """

    layers: tuple[int, ...]
    max_norm_ratio: float = 2.0

    def __post_init__(self) -> None:
        layers: Any = self.layers
        if not isinstance(layers, tuple) or not layers or not all(_is_whole(layer) for layer in layers):
            raise InvalidParams(f"layers must be whole numbers, at least one, not {layers!r}", remedy="layers=(5,)")
        if list(layers) != sorted(set(layers)) or layers[0] < 0:
            raise InvalidParams(f"layers must ascend from 0 without repeats, not {layers!r}")
        require(self, "max_norm_ratio", above=0)

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> Self:
        """Build from a JSON object.

        Raises:
            InvalidParams: Unknown or missing names, or values out of range.
        """
        known = [field.name for field in dataclasses.fields(cls)]
        for name in row:
            if name not in known:
                raise InvalidParams(str(UnknownName.among(f"parameter of {cls.__name__}", name, known)))
        if "layers" not in row:
            raise InvalidParams(f"{cls.__name__} needs layers", remedy="Name the blocks to write, for instance [5].")
        values: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in row.items()}
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dict; :meth:`from_dict` is its inverse."""
        return dataclasses.asdict(self)

    def replace(self, **changes: Any) -> Self:
        """Return a copy with ``changes``, checked again."""
        return self.from_dict(self.to_dict() | changes)

    @classmethod
    def preset(cls, method: str, lm: LanguageModel) -> Self:
        """Return the values that come with the package for ``method`` on ``lm``'s architecture.

        Raises:
            InvalidParams: There are none.
        """
        for preset in presets().values():
            if method in preset["methods"] and _matches(preset["match"], lm.model.config):
                row = dict(preset["methods"][method])
                return cls.from_dict(row)
        known = [name for name, preset in presets().items() if method in preset["methods"]]
        raise InvalidParams(
            f"no preset of {method} for {lm.name} ({lm.model.config.model_type})",
            remedy=f"Give params with layers; 'corrigenda trace' helps to find them. Presets: {', '.join(known)}.",
        )


def require(params: Any, name: str, *, above: float | None = None, least: float | None = None) -> None:
    """Refuse the number ``name`` of ``params`` unless it is finite, > ``above`` and ≥ ``least``.

    Raises:
        InvalidParams: Names the value and the range.
    """
    value = getattr(params, name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidParams(f"{name} must be a number, not {value!r}")
    good = value == value and abs(value) != float("inf")
    good = good and (above is None or value > above) and (least is None or value >= least)
    if not good:
        limit = f"> {above:g}" if above is not None else f"≥ {least:g}"
        raise InvalidParams(f"{name} must be {limit}, not {value!r}")


def require_whole(params: Any, name: str, *, least: int) -> None:
    """Refuse ``name`` of ``params`` unless it is a whole number ≥ ``least``; raises :class:`InvalidParams`."""
    value = getattr(params, name)
    if not _is_whole(value) or value < least:
        raise InvalidParams(f"{name} must be a whole number ≥ {least}, not {value!r}")


@lru_cache(maxsize=1)
def presets() -> dict[str, dict[str, Any]]:
    """Return all presets: name of the model → match (configuration keys), methods (parameters), how they were found."""
    found: dict[str, dict[str, Any]] = {}
    folder = files("corrigenda.param_editors") / "presets"
    for item in sorted(folder.iterdir(), key=lambda item: item.name):
        if item.name.endswith(".json"):
            found |= json.loads(item.read_text(encoding="utf-8"))
    return found


def _matches(wanted: Mapping[str, Any], config: Any) -> bool:
    return all(getattr(config, name, None) == value for name, value in wanted.items())


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
