"""``corrigenda sweep``: which layers to edit, by trying them on facts of a training split."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from corrigenda.cli.common import (
    DEFAULT_MODEL,
    AsJson,
    ModelName,
    console,
    err_console,
    load_model,
    print_json,
    print_table,
    with_status,
)
from corrigenda.cli.stats import FROM_MODEL, bar, parse_layers
from corrigenda.errors import InvalidRequest, MissingStatistics

if TYPE_CHECKING:
    from corrigenda.eval.case import Case
    from corrigenda.lm.loading import LanguageModel
    from corrigenda.param_editors.params import EditorParams
    from corrigenda.param_editors.statistics import Statistics
    from corrigenda.param_editors.sweep import Fact, Tried


def sweep(
    data: Annotated[str, typer.Argument(help="Facts of a training split, or 'builtin'.")],
    layers: Annotated[str, typer.Option(help="Blocks to try, like 3-8.")],
    method: Annotated[str, typer.Option(help="An editor: rome, memit, …")] = "rome",
    width: Annotated[
        int | None, typer.Option(min=1, help="Neighbouring layers that are written.", show_default="as in the preset")
    ] = None,
    facts: Annotated[int, typer.Option(min=1, help="So many facts that the model knows.")] = 12,
    near: Annotated[int, typer.Option(min=0, help="Other prompts a fact, most.")] = 5,
    params: Annotated[str, typer.Option(help="Hyper-parameters besides the preset's, JSON.")] = "{}",
    seed: Annotated[int, typer.Option(help="Decides which facts, and all that is drawn.")] = 0,
    model: ModelName = DEFAULT_MODEL,
    as_json: AsJson = False,
) -> None:
    """Try layers on facts that the model knows; the best come first."""
    from corrigenda.eval.normalise import matches
    from corrigenda.param_editors import sweep as sweeping

    changes = _object(params)
    lm = load_model(model, quiet=as_json)
    chosen = _params(lm, method, changes, parse_layers(layers)[: width or 1] if width else None)
    candidates = sweeping.windows(parse_layers(layers), width or len(chosen.layers))
    known = with_status(
        "looking for facts that the model knows", lambda: _known(lm, data, facts, near, seed), quiet=as_json
    )
    stats = _statistics(lm, method, sorted({layer for each in candidates for layer in each}), quiet=as_json)
    with bar(quiet=as_json) as shown:
        task = shown.add_task("editing", total=None)
        found = sweeping.sweep(
            lm,
            method,
            known,
            candidates,
            params=chosen,
            stats=stats,
            seed=seed,
            right=lambda answer, target: matches(answer, [target]),
            progress=lambda stage, done, total: shown.update(task, completed=done, total=total),
        )
    if as_json:
        print_json({"model": lm.name, "method": method, "facts": len(known), "tried": [t.to_dict() for t in found]})
        return
    columns = ("layers", "score", "reliability", "generalization", "locality", "refused", "s a fact")
    print_table(f"{method} on {lm.name}, {len(known)} facts", columns, [_row(tried) for tried in found])
    console().print(f"best: layers {', '.join(map(str, found[0].layers))}", highlight=False)


def _row(tried: Tried) -> tuple[str, ...]:
    figures = (tried.score, tried.reliability, tried.generalization, tried.locality)
    layers = ",".join(map(str, tried.layers))
    return (layers, *(f"{value:.3f}" for value in figures), str(tried.refused), f"{tried.seconds:.1f}")


def _object(text: str) -> dict[str, object]:
    try:
        found = json.loads(text)
    except ValueError as error:
        raise InvalidRequest(f"{text!r} is not JSON: {error}", remedy="""--params '{"v_lr": 0.4}'""") from error
    if not isinstance(found, dict):
        raise InvalidRequest(f"{text!r} is no JSON object", remedy="""--params '{"v_lr": 0.4}'""")
    return found


def _params(lm: LanguageModel, method: str, changes: dict[str, object], layers: list[int] | None) -> EditorParams:
    """Return the preset with changes; for a model without one, the method's defaults."""
    from corrigenda.errors import InvalidParams
    from corrigenda.param_editors.editor import editor

    kind = editor(method).params_type
    row = changes | ({"layers": layers} if layers else {})
    try:
        return kind.preset(method, lm).replace(**row)
    except InvalidParams:
        if layers is None:
            raise
        return kind.from_dict(row)


def _known(lm: LanguageModel, data: str, count: int, near: int, seed: int) -> list[Fact]:
    """Return facts whose old answer the model gives, from a random order of the dataset's."""
    from corrigenda.eval.case import sample
    from corrigenda.eval.datasets import load
    from corrigenda.eval.normalise import matches
    from corrigenda.lm.scoring import greedy
    from corrigenda.param_editors.sweep import TOKENS

    every = load(data, None).cases
    cases = [case for case in sample(every, len(every), seed) if len(case.edits) == 1 and case.edits[0].old_answer]
    found: list[Fact] = []
    for start in range(0, len(cases), 64):
        some = cases[start : start + 64]
        answers = greedy(lm, [case.edits[0].prompt for case in some], max_new_tokens=TOKENS)
        for case, answer in zip(some, answers, strict=True):
            if case.edits[0].subject and matches(answer, [case.edits[0].old_answer or ""]):
                found.append(_fact(case, near))
        if len(found) >= count:
            return found[:count]
    if not found:
        raise InvalidRequest(f"the model knows no fact of {data}", remedy="Give other facts, with old answers.")
    return found


def _fact(case: Case, near: int) -> Fact:
    from corrigenda.param_editors.sweep import Fact

    def prompts(role: str) -> tuple[str, ...]:
        return tuple(probe.prompt for probe in case.probes if probe.role == role)

    return Fact(case.edits[0], prompts("generalization"), prompts("locality")[:near])


def _statistics(lm: LanguageModel, method: str, layers: list[int], *, quiet: bool) -> Statistics | None:
    """Return second moments of all layers that are tried, sampled from the model where there are none."""
    from corrigenda.param_editors.editor import editor
    from corrigenda.param_editors.statistics import collect_from_model, find

    if not editor(method).needs_statistics:
        return None
    try:
        return find(lm, layers)
    except MissingStatistics:
        if not quiet:
            err_console().print("no second moments of these layers yet: sampling text from the model", highlight=False)
        with bar(quiet=quiet) as shown:
            task = shown.add_task("statistics", total=None)
            return collect_from_model(
                lm,
                layers,
                FROM_MODEL,
                progress=lambda stage, done, total: shown.update(task, completed=done, total=total),
            )
