from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from famseg.engine import Interrupted, read_status
from famseg.engine._status import NAME, status_kept

HOLD = """
import sys, time
from pathlib import Path
from famseg.engine._status import status_kept
with status_kept(Path(sys.argv[1])):
    print("running", flush=True)
    time.sleep(60)
"""


def change(folder, **fields):
    path = folder / NAME
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def test_a_run_is_running_and_then_finished(tmp_path):
    assert read_status(tmp_path) is None
    with status_kept(tmp_path):
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


def test_a_killed_process_is_seen_as_killed(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "running\n"
        assert read_status(tmp_path) == "running"
        process.kill()
    assert read_status(tmp_path) == "killed"


def test_a_number_given_anew_is_no_running_run(tmp_path):
    with status_kept(tmp_path):
        change(tmp_path, time=0.0)  # long before this process began
        assert read_status(tmp_path) == "killed"


def test_of_another_machine_or_container_nothing_is_claimed(tmp_path):
    with status_kept(tmp_path):
        change(tmp_path, place="another boot")
        assert read_status(tmp_path) == "running elsewhere, or killed"


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


@pytest.mark.parametrize(
    "fields",
    [{"pid": -1}, {"pid": 10**400}, {"pid": "x"}, {"pid": 1.5}, {"time": "x"}, {"time": [1]}],
    ids=str,
)
def test_a_hostile_entry_is_no_running_run(tmp_path, fields):
    with status_kept(tmp_path):
        change(tmp_path, **fields)
        assert read_status(tmp_path) == "killed"
