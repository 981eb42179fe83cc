from __future__ import annotations

import json
import re
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest

from corrigenda.edit import Edit, EditId
from corrigenda.errors import ModelError
from corrigenda.memory import live_index, vectors
from corrigenda.memory.index import VectorIndex
from corrigenda.memory.memory import Memory
from corrigenda.memory.snapshot import SnapshotUnusable, load, pack, snapshot_path, write
from corrigenda.testing import FixedEncoder

Open = Callable[..., Memory]
EDITS = [Edit(f"The capital of land {i} is", f"City {i}", subject=f"land {i}") for i in range(30)]


@pytest.fixture
def snapshot(ledger: Path, open_memory: Open) -> Path:
    """The snapshot of a closed memory of 30 edits, two of them in another namespace."""
    memory = open_memory()
    memory.add_many([*EDITS[:28], *(edit.replace(namespace="other") for edit in EDITS[28:])])
    memory.search(memory.encoder.encode(["x"]), 1)
    memory.close()
    return snapshot_path(ledger)


def answers(memory: Memory) -> list[tuple[str, float]]:
    queries = memory.encoder.encode(["What is the capital of land 7?", "land 29"])
    rows = memory.search(queries, 4) + memory.search(queries, 4, "other")
    return [(hit.edit.id, round(hit.similarity, 5)) for row in rows for hit in row]


def test_a_snapshot_serves_without_encoding(snapshot: Path, open_memory: Open) -> None:
    encoder = FixedEncoder(32)
    memory = open_memory(encoder=encoder)
    assert encoder.calls == 0
    assert len(answers(memory)) == 2 * 4 + 2 * 2
    assert encoder.calls == 2
    assert memory.notices == ()


@pytest.mark.parametrize(
    ("harm", "why"),
    [
        (lambda path: path.unlink(), "missing"),
        (lambda path: path.write_bytes(path.read_bytes()[:5000]), "damaged"),
        (lambda path: path.write_bytes(b""), "damaged"),
        (lambda path: path.write_bytes(b"not an archive" * 50), "damaged"),
        (lambda path: store(path, {"manifest": np.zeros(3, np.uint8)}), "damaged"),
        (lambda path: flip(path, 2000), "damaged"),
        (lambda path: (path.unlink(), path.mkdir()), "damaged"),
        (lambda path: rewrite(path, format=99), "another format"),
        (lambda path: rewrite(path, recipe="other"), "another encoder"),
        (lambda path: rewrite(path, event="other"), "another state of the ledger"),
        (lambda path: rewrite(path, seq=77), "another state of the ledger"),
        (lambda path: rewrite(path, seq="x"), "damaged"),
    ],
)
def test_whatever_is_wrong_it_is_rebuilt(
    snapshot: Path, open_memory: Open, harm: Callable[[Path], object], why: str
) -> None:
    with open_memory() as whole:
        expected = answers(whole)
    harm(snapshot)
    encoder = FixedEncoder(32)
    memory = open_memory(encoder=encoder)
    assert answers(memory) == expected
    assert encoder.calls == 2, "the vectors come from the cache in the ledger"
    (notice,) = memory.notices
    assert "rebuilt from the ledger (30 live edits)" in notice
    assert why in notice


def flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 0xFF
    path.write_bytes(data)


def rewrite(path: Path, **changes: object) -> None:
    with np.load(path) as archive:
        arrays = dict(archive)
    manifest = json.loads(arrays["manifest"].tobytes()) | changes
    arrays["manifest"] = np.frombuffer(json.dumps(manifest).encode(), dtype=np.uint8)
    store(path, arrays)


def store(path: Path, arrays: dict[str, np.ndarray]) -> None:
    with path.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]


@pytest.mark.parametrize("byte", b"(2")
def test_no_byte_of_a_header_can_change(tmp_path: Path, byte: int) -> None:
    index, rows = VectorIndex(32), np.eye(32, dtype=np.float32)[np.arange(100) % 32]
    index.add("default", [EditId(f"e{number}") for number in range(100)], rows, rows)
    path = tmp_path / "s"
    write(path, pack(index, recipe="r", seq=1, event="x"))
    whole = path.read_bytes()
    for part in re.finditer(rb"\x93NUMPY", whole):
        for place in range(part.start() + 8, part.start() + 28):
            data = bytearray(whole)
            data[place] = byte
            path.write_bytes(data)
            with nullcontext() if data == whole else pytest.raises(SnapshotUnusable, match="damaged"):
                load(path, recipe="r", dimension=32)


