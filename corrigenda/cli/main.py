"""``corrigenda``: the command line, assembled from one file a group."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from corrigenda import __version__
from corrigenda.cli import (
    ask,
    bench,
    bench_gateway,
    bench_many,
    bench_scope,
    consolidate,
    demo,
    edit,
    eval_memprompt,
    export,
    keys,
    memory,
    mend,
    models,
    neurons,
    scope,
    serac,
    serve,
    stats,
    sweep,
    trace,
)
from corrigenda.cli import eval as evaluation
from corrigenda.cli.common import CRASHED, CorrigendaGroup

app = typer.Typer(
    cls=CorrigendaGroup,
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
    help="Correct what a language model knows, without retraining it.",
)
app.add_typer(edit.app, name="edit", help="Add, change, withdraw and look at edits.")
app.command("ask")(ask.ask)
app.command("explain")(ask.explain)
app.command("demo")(demo.demo)
app.add_typer(models.app, name="models", help="Language models: list, check, pull.")
app.add_typer(scope.app, name="scope", help="The scope classifier: train, evaluate, calibrate.")
app.add_typer(serac.app, name="serac", help="SERAC's counterfactual model: train.")
evaluation.app.command("memprompt")(eval_memprompt.memprompt)
app.add_typer(evaluation.app, name="eval", help="Score editing methods.")
app.command("serve")(serve.serve)
app.add_typer(keys.app, name="keys", help="API keys of the gateway: create, list, revoke.")
bench.app.command("gateway")(bench_gateway.gateway)
app.add_typer(memory.app, name="memory", help="Look after a memory: check, restore, move, fill.")
bench.app.command("memory")(bench_many.memory)
bench.app.command("scope")(bench_scope.scope)
app.add_typer(bench.app, name="bench", help="Measure speed.")
app.add_typer(stats.app, name="stats", help="Second moments of keys, which editors of weights need.")
app.add_typer(consolidate.app, name="consolidate", help="Print proven edits into the weights, and take them out.")
app.add_typer(mend.group("mend"), name="mend", help="MEND: train its networks.")
app.add_typer(mend.group("ke"), name="ke", help="KE: train its networks.")
app.command("neurons")(neurons.neurons)
app.command("detect")(neurons.detect)
app.command("export")(export.export)
app.command("trace")(trace.trace)
app.command("sweep")(sweep.sweep)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"corrigenda {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Correct what a language model knows, without retraining it."""


def command() -> None:
    """Run the command line; what nobody foresaw shows its traceback and exits with :data:`CRASHED`."""
    try:
        app()
    except Exception:
        sys.excepthook(*sys.exc_info())
        sys.exit(CRASHED)


if __name__ == "__main__":
    command()
