"""Silence for libraries that talk while they load."""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator


@contextlib.contextmanager
def quiet(*, downloads: bool = False) -> Iterator[None]:
    """Hide prints, progress bars, log lines and Python warnings of a block.

    Only for calls into TransformerLens and transformers, whose errors still pass. State is restored, even
    after an exception.

    Args:
        downloads: Whether to show the progress bars of downloads anyway.
    """
    root = logging.getLogger()
    # `logging.warning(...)` on a bare root logger installs a handler for good, which would keep writing
    # into the buffer below.
    placeholder = logging.NullHandler()
    root.addHandler(placeholder)
    disabled = root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with (
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.nullcontext() if downloads else contextlib.redirect_stderr(io.StringIO()),
            _without_loading_bars(downloads),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
        root.removeHandler(placeholder)


@contextlib.contextmanager
def _without_loading_bars(downloads: bool) -> Iterator[None]:
    """Hide transformers' bars; in a notebook they are widgets, which no redirection catches."""
    from huggingface_hub.utils import are_progress_bars_disabled, enable_progress_bars
    from transformers.utils import logging as transformers_logging

    shown = transformers_logging.is_progress_bar_enabled()
    hub_shown = not are_progress_bars_disabled()
    transformers_logging.disable_progress_bar()
    if downloads and hub_shown:
        # That disabled the hub's bars too.
        enable_progress_bars()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()
        if hub_shown:
            enable_progress_bars()


def one_line(error: BaseException) -> str:
    """The first line of an error's message, or its type where it has none."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:300] if lines else type(error).__name__
