"""Sending in a thread: no delays, same order, nothing lost at the end."""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from famseg.cli import _ui
from famseg.tracking import Tracker, _run, _store
from famseg.tracking._courier import Courier
from famseg.tracking._outbox import Outbox


@pytest.fixture(autouse=True)
def record_log(caplog):
    caplog.set_level(logging.INFO, "famseg")


@pytest.fixture
def pair():
    """Two outboxes with their courier, which is closed after the test."""
    boxes = Outbox("metrics", patience_s=5), Outbox("files", patience_s=5)
    courier = Courier(boxes)
    yield *boxes, courier
    courier.end()


def test_what_is_put_in_is_run_in_another_thread_in_order(pair):
    box, _, courier = pair
    got, threads = [], set()

    def take(item):
        threads.add(threading.current_thread().name)
        got.append(item)

    for item in range(200):
        box.put("a", lambda item=item: take(item))
        courier.wake()
    assert courier.flush()
    assert got == list(range(200))
    assert threads == {"famseg-mlflow"}


def test_the_first_box_is_emptied_before_a_second_file(pair):
    box, files, courier = pair
    got, began, go = [], threading.Event(), threading.Event()
    files.put("f", lambda: (began.set(), go.wait(5), got.append("file 1")))
    courier.wake()
    assert began.wait(5)
    files.put("f", lambda: got.append("file 2"))
    for item in range(3):
        box.put("a", lambda item=item: got.append(item))
    courier.wake()
    go.set()
    assert courier.flush()
    assert got == ["file 1", 0, 1, 2, "file 2"]


def test_an_action_that_hangs_delays_nothing_and_is_waited_for_in_bounds(pair):
    box, _, courier = pair
    release, got = threading.Event(), []
    box.put("a", lambda: release.wait(100))
    courier.wake()
    for item in range(1000):
        box.put("a", lambda item=item: got.append(item))
        courier.wake()
    assert not courier.flush(0.2)
    assert got == []
    release.set()
    assert courier.flush()
    assert got == list(range(1000))


def test_what_makes_progress_is_waited_for_longer_than_one_entry_may_take(pair):
    box, _, courier = pair
    box.patience_s = 0.5
    for _ in range(10):
        box.put("a", lambda: time.sleep(0.1))
    courier.wake()
    assert courier.flush()


def test_what_failed_is_tried_again_when_its_time_has_come(pair, monkeypatch):
    monkeypatch.setattr("famseg.tracking._outbox._FIRST_WAIT_S", 0.1)
    box = Outbox("S")
    courier = Courier([box])
    tried = threading.Semaphore(0)

    def fails_once():
        tried.release()
        if tried._value < 2:
            raise ConnectionRefusedError(111, "Connection refused")

    box.put("a", fails_once)
    courier.wake()
    with courier._changed:
        assert courier._changed.wait_for(lambda: not len(box), 10)
    courier.end()


def frozen_server():
    """A port that accepts connections but never answers."""
    server = socket.create_server(("127.0.0.1", 0))
    return server, f"http://127.0.0.1:{server.getsockname()[1]}"


def test_a_server_that_hangs_from_the_start_holds_up_nothing(monkeypatch, caplog):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "100")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr(_run, "_SERVER_WAIT_S", 0.2)
    server, uri = frozen_server()
    with server:
        tracker = Tracker.start(uri=uri, run_name="a", parameters={}, timeout_s=100)
        for epoch in range(1, 100):
            tracker.log_epoch(epoch, {"a": 1.0})
        assert tracker.waiting >= 100
        assert not any("does not answer" in line for line in caplog.messages)
        tracker._run._box.patience_s = 0.2
        tracker.finish()
    assert tracker.run_id is None
    assert "entries were not sent. The run folder has them." in caplog.messages[-1]


@pytest.mark.nightly
@pytest.mark.slow
def test_a_server_that_is_frozen_for_a_while_gets_all_in_order(uri):
    port = _ui._free_port("127.0.0.1", 0)
    with _ui._server(uri, "127.0.0.1", port) as process:
        tracker = Tracker.start(
            uri=f"http://127.0.0.1:{port}", run_name="a", parameters={"seed": 1}
        )
        tracker.log_epoch(1, {"a": 1.0})
        assert tracker.flush()
        os.killpg(process.pid, signal.SIGSTOP)
        for epoch in range(2, 30):
            tracker.log_epoch(epoch, {"a": float(epoch)})
        waited = tracker.waiting
        os.killpg(process.pid, signal.SIGCONT)
        tracker.finish()
    assert waited >= 27
    client = _store.client(uri, 10)
    points = client.get_metric_history(tracker.run_id, "a")
    assert [point.step for point in points] == list(range(1, 30))
    assert client.get_run(tracker.run_id).info.status == "FINISHED"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("way", "status", "code"),
    [("exit", "RUNNING", 0), ("error", "RUNNING", 1), ("with", "KILLED", 130)],
)
def test_a_program_that_ends_early_loses_nothing(uri, way, status, code):
    script = str(Path(__file__).with_name("leave_early.py"))
    done = subprocess.run(
        [sys.executable, script, uri, way], capture_output=True, text=True, timeout=120
    )
    assert done.returncode in (code, -signal.SIGINT), done.stderr
    client = _store.client(uri, 10)
    run_id = done.stdout.strip()
    assert [m.step for m in client.get_metric_history(run_id, "a")] == [1, 2, 3]
    assert client.get_run(run_id).info.status == status
