from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import transformers

from corrigenda.lm.decoding import SharedPrefix
from corrigenda.lm.kv_cache import RoomyLayer, longest_shareable, new_cache
from corrigenda.lm.loading import LanguageModel
from corrigenda.lm.scoring import greedy
from corrigenda.lm.stopping import UNTIL_EOS


def states(rows: int, columns: int, start: int = 0) -> torch.Tensor:
    count = torch.arange(start, start + rows * 2 * columns * 3, dtype=torch.float32)
    return count.reshape(rows, 2, columns, 3)


def test_a_roomy_layer_holds_what_a_plain_one_holds() -> None:
    roomy, plain = RoomyLayer(2), transformers.cache_utils.DynamicLayer()
    for columns in (4, 1, 1, 1, 5):
        new = states(3, columns, columns)
        for mine, theirs in zip(roomy.update(new, -new), plain.update(new, -new), strict=True):
            assert torch.equal(mine, theirs)
        assert roomy.get_seq_length() == plain.get_seq_length()
    rows = torch.tensor([2, 0])
    roomy.batch_select_indices(rows)
    plain.batch_select_indices(rows)
    new = states(2, 1)
    for mine, theirs in zip(roomy.update(new, new), plain.update(new, new), strict=True):
        assert torch.equal(mine, theirs)


def test_an_empty_layer() -> None:
    layer = RoomyLayer(2)
    layer.batch_select_indices(torch.tensor([0]))
    assert layer.get_seq_length() == 0


def test_how_long_a_beginning_may_be_shared() -> None:
    assert longest_shareable(transformers.LlamaConfig(num_hidden_layers=2)) > 1 << 30
    assert longest_shareable(transformers.MistralConfig(num_hidden_layers=2, sliding_window=99)) == 98
    assert longest_shareable(transformers.JambaConfig()) == 0
    kinds = {type(layer) for layer in new_cache(transformers.Gemma2Config(num_hidden_layers=4), 8).layers}
    assert len(kinds) == 2


@pytest.mark.parametrize("name", ["mistral", "gemma2", "gemma3"])
def test_a_beginning_is_shared_inside_a_wide_window(
    fresh: Callable[[str], LanguageModel], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(3)
    config = fresh(name).model.config
    config.sliding_window = 120
    model = transformers.AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)
    for weight in model.parameters():
        if weight.dim() > 1:
            weight.normal_(std=0.3)
    lm = LanguageModel(name, model, fresh(name).tokenizer)
    shared = "Dr. Smith lives in St. Louis, U.S.A., with 12.5 cats. They speak German, Dutch and English! "
    prompts = [shared + end for end in ("Who", "The capital of", "I")]
    plain = greedy(lm, prompts, max_new_tokens=8, stop=UNTIL_EOS, share_prefix=False)
    seen = []
    expanded = SharedPrefix.expanded
    monkeypatch.setattr(SharedPrefix, "expanded", lambda *args: seen.append(1) or expanded(*args))
    assert greedy(lm, prompts, max_new_tokens=8, stop=UNTIL_EOS) == plain
    assert seen
