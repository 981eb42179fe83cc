"""``corrigenda mend`` and ``corrigenda ke``: train the networks of an editor."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from corrigenda.cli.common import DEFAULT_MODEL, AsJson, ModelName, console, err_console, print_json, with_status

if TYPE_CHECKING:
    from corrigenda.param_editors.hyper_recipe import TrainingFact

DataFiles = Annotated[list[Path], typer.Option("--data", "-d", help="Training records: CounterFact or zsRE; repeat.")]
OutFile = Annotated[
    Path | None, typer.Option(help="File for the networks; by default where the editor looks for them.")
]


def group(method: str) -> typer.Typer:
    """Return the commands of a trained editor."""
    app = typer.Typer(no_args_is_help=True, help=f"The networks of {method.upper()}.")

    @app.callback()
    def main() -> None:
        """Train the networks that the editor works with."""

    app.command("train")(_training(method))
    return app


def _training(method: str) -> Callable[..., None]:
    def train(
        data: DataFiles,
        out: OutFile = None,
        facts: Annotated[int, typer.Option(min=20, help="Most facts to learn from.")] = 1_500,
        steps: Annotated[int, typer.Option(min=1, help="Most steps.")] = 700,
        batch_size: Annotated[int, typer.Option(min=1, help="Facts of a step.")] = 8,
        lr: Annotated[float, typer.Option(help="Learning rate of the networks, at the start.")] = 1e-3,
        rank: Annotated[int | None, typer.Option(min=1, help="Width of the networks; the preset by default.")] = None,
        seed: Annotated[int, typer.Option(help="Same seed, same networks.")] = 0,
        if_missing: Annotated[
            bool, typer.Option("--if-missing", help="Where networks are already, do nothing.")
        ] = False,
        model: ModelName = DEFAULT_MODEL,
        as_json: AsJson = False,
    ) -> None:
        """Train on facts and their neighbours. An interrupted training goes on where it stopped."""
        from corrigenda.lm.loading import load
        from corrigenda.param_editors import hyper_training
        from corrigenda.param_editors.editor import editor
        from corrigenda.param_editors.hyper_recipe import Recipe
        from corrigenda.param_editors.hypernetwork import default_path

        lm = with_status(f"loading {model}", lambda: load(model), quiet=as_json)
        place = out or default_path(method, lm)
        if if_missing and place.is_file():
            print_json({"file": str(place)}) if as_json else console().print(f"Networks: {place}")
            return
        known = [fact for path in data for fact in training_facts(path)]
        own: Any = editor(method)
        params = own.params_type.preset(method, lm)
        if rank is not None:
            params = params.replace(rank=rank)
        recipe = Recipe(steps=steps, batch_size=batch_size, lr=lr, seed=seed, constrained=method == "ke")
        about = hyper_training.train(
            own, lm, known[:facts], place, params=params, recipe=recipe, report=_reporter(steps)
        )
        if as_json:
            print_json(about | {"file": str(place)})
            return
        for name, value in about["held_out"].items():
            console().print(f"{name.removeprefix('held_'):>15}  {value:.3f}")
        console().print(f"Networks: {place}")

    return train


def training_facts(path: Path) -> list[TrainingFact]:
    """Return the records of ``path`` that have other wordings and prompts that the edit does not concern."""
    from corrigenda.eval.datasets import load
    from corrigenda.param_editors.hyper_recipe import TrainingFact

    found = []
    for case in load(str(path)).cases:
        edit = case.edits[0]
        wordings = [probe.prompt for probe in case.probes if probe.role == "generalization"]
        unrelated = [probe.prompt for probe in case.probes if probe.role == "locality"]
        if wordings and unrelated:
            group = edit.subject or edit.prompt
            found.append(TrainingFact(edit.prompt, edit.target, tuple(wordings), tuple(unrelated), group, edit.subject))
    return found


def _reporter(steps: int) -> Callable[[dict[str, float]], None]:
    out = err_console()

    def report(figures: dict[str, float]) -> None:
        step = int(figures["step"])
        if "held_told" in figures or step % 25 == 0:
            rest = "  ".join(f"{name} {value:.3f}" for name, value in figures.items() if name != "step")
            out.print(f"{step:>6}/{steps}  {rest}", highlight=False)

    return report
