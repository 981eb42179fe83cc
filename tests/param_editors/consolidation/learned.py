"""A small model that knows something: trained in seconds on made-up facts, so that neighbours mean something."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import torch
import transformers as t
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from corrigenda.edit import Edit

STEPS = 120
_START = ("Ka", "Lo", "Mi", "Ne", "Po", "Ru", "Sa")
_END = ("bar", "dell", "fort", "gan")
SUBJECTS = tuple(start + end for start in _START for end in _END)  # 28
WORDS = ("red", "blue", "green", "white", "black", "brown", "pink", "gold")
SHAPES = ("round", "flat", "long", "thin", "wide", "short")


def colour(subject: str) -> str:
    """What the model is taught to say of a subject's colour."""
    return WORDS[SUBJECTS.index(subject) % len(WORDS)]


def shape(subject: str) -> str:
    """What it is taught to say of its shape."""
    return SHAPES[SUBJECTS.index(subject) % len(SHAPES)]


def facts() -> list[str]:
    """All that the model is taught."""
    return [f"The colour of {s} {colour(s)}." for s in SUBJECTS] + [f"The shape of {s} {shape(s)}." for s in SUBJECTS]


def edit(place: int, *, by: int = 3) -> Edit:
    """An edit of the colour of subject ``place``."""
    subject = SUBJECTS[place]
    target = WORDS[(WORDS.index(colour(subject)) + by) % len(WORDS)]
    return Edit(f"The colour of {subject}", target, subject=subject, relation="colour", old_answer=colour(subject))


def case_rows(edits: list[Edit], near: list[int]) -> list[dict[str, Any]]:
    """Cases in CounterFact's format: another wording there is none, the neighbours are other subjects' colours."""
    rows = []
    for number, one in enumerate(edits):
        rows.append(
            {
                "case_id": number,
                "requested_rewrite": {
                    "prompt": "The colour of {}",
                    "subject": one.subject,
                    "relation_id": "colour",
                    "target_new": {"str": one.target},
                    "target_true": {"str": one.old_answer},
                },
                "paraphrase_prompts": [f"The shape of {SUBJECTS[0]} {shape(SUBJECTS[0])}. The colour of {one.subject}"],
                "neighborhood_prompts": [f"The colour of {SUBJECTS[place]}" for place in near],
            }
        )
    return rows


def tokenizer() -> Any:
    """Words are tokens."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=700,
        special_tokens=["<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(facts() * 3, trainer)
    return t.PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<|end|>", pad_token="<|end|>")


def train(folder: Path) -> None:
    """Teach a model of 3 layers the facts, and save it."""
    state = torch.random.get_rng_state()
    torch.manual_seed(0)
    random.seed(0)
    words = tokenizer()
    config = t.LlamaConfig(
        vocab_size=len(words),
        hidden_size=48,
        intermediate_size=144,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=128,
        pad_token_id=0,
        bos_token_id=0,
        eos_token_id=0,
        tie_word_embeddings=False,
    )
    model = t.LlamaForCausalLM(config)
    # Some sentences follow another: what comes before must not matter.
    texts = facts() + [f"{random.choice(facts())} {fact}" for fact in facts()[::2]]
    batch = words([text + "<|end|>" for text in texts], return_tensors="pt", padding=True)
    labels = batch.input_ids.masked_fill(batch.attention_mask == 0, -100)
    optimiser = torch.optim.AdamW(model.parameters(), lr=8e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 8e-3, total_steps=STEPS)
    for _ in range(STEPS):
        loss = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, labels=labels).loss
        loss.backward()
        optimiser.step()
        schedule.step()
        optimiser.zero_grad()
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    torch.random.set_rng_state(state)
