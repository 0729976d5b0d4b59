"""Entries waiting to be sent to MLflow, which are kept in order during an outage."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from famseg.messages import InputError
from famseg.tracking import _store
from famseg.tracking._database import StoreFaultError
from famseg.tracking._quiet import quiet

_logger = logging.getLogger("famseg")

_FIRST_WAIT_S = 15.0
_LONGEST_WAIT_S = 600.0
# Enough for 10,000 epochs; beyond it the oldest entries are dropped, except those that open the
# run.
_MOST_ENTRIES = 20_000

Action = Callable[[], None]


class RefusedError(Exception):
    """The entry itself is invalid, such as a missing file, and is not retried."""


class _Entry(NamedTuple):
    what: str
    action: Action
    essential: bool
    opening: bool


class Outbox:
    """A queue of actions on the store that survives outages of the store.

    One thread adds entries and another runs them, see :class:`famseg.tracking._courier`; no lock is
    held while an action runs. At the first failure it warns in one line and pauses. It retries
    after 15 s, then after twice as long and so on, up to 10 minutes. An entry that the store
    rejects permanently (such as an invalid name) is dropped with a warning.

    Args:
        name: Name of the destination in messages.
        patience_s: Seconds that an entry may take while a program waits at its end.
        ready: Returns whether to try; entries wait silently until it returns True.
    """

    def __init__(
        self, name: str, *, patience_s: float = 60.0, ready: Callable[[], bool] = lambda: True
    ) -> None:
        self._name = name
        self.patience_s = patience_s
        self._ready = ready
        self._lock = threading.Lock()
        self._entries: deque[_Entry] = deque()
        self._wait_s = _FIRST_WAIT_S
        self._next_try = 0.0
        self._sent = 0
        self._overflowed = False
        self._refused: set[str] = set()
        self.closed = False
        self.problem: str | None = None
        # A user error in the first try, which the waiting thread will raise.
        self.fault: InputError | None = None
        self.fault_is_awaited = False

    def __len__(self) -> int:
        return len(self._entries)

    def put(
        self, what: str, action: Action, *, essential: bool = False, opening: bool = False
    ) -> None:
        """Queue an action without waiting.

        Args:
            what: What it sends, for messages.
            action: Sends it, or raises an error. It is retried after a failure, so it must be
                repeatable.
            essential: Whether all later entries are useless without it.
            opening: Whether it is kept regardless of the number of waiting entries.
        """
        with self._lock:
            if self.closed:
                return
            self._entries.append(_Entry(what, action, essential, opening))
            if len(self._entries) <= _MOST_ENTRIES:
                return
            # The first one may be running at the moment.
            place = next(i for i, each in enumerate(self._entries) if i and not each.opening)
            del self._entries[place]
            first, self._overflowed = not self._overflowed, True
        if first:
            _logger.warning(
                "%s: more than %d entries are waiting. The oldest are dropped; the run folder has "
                "them.",
                self._name,
                _MOST_ENTRIES,
            )

    def hurry(self) -> None:
        """Let the next step try before the waiting time is over."""
        with self._lock:
            self._next_try = 0.0

    def seconds_to_next_try(self) -> float | None:
        """Return the remaining waiting time after a failure; None if it does not wait."""
        with self._lock:
            if not self._entries or not self._next_try:
                return None
            return max(0.0, self._next_try - time.monotonic())

    def step(self) -> bool:
        """Run the first entry, if there is one and the waiting time is over.

        Returns:
            Whether there may be more entries: False if none is left, or the entry failed.
        """
        with self._lock:
            if not self._entries or time.monotonic() < self._next_try or not self._ready():
                return False
            entry = self._entries[0]
        try:
            with quiet():
                entry.action()
        except InputError as error:
            if not self._hand_over(error):
                self._refuse(entry, error)
        except Exception as error:  # a store may raise any error, and the run continues
            if not _is_final(error):
                self._fail(error)
                return False
            self._refuse(entry, error)
        else:
            with self._lock:
                self._entries.popleft()
                self._sent += 1
        with self._lock:
            over = not self._entries
        if over:
            self._recover()
        return True

    def _hand_over(self, error: InputError) -> bool:
        """Store a user error to raise it in the waiting program, after which nothing is sent."""
        with self._lock:
            if not self.fault_is_awaited or self.problem is not None:
                return False
            self.fault = error
            self.closed = True
            self._entries.clear()
            return True

    def _fail(self, error: Exception) -> None:
        if self.problem is None:
            self.problem = _store.reason(error)
            if isinstance(error, StoreFaultError):
                said = f"cannot be used: {self.problem}. {error.advice}"
            else:
                said = f"does not answer ({self.problem})."
            _logger.warning(
                "%s %s The run continues with its local record; waiting entries are sent when the "
                "store is back.",
                self._name,
                said,
            )
            self._sent = 0
        else:
            self._wait_s = min(2 * self._wait_s, _LONGEST_WAIT_S)
        with self._lock:
            self._next_try = time.monotonic() + self._wait_s

    def _recover(self) -> None:
        if self.problem is not None:
            _logger.info("%s is back: %d entries sent.", self._name, self._sent)
        self.problem = None
        self._wait_s = _FIRST_WAIT_S
        with self._lock:
            self._next_try = 0.0

    def _refuse(self, entry: _Entry, error: Exception) -> None:
        if entry.essential:
            _logger.warning(
                "%s does not accept %s (%s). The run is not tracked there.",
                self._name,
                entry.what,
                _store.reason(error),
            )
            with self._lock:
                self.closed = True
                self._entries.clear()
            return
        if entry.what not in self._refused:
            _logger.warning(
                "MLflow does not accept %s (%s). It is left out.", entry.what, _store.reason(error)
            )
        self._refused.add(entry.what)
        with self._lock:
            self._entries.popleft()


def _is_final(error: Exception) -> bool:
    """Return whether a retry is useless because the request is invalid."""
    if isinstance(error, RefusedError):
        return True
    return getattr(error, "error_code", None) in (
        "INVALID_PARAMETER_VALUE",
        "RESOURCE_DOES_NOT_EXIST",
        "INVALID_STATE",
    )
