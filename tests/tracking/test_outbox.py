from __future__ import annotations

import logging

import pytest

from famseg.messages import InputError
from famseg.tracking._database import StoreFaultError
from famseg.tracking._outbox import Outbox, RefusedError


@pytest.fixture
def clock(monkeypatch):
    """A clock controlled by the test."""
    now = [1000.0]
    monkeypatch.setattr("famseg.tracking._outbox.time.monotonic", lambda: now[0])
    return now


class Store:
    """A store that can be offline; records what it receives, in order."""

    def __init__(self):
        self.away = False
        self.tries = 0
        self.got = []

    def take(self, item):
        def action():
            self.tries += 1
            if self.away:
                raise ConnectionRefusedError(111, "Connection refused")
            self.got.append(item)

        return action


def put(outbox, what, action, **options):
    """Queue an action and process it as the thread would."""
    outbox.put(what, action, **options)
    work(outbox)


def work(outbox):
    while outbox.step():
        pass
    return not len(outbox)


def flush(outbox):
    outbox.hurry()
    return work(outbox)


@pytest.fixture(autouse=True)
def record_log(caplog):
    caplog.set_level(logging.INFO, "famseg")


def test_entries_pass_through_at_once(clock):
    store, outbox = Store(), Outbox("S")
    put(outbox, "a", store.take(1))
    assert store.got == [1]
    assert len(outbox) == 0
    assert outbox.problem is None


def test_an_outage_warns_once_and_keeps_the_order(clock, caplog):
    store, outbox = Store(), Outbox("S")
    store.away = True
    for item in range(5):
        put(outbox, "a", store.take(item))
        clock[0] += 20
    assert outbox.problem == "Connection refused"
    store.away = False
    clock[0] += 1000
    put(outbox, "a", store.take(5))
    assert store.got == [0, 1, 2, 3, 4, 5]
    assert caplog.messages == [
        "S does not answer (Connection refused). The run continues with its local record; "
        "waiting entries are sent when the store is back.",
        "S is back: 6 entries sent.",
    ]


def test_a_second_outage_warns_again(clock, caplog):
    store, outbox = Store(), Outbox("S")
    for away in (True, False, True):
        store.away = away
        clock[0] += 1000
        put(outbox, "a", store.take(0))
    assert sum("does not answer" in message for message in caplog.messages) == 2


def test_a_dead_store_is_asked_ever_less(clock):
    store, outbox = Store(), Outbox("S")
    store.away = True
    for _ in range(3600):
        put(outbox, "a", store.take(0))
        clock[0] += 1
    # at 0, 15, 45, 105, 225, 465, 945, then every 600 s
    assert store.tries == 11


def test_flush_asks_without_waiting(clock):
    store, outbox = Store(), Outbox("S")
    store.away = True
    put(outbox, "a", store.take(0))
    store.away = False
    assert flush(outbox)
    assert store.got == [0]


def test_what_is_refused_for_good_does_not_block_the_rest(clock, caplog):
    store, outbox = Store(), Outbox("S")

    def refused():
        raise RefusedError("no such\ncolor")

    put(outbox, "the image x", refused)
    put(outbox, "the image x", refused)
    put(outbox, "a", store.take(1))
    assert store.got == [1]
    assert caplog.messages == [
        "MLflow does not accept the image x (no such color). It is left out."
    ]


def test_without_the_essential_entry_nothing_is_tracked(clock, caplog):
    store, outbox = Store(), Outbox("S")

    def refused():
        raise RefusedError("name too long")

    put(outbox, "the run", refused, essential=True)
    put(outbox, "a", store.take(1))
    assert store.got == []
    assert len(outbox) == 0
    assert caplog.messages == [
        "S does not accept the run (name too long). The run is not tracked there."
    ]


def test_a_fault_of_the_user_is_kept_for_who_waits_and_a_warning_later(clock, caplog):
    def deleted():
        raise InputError("tracking.experiment: 'x' was deleted.")

    outbox = Outbox("S")
    outbox.fault_is_awaited = True
    put(outbox, "the run", deleted, essential=True)
    assert str(outbox.fault) == "tracking.experiment: 'x' was deleted."
    assert (len(outbox), caplog.messages) == (0, [])

    store, outbox = Store(), Outbox("S")
    outbox.fault_is_awaited = True
    store.away = True
    put(outbox, "first", store.take(0))
    put(outbox, "the run", deleted, essential=True)
    store.away = False
    flush(outbox)
    assert outbox.fault is None
    assert "does not accept the run (tracking.experiment: 'x' was deleted.)" in caplog.messages[-2]


def test_a_store_that_needs_somebody_says_what_to_do(clock, caplog):
    def broken():
        raise StoreFaultError("its tables are half made", "Move the file away.")

    outbox = Outbox("S")
    put(outbox, "the run", broken)
    assert outbox.problem == "its tables are half made"
    assert caplog.messages == [
        "S cannot be used: its tables are half made. Move the file away. The run continues with "
        "its local record; waiting entries are sent when the store is back."
    ]


def test_memory_is_bounded_and_what_opens_the_run_stays(clock, monkeypatch, caplog):
    monkeypatch.setattr("famseg.tracking._outbox._MOST_ENTRIES", 10)
    store, outbox = Store(), Outbox("S")
    store.away = True
    for item in range(100):
        put(outbox, "a", store.take(item), opening=item < 3)
    store.away = False
    flush(outbox)
    assert store.got == [0, 1, 2, *range(93, 100)]
    assert caplog.messages[1:-1] == [
        "S: more than 10 entries are waiting. The oldest are dropped; the run folder has them."
    ]


def test_nothing_is_tried_or_said_before_it_is_ready(clock, caplog):
    store, ready = Store(), []
    outbox = Outbox("S", ready=lambda: bool(ready))
    put(outbox, "a", store.take(1))
    assert not flush(outbox)
    assert (store.tries, outbox.problem, caplog.messages) == (0, None, [])
    ready.append(True)
    put(outbox, "a", store.take(2))
    assert store.got == [1, 2]
