"""``corrigenda serac``: train the counterfactual model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from corrigenda.cli.common import DEFAULT_MODEL, AsJson, ModelName, console, err_console, print_json, with_status

if TYPE_CHECKING:
    from corrigenda.middleware.strategies.serac_training import Material

app = typer.Typer(no_args_is_help=True)


@app.callback()
def main() -> None:
    """Look after the counterfactual model of SERAC."""


@app.command()
def train(
    data: Annotated[list[Path], typer.Option("--data", "-d", help="Training records: CounterFact or zsRE; repeat.")],
    out: Annotated[Path, typer.Option(help="Folder for the adapter.")],
    steps: Annotated[int, typer.Option(min=1, help="Batches of 16 examples.")] = 40,
    rank: Annotated[int, typer.Option(min=1, help="Rank of the adapter.")] = 8,
    seed: Annotated[int, typer.Option(help="Same seed, same adapter.")] = 0,
    dtype: Annotated[str, typer.Option(help="Number format of the model while it learns.")] = "bfloat16",
    model: ModelName = DEFAULT_MODEL,
    as_json: AsJson = False,
) -> None:
    """Train an adapter that answers by the edits it is shown. An interrupted run goes on where it stopped."""
    from corrigenda.lm.loading import load
    from corrigenda.middleware.strategies.serac_training import Recipe, train

    material = [item for path in data for item in read_material(path)]
    fingerprint = with_status(f"loading {model}", lambda: load(model).fingerprint, quiet=as_json)
    lm = load(model, dtype=dtype)
    recipe = Recipe(steps=steps, rank=rank, seed=seed)
    report = train(lm, material, out, recipe, progress=lambda line: err_console().print(line), fingerprint=fingerprint)
    if as_json:
        print_json(report)
        return
    console().print(f"{report['agreement']:.1%} of {report['held_out']} edits held out are answered by their target.")
    console().print(f"Adapter: {out}")


def read_material(path: Path) -> list[Material]:
    """Return what the records of ``path`` teach: their wordings, and as hard negatives what is asked of neighbours."""
    from corrigenda.eval.datasets import load as load_data
    from corrigenda.middleware.strategies.serac_training import Material

    dataset = load_data(str(path))
    found = []
    for case in dataset.cases:
        asked = tuple(probe.prompt for probe in case.probes if probe.role in ("reliability", "generalization"))
        # A neighbour in the edit's own relation is a hard negative; a question about something else is none.
        beside = tuple(
            (probe.prompt, probe.answers[0])
            for probe in case.probes
            if probe.role == "locality" and probe.kind == "neighborhood" and probe.answers
        )
        found.append(Material(case.edits[0], asked, beside))
    return found
