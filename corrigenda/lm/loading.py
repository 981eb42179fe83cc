"""Name, folder, hub id or GGUF file → :class:`LanguageModel`.

What :func:`load` returns has been checked (whole file, no missing tensor, nothing infinite), stands in
evaluation mode and asks for no gradients. Loading prints nothing and fetches nothing, with one exception: a
hub id is a request to transformers, which downloads it unless it is in its cache.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    PreTrainedConfig,
)

from corrigenda.errors import ModelDamaged, ModelError, UnknownModel, UnknownName, UnsupportedArchitecture
from corrigenda.lm import gguf_model, packages
from corrigenda.lm.fingerprint import fingerprint
from corrigenda.lm.packages import KNOWN, PackagedModel
from corrigenda.lm.quiet import quiet
from corrigenda.lm.supported import NO_CODE, check_supported

if TYPE_CHECKING:
    from corrigenda.lm.layer_map import LayerMap

__all__ = ["DTYPES", "KNOWN", "LanguageModel", "PackagedModel", "load"]

DTYPES: Mapping[str, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
"""Number formats that weights can be loaded in."""

_ENDS = ("<|endoftext|>", "<|end_of_text|>", "<|eot_id|>", "<|im_end|>", "<end_of_turn>", "<|end|>")

UNBOUNDED = 1 << 30
"""Context length of a model that states none (relative positions)."""


@dataclass(eq=False)
class LanguageModel:
    """A causal or encoder-decoder model together with its tokenizer.

    Attributes:
        name: What it was loaded as; for messages.
        model: The transformers model. Whoever changes its weights undoes it.
        tokenizer: Its tokenizer.
    """

    name: str
    model: Any = field(repr=False)
    tokenizer: Any = field(repr=False)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        device: torch.device = self.model.device
        return device

    @property
    def dtype(self) -> torch.dtype:
        """Number format of the weights."""
        dtype: torch.dtype = self.model.dtype
        return dtype

    @property
    def is_encoder_decoder(self) -> bool:
        """Whether the prompt goes into an encoder and the answer starts from nothing (T5)."""
        return bool(self.model.config.is_encoder_decoder)

    @property
    def has_chat_template(self) -> bool:
        """Whether the tokenizer knows how to write a conversation."""
        return bool(getattr(self.tokenizer, "chat_template", None))

    @property
    def context_length(self) -> int:
        """Most tokens of prompt and answer together; :data:`UNBOUNDED` when the model states none."""
        config = self.model.config
        for name in ("max_position_embeddings", "n_positions", "max_sequence_length"):
            length = getattr(config, name, None)
            if isinstance(length, int) and length > 0:
                return length
        return int(min(getattr(self.tokenizer, "model_max_length", UNBOUNDED), UNBOUNDED))

    @cached_property
    def eos_ids(self) -> frozenset[int]:
        """Every token that ends an answer, by tokenizer and configuration."""
        found: set[int] = set()
        for holder in (self.tokenizer, self.model.config, self.model.generation_config):
            ids = getattr(holder, "eos_token_id", None)
            found.update(ids if isinstance(ids, list | tuple) else [] if ids is None else [ids])
        # Chat models also write the end-of-text token of their pretraining, which no setting names.
        names = set(self.tokenizer.all_special_tokens) | set(self.tokenizer.get_added_vocab())
        found.update(self.tokenizer.convert_tokens_to_ids(name) for name in _ENDS if name in names)
        return frozenset(found)

    @property
    def pad_id(self) -> int:
        """Token that fills short rows of a batch; it is masked, so any that has an embedding will do."""
        ids = (self.tokenizer.pad_token_id, self.tokenizer.eos_token_id, 0)
        return int(next(token for token in ids if token is not None and token < self.vocabulary))

    @property
    def vocabulary(self) -> int:
        """How many tokens have an embedding; a tokenizer may know more."""
        return len(self.model.get_input_embeddings().weight)

    @cached_property
    def layers(self) -> LayerMap:
        """Where this architecture keeps its parts.

        Raises:
            UnsupportedArchitecture: No map for it.
        """
        from corrigenda.lm.layer_map import layer_map

        return layer_map(self.model)

    @cached_property
    def fingerprint(self) -> str:
        """Hash of configuration and weights, taken at the first access: two models share it iff they are equal.

        :func:`corrigenda.lm.fingerprint.fingerprint` hashes the weights as they are now.
        """
        return fingerprint(self.model)


def load(source: str | Path, *, device: str | None = None, dtype: str = "float32") -> LanguageModel:
    """Load a language model, ready to be asked.

    Args:
        source: A known name ("smollm2"), a folder that ``save_pretrained`` wrote, a GGUF file, or a hub id
            ("owner/name": exactly one slash and no such path here).
        device: A torch device; "auto" takes CUDA when there is one. Default: CPU.
        dtype: A key of :data:`DTYPES`.

    Raises:
        UnknownModel: None of these, not fetched yet, or files missing; the remedy says what to do.
        ModelDamaged: Truncated, unreadable or incomplete weights, or NaN or infinity among them.
        UnsupportedArchitecture: transformers cannot run it as a language model, or not in batches with a cache.
        UnknownName: Unknown ``dtype``.
        ModelError: The device cannot be used.
    """
    if dtype not in DTYPES:
        raise UnknownName.among("dtype", str(dtype), list(DTYPES))
    place = _device(device)
    with quiet():
        name, model, tokenizer = _read(source, DTYPES[dtype])
        _refuse_non_finite(name, model)
        model = model.to(device=place, dtype=DTYPES[dtype]).eval().requires_grad_(False)
    if tokenizer.pad_token is None and tokenizer.eos_token is not None:
        tokenizer.pad_token = tokenizer.eos_token
    return LanguageModel(name, model, tokenizer)


def _device(device: str | None) -> torch.device:
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return torch.empty(0, device=device or "cpu").device
    except (RuntimeError, AssertionError) as error:
        raise ModelError(
            f"the device {device!r} cannot be used: {str(error).splitlines()[0]}",
            remedy="Use 'cpu', 'auto', or a device that torch lists.",
        ) from error


def _read(source: str | Path, dtype: torch.dtype) -> tuple[str, Any, Any]:
    """Return (name, model, tokenizer) for any kind of source."""
    text = str(source)
    if text in KNOWN:
        weights = packages.find(text)
        if weights is None:
            raise UnknownModel(f"the model {text!r} is not here yet", remedy=f"corrigenda models pull {text}")
        return (text, *gguf_model.read_converted(weights, packages.folder(text), dtype, _from_folder))
    path, is_folder, is_file = _look(text)
    if is_folder:
        return (path.resolve().name, *_from_folder(_whole(path), dtype))
    if is_file:
        if path.suffix.lower() != ".gguf":
            raise UnknownModel(f"{path} is a file, but not GGUF", remedy="Give the folder of the checkpoint.")
        return (path.stem, *gguf_model.read(path, dtype))
    if text.count("/") == 1 and not text.startswith(("/", ".", "~")) and not text.endswith("/"):
        return (text, *_from_hub(text, dtype))
    raise UnknownModel(
        f"{text!r} is neither a known model, nor a folder, nor a GGUF file",
        remedy=f"Known: {', '.join(sorted(KNOWN))}. Or give a path, or a hub id like 'owner/name'.",
    )


def _look(text: str) -> tuple[Path, bool, bool]:
    """Return ``text`` as a path, and whether that is a folder or a file."""
    try:
        path = Path(text).expanduser()
        return path, path.is_dir(), path.is_file()
    except (OSError, RuntimeError) as error:  # a name that is too long, the home of a user who does not exist
        raise UnknownModel(
            f"{text[:80]!r} is not a path: {_first_line(error)}", remedy="Give a path, or a hub id like 'owner/name'."
        ) from error


_WEIGHTS = ("model*.safetensors", "model.safetensors.index.json", "pytorch_model*.bin")
_TOKENIZER = (
    "tokenizer.json",
    "tokenizer.model",
    "spiece.model",
    "vocab.json",
    "vocab.txt",
    "tokenizer_config.json",
)


def _whole(folder: Path) -> Path:
    """Refuse a folder that lacks configuration, weights or tokenizer, naming what is missing."""
    kinds = {"config.json": ("config.json",), "model.safetensors": _WEIGHTS, "tokenizer.json": _TOKENIZER}
    missing = [name for name, patterns in kinds.items() if not any(any(folder.glob(pattern)) for pattern in patterns)]
    if missing:
        raise UnknownModel(
            f"{folder} is not a checkpoint: {', '.join(missing)} missing",
            remedy="Give the folder that save_pretrained wrote, tokenizer included, or a GGUF file.",
        )
    return folder


def _from_hub(name: str, dtype: torch.dtype) -> tuple[Any, Any]:
    try:
        return _from_pretrained(name, dtype)
    except ModelError:
        raise
    except (OSError, ValueError) as error:
        raise UnknownModel(
            f"{name!r} could not be loaded from the model hub: {_first_line(error)}",
            remedy="Check the id and the network, or give a local folder or GGUF file.",
        ) from error
    except _UNREADABLE as error:
        raise _unreadable(name, error) from error


def _from_folder(folder: Path, dtype: torch.dtype) -> tuple[Any, Any]:
    try:
        return _from_pretrained(str(folder), dtype)
    except ModelError:
        raise
    except _UNREADABLE as error:
        raise _unreadable(str(folder), error) from error


# What the readers of configurations, tokenizers and weights were seen to raise over files that they cannot take.
_UNREADABLE = (
    OSError,
    RuntimeError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    EOFError,
    ImportError,
    UnpicklingError,
    SafetensorError,
    StrictDataclassError,
)


def _unreadable(source: str, error: Exception) -> ModelError:
    if isinstance(error, ImportError):
        return UnsupportedArchitecture(
            f"{source} needs a package that is not installed: {_first_line(error)}",
            remedy="Install it, or give a checkpoint with plain weights.",
        )
    return ModelDamaged(f"{source} cannot be read: {_first_line(error)}", remedy="Copy or fetch the checkpoint again.")


def _first_line(error: Exception) -> str:
    lines = str(error).splitlines() or [type(error).__name__]
    return " ".join(map(str.strip, lines[: 2 if lines[0].endswith(":") else 1]))


def _from_pretrained(source: str, dtype: torch.dtype) -> tuple[Any, Any]:
    config = _configuration(source)
    auto = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    if type(config) not in auto._model_mapping:
        raise UnsupportedArchitecture(
            f"{source} holds a {config.model_type!r} model, which does not generate text",
            remedy="Give a causal or an encoder-decoder language model.",
        )
    check_supported(source, config, auto._model_mapping[type(config)])
    model, report = auto.from_pretrained(source, config=config, dtype=dtype, output_loading_info=True, **NO_CODE)
    if missing := sorted(report["missing_keys"]):
        raise ModelDamaged(
            f"{source} lacks {len(missing)} tensor(s), {missing[0]!r} among them",
            remedy="The checkpoint is incomplete or belongs to another architecture.",
        )
    return model, AutoTokenizer.from_pretrained(source, **NO_CODE)


def _configuration(source: str) -> Any:
    facts, _ = PreTrainedConfig.get_config_dict(source)
    kind = facts.get("model_type")
    if kind is not None and kind not in CONFIG_MAPPING:
        raise UnsupportedArchitecture(
            f"{source} holds a {kind!r} model, which transformers {transformers.__version__} does not know",
            remedy="Upgrade transformers; code that comes with a checkpoint is not run.",
        )
    return AutoConfig.from_pretrained(source, **NO_CODE)


@torch.no_grad()
def _refuse_non_finite(name: str, model: Any) -> None:
    for key, weight in model.named_parameters():
        # The sum is one cheap pass; only when it overflows or is NaN are the elements looked at.
        if not weight.sum().isfinite() and not weight.isfinite().all():
            raise ModelDamaged(
                f"{name}: the parameter {key!r} holds NaN or infinity", remedy="Fetch the weights again."
            )
