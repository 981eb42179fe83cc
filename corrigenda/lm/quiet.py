"""Silence while transformers loads or exports: no progress bars, log lines or warnings inside a ``with`` block.

All this is set for the whole process: what other threads write meanwhile is held back too, and of blocks that overlap
the first to begin sets it, the last to end puts back what was set before.
"""

from __future__ import annotations

import io
import logging
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout

from transformers.utils import logging as transformers_logging


class _Shared:
    """A state of the process that several threads may want at once."""

    def __init__(self, begin: Callable[[ExitStack], None]) -> None:
        self._begin = begin
        self._lock = threading.Lock()
        self._undo = ExitStack()
        self._inside = 0

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep the state for the block."""
        with self._lock:
            if not self._inside:
                self._begin(self._undo)
            self._inside += 1
        try:
            yield
        finally:
            with self._lock:
                self._inside -= 1
                if not self._inside:
                    self._undo.close()


@contextmanager
def quiet(*, output: bool = False) -> Iterator[None]:
    """Hold back progress bars, warnings, log lines of transformers below errors, and stderr.

    Args:
        output: Whether stdout, and log lines of anybody below errors, are held back as well.
    """
    with ExitStack() as held:
        held.enter_context(_LOADING.held())
        if output:
            held.enter_context(_OUTPUT.held())
        yield


def _silence(undo: ExitStack) -> None:
    undo.callback(transformers_logging.set_verbosity, transformers_logging.get_verbosity())
    if transformers_logging.is_progress_bar_enabled():
        undo.callback(transformers_logging.enable_progress_bar)
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    # The GGUF reader of transformers draws its bar on stderr whatever the settings say.
    undo.enter_context(redirect_stderr(io.StringIO()))
    undo.enter_context(warnings.catch_warnings())
    warnings.simplefilter("ignore")


def _silence_output(undo: ExitStack) -> None:
    undo.callback(logging.disable, logging.root.manager.disable)
    logging.disable(logging.WARNING)
    undo.enter_context(redirect_stdout(io.StringIO()))


_LOADING, _OUTPUT = _Shared(_silence), _Shared(_silence_output)
