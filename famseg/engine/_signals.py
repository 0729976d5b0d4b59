"""SIGINT and SIGTERM: finish the step, save, end."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

# The later one says how a run ended that got both.
SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(BaseException):
    """The run was asked to end by a signal; no error, hence no subclass of Exception.

    Args:
        signum: The signal's number.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(f"ended by {signal.Signals(signum).name}")
        self.signum = signum


class StopRequest:
    """Whether a signal asked the run to end.

    While :meth:`deferred` is active the first signal is only noted, so that the training loop can
    end between two steps; at any other time, and from the second signal on, it raises
    :class:`Interrupted` at once.
    """

    def __init__(self) -> None:
        self.signum: int | None = None
        self._deferring = False

    def __call__(self, signum: int, frame: FrameType | None) -> None:
        """Handle a signal."""
        repeated = self.signum is not None
        self.signum = signum
        if repeated or not self._deferring:
            raise Interrupted(signum)

    def flags(self) -> list[float]:
        """Return for each of `SIGNALS` whether it was the last to ask, as 1 or 0."""
        return [float(self.signum == number) for number in SIGNALS]

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Note the first signal instead of raising."""
        self._deferring = True
        try:
            yield
        finally:
            self._deferring = False


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Turn SIGINT and SIGTERM into a :class:`StopRequest` for the time of the context."""
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request  # signals reach the main thread alone
        return
    before = {number: signal.signal(number, request) for number in SIGNALS}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
