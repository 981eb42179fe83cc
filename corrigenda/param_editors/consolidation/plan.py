"""The plan: which edits, which editor, which gate. A JSON file to be reviewed, committed, changed by hand, and run.

It holds the edits in full and every parameter, so that running it twice, today or in a year, does the same; its
:attr:`Plan.id` is a hash of all that, and names the job.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from corrigenda.edit import Edit, EditId
from corrigenda.errors import InvalidParams, InvalidRequest, NothingToPrint, PlanOutdated
from corrigenda.memory.printed import bare
from corrigenda.param_editors.consolidation.durable import write_json
from corrigenda.param_editors.consolidation.editions import Editions
from corrigenda.param_editors.consolidation.gate import GatePlan
from corrigenda.param_editors.consolidation.notebook import content_key
from corrigenda.param_editors.consolidation.selection import Chosen, Selection, choose, printable
from corrigenda.param_editors.editor import editor, editors
from corrigenda.param_editors.params import EditorParams, require, require_whole

if TYPE_CHECKING:
    from corrigenda.lm.loading import LanguageModel
    from corrigenda.memory.memory import Memory

FORMAT = "corrigenda-plan/1"
FEW = 3
"""Up to so many edits, r-ROME is the default: one edit at a time is what it is best at."""
BATCH = 200
"""Edits that are printed together by default."""
TRIALS = 40
"""Trials of a batch at most: enough to find two bad edits among hundreds."""
PIECE = 8
"""Edits of one task of an engine, and of one checkpoint: about half a minute on one core of a small machine."""


@dataclass(frozen=True)
class Plan:
    """What a job is to do.

    Attributes:
        model: The base model, as for :func:`corrigenda.lm.loading.load`.
        fingerprint: Of its weights.
        onto: The promotions already in the edition that is printed on, in order.
        edits: What is to be printed.
        editor: By name.
        params: Its hyper-parameters in full; the layers are among them.
        gate: See :class:`GatePlan`.
        statistics: Second moments: ``{"from": "cache"}``, ``{"corpus": file}`` or ``{"from_model": tokens}``.
        batch_size: Edits that are printed together, 1 and more.
        piece: Edits of one task and checkpoint, 1 and more.
        trials: Most trials of a batch, 1 and more, see :func:`corrigenda.param_editors.consolidation.admission.admit`.
        tolerance: Share of the edits that may go into the weights without answering alone, 0…1. They are promoted with
            the others, but stay shadows: the memory answers for them until the weights do.
        seed: Of everything that is drawn.
        selection: What the edits were chosen by, for the record.
        left_out: Edits that were asked for and cannot be printed, with the reason; for the record.
        memory: Where the edits live, for the record.
    """

    model: str
    fingerprint: str
    edits: tuple[Edit, ...]
    editor: str
    params: Mapping[str, Any]
    gate: GatePlan = field(default_factory=GatePlan)
    onto: tuple[str, ...] = ()
    statistics: Mapping[str, Any] = field(default_factory=lambda: {"from": "cache"})
    batch_size: int = BATCH
    piece: int = PIECE
    trials: int = TRIALS
    tolerance: float = 0.0
    seed: int = 0
    selection: Mapping[str, Any] = field(default_factory=dict)
    left_out: Mapping[EditId, str] = field(default_factory=dict)
    memory: str = ""

    def __post_init__(self) -> None:
        require_whole(self, "batch_size", least=1)
        require_whole(self, "piece", least=1)
        require_whole(self, "trials", least=1)
        require_whole(self, "seed", least=0)
        require(self, "tolerance", least=0)
        if not self.edits:
            raise InvalidRequest("a plan without edits", remedy="Select some; nothing is printed otherwise.")
        if len({edit.id for edit in self.edits}) < len(self.edits):
            raise InvalidParams("an edit is in the plan twice", remedy="Remove it once.")
        if len(self.statistics) != 1 or next(iter(self.statistics)) not in ("from", "corpus", "from_model"):
            raise InvalidParams(
                f"statistics {dict(self.statistics)!r} are none of the kinds there are",
                remedy='{"from": "cache"}, {"corpus": FILE} or {"from_model": TOKENS}',
            )

    @property
    def id(self) -> str:
        """Name of the job: a hash of everything that decides its result."""
        row = self.to_dict()
        for name in ("selection", "left_out", "memory"):
            row.pop(name)
        return content_key(row)

    def batches(self) -> list[tuple[Edit, ...]]:
        """Return the edits as they are printed together."""
        return [self.edits[start : start + self.batch_size] for start in range(0, len(self.edits), self.batch_size)]

    def editor_params(self) -> EditorParams:
        """Return the hyper-parameters as the editor takes them. Raises :class:`InvalidParams`."""
        return editor(self.editor).params_type.from_dict(self.params)

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dict; :meth:`from_dict` is its inverse."""
        row = {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}
        row |= {"edits": [edit.to_dict() | {"id": edit.id} for edit in self.edits], "gate": self.gate.to_dict()}
        row |= {name: dict(row[name]) for name in ("params", "statistics", "selection", "left_out")}
        return {"format": FORMAT, **row, "onto": list(self.onto)}

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> Plan:
        """Build from a JSON object. An edit whose text was changed by hand gets the id of what it now says.

        Raises:
            InvalidParams, InvalidEdit: Not a plan, or values that are refused.
        """
        if row.get("format") != FORMAT:
            raise InvalidParams(f"the format is {row.get('format')!r}, not {FORMAT!r}", remedy="Make the plan anew.")
        values = {name: value for name, value in row.items() if name not in ("format", "id")}
        try:
            values["edits"] = tuple(Edit.from_dict(edit) for edit in values["edits"])
            values["gate"] = GatePlan.from_dict(values["gate"])
            values["onto"] = tuple(values["onto"])
            return cls(**values)
        except (KeyError, TypeError) as error:
            raise InvalidParams(f"the plan cannot be read: {error}", remedy="Make the plan anew.") from None

    def write(self, path: Path) -> None:
        """Write the plan to a file."""
        write_json(path, self.to_dict() | {"id": self.id})

    @classmethod
    def read(cls, path: Path) -> Plan:
        """Read the plan in a file. Raises as :meth:`from_dict`."""
        try:
            row = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InvalidParams(
                f"{path} is no plan: {error}", remedy="corrigenda consolidate plan --out FILE"
            ) from None
        if not isinstance(row, dict):
            raise InvalidParams(f"{path} is no plan", remedy="corrigenda consolidate plan --out FILE")
        return cls.from_dict(row)