def test_another_encoder_encodes_anew(snapshot: Path, open_memory: Open) -> None:
    encoder = FixedEncoder(16)
    memory = open_memory(encoder=encoder)
    assert len(answers(memory)) == 12
    assert encoder.calls > 30
    assert "another encoder" in memory.notices[0]


def test_a_stale_snapshot_catches_up_quietly(snapshot: Path, open_memory: Open) -> None:
    memory = open_memory()
    memory.retract(EDITS[7].id)
    amended = memory.amend(EDITS[3].id, aliases=["Land Three"])
    new = memory.add("The capital of land 7 is", "Metropolis", subject="land 7")
    before = snapshot.read_bytes()
    memory.close()
    assert snapshot.read_bytes() == before, "what nobody searched is left to the next reader"
    memory = open_memory()
    first = memory.search(memory.encoder.encode(["The capital of land 7 is"]), 2)[0][0]
    assert first.edit == new
    hits = memory.search(memory.encoder.encode([EDITS[3].prompt]), 1)
    assert hits[0][0].edit == amended
    assert memory.notices == ()
    memory.close()
    assert snapshot.read_bytes() == before, "what was only caught up with is not worth writing"
    assert open_memory().notices == ()


def test_the_first_close_leaves_a_snapshot(ledger: Path, open_memory: Open) -> None:
    memory = open_memory()
    memory.add(EDITS[0])
    memory.close()
    assert snapshot_path(ledger).exists()
    memory = open_memory()
    assert answers(memory)
    assert memory.notices == ()


def test_a_snapshot_is_written_now_and_then(ledger: Path, memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_index, "_SAVE_EVERY", 5)
    memory.search(memory.encoder.encode(["x"]), 1)
    for edit in EDITS[:4]:
        memory.add(edit)
    assert not snapshot_path(ledger).exists()
    memory.add(EDITS[4])
    assert snapshot_path(ledger).exists()


def test_a_refusing_disk_is_a_notice(ledger: Path, open_memory: Open) -> None:
    memory = open_memory()
    memory.add(EDITS[0])
    snapshot_path(ledger).mkdir()
    (snapshot_path(ledger) / "in the way").touch()
    memory.search(memory.encoder.encode(["x"]), 1)
    memory.close()
    assert "not saved" in memory.notices[-1]
    assert not list(ledger.parent.glob("*.part"))


def test_many_edits_go_to_the_cache_in_pieces(open_memory: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("corrigenda.memory.replica.BATCH", 8)
    monkeypatch.setattr(live_index, "_CHUNK", 8)
    memory = open_memory()
    memory.add_many(EDITS)
    assert memory.encoder.calls == 31  # type: ignore[attr-defined]  # 30 prompts, and the frame they share
    assert len(memory.search(memory.encoder.encode(["land"]), 30)[0]) == 30


def test_readers_rebuild_for_themselves(snapshot: Path, ledger: Path, open_memory: Open) -> None:
    snapshot.unlink()
    reader = open_memory(readonly=True, encoder=FixedEncoder(16))
    assert len(answers(reader)) == 12
    reader.close()
    assert not snapshot.exists()


class Broken(FixedEncoder):
    """An encoder that returns what no encoder should."""

    result = np.zeros((1, 1), np.float32)

    def encode(self, texts: object) -> np.ndarray:  # type: ignore[override]
        return self.result


def test_a_broken_encoder_poisons_nothing(open_memory: Open) -> None:
    broken = Broken(32)
    memory = open_memory(encoder=broken)
    with pytest.raises(ModelError, match="shape"):
        memory.add(EDITS[0])
    broken.result = np.full((2, 32), np.nan, np.float32)
    with pytest.raises(ModelError, match="NaN"):
        memory.add(EDITS[0])
    assert memory.version == 0


def test_the_recipe_changes_with_the_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    before = vectors.recipe(FixedEncoder(32))
    assert before == vectors.recipe(FixedEncoder(32)) != vectors.recipe(FixedEncoder(16))
    monkeypatch.setattr(vectors, "frame_text", lambda edit: "frame")
    assert vectors.recipe(FixedEncoder(32)) != before
