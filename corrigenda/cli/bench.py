"""``corrigenda bench``: measure speed.

The edits are made up (:mod:`corrigenda.eval.synthetic`) unless ``--data`` names a dataset. Filling a memory takes far
longer than measuring it, so a filled one is kept in the system's folder for temporary files and copied for each run.
"""

from __future__ import annotations

import hashlib
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from corrigenda.cli.common import (
    DEFAULT_MODEL,
    AsJson,
    ModelName,
    load_model,
    print_figures,
    with_status,
)
from corrigenda.errors import DatasetError, EvaluationError
from corrigenda.eval import synthetic

if TYPE_CHECKING:
    from corrigenda.edit import Edit
    from corrigenda.eval.editable import Bare, NextToken
    from corrigenda.lm.scoring import TargetScore
    from corrigenda.memory.encoder import Encoder
    from corrigenda.memory.memory import Memory

app = typer.Typer(no_args_is_help=True)

Count = Annotated[int, typer.Option("--edits", min=1, help="Live edits in the memory.")]
Data = Annotated[Path | None, typer.Option("--data", help="Take the edits from this dataset file.")]


@app.command()
def overhead(
    edits: Count = 10_000,
    queries: Annotated[int, typer.Option(min=2, help="Requests to measure.")] = 200,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Measure a request that no edit concerns, by stage, against encoding it once."""
    from corrigenda.memory.encoder import MiniLM

    encoder = MiniLM.load()
    kept = _edits(edits, data)
    asked = synthetic.foreign_queries(queries, kept)
    with _filled(kept, encoder, quiet=as_json) as memory:
        figures = measure_overhead(memory, asked, encoder)
    print_figures("A request that no edit concerns", figures, as_json)


def measure_overhead(memory: Memory, queries: Sequence[str], encoder: Encoder) -> dict[str, Any]:
    """Return the median milliseconds of deciding about one query, by stage, and their ratio to encoding it once.

    The whole path of a request is measured: looking for what other processes wrote, finding, judging. Requests on which
    an edit fires wrongly are counted as ``fired`` and left out of the times. Encoding and deciding take
    turns, so that a busy machine slows both alike; processor time (``cpu``) hardly depends on what else runs.
    """
    from corrigenda.chat import Chat
    from corrigenda.memory.scope import Scope
    from corrigenda.middleware.consult import consult, drive
    from corrigenda.middleware.strategies.base import create

    scope, strategy = Scope(memory), create("auto")
    once, total = _Stopwatch(), _Stopwatch()
    stages: dict[str, list[float]] = {}
    warm, fired = len(queries[:8]), 0
    for number, query in enumerate([*queries[:warm], *queries]):
        encoding = once.measure(partial(encoder.encode, [query]))[1]
        (decision,), deciding = total.measure(
            lambda text=query: drive(consult([Chat.of(text)], strategy=strategy), memory, scope)  # type: ignore[misc]
        )
        if number < warm:
            continue
        if not decision.trace.untouched:  # a false alarm: its plan is not what is measured here
            fired += 1
            continue
        once.keep(encoding)
        total.keep(deciding)
        for stage, share in decision.trace.milliseconds.items():
            stages.setdefault(stage, []).append(share)
    if len(total.wall) < 2:
        raise EvaluationError(
            f"an edit fired on {fired} of {len(queries)} requests that none concerns",
            remedy="Nothing is left to measure: look at the scope classifier, or ask for more --queries.",
        )
    return {
        "edits": len(memory),
        "queries": len(queries),
        "fired": fired,
        **once.figures("encode_once"),
        **total.figures("overhead"),
        "overhead_p95_ms": round(_p95(total.wall), 3),
        "ratio": round(statistics.median(total.wall) / statistics.median(once.wall), 3),
        "cpu_ratio": round(statistics.median(total.cpu) / statistics.median(once.cpu), 3),
        "stages_ms": {stage: round(statistics.median(shares), 3) for stage, shares in stages.items()},
    }


class _Stopwatch:
    """Wall and processor time of calls, in milliseconds."""

    def __init__(self) -> None:
        self.wall: list[float] = []
        self.cpu: list[float] = []

    @staticmethod
    def measure(action: Callable[[], Any]) -> tuple[Any, tuple[float, float]]:
        wall, cpu = time.perf_counter(), time.process_time()
        value = action()
        return value, ((time.perf_counter() - wall) * 1e3, (time.process_time() - cpu) * 1e3)

    def keep(self, measured: tuple[float, float]) -> None:
        self.wall.append(measured[0])
        self.cpu.append(measured[1])

    def figures(self, name: str) -> dict[str, float]:
        return {
            f"{name}_ms": round(statistics.median(self.wall), 3),
            f"{name}_cpu_ms": round(statistics.median(self.cpu), 3),
        }


@app.command()
def add(
    edits: Count = 10_000,
    repeats: Annotated[int, typer.Option(min=2, help="Edits to add one by one.")] = 100,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Measure adding one edit, until it is durable and can be found."""
    from corrigenda.memory.encoder import MiniLM

    encoder = MiniLM.load()
    with _filled(_edits(edits, data), encoder, quiet=as_json) as memory:
        figures = measure_add(memory, synthetic.edits(repeats, seed=1), encoder)
    print_figures("Adding one edit", figures, as_json)


def measure_add(memory: Memory, new: Sequence[Edit], encoder: Encoder) -> dict[str, Any]:
    """Return the median milliseconds of adding one of ``new``; each is looked for right after, untimed."""
    from corrigenda.memory.texts import index_text

    before, spent, found = len(memory), [], 0
    for edit in new:
        vector = encoder.encode([index_text(edit)])
        spent.append(_ms(partial(memory.add, edit, on_conflict="coexist")))
        found += any(hit.edit.id == edit.id for hit in memory.search(vector, 8)[0])
    return {
        "edits": before,
        "added": len(new),
        "found_at_once": found,
        "add_ms": round(statistics.median(spent), 3),
        "add_p95_ms": round(_p95(spent), 3),
    }


@app.command("eval")
def evaluation(
    limit: Annotated[int, typer.Option(min=1, help="Cases to score.")] = 20,
    data: Annotated[str, typer.Option(help="A dataset file, or 'builtin'.")] = "builtin",
    model: ModelName = DEFAULT_MODEL,
    as_json: AsJson = False,
) -> None:
    """Measure what the evaluation suite adds to the model's own time."""
    from corrigenda.eval.case import sample
    from corrigenda.eval.datasets import load
    from corrigenda.eval.editable import Bare

    cases = sample(load(data).cases, limit, 0)
    lm = load_model(model, quiet=as_json)
    print_figures("The evaluation suite", measure_evaluation(cases, Bare(lm), lm.tokenizer), as_json)


def measure_evaluation(cases: Sequence[Any], bare: Bare, tokenizer: Any) -> dict[str, Any]:
    """Return the seconds of a run of the method ``none``, and how many of them the model itself took.

    Everything that a run does is in it: batching, judging, every column, journal and cache on disk, the summary with
    its bootstrap intervals. The model's own time is that of the calls that reach it.
    """
    from corrigenda.eval.asking import Budget, Columns
    from corrigenda.eval.cache import Cached
    from corrigenda.eval.journal import Journal
    from corrigenda.eval.protocol import Run
    from corrigenda.eval.results import summarise

    clock = _Clocked(bare)
    budget = Budget(lambda text: len(tokenizer(text, add_special_tokens=False).input_ids))
    columns = Columns(forced=True, success=True, divergence=True)

    def everything() -> None:
        with tempfile.TemporaryDirectory(prefix="corrigenda-bench-") as folder:
            journal = Journal.open(Path(folder) / "journal.jsonl", {})
            unedited = Cached(clock, Path(folder) / "answers.jsonl")
            collecting = unedited.collecting
            rows = Run(unedited, unedited, budget, columns=columns, journal=journal, collecting=collecting)(cases)
            summarise(rows, journal.notes)

    spent = _ms(everything) / 1e3
    return {
        "cases": len(cases),
        "total_seconds": round(spent, 3),
        "model_seconds": round(clock.seconds, 3),
        "added_percent": round(100 * (spent / clock.seconds - 1), 3),
    }


class _Clocked:
    """A model, and the seconds spent in it."""

    def __init__(self, model: Bare) -> None:
        self.model = model
        self.seconds = 0.0

    def generate(self, prompts: Sequence[str], *, max_new_tokens: int) -> list[str]:
        with self._timed():
            return self.model.generate(prompts, max_new_tokens=max_new_tokens)

    def score(self, prompts: Sequence[str], targets: Sequence[str]) -> list[TargetScore]:
        with self._timed():
            return self.model.score(prompts, targets)

    def next_tokens(self, prompts: Sequence[str], among: Sequence[Sequence[int]] | None = None) -> list[NextToken]:
        with self._timed():
            return self.model.next_tokens(prompts, among)

    @contextmanager
    def _timed(self) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.seconds += time.perf_counter() - began


def _edits(count: int, data: Path | None) -> list[Edit]:
    if data is None:
        return synthetic.edits(count)
    from corrigenda.eval.datasets import load

    found = [edit for case in load(data).cases for edit in case.edits][:count]
    if len(found) < count:
        raise DatasetError(
            f"{data.name} holds {len(found):,} edits, not {count:,}", remedy="Ask for fewer with --edits."
        )
    return found


@contextmanager
def _filled(edits: Sequence[Edit], encoder: Encoder, *, quiet: bool) -> Iterator[Memory]:
    """Open a copy of a memory that holds ``edits``; it is filled on the first time and kept for the next."""
    from corrigenda.memory.memory import Memory

    key = hashlib.sha256("\n".join([encoder.fingerprint, *(edit.id for edit in edits)]).encode()).hexdigest()[:16]
    kept = Path(tempfile.gettempdir()) / f"corrigenda-bench-{key}"
    with tempfile.TemporaryDirectory(prefix="corrigenda-bench-") as folder:
        path = Path(folder) / "memory"
        if not kept.is_dir():
            path.mkdir()
            with Memory.open(path / "edits.db", encoder=encoder) as memory:
                message = f"filling a memory with {len(edits):,} edits"
                with_status(message, lambda: memory.add_many(edits, on_conflict="coexist"), quiet=quiet)
                memory.search(encoder.encode(["anything"]), 1)  # builds the index
            draft = shutil.copytree(path, f"{folder}-draft")
            with suppress(OSError):  # another process was faster
                Path(draft).rename(kept)
            shutil.rmtree(draft, ignore_errors=True)
        else:
            shutil.copytree(kept, path)
        with Memory.open(path / "edits.db", encoder=encoder) as memory:
            memory.search(encoder.encode(["anything"]), 1)
            yield memory


def _ms(action: Callable[[], object]) -> float:
    began = time.perf_counter()
    action()
    return (time.perf_counter() - began) * 1e3


def _p95(values: Sequence[float]) -> float:
    return statistics.quantiles(values, n=20)[-1]