def default_editor(count: int, lm: LanguageModel) -> str:
    """Return the editor that suits ``count`` edits and the model's architecture.

    Few edits: r-ROME. More: MEMIT. Where neither has a preset for the architecture (encoder-decoders among them):
    fine-tuning, which needs none of what they need, but cannot be taken out from below later promotions.

    Raises:
        InvalidParams: No editor has a preset.
    """
    order = ["r-rome", "memit", "ft-m"] if count <= FEW else ["memit", "r-rome", "ft-m"]
    order += sorted(set(editors()) - set(order))
    for name in order:
        if lm.is_encoder_decoder and editor(name).needs_statistics:
            continue
        try:
            require_weights(name)
            editor(name).params_type.preset(name, lm)
        except InvalidParams:
            continue
        return name
    raise InvalidParams(
        f"no editor has a preset for {lm.name} ({lm.model.config.model_type})",
        remedy="Name the editor and its layers: --editor memit --layers 4-8; 'corrigenda trace' helps to find them.",
    )


def make_plan(
    memory: Memory,
    lm: LanguageModel,
    source: str,
    home: Path,
    *,
    selection: Selection | None = None,
    hits: Mapping[str, int] | None = None,
    method: str | None = None,
    params: Mapping[str, Any] | None = None,
    layers: Sequence[int] | None = None,
    where: str = "",
    reword: Callable[[Sequence[Edit]], Sequence[Edit]] | None = None,
    **settings: Any,
) -> Plan:
    """Choose edits and fill in everything that is not given.

    Args:
        memory: Whose live edits.
        lm: The base model, unedited.
        source: What it was loaded from.
        home: Where editions are kept, see :class:`Editions`.
        selection: What is asked of the edits; all that are live and printable by default.
        hits: How often each fired.
        method: The editor; by count and architecture if ``None``.
        params: Hyper-parameters other than the preset's.
        layers: Blocks to write, other than the preset's.
        where: Name of the memory, for the record.
        reword: Adds paraphrases to the edits of the plan, for the editor to learn from; the memory's stay as they are.
        **settings: Other fields of :class:`Plan`.

    Raises:
        NothingToPrint: Says what was left out and why.
        InvalidParams: No preset, or values that the editor refuses.
    """
    wanted = selection or Selection()
    name, chosen = _printable(choose(memory, wanted, hits=hits), method, lm)
    full = _params(name, lm, dict(params or {}) | ({"layers": list(layers)} if layers else {}))
    return Plan(
        model=source,
        fingerprint=lm.fingerprint,
        onto=Editions.of(home, source, lm.fingerprint).current().promotions,
        edits=tuple(bare(edit) for edit in (reword(chosen.edits) if reword is not None else chosen.edits)),
        editor=name,
        params=json.loads(json.dumps(full.to_dict())),
        selection=wanted.to_dict(),
        left_out=chosen.left_out,
        memory=where,
        **settings,
    )


