"""GGUF files → transformers models; packaged models keep a converted copy.

Reading a GGUF file takes 5–15 s even for a small model, most of it spent on the vocabulary. For packaged
models the result is kept beside the weights as an ordinary checkpoint, which loads in about a second.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

from corrigenda.errors import ModelDamaged, UnsupportedArchitecture
from corrigenda.lm.gguf_header import check_gguf
from corrigenda.lm.supported import NO_CODE, check_supported
from corrigenda.paths import sync

_FORMAT = "1"
"""Raised when the layout of a converted copy changes: older copies are then made anew."""


def read(path: Path, dtype: torch.dtype) -> tuple[Any, Any]:
    """Return (model, tokenizer) from the GGUF file ``path``, dequantised.

    Raises:
        ModelDamaged: Not GGUF, truncated, or tensors missing.
        UnsupportedArchitecture: transformers has no converter for it, or it cannot be run in batches with a cache.
    """
    check_gguf(path)
    folder, name = str(path.parent), path.name
    try:
        config = AutoConfig.from_pretrained(folder, gguf_file=name, **NO_CODE)
        with torch.device("meta"):  # the names are needed, the weights are not
            skeleton = AutoModelForCausalLM.from_config(config)
        check_supported(str(path), config, type(skeleton))
        weights = load_gguf_checkpoint(str(path), return_tensors=True, model_to_load=skeleton)["tensors"]
        tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=name, **NO_CODE)
    except (ValueError, KeyError, NotImplementedError) as error:
        raise UnsupportedArchitecture(
            f"{path} cannot be converted: {str(error).splitlines()[0]}",
            remedy="Use the model's original checkpoint folder instead of the GGUF file.",
        ) from error
    # Handing over weights rather than a file name keeps the quantisation settings out of the configuration,
    # so that the model can be saved like any other.
    model, report = type(skeleton).from_pretrained(
        None, config=config, state_dict=weights, dtype=dtype, output_loading_info=True
    )
    if missing := sorted(report["missing_keys"]):
        raise ModelDamaged(f"{path} lacks {missing[0]!r}", remedy="Fetch the file again.")
    return model, tokenizer


def read_converted(
    path: Path, home: Path, dtype: torch.dtype, read_folder: Callable[[Path, torch.dtype], tuple[Any, Any]]
) -> tuple[Any, Any]:
    """Return (model, tokenizer) for ``path``, from the copy under ``home`` that an earlier call left there.

    The copy is float32, named after size and time of the GGUF file and the version of transformers, and
    written atomically. When it cannot be written (read-only cache, full disk), the model is still returned.
    """
    copy = home / f"converted-{_key(path)}"
    if copy.is_dir():
        try:
            return read_folder(copy, dtype)
        except ModelDamaged:
            shutil.rmtree(copy, ignore_errors=True)
    model, tokenizer = read(path, torch.float32)
    _keep(model, tokenizer, copy)
    return model, tokenizer


def _key(path: Path) -> str:
    facts = path.stat()
    text = f"{_FORMAT} {facts.st_size} {facts.st_mtime_ns} {transformers.__version__}"
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _keep(model: Any, tokenizer: Any, copy: Path) -> None:
    scratch: Path | None = None
    try:
        copy.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(dir=copy.parent, prefix=".converting-"))
        model.save_pretrained(scratch)
        tokenizer.save_pretrained(scratch)
        for file in scratch.iterdir():
            with file.open("rb+") as stream:
                os.fsync(stream.fileno())
        scratch.chmod(0o755)
        scratch.rename(copy)
        sync(copy.parent)
        for old in copy.parent.glob("converted-*"):
            if old != copy:
                shutil.rmtree(old, ignore_errors=True)
    except (OSError, SafetensorError):
        # A copy only saves time: another process was first, or there is no room for it.
        if scratch is not None:
            shutil.rmtree(scratch, ignore_errors=True)
