"""Promote and roll back: one atomic step between two editions, and the ledger in step with it.

The step is the replacement of ``current.json``. It also names the promotion whose edits the ledger has yet to show as
shadows, or as ordinary edits again; that note is taken out once it has happened, and whoever holds the lock next
completes what a killed process left open. At every moment either the old edition is in force or the new one, and the
memory answers for every edit that the weights in force may not know: edits are marked as shadows after the switch, and
taken back before it.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from corrigenda.edit import Edit
from corrigenda.errors import GateClosed, InvalidRequest, PlanOutdated
from corrigenda.memory.printed import bare
from corrigenda.param_editors.consolidation import marks
from corrigenda.param_editors.consolidation.chain import promoted_updates, require_removable
from corrigenda.param_editors.consolidation.durable import publish_folder, read_json, write_json
from corrigenda.param_editors.consolidation.editions import Current, Editions, slug, version
from corrigenda.param_editors.consolidation.notebook import content_key
from corrigenda.param_editors.consolidation.plan import Plan, require_current
from corrigenda.param_editors.consolidation.publishing import MANIFEST, Kind, base_model, publish, verify
from corrigenda.param_editors.consolidation.result import Result, read_result
from corrigenda.param_editors.consolidation.serving import ModelServer
from corrigenda.param_editors.export import MAX_RANK

if TYPE_CHECKING:
    from corrigenda.lm.loading import LanguageModel
    from corrigenda.memory.memory import Memory


@dataclass(frozen=True)
class Change:
    """What a promotion or a rollback did.

    Attributes:
        edition: In force now; ``None`` is the base model.
        path: Its folder.
        promotions: What is printed in it.
        events: Entries that the ledger got.
    """

    edition: str | None
    path: Path | None
    promotions: tuple[str, ...]
    events: int


def promote(
    editions: Editions,
    job: str,
    memory: Memory,
    *,
    kind: Kind = "checkpoint",
    lm: LanguageModel | None = None,
    max_rank: int = MAX_RANK,
    servers: Sequence[ModelServer] = (),
) -> Change:
    """Make the result of ``job`` the edition in force; its edits stay in memory as shadows.

    Args:
        editions: Of the model.
        job: A finished job.
        memory: Where its edits live.
        kind: What is written, see :mod:`corrigenda.param_editors.consolidation.publishing`.
        lm: The base model, if it is loaded already; it comes back as it was.
        max_rank: Of an adapter.
        servers: Take the adapter before it is in force; when one refuses, nothing is promoted.

    Raises:
        GateClosed: The job let nothing through.
        PlanOutdated: The job is not finished, another edition is in force by now, or an edit changed in memory.
        ModelLocked: Another job works on this model.
        InvalidRequest: It was promoted already, or ``memory`` is not the one that has its edits.
        ServerRefused: A server did not take the adapter; the edition in force is as before.
    """
    with editions.locked(f"promote {job}"):
        result = read_result(editions, job)
        plan = Plan.read(editions.jobs / job / "plan.json")
        edits = [edit for edit in plan.edits if edit.id in set(result.kept)]
        _require_known(memory, edits, plan.memory)
        recover(editions, memory)
        _require_promotable(editions, job, result)
        require_current(plan, editions)
        _require_live(memory, edits)
        now = editions.current()
        name = _name(editions, plan, result)
        _write_promotion(editions, name, plan, result, edits)
        promotions = (*now.promotions, name)
        _build(editions, name, promotions, kind, lm, max_rank)
        _load_on(servers, editions, name, now)
        editions.switch(now.after(name, promotions, unsettled=name))
        return _settle(editions, memory)


def rollback(
    editions: Editions,
    name: str,
    memory: Memory,
    *,
    lm: LanguageModel | None = None,
    max_rank: int = MAX_RANK,
    servers: Sequence[ModelServer] = (),
) -> Change:
    """Take the promotion ``name`` out of the model, and let the memory answer for its edits again.

    The edition that comes into force has exactly the weights that it would have, had the promotion never been: the
    base, with the other promotions printed on it in their order. Edits that later promotions printed, and that retired
    since, are on probation again, for the weights around them changed.

    Raises:
        UnknownName: No such promotion.
        InvalidRequest: It is not in force, or ``memory`` is not the one that has its edits.
        NotRevertible: A later promotion of full rank stands on it; says which has to go first.
        ModelLocked: Another job works on this model.
    """
    where = editions.promotion(name).get("memory", "")
    with editions.locked(f"rollback {name}"):
        edits = _edits(editions, name)
        _require_known(memory, edits, where)
        recover(editions, memory)
        now = editions.current()
        if name not in now.promotions:
            raise InvalidRequest(f"{name} is not in force", remedy=f"In force: {', '.join(now.promotions) or 'none'}.")
        require_removable(editions, name, now.promotions)
        rest = tuple(other for other in now.promotions if other != name)
        edition = _edition_without(editions, now, rest, lm, max_rank) if rest else None
        if edition is not None:
            _load_on(servers, editions, edition, now)
        editions.switch(replace(now, unsettled=name))
        events = marks.take_back(memory, name)  # before the switch: at no moment does nobody know
        events += _bring_back(memory, edits)
        editions.switch(now.after(edition, rest, unsettled=name))
        done = _settle(editions, memory)
        return replace(done, events=done.events + events)


def recover(editions: Editions, memory: Memory) -> None:
    """Complete what a killed process left open, and remove what it left lying about. The caller holds the lock."""
    now = editions.current()
    if now.unsettled is not None:
        record = editions.promotion(now.unsettled)
        _require_known(memory, _edits(editions, now.unsettled), record.get("memory", ""))
        _settle(editions, memory)
    used = {now.edition, *now.promotions, *now.past}
    for place in (editions.editions, editions.promotions):
        for path in place.glob("*"):
            if path.name not in used:  # was never in force: nobody can have loaded it
                shutil.rmtree(path)


def _settle(editions: Editions, memory: Memory) -> Change:
    """Let the ledger show what is in force; doing it twice changes nothing."""
    now = editions.current()
    events = 0
    if (name := now.unsettled) is not None:
        if name in now.promotions:
            events = marks.shadow(memory, _edits(editions, name), name)
        else:
            events = marks.take_back(memory, name)
            later = [other for other in now.promotions if version(other) > version(name)]
            events += sum(marks.back_on_probation(memory, other) for other in later)
        editions.switch(replace(now, unsettled=None))
    return Change(now.edition, editions.path(), now.promotions, events)


def _require_promotable(editions: Editions, job: str, result: Result) -> None:
    if not result.passed:
        why = "; ".join(result.faults) or "no edit held"
        raise GateClosed(f"the gate let nothing of job {job} through: {why}", remedy="corrigenda consolidate status")
    for name in editions.names():
        if editions.promotion(name)["job"] == job and name in editions.current().promotions:
            raise InvalidRequest(f"job {job} was promoted already, as {name}", remedy="Make a new plan.")


def _require_known(memory: Memory, edits: Sequence[Edit], where: str) -> None:
    """Refuse a memory that has nothing of the edits, which came from ``where``: nobody would answer for them."""
    memory.refresh()
    if edits and len(_unknown(memory, edits)) == len(edits):
        raise InvalidRequest(
            f"{memory.path or 'this memory'} has never held {edits[0].id} ({edits[0].statement}), "
            f"and {len(edits) - 1} more of what is printed",
            remedy=f"Name the memory that the plan was made of{', ' + where if where else ''}, with --memory.",
        )


def _unknown(memory: Memory, edits: Sequence[Edit]) -> list[Edit]:
    with memory.replica.lock:
        return [edit for edit in edits if edit.id not in memory.replica.state.known]


def _bring_back(memory: Memory, edits: Sequence[Edit]) -> int:
    """Add those of ``edits`` that a memory made of an export has not, for they had retired; return how many.

    What contradicts a live edit is left out: somebody has said otherwise since.
    """
    lost = [bare(edit) for edit in _unknown(memory, edits)]
    return len(memory.add_unrefused(lost, on_conflict="refuse").events) if lost else 0


def _require_live(memory: Memory, edits: Sequence[Edit]) -> None:
    memory.refresh()
    gone = [edit for edit in edits if not memory.is_live(edit.id)]
    if gone:
        raise PlanOutdated(
            f"{gone[0].id} ({gone[0].statement}) is no longer live in memory, and {len(gone) - 1} more",
            remedy="Make a new plan.",
        )


def _name(editions: Editions, plan: Plan, result: Result) -> str:
    content = content_key(result.job, result.kept, result.batches)[:8]
    return f"{slug(plan.model)}-v{editions.next_version()}-{plan.editor}-{len(result.kept)}-{content}"


def _write_promotion(editions: Editions, name: str, plan: Plan, result: Result, edits: Sequence[Edit]) -> None:
    """Keep what is promoted: updates, edits, scores."""
    record = {
        "name": name,
        "job": result.job,
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "model": plan.model,
        "fingerprint": plan.fingerprint,
        "memory": plan.memory,
        "onto": list(plan.onto),
        "editor": plan.editor,
        "params": dict(plan.params),
        "seed": plan.seed,
        "edits": [edit.to_dict() | {"id": edit.id} for edit in edits],
        "figures": result.figures,
        "batches": [list(batch) for batch in result.batches],
    }

    def fill(draft: Path) -> None:
        for file, _ in result.batches:
            shutil.copyfile(editions.jobs / result.job / file, draft / file)
        write_json(draft / "promotion.json", record)

    publish_folder(editions.promotions / name, fill)


def _build(
    editions: Editions, name: str, promotions: Sequence[str], kind: Kind, lm: LanguageModel | None, max_rank: int
) -> None:
    """Write the edition of ``promotions``."""
    publish(
        editions.editions / name,
        kind,
        promoted_updates(editions, promotions),
        base_model(editions, lm),
        base=editions.model,
        records=[editions.promotion(one) for one in promotions],
        max_rank=max_rank,
    )


def _edition_without(
    editions: Editions, now: Current, promotions: tuple[str, ...], lm: LanguageModel | None, max_rank: int
) -> str:
    """Return an edition of the present kind with exactly ``promotions``: one that there is already, or a new one."""
    assert now.edition is not None
    kind = verify(editions.editions / now.edition)["kind"]
    for path in sorted(editions.editions.glob(f"*/{MANIFEST}")):
        manifest = read_json(path)
        if manifest["promotions"] == list(promotions) and manifest["kind"] == kind:
            verify(path.parent)
            return path.parent.name
    name = f"{slug(editions.model)}-v{editions.next_version()}-{content_key(promotions)[:8]}"
    _build(editions, name, promotions, kind, lm, max_rank)
    return name


def _load_on(servers: Sequence[ModelServer], editions: Editions, name: str, now: Current) -> None:
    """Load an adapter where it is going to be asked for, and unload what has been out of force for a while.

    What is in force now stays loaded: requests that name it are on their way.
    """
    for server in servers:
        server.load(editions.editions / name)
        for old in now.past:
            if old != name:
                server.unload(old)


def _edits(editions: Editions, name: str) -> list[Edit]:
    rows: list[dict[str, Any]] = editions.promotion(name)["edits"]
    return [Edit.from_dict(row) for row in rows]
