"""``corrigenda eval memprompt``: simulated users who say what they meant."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from corrigenda.cli.common import DEFAULT_MODEL, AsJson, ModelName, console, load_model, print_json
from corrigenda.errors import DatasetError

if TYPE_CHECKING:
    from corrigenda.eval.feedback import Task
    from corrigenda.memory.memory import Memory
    from corrigenda.middleware.generate import EditedModel


def memprompt(
    data: Annotated[Path, typer.Option("--data", "-d", help="Tasks; templates.json lies beside them.")],
    limit: Annotated[int, typer.Option(min=1, help="Tasks of the stream.")] = 200,
    tells: Annotated[float, typer.Option(min=0, max=1, help="Chance that a misunderstood user says so.")] = 0.5,
    shots: Annotated[int, typer.Option(min=1, help="Examples of each kind in the prompt.")] = 2,
    batch: Annotated[int, typer.Option(min=1, help="Tasks asked at a time.")] = 8,
    seed: Annotated[int, typer.Option(help="Decides order, examples, and who gives feedback.")] = 0,
    model: ModelName = DEFAULT_MODEL,
    as_json: AsJson = False,
) -> None:
    """Ask tasks whose wording leaves the task open; measure how feedback makes the model understand them."""
    from corrigenda.eval.feedback import examples, load, simulate
    from corrigenda.memory.memory import Memory
    from corrigenda.middleware.generate import EditedModel

    tasks = load(data)
    random.Random(seed).shuffle(tasks)
    shown = examples(tasks, shots)
    stream = [task for task in tasks if task not in shown][:limit]
    if not stream:
        raise DatasetError(
            f"{data} holds {len(tasks)} tasks, all of which are examples of the prompt",
            remedy="Give more tasks, or fewer --shots.",
        )
    lm = load_model(model, quiet=as_json)
    found: dict[str, Any] = {"data": data.name, "model": lm.name, "tells": tells, "shots": len(shown), "seed": seed}
    for name, chance in (("without", 0.0), ("with_feedback", tells)):
        with tempfile.TemporaryDirectory() as folder, Memory.open(Path(folder) / "feedback.db") as memory:
            user = _Model(EditedModel(lm, memory, strategy="memprompt"), memory, shown)
            found[name] = simulate(stream, user, tells=chance, seed=seed, batch=batch).to_dict()
    if as_json:
        print_json(found)
        return
    for name in ("without", "with_feedback"):
        quarters = ", ".join(f"{share:.2f}" for share in found[name]["by_quarter"])
        console().print(f"{name}: {found[name]['understood']:.3f} understood; by quarter {quarters}")


class _Model:
    """The model with a few-shot prompt; a query is the last line of it."""

    def __init__(self, model: EditedModel, memory: Memory, shown: Sequence[Task]) -> None:
        self.model, self.memory = model, memory
        self.prompt = "".join(f"{task.query} | {task.clarification}\n{task.answer}\n\n" for task in shown)

    def answer(self, queries: Sequence[str]) -> list[str]:
        """See :class:`corrigenda.eval.feedback.Understands`."""
        from corrigenda.lm.scoring import greedy

        # Feedback is looked up by the query alone; what it appends goes to the end of the whole prompt.
        plans = [item.plan for item in self.model.decide([_chat(query) for query in queries])]
        asked = [plan.request.query if plan is not None else query for plan, query in zip(plans, queries, strict=True)]
        texts = greedy(self.model.lm, [f"{self.prompt}{text}\n" for text in asked], max_new_tokens=12)
        return [text.strip() for text in texts]

    def tell(self, query: str, clarification: str) -> None:
        """See :class:`corrigenda.eval.feedback.Understands`."""
        self.memory.feedback(query, clarification)


def _chat(query: str) -> Any:
    from corrigenda.chat import Chat

    return Chat.of(query)
