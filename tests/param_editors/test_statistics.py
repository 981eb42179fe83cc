from __future__ import annotations

import pytest
import torch
from safetensors import safe_open
from tiny_editing import tiny_models

from corrigenda.errors import InvalidParams, MissingStatistics, ModelDamaged
from corrigenda.lm.hooks import Tap
from corrigenda.lm.tokens import token_ids
from corrigenda.param_editors import statistics
from corrigenda.param_editors.anatomy import Anatomy
from corrigenda.param_editors.statistics import SecondMoment, Statistics, collect, collect_from_model, find
from corrigenda.paths import cache_dir

TEXTS = [text for text in tiny_models.TEXTS for _ in range(3)] + ["", "Hamlet."]


def by_hand(lm, layer, window):
    """The mean of k·kᵀ, token by token."""
    module = Anatomy(lm).mlp_out(layer).module
    keys = []
    for text in TEXTS:
        ids = token_ids(lm, text) if text else []
        for start in range(0, len(ids), window):
            with torch.no_grad(), Tap(lm.model, [module]) as tap:
                lm.model(torch.tensor([ids[start : start + window]]))
            keys.append(tap.inputs[module].flatten(0, -2).double())
    every = torch.cat(keys)
    return every.T @ every / len(every), len(every)


@pytest.mark.parametrize("name", ["llama", "gpt2", "opt"])
def test_moments_are_the_mean_over_tokens_in_float64(name):
    lm = tiny_models.cached(name)
    stats = collect(lm, [2, 0], TEXTS, window=8)
    for layer in (0, 2):
        wanted, tokens = by_hand(lm, layer, 8)
        found = stats.moment(layer)
        assert found.matrix.dtype == torch.float64
        assert found.tokens == tokens
        torch.testing.assert_close(found.matrix, wanted, rtol=1e-4, atol=1e-7)
    assert stats.layers == (0, 2)


def test_they_are_kept_by_model_text_and_tokens(llama, monkeypatch):
    first = collect(llama, [0, 1], TEXTS)
    monkeypatch.setattr(statistics, "_accumulate", lambda *args: pytest.fail("collected again"))
    again = collect(llama, [1], TEXTS)
    assert torch.equal(again.moment(1).matrix, first.moment(1).matrix)
    assert torch.equal(find(llama, [0, 1]).moment(0).matrix, first.moment(0).matrix)
    with pytest.raises(pytest.fail.Exception):
        collect(llama, [1], [*TEXTS, "More."])
    with pytest.raises(pytest.fail.Exception):
        collect(tiny_models.tiny("qwen2"), [1], TEXTS)
    with pytest.raises(MissingStatistics, match="--from-model"):
        find(llama, [2])


def test_the_cache_prefers_more_tokens(llama):
    collect(llama, [1], TEXTS, max_tokens=30)
    whole = collect(llama, [1], TEXTS)
    assert whole.moment(1).tokens > 30
    assert find(llama, [1]).moment(1).tokens == whole.moment(1).tokens


def test_an_interrupted_collection_goes_on_where_it_stopped(llama, monkeypatch):
    monkeypatch.setattr(statistics, "BATCH", 1)
    monkeypatch.setattr(statistics, "SAVE_EVERY", 2)

    def stop(stage, done, total):
        if done > total / 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        collect(llama, [1], TEXTS, window=16, progress=stop)
    done = []
    found = collect(llama, [1], TEXTS, window=16, progress=lambda stage, some, total: done.append(some / total))
    assert done[0] > 0.3
    wanted, tokens = by_hand(llama, 1, 16)
    assert found.moment(1).tokens == tokens
    torch.testing.assert_close(found.moment(1).matrix, wanted, rtol=1e-4, atol=1e-7)
    assert not list(cache_dir().rglob("partial"))


def test_text_of_the_model_itself_needs_no_corpus(llama):
    found = collect_from_model(llama, [1], 600, seed=1, window=32)
    assert 500 < found.moment(1).tokens <= 600
    assert found.source == "sampled from llama"
    told = []
    again = collect_from_model(llama, [0], 600, seed=1, window=32, progress=lambda *args: told.append(args[0]))
    assert set(told) == {"statistics"}  # the text was kept
    assert again.moment(0).tokens == found.moment(1).tokens
    other = collect_from_model(llama, [1], 600, seed=2, window=32)
    assert not torch.equal(other.moment(1).matrix, found.moment(1).matrix)


def test_a_sample_of_text_that_was_cut_off_is_drawn_again(llama):
    first = collect_from_model(llama, [0], 40)
    (kept,) = (cache_dir() / "stats" / llama.fingerprint[:16]).glob("sampled-*.json")
    kept.write_text(kept.read_text()[:-5])
    assert torch.equal(collect_from_model(llama, [0], 40).moment(0).matrix, first.moment(0).matrix)
    assert collect_from_model(llama, [1], 40).moment(1).tokens == first.moment(0).tokens


def test_thin_statistics_say_so():
    thin, thick = SecondMoment(torch.eye(48).double(), 100), SecondMoment(torch.eye(48).double(), 480)
    assert "100 tokens for keys of width 48" in str(thin.note)
    assert thick.note is None
    singular = torch.zeros(4, 4, dtype=torch.float64)
    singular[0, 0] = 1
    stats = Statistics({0: SecondMoment(singular, 1000)})
    stats.factor(0)
    assert any("singular" in note for note in stats.notes([0]))


def test_bad_requests_are_refused(llama):
    for layers, texts, window in (([], TEXTS, 8), ([0], ["", " "], 8), ([0], TEXTS, 1), ([0], TEXTS, 10**6)):
        if window == 10**6:
            assert collect(llama, layers, texts, window=window).layers == (0,)  # no longer than the context
            continue
        with pytest.raises(InvalidParams):
            collect(llama, layers, texts, window=window)
    with pytest.raises(InvalidParams):
        collect_from_model(llama, [0], 0)


def test_a_damaged_file_is_named(llama):
    collect(llama, [1], TEXTS)
    (path,) = cache_dir().rglob("layer-1.safetensors")
    with safe_open(path, framework="pt") as file:
        assert file.metadata()["source"] == "text"
    path.write_bytes(b"junk")
    with pytest.raises(ModelDamaged, match="layer-1"):
        find(llama, [1])