def require_current(plan: Plan, editions: Editions) -> None:
    """Refuse a plan that was made for another edition than the one in force.

    Raises:
        PlanOutdated: Says what differs.
    """
    now = editions.current().promotions
    if now != plan.onto:
        raise PlanOutdated(
            f"the plan prints onto {' + '.join(plan.onto) or 'the base model'}; in force is "
            f"{' + '.join(now) or 'the base model'}",
            remedy="Make a new plan.",
        )


def require_weights(name: str) -> None:
    """Refuse an editor that adds neurons. Raises :class:`InvalidParams`."""
    if getattr(editor(name), "adds_neurons", False):
        raise adds_neurons(name)


def adds_neurons(name: str) -> InvalidParams:
    """Build the error for an editor that adds neurons: editions are the base with changed weights."""
    return InvalidParams(
        f"{name} adds neurons beside the weights, which promotions cannot hold",
        remedy="Print with another editor, or export a checkpoint of it: corrigenda export.",
    )


def _printable(chosen: Chosen, method: str | None, lm: LanguageModel) -> tuple[str, Chosen]:
    """Return the editor, and what of ``chosen`` it can print. Raises :class:`NothingToPrint`."""
    name = method or default_editor(len(chosen.edits), lm)
    require_weights(name)
    fit = printable(lm, chosen.edits, located=editor(name).needs_statistics)
    edits, left_out = fit.edits, chosen.left_out | fit.left_out
    if not edits:
        reasons = "; ".join(f"{edit_id}: {reason}" for edit_id, reason in list(left_out.items())[:3])
        raise NothingToPrint(f"nothing to print{': ' + reasons if reasons else ''}", remedy="Select other edits.")
    return name, Chosen(edits, left_out)


def _params(name: str, lm: LanguageModel, changes: Mapping[str, Any]) -> EditorParams:
    """Return the preset's hyper-parameters with ``changes``; where there is no preset, these have to do."""
    kind = editor(name).params_type
    full = kind.from_dict(changes) if "layers" in changes and not _has_preset(name, lm) else kind.preset(name, lm)
    return full.replace(**changes) if changes else full


def _has_preset(name: str, lm: LanguageModel) -> bool:
    try:
        editor(name).params_type.preset(name, lm)
    except InvalidParams:
        return False
    return True
