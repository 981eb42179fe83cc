"""A drop-in for transformers' ``generate``: token ids in, token ids out.

Rows that no edit concerns never see this file: when nothing fires, the call goes to the model with the caller's own
arguments; in a mixed batch they run as a batch of their own with those arguments. A cache belongs to the whole batch
and the caller's own tokens: where an edit fires it is neither read nor written.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
from transformers.generation import GenerateDecoderOnlyOutput, GenerateEncoderDecoderOutput

from corrigenda.chat import Chat, Message, check_query
from corrigenda.errors import InvalidRequest
from corrigenda.lm.decoding import decoder_start
from corrigenda.lm.rendering import render
from corrigenda.lm.stopping import UNTIL_EOS, end
from corrigenda.lm.tokens import check_length, following_ids, plain_ids, token_ids
from corrigenda.middleware.answering import (
    Job,
    Options,
    alike,
    answer,
    arguments,
    at_work,
    text_of,
    undisturbed,
)
from corrigenda.middleware.consult import Decision

if TYPE_CHECKING:
    from corrigenda.lm.loading import LanguageModel

_UNSAID = 20
"""Longest answer, in tokens, when nobody says: transformers' own."""
_PER_STEP = ("output_scores", "output_logits", "output_attentions", "output_hidden_states")
_BY_COLUMN = ("position_ids", "token_type_ids")
_BY_ROW = ("negative_prompt_ids", "negative_prompt_attention_mask")
_BEGINNING = ("decoder_input_ids", "decoder_attention_mask")
_OF_THE_PROMPT = frozenset({*_BY_COLUMN, *_BEGINNING, "past_key_values", "cache_position", "encoder_outputs"})
"""What callers say about their own tokens, or have computed from them: it fits no other batch."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a batch, read.

    Attributes:
        request: What it asks; ``None`` when it holds no text that could be a query.
        before, after: Tokens around the query that stay as they are; of a conversation that the caller rendered.
    """

    request: Chat | None
    before: tuple[int, ...] = ()
    after: tuple[int, ...] = ()


def read_rows(lm: LanguageModel, input_ids: torch.Tensor, attention_mask: torch.Tensor | None) -> list[Row]:
    """Return what the rows of ``input_ids`` (rows, columns) ask, padding left out."""
    rows = []
    for place, ids in enumerate(input_ids.tolist()):
        if attention_mask is not None:
            kept = attention_mask[place].tolist()
            ids = [token for token, keep in zip(ids, kept, strict=True) if keep]
        else:
            ids = _unpadded(lm, ids)
        rows.append(_read(lm, ids))
    return rows


def _unpadded(lm: LanguageModel, ids: list[int]) -> list[int]:
    start = next((place for place, token in enumerate(ids) if token != lm.pad_id), len(ids))
    return ids[start:]


def _read(lm: LanguageModel, ids: list[int]) -> Row:
    whole = lm.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    marks = _turn_marks(lm.tokenizer) if lm.has_chat_template else None
    if marks is not None and whole.endswith(marks[1]) and (place := whole.rfind(marks[0])) >= 0:
        start, stop = place + len(marks[0]), len(whole) - len(marks[1])
        content = whole[start:stop]
        first, last = _token_at(lm, ids, start), _token_at(lm, ids, stop)
        if first is not None and last is not None:
            return Row(_asked(content, completion=False), tuple(ids[:first]), tuple(ids[last:]))
    return Row(_asked(text_of(lm, ids), completion=True))


def _asked(text: str, *, completion: bool) -> Chat | None:
    """Return ``text`` as a request; ``None`` when it is empty or no query: the model may still get it."""
    try:
        check_query(text)
    except InvalidRequest:
        return None
    return Chat((Message("user", text),), completion=completion)


