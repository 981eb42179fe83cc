"""What all command groups share: options, output for people and for programs, and errors without tracebacks."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from typer.core import TyperGroup

from corrigenda.atomic import refuse_database
from corrigenda.errors import CorrigendaError, ImportFailed, InvalidRequest
from corrigenda.memory.files import BESIDE

if TYPE_CHECKING:
    from corrigenda.lm.loading import LanguageModel
    from corrigenda.memory.memory import Memory

T = TypeVar("T")

FAILED = 2
"""Exit code of a command that refused its input or could not do its work."""
PASSING = 75
"""Exit code where a disk, a lock or a server refused, which may pass: the same command may work later (EX_TEMPFAIL)."""
CRASHED = 70
"""Exit code after an error that nobody foresaw; 1, Python's own, is an answer: the gate is closed, a check failed."""

MemoryPath = Annotated[
    Path,
    typer.Option(
        "--memory",
        "-m",
        envvar="CORRIGENDA_MEMORY",
        help="The memory: a file, or redis://host:6379/0#ledger.",
        show_default="corrigenda.db",
    ),
]
Namespace = Annotated[str, typer.Option("--namespace", "-n", help="Only edits of this namespace.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs instead of text for people.")]
ModelName = Annotated[
    str, typer.Option("--model", envvar="CORRIGENDA_MODEL", help="Known name, folder, hub id or GGUF file.")
]
_ARGUMENTS = "corrigenda.arguments"
DEFAULT_MEMORY = Path("corrigenda.db")
DEFAULT_MODEL = "smollm2"


class CorrigendaGroup(TyperGroup):
    """A command group that prints this package's errors as message and remedy, and exits with a code for them."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Remember the arguments: how an error is shown depends on them, also when parsing goes no further."""
        ctx.meta[_ARGUMENTS] = tuple(args)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Run the command; a :class:`CorrigendaError` becomes text (or JSON, where ``--json`` was asked for).

        So does a file or folder that cannot be read or written: the user has named it, whatever code came upon it.
        """
        try:
            return super().invoke(ctx)
        except (CorrigendaError, OSError) as error:
            if "--json" in ctx.meta[_ARGUMENTS]:
                print_json({"error": describe_error(_own(error))})
            else:
                show_error(_own(error))
            raise typer.Exit(_code(error)) from error


def _code(error: CorrigendaError | OSError) -> int:
    misnamed = isinstance(error, FileNotFoundError | FileExistsError | IsADirectoryError | NotADirectoryError)
    return PASSING if isinstance(error, OSError) and not misnamed else FAILED


def _own(error: CorrigendaError | OSError) -> CorrigendaError:
    """Return ``error`` as one of this package; raises it where it names no file, for then it is nobody's mistake."""
    if isinstance(error, CorrigendaError):
        return error
    if error.filename is None:
        raise error
    return CorrigendaError(
        f"{error.filename} cannot be read or written: {error.strerror or error}", remedy="Name another place."
    )


def check_output(path: Path) -> None:
    """Find out whether ``path`` can be written, before time is spent on what is to be written there; makes its folder.

    Raises:
        InvalidRequest: It cannot.
        FileExistsError: It is a memory, or belongs to one.
    """
    refuse_database(path, beside=BESIDE)
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
        raise InvalidRequest(f"{path} cannot be written to", remedy="Name a file in a writable place.")


def refuse_idle(idle: Mapping[str, bool], remedy: str) -> None:
    """Refuse options that were given and would do nothing: who gives one believes that it did something.

    Args:
        idle: Whether each option is such a one, by name.
        remedy: What is to be done.

    Raises:
        InvalidRequest: Names them.
    """
    if names := [name for name, is_idle in idle.items() if is_idle]:
        raise InvalidRequest(f"nothing would come of {', '.join(names)}", remedy=remedy)


def describe_error(error: CorrigendaError) -> dict[str, Any]:
    """Return ``error`` as a JSON-ready dict: type, message, remedy, and bad lines where there are any."""
    row: dict[str, Any] = {"type": type(error).__name__, "message": error.message, "remedy": error.remedy}
    if isinstance(error, ImportFailed):
        row["bad_lines"] = {str(number): reason for number, reason in error.bad_lines.items()}
    return row


def show_error(error: CorrigendaError) -> None:
    """Print ``error`` to standard error: what is wrong in red, then the remedy."""
    console = err_console()
    console.print(f"[bold red]error:[/] {escape(error.message)}", highlight=False)
    if isinstance(error, ImportFailed):
        for number, reason in sorted(error.bad_lines.items())[:20]:
            console.print(f"  line {number}: {escape(reason)}", highlight=False)
    if error.remedy:
        console.print(f"  [cyan]→[/] {escape(error.remedy)}", highlight=False)


def console() -> Console:
    """Return a console on standard output (made anew: tests replace the stream)."""
    return Console()


def err_console() -> Console:
    """Return a console on standard error."""
    return Console(stderr=True)


def asides(*, quiet: bool) -> Callable[[str], None]:
    """Return what tells people how far the work is, on standard error; says nothing when ``quiet``."""

    def say(text: str) -> None:
        if not quiet:
            err_console().print(f"[dim]{text}[/]", highlight=False)

    return say


def print_json(value: object) -> None:
    """Print ``value`` as JSON, two spaces deep, characters as they are."""
    typer.echo(json.dumps(value, ensure_ascii=False, indent=2))


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table; cells are shown as they are, never read as markup."""
    table = Table(title=title, title_justify="left", header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(escape(cell) for cell in row))
    console().print(table)


def print_figures(title: str, figures: Mapping[str, Any], as_json: bool) -> None:
    """Print what was measured: a figure a row, those of a group one after the other; or JSON."""
    if as_json:
        print_json(figures)
        return
    rows = []
    for name, value in figures.items():
        inner = value.items() if isinstance(value, dict) else [("", value)]
        rows += [
            (f"{name} {key}".strip(), f"{item:,.3f}" if isinstance(item, float) else f"{item:,}") for key, item in inner
        ]
    print_table(title, ("figure", "value"), rows)


def open_memory(path: Path, *, readonly: bool = False, follow: bool = False) -> Memory:
    """Open the memory at ``path``, which may be a server's URL; imports happen here so that ``--help`` stays fast.

    Args:
        path: A file, or ``redis://host:6379/0#ledger``.
        readonly: Whether writing is refused.
        follow: Whether to follow what others write on a server: for processes that live long.
    """
    from corrigenda.memory.upkeep import located
    from corrigenda.memory.upkeep import open_memory as open_anywhere

    return open_anywhere(located(path), readonly=readonly, follow=follow)


def load_model(name: str, *, quiet: bool) -> LanguageModel:
    """Load a language model behind a spinner; see :func:`corrigenda.lm.loading.load`."""
    from corrigenda.lm.loading import load

    return with_status(f"loading {name}", lambda: load(name), quiet=quiet)


def with_status(message: str, work: Callable[[], T], *, quiet: bool) -> T:
    """Run ``work`` behind a spinner on standard error, or silently when ``quiet`` or not on a terminal."""
    target = err_console()
    if quiet or not target.is_terminal or os.environ.get("CI"):
        return work()
    with target.status(message):
        return work()
