"""The index as a file beside the ledger: a copy that saves time, never the source of truth.

One file, replaced as a whole: an archive in NumPy's own format, in which every part carries a checksum. Whatever is
wrong with it, the index is built anew from the ledger.
"""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from corrigenda.atomic import replacing
from corrigenda.errors import CorrigendaError
from corrigenda.memory import clustered
from corrigenda.memory.frames import FrameTable
from corrigenda.memory.index import Partition, VectorIndex

_FORMAT = 1


class SnapshotUnusable(CorrigendaError):
    """The file cannot serve; the message says why. Never reaches a caller: the index is rebuilt."""


def snapshot_path(ledger: Path) -> Path:
    """Return where the snapshot of ``ledger`` lies."""
    return ledger.with_name(ledger.name + ".index")


def pack(index: VectorIndex, *, recipe: str, seq: int, event: str | None) -> dict[str, Any]:
    """Return ``index`` as arrays by name, for :func:`write`; it may change afterwards.

    Args:
        index: Holds exactly what is live after event ``seq``.
        recipe: Of the vectors, see :func:`corrigenda.memory.vectors.recipe`.
        seq: Of the ledger.
        event: Id of event ``seq``: the same number in another ledger is another event.
    """
    arrays: dict[str, Any] = {}
    filled = [name for name, partition in index.partitions.items() if len(partition)]
    for number, name in enumerate(filled):
        partition = index.partitions[name]
        if partition.clustered:
            data, slots, arrays[f"rows{number}"], arrays[f"places{number}"] = partition.dump_lists()
            arrays[f"lists{number}"], arrays[f"ids{number}"] = data, np.array(slots, dtype="S21")
            continue
        compact, ids, frames = partition.dump()
        arrays[f"faiss{number}"] = faiss.serialize_index(compact)
        arrays[f"ids{number}"] = np.array(ids, dtype="S21")
        arrays[f"frames{number}"] = frames
    manifest = {"format": _FORMAT, "recipe": recipe, "seq": seq, "event": event, "namespaces": filled}
    arrays["manifest"] = np.frombuffer(json.dumps(manifest).encode(), dtype=np.uint8)
    return arrays


def write(path: Path, arrays: dict[str, Any]) -> None:
    """Write what :func:`pack` returned, atomically.

    Raises:
        OSError: The folder or the disk refuses. The old file is as it was.
    """
    with replacing(path) as file:
        np.savez(file, **arrays)


def load(path: Path, *, recipe: str, dimension: int) -> tuple[VectorIndex, int, str | None]:
    """Read a snapshot; return the index, and number and id of the last event in it.

    Raises:
        FileNotFoundError: There is none.
        SnapshotUnusable: Damaged, of another format, or made with another encoder.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            manifest = json.loads(_array(archive, "manifest").tobytes())
            if manifest["format"] != _FORMAT:
                raise SnapshotUnusable("it has another format")
            if manifest["recipe"] != recipe:
                raise SnapshotUnusable("it was made with another encoder")
            index = VectorIndex(dimension)
            for number, name in enumerate(manifest["namespaces"]):
                ids = [edit_id.decode() for edit_id in _array(archive, f"ids{number}").tolist()]
                if f"lists{number}.npy" in archive.namelist():
                    lists: Any = faiss.deserialize_index(_array(archive, f"lists{number}"))
                    lists.nprobe = clustered.probes_for(lists.nlist)
                    table = FrameTable.restore(_array(archive, f"rows{number}"), _array(archive, f"places{number}"))
                    index.partitions[name] = Partition.restore_lists(lists, ids, table)
                    continue
                restored = faiss.deserialize_index(_array(archive, f"faiss{number}"))
                index.partitions[name] = Partition.restore(restored, ids, _array(archive, f"frames{number}"))
            return index, int(manifest["seq"]), manifest["event"]
    except (FileNotFoundError, SnapshotUnusable):
        raise
    except Exception as error:  # over damaged bytes, NumPy and FAISS raise anything
        raise SnapshotUnusable(f"it is damaged ({error})") from error


def _array(archive: zipfile.ZipFile, name: str) -> NDArray[Any]:
    with archive.open(f"{name}.npy") as part:
        array: NDArray[Any] = np.lib.format.read_array(part, allow_pickle=False)
        if part.read(1):  # its checksum is compared at its end, which a damaged header may put too early
            raise ValueError(f"{name} is longer than it says")
        return array
