from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from famseg.engine import Interrupted
from famseg.runs import LostLeaseError, lease, read_status, status_kept
from famseg.runs._lease import SILENT_S
from famseg.runs._status import NAME

HOLD = """
import sys, time
from pathlib import Path
from famseg.runs import lease, status_kept
with lease(Path(sys.argv[1]), purpose="train"), status_kept(Path(sys.argv[1])):
    print("running", flush=True)
    time.sleep(60)
"""


def test_a_run_is_running_and_then_finished(tmp_path):
    assert read_status(tmp_path) is None
    with lease(tmp_path, purpose="train"), status_kept(tmp_path):
        assert read_status(tmp_path) == "running"
    assert read_status(tmp_path) == "finished"


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (ValueError("loss is nan\nmore"), "failed (loss is nan)"),
        (MemoryError(), "failed (MemoryError)"),
        (Interrupted(signal.SIGTERM), "interrupted (ended by SIGTERM)"),
    ],
)
def test_an_exception_is_the_reason_and_goes_on(tmp_path, error, state):
    with pytest.raises(type(error)), status_kept(tmp_path):
        raise error
    assert read_status(tmp_path) == state


def test_who_lost_the_folder_writes_nothing_more(tmp_path):
    def taken_over():
        with status_kept(tmp_path):
            (tmp_path / NAME).write_text("of the new owner")
            raise LostLeaseError

    with pytest.raises(LostLeaseError):
        taken_over()
    assert (tmp_path / NAME).read_text() == "of the new owner"


def test_a_killed_process_is_seen_as_killed(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "running\n"
        assert read_status(tmp_path) == "running"
        process.kill()
    assert read_status(tmp_path) == "killed"


def elsewhere(folder, **fields):
    """Make the lease in a folder one of another machine."""
    path = folder / "lease-1.json"
    stat = path.stat()
    path.write_text(json.dumps(json.loads(path.read_text()) | {"boot": "b", "host": "c"} | fields))
    os.utime(path, (stat.st_atime, stat.st_mtime))
    return path


def test_of_another_machine_the_last_sign_of_life_tells(tmp_path):
    with lease(tmp_path, purpose="train"), status_kept(tmp_path):
        path = elsewhere(tmp_path)
        assert read_status(tmp_path) == "running on c"
        os.utime(path, (path.stat().st_atime, path.stat().st_mtime - SILENT_S - 5))
        assert read_status(tmp_path) == "killed"


def test_a_killed_run_that_is_evaluated_does_not_run(tmp_path):
    with lease(tmp_path, purpose="evaluate"):
        (tmp_path / NAME).write_text('{"state": "running"}')
        assert read_status(tmp_path) == "killed"


@pytest.mark.parametrize(
    "text", ["", "[]", '{"state": 1}', "\xff", "[" * 10**5, '{"state": "running", "time": 1e999}']
)
def test_a_damaged_file_says_nothing(tmp_path, text):
    (tmp_path / NAME).write_bytes(text.encode("latin-1"))
    assert read_status(tmp_path) is None


def test_a_folder_that_cannot_be_written_does_not_stop_the_run(tmp_path):
    with status_kept(Path(tmp_path, "missing")):
        pass
    assert read_status(tmp_path / "missing") is None
