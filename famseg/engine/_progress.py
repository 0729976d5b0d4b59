"""Progress of long tasks other than training, as lines of the log."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

_logger = logging.getLogger("famseg")


def log_progress(what: str, *, every_s: float = 10.0) -> Callable[[int, int], None]:
    """Return a function that takes (done, of) and logs it, at most every few seconds.

    Short tasks log nothing; the end is logged only if there was an earlier line.

    Args:
        what: The work, such as ``preparing skulls``.
        every_s: Seconds between lines.

    Example:
        >>> report = log_progress("preparing skulls", every_s=3600)
        >>> report(1, 2)  # too early for a line
    """
    last = time.monotonic()
    spoke = False

    def report(done: int, of: int) -> None:
        nonlocal last, spoke
        now = time.monotonic()
        if now - last >= every_s or (spoke and done == of):
            _logger.info("%s: %d of %d", what, done, of)
            last, spoke = now, True

    return report
