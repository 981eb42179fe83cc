"""Artefacts: an edition as a folder that servers load, with a manifest of hashes and a model card.

==============  ======================================================  ==========================================
kind            what is in it                                           who loads it
==============  ======================================================  ==========================================
``checkpoint``  the whole model and its tokenizer                       ``transformers``, vLLM, anything
``lora``        one PEFT adapter for all that is printed                ``peft``, vLLM and others, beside the base
``delta``       factors of the written weights                          ``corrigenda``; a few MB
==============  ======================================================  ==========================================
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from corrigenda.errors import InvalidRequest, ModelDamaged, PlanOutdated
from corrigenda.param_editors.consolidation.chain import apply_chain, write_chain
from corrigenda.param_editors.consolidation.durable import file_digests, publish_folder, read_json
from corrigenda.param_editors.export import export_checkpoint, export_delta, export_lora
from corrigenda.param_editors.update import Consolidation, digest

if TYPE_CHECKING:
    from corrigenda.lm.loading import LanguageModel
    from corrigenda.param_editors.consolidation.editions import Editions

Kind = Literal["checkpoint", "lora", "delta"]
KINDS: tuple[Kind, ...] = ("checkpoint", "lora", "delta")
MANIFEST = "manifest.json"
FORMAT = "corrigenda-edition/1"


def publish(
    folder: Path,
    kind: Kind,
    chain: Sequence[Consolidation],
    lm: LanguageModel,
    *,
    base: str,
    records: Sequence[Mapping[str, Any]],
    max_rank: int,
) -> None:
    """Write an edition; it appears whole or not at all, and is never changed.

    Args:
        folder: New; its name is the edition's.
        kind: See the module's docstring.
        chain: All that is printed in it, in order.
        lm: The base model; it comes back as it was.
        base: Name of the base model, for adapter and card.
        records: Of the promotions, for the card.
        max_rank: Of an adapter.

    Raises:
        InvalidRequest: The kind cannot hold the chain (an adapter of updates of full rank, or of too high a rank).
    """
    checked_kind(kind)

    def fill(draft: Path) -> None:
        weights = _written(chain, lm)
        with _unpacked(draft) as inner:
            if kind == "lora":
                export_lora(chain, inner, base=base, max_rank=max_rank)
            elif kind == "delta":
                inner.mkdir()
                export_delta(chain, inner / "delta.safetensors")
            else:
                with _printed(lm, weights):
                    export_checkpoint(lm, inner, chain=chain)
        (draft / "README.md").write_text(card(folder.name, kind, base, records), encoding="utf-8")
        manifest = {
            **_origin(folder.name, kind, base, lm, records),
            "weights": {name: digest(weight) for name, weight in weights.items()},
            "files": file_digests(draft),
        }
        (draft / MANIFEST).write_text(json.dumps(manifest, indent=2, ensure_ascii=False), encoding="utf-8")

    publish_folder(folder, fill)


def checked_kind(text: str) -> Kind:
    """Return ``text`` as a kind of edition. Raises :class:`InvalidRequest`."""
    for kind in KINDS:
        if kind == text:
            return kind
    raise InvalidRequest(f"{text!r} is no kind of edition", remedy=f"Allowed: {', '.join(KINDS)}.")


def verify(folder: Path) -> dict[str, Any]:
    """Check every file of an edition against its manifest, and return that.

    Raises:
        ModelDamaged: A file is missing, too many, or not as it was written.
    """
    try:
        manifest: dict[str, Any] = read_json(folder / MANIFEST)
        wanted = manifest["files"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelDamaged(f"{folder} has no manifest: {error}", remedy="Build the edition again.") from None
    found = file_digests(folder, without=MANIFEST)
    wrong = sorted(name for name in {*wanted, *found} if wanted.get(name) != found.get(name))
    if wrong:
        raise ModelDamaged(
            f"{folder.name}: {', '.join(wrong[:3])} is not as it was written",
            remedy="Restore the folder from a backup, or roll back and promote again.",
        )
    return manifest


def load_edition(editions: Editions) -> LanguageModel:
    """Return the model in force, whatever kind its edition is of: the base weights with everything printed on them.

    Raises:
        PlanOutdated: The base model is not the one that was printed on.
    """
    lm = base_model(editions)
    write_chain(editions, editions.current().promotions, lm)
    return lm


def base_model(editions: Editions, lm: LanguageModel | None = None) -> LanguageModel:
    """Return the model that was printed on; ``lm`` where it is loaded already. Raises :class:`PlanOutdated`."""
    from corrigenda.lm.loading import load

    about = editions.about()
    base = lm if lm is not None else load(about["model"])
    if base.fingerprint != about["fingerprint"]:
        raise PlanOutdated(
            f"{about['model']} is not the model that was printed on: its weights differ",
            remedy="Bring the base model back, or replay the ledger: corrigenda consolidate replay.",
        )
    return base


def card(name: str, kind: str, base: str, records: Sequence[Mapping[str, Any]]) -> str:
    """Return the model card: what was printed, by what, how it scored, how to take it back."""
    count = sum(len(record["edits"]) for record in records)
    tags = "[corrigenda, model-editing]"
    head = ["---", f"base_model: {base}", f"tags: {tags}", *(["library_name: peft"] if kind == "lora" else []), "---"]
    lines = [*head, "", f"# {name}", "", f"{base} with {count} edits printed into its weights ({kind})."]
    if not records:
        lines += ["", "Nothing is printed in it: these are the base weights."]
    for record in records:
        lines += ["", f"## {record['name']}", ""]
        lines += [
            f"{len(record['edits'])} edits, by `{record['editor']}`, seed {record['seed']}, job `{record['job']}`."
        ]
        lines += ["", "| figure | before | after | asked |", "| --- | --- | --- | --- |"]
        for figure, row in record["figures"].items():
            lines.append(f"| {figure} | {row['before']:.4f} | {row['after']:.4f} | {row['asked']} |")
        lines += ["", f"Parameters: `{json.dumps(record['params'], sort_keys=True)}`", ""]
        lines += [f"- {edit['prompt']} **{edit['target']}** (`{edit['id']}`)" for edit in record["edits"]]
    lines += ["", "Each promotion can be taken out again: `corrigenda consolidate rollback NAME`.", ""]
    return "\n".join(lines)


def _origin(
    edition: str, kind: Kind, base: str, lm: LanguageModel, records: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Return the manifest's lines on what an edition is, and out of what it was made."""
    return {
        "format": FORMAT,
        "edition": edition,
        "kind": kind,
        "base": base,
        "fingerprint": lm.fingerprint,
        "promotions": [record["name"] for record in records],
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "corrigenda": version("corrigenda"),
    }


def _written(chain: Sequence[Consolidation], lm: LanguageModel) -> dict[str, Any]:
    """Return the weights that the chain changes, as they are with it."""
    names = {update.name for done in chain for update in done.updates}
    state = {name: weight.data for name, weight in lm.model.named_parameters() if name in names}
    apply_chain(chain, state)
    return state


@contextmanager
def _unpacked(draft: Path) -> Iterator[Path]:
    """Give the name of a folder to be made, and move its files into ``draft``: exports want a folder of their own."""
    inner = draft / "files"
    yield inner
    for path in list(inner.iterdir()):
        path.rename(draft / path.name)
    inner.rmdir()


class _printed:
    """Let a model hold other weights for a block."""

    def __init__(self, lm: LanguageModel, weights: Mapping[str, Any]) -> None:
        self.lm, self.weights = lm, weights

    def __enter__(self) -> None:
        parameters = dict(self.lm.model.named_parameters())
        self.before = {name: parameters[name].data for name in self.weights}
        for name, weight in self.weights.items():
            parameters[name].data = weight

    def __exit__(self, *exc: object) -> None:
        parameters = dict(self.lm.model.named_parameters())
        for name, weight in self.before.items():
            parameters[name].data = weight
