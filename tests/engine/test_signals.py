from __future__ import annotations

import multiprocessing
import os
import signal

import pytest

from famseg.engine import Interrupted, stop_on_signals
from famseg.engine._signals import SIGNALS, calm_worker


def test_a_deferred_signal_is_noted_and_a_second_one_raises() -> None:
    with stop_on_signals() as stop, stop.deferred():
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.signum == signal.SIGTERM
        with pytest.raises(Interrupted, match="ended by SIGINT"):
            os.kill(os.getpid(), signal.SIGINT)


def test_outside_of_training_a_signal_raises_at_once() -> None:
    with stop_on_signals(), pytest.raises(Interrupted, match="ended by SIGINT"):
        os.kill(os.getpid(), signal.SIGINT)


def test_the_handlers_of_before_come_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with stop_on_signals():
        assert signal.getsignal(signal.SIGTERM) is not before
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("signum", SIGNALS, ids=[each.name for each in SIGNALS])
def test_each_signal_is_taken_and_given_back(signum: signal.Signals) -> None:
    before = signal.getsignal(signum)
    with stop_on_signals() as stop, stop.deferred():
        os.kill(os.getpid(), signum)
        assert stop.flags() == [float(each == signum) for each in SIGNALS]
    assert signal.getsignal(signum) is before


def test_under_nohup_a_closed_terminal_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop_on_signals() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert stop.signum is None
    finally:
        signal.signal(signal.SIGHUP, before)


def signal_itself(calm: bool, times: int, signum: int) -> None:
    if calm:
        calm_worker(0)
    for _ in range(times):
        os.kill(os.getpid(), signum)


@pytest.mark.parametrize(
    ("calm", "times", "signum", "status"),
    [
        (False, 2, signal.SIGUSR1, 0),  # the handler that it has from the process that trains
        (True, 3, signal.SIGINT, 0),
        (True, 3, signal.SIGHUP, 0),
        (True, 1, signal.SIGTERM, 0),
        (True, 2, signal.SIGTERM, -signal.SIGTERM),  # of the process that trains, if it hangs
    ],
)
def test_a_process_that_loads_data_goes_on(
    calm: bool, times: int, signum: int, status: int
) -> None:
    with stop_on_signals():
        child = multiprocessing.get_context("fork").Process(
            target=signal_itself, args=(calm, times, signum)
        )
        child.start()
        child.join()
    assert child.exitcode == status
