"""Signals that end a run: finish the step, save, end."""

from __future__ import annotations

import errno
import os
import signal
import termios
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

# Of several that came the last in this order says how a run ended. Ctrl-C; a closed terminal; the
# warnings of schedulers before the time is up; the end that they ask for.
SIGNALS = (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM)


class Interrupted(BaseException):
    """A signal asked the run to end; not an error, hence not a subclass of Exception.

    Args:
        signum: The signal's number.

    Attributes:
        folder: The run folder that `famseg train --resume` resumes; None if there is none.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(f"ended by {signal.Signals(signum).name}")
        self.signum = signum
        self.folder: Path | None = None


class Paused(BaseException):
    """The training paused at the epoch it was asked to; the state was saved.

    Not an error, hence not a subclass of Exception.

    Args:
        epoch: The epoch that was completed.
        epochs: How many there are in total.

    Attributes:
        folder: The run folder with which the training is resumed; None if it is not known.
    """

    def __init__(self, epoch: int, epochs: int) -> None:
        super().__init__(f"paused after epoch {epoch} of {epochs}")
        self.folder: Path | None = None


class StopRequest:
    """Whether a signal asked the run to end.

    While :meth:`deferred` is active the first signal is only noted, so that the training loop can
    end between two steps; at any other time, and from the second signal on, it raises
    :class:`Interrupted` at once.
    """

    def __init__(self) -> None:
        self.signum: int | None = None
        self._deferring = False
        self._pid = os.getpid()

    def __call__(self, signum: int, frame: FrameType | None) -> None:
        """Handle a signal."""
        if os.getpid() != self._pid:
            return  # a forked worker: it ends when this one does
        if signum == signal.SIGHUP:
            _leave_lost_terminal()
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
    """Turn signals that end a run into a :class:`StopRequest` within the context.

    SIGHUP stays ignored where it is, as under ``nohup``.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request  # signals reach the main thread only
        return
    taken = [number for number in SIGNALS if not _nohup(number)]
    before = {number: signal.signal(number, request) for number in taken}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _leave_lost_terminal() -> None:
    """Discard output to a terminal that was closed: each line would raise an error."""
    for stream in (1, 2):
        try:
            termios.tcgetattr(stream)
        except termios.error as error:
            if error.args[0] == errno.EIO:
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, stream)
                os.close(nowhere)


def calm_worker(number: int) -> None:
    """Make a worker ignore signals: the training process ends it.

    Schedulers and terminals send a signal to every process of a job. A worker would end at once and
    with it the training, before it has saved.

    Args:
        number: Number of the worker, as torch passes it.
    """
    for each in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(each, signal.SIG_IGN)

    # The training process also sends SIGTERM to a worker that hangs: the second one is obeyed.
    def first(signum: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

    signal.signal(signal.SIGTERM, first)


def _nohup(number: int) -> bool:
    return number == signal.SIGHUP and signal.getsignal(number) is signal.SIG_IGN