@lru_cache(maxsize=8)
def _turn_marks(tokenizer: Any) -> tuple[str, str] | None:
    """Return what the chat template writes before a user turn, and after the last one; ``None`` if that varies."""
    turns = [("user", "\ue000"), ("assistant", "\ue001"), ("user", "\ue000")]
    messages = [{"role": role, "content": content} for role, content in turns]
    text: str = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    parts = re.split("[\ue000\ue001]", text)
    if len(parts) != 4:
        return None
    first, again = parts[0], parts[2]
    common = 0
    while common < min(len(first), len(again)) and first[-1 - common] == again[-1 - common]:
        common += 1
    opening, closing = again[len(again) - common :], parts[3]
    return (opening, closing) if opening and closing else None


def _token_at(lm: LanguageModel, ids: Sequence[int], place: int) -> int | None:
    """Return which token begins at character ``place`` of the text; ``None`` when it falls inside one."""
    low, high = 0, len(ids)
    while low < high:
        middle = (low + high) // 2
        if _length(lm, ids[:middle]) < place:
            low = middle + 1
        else:
            high = middle
    return low if _length(lm, ids[:low]) == place else None


def _length(lm: LanguageModel, ids: Sequence[int]) -> int:
    return len(lm.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))


def planned(lm: LanguageModel, row: Row, decision: Decision) -> Job:
    """Return the job that the plan of ``decision`` makes of ``row``.

    Raises:
        InvalidRequest: The plan does not fit the model's context.
    """
    plan = decision.plan
    assert plan is not None
    changed = plan.request
    framed = row.after and not changed.completion and len(changed.messages) == 1
    if plan.answer is not None or not framed or (plan.worker is not None and plan.worker.model(lm) is not lm):
        return Job.of(lm, decision.request, plan, UNTIL_EOS)
    own = token_ids_of_turn(lm, changed.query)
    forced = []
    if plan.prefix:
        text = render(lm, changed)
        forced = following_ids(lm, text, token_ids(lm, text), plan.prefix)
    ids = [*row.before, *own, *row.after, *([] if lm.is_encoder_decoder else forced)]
    check_length(lm, ids)
    stop = plan.stop or UNTIL_EOS
    return Job(tuple(ids), tuple(forced), plan.prefix, stop, plan.bare_line, True, None, plan.worker, plan.detail)


def token_ids_of_turn(lm: LanguageModel, text: str) -> list[int]:
    """Return the tokens of a message's text, look-alikes of control tokens spelled out."""
    return plain_ids(lm.tokenizer, text)


def run(
    lm: LanguageModel,
    rows: Sequence[Row],
    decisions: Sequence[Decision],
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor | None,
    options: dict[str, Any],
) -> Any:
    """Answer a batch in which some edit fires; return what ``generate`` would.

    Every row of the result begins with the caller's own tokens, so that callers who cut them off get the answer.

    Raises:
        InvalidRequest: Scores or states of each step are asked for, which differ in length between the two parts, or
            the decoder's own prompts are padded.
    """
    _check_separable(options)
    begun = beginnings(lm, input_ids, options)
    touched = [place for place, item in enumerate(decisions) if item.plan is not None]
    free = [place for place, item in enumerate(decisions) if item.plan is None]
    answers: dict[int, list[list[int]]] = {}
    if free:
        answers |= _bare(lm, free, input_ids, attention_mask, begun, options)
    longest = longest_answer(lm, options, begun.shape[1])
    told = options.get("decoder_input_ids") is not None
    options = {name: value for name, value in _without_the_prompt(options).items() if name != "max_length"}
    options["max_new_tokens"] = longest
    jobs = {place: planned(lm, rows[place], decisions[place]) for place in touched}
    foreign = [place for place in touched if jobs[place].answer is not None or jobs[place].model(lm) is not lm]
    if foreign:
        answers |= _retold(lm, foreign, [jobs[place] for place in foreign], begun, options)
    # A forced beginning changes the arguments of a call, so the jobs with one have a call of their own.
    own = [place for place in touched if place not in foreign]
    here = [replace(jobs[place], begun=tuple(begun[place].tolist()) if told else ()) for place in own]
    for alike_ones in alike(here):
        for group in undisturbed(lm, here, alike_ones, Options(None, None, options)):
            answers |= _edited(lm, [own[at] for at in group], [here[at] for at in group], begun, options)
    return _joined(lm, [row for place in range(len(rows)) for row in answers[place]], begun, options)


