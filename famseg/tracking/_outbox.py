"""What is still to be sent to MLflow: kept through an outage, in order, sent once it is over."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from famseg.config import InputError
from famseg.tracking import _store

_logger = logging.getLogger("famseg")

_FIRST_WAIT_S = 15.0
_LONGEST_WAIT_S = 600.0
# A run of 10,000 epochs fits; beyond it the oldest entries but the first (it creates the run) go.
_MOST_ENTRIES = 20_000

Action = Callable[[], None]


class RefusedError(Exception):
    """An entry is at fault itself (a missing file): raised by its action, it is not tried again."""


class _Entry(NamedTuple):
    what: str
    action: Action
    essential: bool


class Outbox:
    """A queue of actions on the store that outlives the store's absence.

    :meth:`put` tries to run what waits. At the first failure it warns in one line and stops; it
    tries again after 15 s, then after twice as long and so on up to 10 minutes, so that a store
    which answers slowly or never costs a training next to nothing. What the store refuses for
    good (a name that is not allowed) is dropped with a warning.

    Args:
        name: What the entries go to, in messages.
        ready: Tells whether to try at all; entries wait silently until it does.
    """

    def __init__(self, name: str, *, ready: Callable[[], bool] = lambda: True) -> None:
        self._name = name
        self._ready = ready
        self._entries: deque[_Entry] = deque()
        self._wait_s = _FIRST_WAIT_S
        self._next_try = 0.0
        self._refused: set[str] = set()
        self.closed = False
        self.problem: str | None = None

    def __len__(self) -> int:
        return len(self._entries)

    def put(self, what: str, action: Action, *, essential: bool = False) -> None:
        """Queue an action and run what can be run.

        Args:
            what: What it sends, for messages.
            action: Does it; raises if it cannot. Runs again after a failure, so twice must do no
                harm.
            essential: Whether all that follows is useless without it.

        Raises:
            InputError: If an action finds a fault of the user's at its first try; later it is a
                warning.
        """
        if self.closed:
            return
        self._entries.append(_Entry(what, action, essential))
        if len(self._entries) > _MOST_ENTRIES:
            del self._entries[1]
        if time.monotonic() >= self._next_try:
            self.flush()

    def flush(self) -> bool:
        """Run all that waits, whether the waiting time is over or not.

        Returns:
            True if nothing is left.
        """
        if not self._ready():
            return not self._entries
        sent = 0
        while self._entries:
            entry = self._entries[0]
            try:
                with _store.quiet():
                    entry.action()
            except InputError as error:
                if self.problem is None:  # at the start, when the user is still there
                    raise
                self._refuse(entry, error)
            except Exception as error:  # a store may fail in any way; the run goes on
                if not _is_final(error):
                    self._fail(error)
                    return False
                self._refuse(entry, error)
            else:
                sent += 1
                self._entries.popleft()
        self._recover(sent)
        return True

    def _fail(self, error: Exception) -> None:
        if self.problem is None:
            self.problem = _store.reason(error)
            _logger.warning(
                "%s does not answer (%s). The run goes on with its local record; "
                "what waits is sent once it is back.",
                self._name,
                self.problem,
            )
        else:
            self._wait_s = min(2 * self._wait_s, _LONGEST_WAIT_S)
        self._next_try = time.monotonic() + self._wait_s

    def _recover(self, sent: int) -> None:
        if self.problem is not None:
            _logger.info("%s is back: %d entries sent.", self._name, sent)
        self.problem = None
        self._wait_s = _FIRST_WAIT_S
        self._next_try = 0.0

    def _refuse(self, entry: _Entry, error: Exception) -> None:
        if entry.essential:
            _logger.warning(
                "%s does not take %s (%s): it is not tracked there.",
                self._name,
                entry.what,
                _store.reason(error),
            )
            self.closed = True
            self._entries.clear()
            return
        if entry.what not in self._refused:
            _logger.warning(
                "MLflow does not take %s (%s): left out.", entry.what, _store.reason(error)
            )
        self._refused.add(entry.what)
        self._entries.popleft()


def _is_final(error: Exception) -> bool:
    """Tell whether to try again is useless: the request itself is at fault, not the store."""
    if isinstance(error, RefusedError):
        return True
    return getattr(error, "error_code", None) in (
        "INVALID_PARAMETER_VALUE",
        "RESOURCE_DOES_NOT_EXIST",
        "INVALID_STATE",
    )
