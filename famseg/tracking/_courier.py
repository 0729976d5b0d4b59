"""The thread that sends entries to the store, so that a training never waits for the store."""

from __future__ import annotations

import atexit
import os
import threading
import time
from collections.abc import Sequence

from famseg.tracking._outbox import Outbox
from famseg.tracking._quiet import quiet


class Courier:
    """A thread that empties outboxes in order of urgency.

    It is a daemon thread: if it hangs, the interpreter can still exit. Unless it is killed, a
    program waits for the thread in :meth:`flush`, at the latest when the interpreter exits. A
    forked process has no such thread and does not take part in the run: every method does nothing
    there.

    Args:
        boxes: The outboxes, the most urgent first.
    """

    def __init__(self, boxes: Sequence[Outbox]) -> None:
        self._boxes = boxes
        self._changed = threading.Condition()
        self._news = False  # an entry was added or hurried since the last check of the thread
        self._idle = True  # there is nothing to do at the moment
        self._steps = 0
        self._ends = False
        self._working = boxes[0]
        self._owner = os.getpid()
        self._thread: threading.Thread | None = None

    @property
    def foreign(self) -> bool:
        """Whether this process was forked from the one that tracks the run."""
        return os.getpid() != self._owner

    def wake(self) -> None:
        """Notify the thread of a new entry, and start it if necessary."""
        if self.foreign:
            return
        with self._changed:
            self._tell()
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._work, name="famseg-mlflow", daemon=True
                )
                self._thread.start()
                atexit.register(self.flush)

    def flush(self, limit_s: float | None = None) -> bool:
        """Try all waiting entries immediately, and wait until each was tried.

        Args:
            limit_s: Seconds that this may take in total; by default each entry may take as long as
                its box allows.

        Returns:
            Whether no entries are left.
        """
        if self.foreign or self._thread is None:
            return not any(map(len, self._boxes))
        with self._changed:
            for box in self._boxes:
                box.hurry()
            self._tell()
            steps, since = self._steps, time.perf_counter()
            while not (self._idle or self._ends):
                granted = self._working.patience_s if limit_s is None else limit_s
                left = since + granted - time.perf_counter()
                if left <= 0:
                    break
                self._changed.wait(left)
                if limit_s is None and self._steps != steps:
                    steps, since = self._steps, time.perf_counter()
        return not any(map(len, self._boxes))

    def end(self) -> None:
        """Let the thread end after its current entry, without sending the waiting ones."""
        if self.foreign:
            return
        with self._changed:
            self._ends = True
            self._changed.notify_all()
        atexit.unregister(self.flush)

    def _tell(self) -> None:
        self._news, self._idle = True, False
        self._changed.notify_all()

    def _work(self) -> None:
        while not self._ends:
            with self._changed:
                self._news = False
            with quiet():  # changing levels of loggers takes longer than an entry
                while not self._ends and self._step():
                    pass
            with self._changed:
                if self._news:
                    continue
                self._idle = True
                self._changed.notify_all()
                waits = [box.seconds_to_next_try() for box in self._boxes]
                until = min((each for each in waits if each is not None), default=None)
                self._changed.wait_for(lambda: self._news or self._ends, until)

    def _step(self) -> bool:
        """Run one entry of the first nonempty box; return whether there was one."""
        for box in self._boxes:
            self._working = box
            if box.step():
                with self._changed:
                    self._steps += 1
                    self._changed.notify_all()
                return True
        return False