def _check_separable(options: dict[str, Any]) -> None:
    """Refuse what cannot be asked for in parts of a batch."""
    wanted = [f"{name}=True" for name in _PER_STEP if options.get(name)]
    if (mask := options.get("decoder_attention_mask")) is not None and not bool(mask.all()):
        wanted.append("decoder_attention_mask with padding")
    if wanted:
        raise InvalidRequest(
            f"{wanted[0]} cannot be served while an edit fires: the rows run in different batches",
            remedy="Ask without it, or inside `with model.without_edits():`.",
        )


def beginnings(lm: LanguageModel, input_ids: torch.Tensor, options: Mapping[str, Any]) -> torch.Tensor:
    """Return what the rows of the result begin with: (rows, columns)."""
    if not lm.is_encoder_decoder:
        return input_ids
    start = input_ids.new_full((len(input_ids), 1), decoder_start(lm))
    given: torch.Tensor | None = options.get("decoder_input_ids")
    if given is None:
        return start
    # As transformers does it: what a caller gives may leave the first token out.
    return given if bool((given[:, :1] == start).any()) else torch.cat([start, given.to(start.device)], dim=1)


def _bare(
    lm: LanguageModel,
    places: Sequence[int],
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor | None,
    begun: torch.Tensor,
    options: dict[str, Any],
) -> dict[int, list[list[int]]]:
    chosen = torch.tensor(places, device=input_ids.device)
    inputs = {"input_ids": input_ids[chosen]}
    if attention_mask is not None:
        inputs["attention_mask"] = attention_mask[chosen]
    for name in _BY_COLUMN:
        # Narrower ones go on from a cache, which is left out.
        if (value := options.get(name)) is not None and value.shape[-1] == input_ids.shape[1]:
            inputs[name] = value.expand_as(input_ids)[chosen]
    if options.get("decoder_input_ids") is not None:
        inputs["decoder_input_ids"] = begun[chosen]
    output = lm.model.generate(**inputs, **_of_rows(places, _without_the_prompt(options)))
    return _grouped(places, _sequences(output)[:, begun.shape[1] :].tolist())


def _without_the_prompt(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name not in _OF_THE_PROMPT}


def _of_rows(places: Sequence[int], options: dict[str, Any]) -> dict[str, Any]:
    """Return ``options`` for the rows ``places`` only."""
    rows = {name: options[name][list(places)] for name in _BY_ROW if options.get(name) is not None}
    return {**options, **rows}


