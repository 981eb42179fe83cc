r"""Written texts: whether they still read like language, and know what the edit implies.

**Fluency** (ROME's "generation entropy", Meng et al. 2022, §3.4): the entropy of the n-grams of a text. A model that an
edit has damaged repeats itself, and repetition has low entropy. With f(x) the share of the n-gram x,

    H_n = − Σ f(x) log₂ f(x)        fluency = (⅔ H₂ + 4⁄3 H₃) / 2

in bits; publications multiply by 100. N-grams are of words and marks (``\w+|[^\w\s]``).

**Consistency** (ROME's "reference score"): the cosine between the TF-IDF vectors of the texts that the model writes
about the edit's subject and of reference texts about others of whom the target is true. 0…1.

    tf-idf(w) = count(w) · (ln((1 + N) / (1 + df(w))) + 1)     over all N reference texts of the data set

Texts are sampled as ROME samples them (from the :data:`TOP` most probable tokens, no natural stop), with a seed.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from corrigenda.lm.loading import LanguageModel

TOP = 5
"""Tokens among which each next one is drawn."""
_PIECES = re.compile(r"\w+|[^\w\s]")
_WORDS = re.compile(r"\w\w+")


def fluency(texts: Sequence[str]) -> float | None:
    """Return the mean n-gram entropy of ``texts`` in bits; ``None`` when none has three words."""
    values = [
        (2 / 3 * _entropy(pieces, 2) + 4 / 3 * _entropy(pieces, 3)) / 2
        for pieces in map(_pieces, texts)
        if len(pieces) > 2
    ]
    return fmean(values) if values else None


def _pieces(text: str) -> list[str]:
    return _PIECES.findall(text)


def _entropy(pieces: Sequence[str], size: int) -> float:
    counts = Counter(zip(*(pieces[start:] for start in range(size)), strict=False))
    total = sum(counts.values())
    return -math.fsum(count / total * math.log2(count / total) for count in counts.values()) + 0.0


@dataclass(frozen=True)
class Vocabulary:
    """How telling a word is, over the reference texts of a data set.

    Attributes:
        texts: How many texts it was made of.
        found_in: In how many of them each word occurs.
    """

    texts: int
    found_in: Mapping[str, int]

    @classmethod
    def of(cls, texts: Iterable[str]) -> Vocabulary:
        """Count the words of ``texts``."""
        found: Counter[str] = Counter()
        number = 0
        for text in texts:
            number += 1
            found.update(set(_words(text)))
        return cls(number, found)

    def vector(self, text: str) -> dict[str, float]:
        """Return the TF-IDF vector of ``text``, of unit length; empty when it has no words."""
        counts = Counter(_words(text))
        weights = {
            word: count * (math.log((1 + self.texts) / (1 + self.found_in.get(word, 0))) + 1)
            for word, count in counts.items()
        }
        norm = math.sqrt(math.fsum(weight**2 for weight in weights.values()))
        return {word: weight / norm for word, weight in weights.items()} if norm else {}


def consistency(texts: Sequence[str], references: Sequence[str], vocabulary: Vocabulary) -> float | None:
    """Return the cosine of written ``texts`` and ``references``, 0…1; ``None`` when either has no words."""
    written, wanted = vocabulary.vector(" ".join(texts)), vocabulary.vector(" ".join(references))
    if not written or not wanted:
        return None
    return min(1.0, math.fsum(weight * wanted.get(word, 0.0) for word, weight in written.items()))


def _words(text: str) -> list[str]:
    return _WORDS.findall(text.casefold())


def write(lm: LanguageModel, prompts: Sequence[str], *, tokens: int, seed: int, batch_size: int = 32) -> list[str]:
    """Continue each prompt by up to ``tokens`` tokens, each drawn from the :data:`TOP` most probable ones.

    What is drawn depends on the seed, the prompt and its place among equal prompts, not on the batch it runs in. A text
    ends early only where the model ends it.

    Raises:
        InvalidRequest: A prompt without tokens, or longer than the context.
    """
    import torch

    from corrigenda.lm.scoring import undisturbed
    from corrigenda.lm.tokens import check_length, token_ids

    rows = [token_ids(lm, prompt) for prompt in prompts]
    for row in rows:
        check_length(lm, row)
    chances = _generators(prompts, seed)
    found: dict[int, str] = {}
    with torch.inference_mode():
        for places, room in undisturbed(lm, [len(row) for row in rows], batch_size, tokens):
            said = _sample(lm, [rows[place] for place in places], [chances[place] for place in places], room)
            texts = lm.tokenizer.batch_decode(said, skip_special_tokens=True)
            found.update(zip(places, texts, strict=True))
    return [found[place] for place in range(len(rows))]


def _generators(prompts: Sequence[str], seed: int) -> list[torch.Generator]:
    import torch

    seen: Counter[str] = Counter()
    chances = []
    for prompt in prompts:
        digest = hashlib.sha256(f"{seed}/{seen[prompt]}/{prompt}".encode("utf-8", "surrogatepass")).digest()
        chances.append(torch.Generator().manual_seed(int.from_bytes(digest[:7], "big")))
        seen[prompt] += 1
    return chances


def _sample(
    lm: LanguageModel,
    rows: Sequence[list[int]],
    chances: Sequence[torch.Generator],
    room: int,
) -> list[list[int]]:
    import torch

    from corrigenda.lm.decoding import CausalDecoder, EncoderDecoder

    decoder = EncoderDecoder(lm, rows, [[] for _ in rows]) if lm.is_encoder_decoder else CausalDecoder(lm, rows)
    said: list[list[int]] = [[] for _ in rows]
    over = [False] * len(rows)
    last: torch.Tensor | None = None
    for _ in range(room):
        top = decoder.logits(last).float().topk(TOP)  # (rows, TOP)
        shares = top.values.softmax(-1).cpu()
        places = [
            int(torch.multinomial(share, 1, generator=chance)) for share, chance in zip(shares, chances, strict=True)
        ]
        drawn = [int(ids[place]) for ids, place in zip(top.indices.tolist(), places, strict=True)]
        for row, token in enumerate(drawn):
            over[row] = over[row] or token in lm.eos_ids
            if not over[row]:
                said[row].append(token)
        if all(over):
            break
        last = torch.tensor(drawn, device=top.indices.device)
    return said
