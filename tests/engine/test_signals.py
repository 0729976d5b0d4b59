from __future__ import annotations

import os
import signal

import pytest

from famseg.engine import Interrupted, stop_on_signals


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