def _edited(
    lm: LanguageModel, places: Sequence[int], jobs: Sequence[Job], begun: torch.Tensor, options: dict[str, Any]
) -> dict[int, list[list[int]]]:
    options = _of_rows(places, options)
    if (streamer := options.get("streamer")) is not None:
        options["streamer"] = _Echo(streamer, begun[places[0]], jobs[0].forced)
    longest = options["max_new_tokens"]
    inputs, columns, passed = arguments(lm, jobs, Options(None, None, options))
    if passed["max_new_tokens"] < 1:
        said: list[list[int]] = [[] for _ in jobs]
    else:
        with at_work(lm, jobs, inputs["input_ids"].shape[1]):
            said = _sequences(lm.model.generate(**inputs, **passed))[:, columns:].tolist()
    each = max(len(said) // len(jobs), 1)
    whole = [_ended(lm, jobs[place // each], row)[:longest] for place, row in enumerate(said)]
    return _grouped(places, whole)


def _retold(
    lm: LanguageModel, places: Sequence[int], jobs: Sequence[Job], begun: torch.Tensor, options: dict[str, Any]
) -> dict[int, list[list[int]]]:
    """Return answers that are known, or come from another model, in tokens of this one."""
    longest = options["max_new_tokens"]
    texts = answer(lm, jobs, Options.of({"max_new_tokens": longest}))
    eos = [] if lm.tokenizer.eos_token_id is None else [lm.tokenizer.eos_token_id]
    rows = [[*token_ids_of_turn(lm, text), *eos][:longest] for text in texts]
    if (streamer := options.get("streamer")) is not None:
        streamer.put(begun[places[0]][None].cpu())
        for token in rows[0]:
            streamer.put(torch.tensor([token]))
        streamer.end()
    each = options.get("num_return_sequences") or 1
    return {place: [row] * each for place, row in zip(places, rows, strict=True)}


def longest_answer(lm: LanguageModel, options: Mapping[str, Any], columns: int) -> int:
    """Return how many tokens the caller allows for an answer: a plan makes prompts longer, not answers shorter."""
    config = options.get("generation_config") or lm.model.generation_config
    if (longest := options.get("max_new_tokens") or getattr(config, "max_new_tokens", None)) is not None:
        return int(longest)
    whole = options.get("max_length") or getattr(config, "max_length", None)
    return max(int(whole) - columns, 1) if whole is not None else _UNSAID


def _ended(lm: LanguageModel, job: Job, row: list[int]) -> list[int]:
    """Return the tokens of the answer: the forced ones, and what follows up to where the plan says it ends."""
    stopped = False
    while row and end(text_of(lm, row), job.stop) is not None:
        row, stopped = row[:-1], True
    row = [*job.forced, *row]
    eos = lm.tokenizer.eos_token_id
    return [*row, eos] if stopped and eos is not None else row


def _sequences(output: Any) -> torch.Tensor:
    sequences: torch.Tensor = getattr(output, "sequences", output)
    return sequences


def _grouped(places: Sequence[int], rows: Sequence[list[int]]) -> dict[int, list[list[int]]]:
    each = len(rows) // len(places)
    return {place: list(rows[at * each : (at + 1) * each]) for at, place in enumerate(places)}


def _joined(lm: LanguageModel, answers: Sequence[list[int]], begun: torch.Tensor, options: dict[str, Any]) -> Any:
    """Return answers after what the rows begin with, padded on the right: (rows, columns)."""
    config = options.get("generation_config") or lm.model.generation_config
    pad = options.get("pad_token_id")
    pad = lm.pad_id if pad is None else int(pad)
    width = max(map(len, answers))
    new = torch.tensor([row + [pad] * (width - len(row)) for row in answers], dtype=torch.long).reshape(
        len(answers), width
    )
    each = len(answers) // len(begun)
    sequences = torch.cat([begun.repeat_interleave(each, 0), new.to(begun.device)], dim=1)
    asked = options.get("return_dict_in_generate")
    if not (getattr(config, "return_dict_in_generate", False) if asked is None else asked):
        return sequences
    kind = GenerateEncoderDecoderOutput if lm.is_encoder_decoder else GenerateDecoderOnlyOutput
    return kind(sequences=sequences)


class _Echo:
    """A streamer that is told the caller's own prompt and the forced beginning instead of what the plan made of it."""

    def __init__(self, streamer: Any, prompt: torch.Tensor, forced: Sequence[int]) -> None:
        self.streamer = streamer
        self.prompt = prompt
        self.forced = forced
        self.begun = False

    def put(self, value: torch.Tensor) -> None:
        if self.begun:
            self.streamer.put(value)
            return
        self.begun = True
        self.streamer.put(self.prompt[None].cpu())
        for token in self.forced:
            self.streamer.put(torch.tensor([token]))

    def end(self) -> None:
        self.streamer.end()
