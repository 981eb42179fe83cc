"""Silence while transformers loads: no progress bars, log lines or warnings inside a ``with`` block."""

from __future__ import annotations

import io
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr

from transformers.utils import logging

_LOCK = threading.Lock()
_noise = ExitStack()
"""Puts back what was set before the first block was entered."""
_inside = 0
"""Blocks that are being run, in all threads."""


@contextmanager
def quiet() -> Iterator[None]:
    """Hold back progress bars, log lines below errors, and warnings; restores what was set before.

    All this is set for the whole process: what other threads write to stderr meanwhile is held back too, and of blocks
    that overlap the first to begin sets it, the last to end restores it.
    """
    global _inside
    with _LOCK:
        if not _inside:
            _silence(_noise)
        _inside += 1
    try:
        yield
    finally:
        with _LOCK:
            _inside -= 1
            if not _inside:
                _noise.close()


def _silence(noise: ExitStack) -> None:
    noise.callback(logging.set_verbosity, logging.get_verbosity())
    if logging.is_progress_bar_enabled():
        noise.callback(logging.enable_progress_bar)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    # The GGUF reader of transformers draws its bar on stderr whatever the settings say.
    noise.enter_context(redirect_stderr(io.StringIO()))
    noise.enter_context(warnings.catch_warnings())
    warnings.simplefilter("ignore")
