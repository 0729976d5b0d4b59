"""Writing of the page about a run by a given function, since the engine must not import reports."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from famseg.runs import RunFolder

_logger = logging.getLogger("famseg")

WritePage = Callable[[Path], Path]
"""Writes the page about a finished run into its folder and returns the file."""


def page_of(folder: RunFolder, write: WritePage | None) -> Path | None:
    """Write the page about a run; an error in it does not fail a finished run.

    Args:
        folder: The run folder, whose evaluation is complete.
        write: Writes the page; None for no page.

    Returns:
        The file; None if it was not written, with the reason in the log.
    """
    if write is None:
        return None
    try:
        return write(folder.path)
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        _logger.warning(
            "The report of %s was not written (%s). The run itself is complete; try again with "
            "famseg report.",
            folder.path,
            reason,
        )
        return None
