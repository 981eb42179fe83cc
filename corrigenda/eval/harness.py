"""An edited model as a model of lm-evaluation-harness (``pip install 'corrigenda[lm-eval]'``).

Usage::

    from lm_eval import simple_evaluate
    from corrigenda.eval.harness import harness_model

    with EditableModel(lm) as edited:               # a memory, or EditedWeights(lm, "memit")
        edited.edit(edits)
        simple_evaluate(model=harness_model(edited, lm), tasks=["piqa", "arc_easy"])

The harness asks three things. *How probable is a continuation*: the model under test scores it. *How probable is a text
by itself* (and a continuation of nothing): nobody asks anything, so no edit of a memory can concern it; the weights
score it after an end-of-text token, as the harness's own models do. *Go on until one of these strings*: greedily; a
method that cannot be told where to stop (:class:`~corrigenda.eval.editable.Continues`) ends at its natural stop.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from corrigenda.errors import MissingExtra
from corrigenda.eval.editable import Answers, Bare, Continues

if TYPE_CHECKING:
    from corrigenda.lm.loading import LanguageModel

DEFAULT_TOKENS = 256
"""Most tokens of an answer where a task names no limit, as in the harness."""


def harness_model(model: Answers, lm: LanguageModel) -> Any:
    """Return ``model``, which answers in the light of edits to ``lm``, as an ``lm_eval.api.model.LM``.

    Raises:
        MissingExtra: lm-evaluation-harness is not installed.
    """
    try:
        from lm_eval.api.model import LM
    except ImportError as error:
        raise MissingExtra.named("lm-eval", "lm_eval") from error

    class Edited(LM):  # type: ignore[misc]
        """An edited model."""

        tokenizer_name = lm.name

        def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
            """Return log-probability and whether greedy decoding would say it, one a request."""
            return loglikelihoods(model, lm, [request.args for request in requests])

        def loglikelihood_rolling(self, requests: Sequence[Any]) -> list[float]:
            """Return the log-probability of whole texts."""
            return [value for value, _ in loglikelihoods(model, lm, [("", *request.args) for request in requests])]

        def generate_until(self, requests: Sequence[Any]) -> list[str]:
            """Continue until a stop string."""
            return continuations(model, [request.args for request in requests])

        def apply_chat_template(self, chat_history: Sequence[Any], add_generation_prompt: bool = True) -> str:
            """Return a conversation as text; its control tokens stay control tokens only for a bare prompt."""
            text: str = lm.tokenizer.apply_chat_template(
                list(chat_history), tokenize=False, add_generation_prompt=add_generation_prompt
            )
            return text

    return Edited()


def loglikelihoods(model: Answers, lm: LanguageModel, pairs: Sequence[tuple[str, str]]) -> list[tuple[float, bool]]:
    """Return (log-probability, is greedy) of each (context, continuation); see the module for empty contexts."""
    from corrigenda.lm.scoring import Exact

    results: dict[int, tuple[float, bool]] = {}
    asked = [place for place, (context, _) in enumerate(pairs) if context]
    alone = [place for place, (context, _) in enumerate(pairs) if not context]
    for scorer, places, prompts in (
        (model, asked, [pairs[place][0] for place in asked]),
        (Bare(lm), alone, [_nothing(lm)] * len(alone)),
    ):
        if places:
            scores = scorer.score(prompts, [Exact(pairs[place][1]) for place in places])
            results.update({p: (score.log_prob, score.is_greedy) for p, score in zip(places, scores, strict=True)})
    return [results[place] for place in range(len(pairs))]


def _nothing(lm: LanguageModel) -> str:
    """Return the prompt that stands for no context: the end-of-text token, as control."""
    from corrigenda.lm.rendering import Rendered

    return Rendered([(lm.tokenizer.bos_token or lm.tokenizer.eos_token, True)], hostile=False)


def continuations(model: Answers, requests: Sequence[tuple[str, Any]]) -> list[str]:
    """Return how each (context, options) goes on; requests with equal options run together."""
    groups: dict[tuple[tuple[str, ...], int], list[int]] = {}
    for place, (_, options) in enumerate(requests):
        until = options.get("until") or []
        stops = (until,) if isinstance(until, str) else tuple(until)
        limit = int(options.get("max_gen_toks", DEFAULT_TOKENS))
        groups.setdefault((stops, limit), []).append(place)
    results: dict[int, str] = {}
    for (stops, limit), places in groups.items():
        prompts = [requests[place][0] for place in places]
        if isinstance(model, Continues):
            texts = model.continue_until(prompts, max_new_tokens=limit, stops=stops)
        else:
            texts = model.generate(prompts, max_new_tokens=limit)
        results.update({place: _cut(text, stops) for place, text in zip(places, texts, strict=True)})
    return [results[place] for place in range(len(requests))]


def _cut(text: str, stops: Sequence[str]) -> str:
    return text[: min((place for stop in stops if stop and (place := text.find(stop)) >= 0), default=len(text))]
