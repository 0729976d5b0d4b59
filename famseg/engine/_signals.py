"""Signals that end a run after finishing the step and saving."""

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

# If several signals were received, the last in this order determines how a run ended: Ctrl-C, a
# closed terminal, warnings of schedulers before the time limit, and their request to end.
SIGNALS = (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM)


class Interrupted(BaseException):
    """A signal requested the end of the run; not an error, hence not a subclass of Exception.

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
    """The training paused at the requested epoch, after saving its state.

    Not an error, hence not a subclass of Exception.

    Args:
        epoch: The epoch that was completed.
        epochs: Total number of epochs.

    Attributes:
        folder: The run folder with which the training is resumed; None if it is not known.
    """

    def __init__(self, epoch: int, epochs: int) -> None:
        super().__init__(f"paused after epoch {epoch} of {epochs}")
        self.folder: Path | None = None


class StopRequest:
    """Whether a signal requested the end of the run.

    While :meth:`deferred` is active, the first signal is only recorded, so that the training loop
    can end between two steps. At any other time, and for every further signal, :class:`Interrupted`
    is raised immediately.
    """

    def __init__(self) -> None:
        self.signum: int | None = None
        self._deferring = False
        self._pid = os.getpid()

    def __call__(self, signum: int, frame: FrameType | None) -> None:
        """Handle a signal."""
        if os.getpid() != self._pid:
            return  # a forked worker, which ends together with its parent
        if signum == signal.SIGHUP:
            _leave_lost_terminal()
        repeated = self.signum is not None
        self.signum = signum
        if repeated or not self._deferring:
            raise Interrupted(signum)

    def flags(self) -> list[float]:
        """Return for each of `SIGNALS` 1 if it was the last one received, else 0."""
        return [float(self.signum == number) for number in SIGNALS]

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Record the first signal instead of raising an exception."""
        self._deferring = True
        try:
            yield
        finally:
            self._deferring = False


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Convert signals that end a run to a :class:`StopRequest` within the context.

    SIGHUP stays ignored if it was before, as under ``nohup``.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request  # signals are handled only in the main thread
        return
    taken = [number for number in SIGNALS if not _nohup(number)]
    before = {number: signal.signal(number, request) for number in taken}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _leave_lost_terminal() -> None:
    """Discard output to a closed terminal, since each line would raise an error."""
    for stream in (1, 2):
        try:
            termios.tcgetattr(stream)
        except termios.error as error:
            if error.args[0] == errno.EIO:
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, stream)
                os.close(nowhere)


def calm_worker(number: int) -> None:
    """Make a worker ignore signals, since the training process ends it.

    Schedulers and terminals send a signal to every process of a job. A worker would end
    immediately, and with it the training, before saving.

    Args:
        number: Number of the worker, passed by torch.
    """
    for each in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(each, signal.SIG_IGN)

    # The training process also sends SIGTERM to a hanging worker, so the second one is obeyed.
    def first(signum: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

    signal.signal(signal.SIGTERM, first)


def _nohup(number: int) -> bool:
    return number == signal.SIGHUP and signal.getsignal(number) is signal.SIG_IGN
