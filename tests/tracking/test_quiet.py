from __future__ import annotations

import logging
import threading
import warnings

import pytest

from famseg.tracking._quiet import quiet


def test_it_is_over_afterwards():
    before = logging.getLogger("mlflow").level
    with quiet():
        warnings.warn("for developers", DeprecationWarning, stacklevel=1)
        assert not logging.getLogger("mlflow.store.db.utils").isEnabledFor(logging.ERROR)
    assert logging.getLogger("mlflow").level == before
    with pytest.raises(DeprecationWarning, match="shown"):
        warnings.warn("shown", DeprecationWarning, stacklevel=1)


def in_a_thread(action):
    thread = threading.Thread(target=action)
    thread.start()
    return thread


def test_warnings_of_other_threads_are_shown():
    inside, over = threading.Event(), threading.Event()

    def work():
        with quiet():
            inside.set()
            over.wait(10)

    thread = in_a_thread(work)
    inside.wait(10)
    try:
        with pytest.raises(UserWarning, match="shown"):
            warnings.warn("shown", UserWarning, stacklevel=1)
    finally:
        over.set()
        thread.join()


def test_filters_that_another_thread_sets_meanwhile_stay():
    """What catch_warnings in a thread would undo."""
    inside, over = threading.Event(), threading.Event()

    def work():
        with quiet():
            inside.set()
            over.wait(10)
            warnings.warn("of the thread", UserWarning, stacklevel=1)
            done.append(True)

    done: list[bool] = []
    thread = in_a_thread(work)
    inside.wait(10)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="mine")
        over.set()
        thread.join()
        warnings.warn("mine", UserWarning, stacklevel=1)
        with pytest.raises(UserWarning, match="other"):
            warnings.warn("other", UserWarning, stacklevel=1)
    assert done == [True]


def test_it_is_silent_in_front_of_filters_that_were_set_later():
    with quiet():
        pass
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with quiet():
            warnings.warn("for developers", DeprecationWarning, stacklevel=1)


def test_loggers_speak_again_once_the_last_thread_is_done():
    logger = logging.getLogger("mlflow")
    before, inside, over = logger.level, threading.Event(), threading.Event()

    def work():
        with quiet():
            inside.set()
            over.wait(10)

    thread = in_a_thread(work)
    inside.wait(10)
    with quiet():
        pass
    assert logger.level == logging.CRITICAL
    over.set()
    thread.join()
    assert logger.level == before
