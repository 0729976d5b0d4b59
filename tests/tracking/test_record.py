from __future__ import annotations

import json
import logging
import math
import os
import resource
import signal
import subprocess
import sys
import time

import pytest

from famseg.messages import InputError
from famseg.tracking import LocalRecord, read_metrics


def rows(folder):
    return [{k: v for k, v in row.items() if k != "time"} for row in read_metrics(folder)]


def test_values_come_back_to_the_last_bit(tmp_path):
    LocalRecord.create(tmp_path / "run").append(1, {"train/loss": 0.1 + 0.2, "n": 3})
    assert rows(tmp_path / "run") == [{"epoch": 1, "train/loss": 0.1 + 0.2, "n": 3.0}]


def test_each_line_has_the_time(tmp_path):
    before = time.time()
    LocalRecord.create(tmp_path).append(1, {})
    (row,) = read_metrics(tmp_path)
    assert before - 0.01 <= row["time"] <= time.time() + 0.01


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_becomes_null(tmp_path, value):
    LocalRecord.create(tmp_path).append(1, {"val/dsc": value})
    text = (tmp_path / "metrics.jsonl").read_text()
    assert json.loads(text, parse_constant=pytest.fail)["val/dsc"] is None


def test_tensors_are_numbers(tmp_path):
    torch = pytest.importorskip("torch")
    LocalRecord.create(tmp_path).append(1, {"train/loss": torch.tensor(0.5)})
    assert rows(tmp_path) == [{"epoch": 1, "train/loss": 0.5}]


@pytest.mark.parametrize("name", ["epoch", "time"])
def test_the_own_columns_cannot_be_metrics(tmp_path, name):
    record = LocalRecord.create(tmp_path)
    with pytest.raises(ValueError, match=f"'{name}' is the name of another column"):
        record.append(1, {name: 1.0})


def test_a_record_is_not_overwritten(tmp_path):
    LocalRecord.create(tmp_path).append(1, {})
    with pytest.raises(InputError, match="contains the record of another run"):
        LocalRecord.create(tmp_path)


def test_a_folder_that_cannot_be_made_is_the_users_fault(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"cannot be written .*Choose another run folder"):
        LocalRecord.create(tmp_path / "file" / "run")


def test_no_record_is_no_rows(tmp_path):
    assert read_metrics(tmp_path) == []


def test_resume_drops_the_epochs_after_the_checkpoint(tmp_path):
    record = LocalRecord.create(tmp_path)
    for epoch in (1, 2, 2, 3, 4):
        record.append(epoch, {"train/loss": 1 / epoch})
    again = LocalRecord.resume(tmp_path, last_epoch=2)
    assert [row["epoch"] for row in rows(tmp_path)] == [1, 2, 2]
    again.append(3, {"train/loss": 9.0})
    assert [row["epoch"] for row in rows(tmp_path)] == [1, 2, 2, 3]
    assert list(tmp_path.iterdir()) == [tmp_path / "metrics.jsonl"]


def test_resume_without_a_record_starts_one(tmp_path):
    LocalRecord.resume(tmp_path, last_epoch=5).append(6, {})
    assert rows(tmp_path) == [{"epoch": 6}]


@pytest.mark.parametrize("tail", ['{"epoch": 2, "tra', "", "\0\0\0\0\n", '{"epoch": 2}'])
def test_a_broken_last_line_is_left_out(tmp_path, tail):
    LocalRecord.create(tmp_path).append(1, {"a": 1.0})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write(tail)
    assert rows(tmp_path) == [{"epoch": 1, "a": 1.0}]
    LocalRecord.resume(tmp_path, last_epoch=1).append(2, {"a": 2.0})
    assert rows(tmp_path) == [{"epoch": 1, "a": 1.0}, {"epoch": 2, "a": 2.0}]


def test_a_broken_line_in_the_middle_is_a_fault_with_its_number(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"epoch": 1}\nrubbish\n{"epoch": 3}\n')
    with pytest.raises(InputError, match=r"metrics\.jsonl:2: is not a line of metrics\. Remove"):
        read_metrics(tmp_path)


def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "metrics.jsonl")
    with pytest.raises(InputError, match=r"metrics\.jsonl: cannot be read \(not a regular file\)"):
        read_metrics(tmp_path)
    with pytest.raises(InputError, match=r"cannot be written \(not a regular file\)"):
        LocalRecord.create(tmp_path)


def test_a_file_that_was_taken_away_is_begun_anew_without_a_gap(tmp_path):
    record = LocalRecord.create(tmp_path)
    record.append(1, {})
    record.path.unlink()
    record.append(2, {})
    assert record.path.read_bytes().startswith(b'{"epoch": 2')


def test_a_folder_that_is_away_for_a_while_costs_no_line(tmp_path, caplog):
    record = LocalRecord.create(tmp_path / "run")
    record.append(1, {})
    (tmp_path / "run").rename(tmp_path / "away")
    with caplog.at_level(logging.WARNING, "famseg"):
        record.append(2, {})
        record.append(3, {})
    (tmp_path / "away").rename(tmp_path / "run")
    record.append(4, {})
    assert [row["epoch"] for row in rows(tmp_path / "run")] == [1, 2, 3, 4]
    (message,) = caplog.messages
    assert (
        "cannot be written (No such file or directory). The run continues; its lines are kept"
        in (message)
    )


def test_a_full_disk_costs_no_line(tmp_path, caplog):
    """A file size limit simulates the full disk: a write stops in the middle of a line."""
    record = LocalRecord.create(tmp_path)
    record.append(1, {"a": 1.0})
    size = record.path.stat().st_size
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 7, hard))
    try:
        record.append(2, {"a": 2.0})
        assert rows(tmp_path) == [{"epoch": 1, "a": 1.0}]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        signal.signal(signal.SIGXFSZ, ignored)
    record.append(3, {"a": 3.0})
    assert [row["epoch"] for row in rows(tmp_path)] == [1, 2, 3]
    assert len(caplog.messages) == 1


def test_kill_9_loses_at_most_the_line_being_written(tmp_path):
    code = (
        "import sys, itertools, pathlib; from famseg.tracking import LocalRecord\n"
        "record = LocalRecord.create(pathlib.Path(sys.argv[1]))\n"
        "for epoch in itertools.count(1):\n"
        "    record.append(epoch, {f'metric/{i}': epoch / 7 for i in range(50)})\n"
        "    print(epoch, flush=True)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if int(line) >= 30:
                break
        os.kill(process.pid, signal.SIGKILL)
        acknowledged = [int(text) for text in process.stdout.read().split()]
    last = max(acknowledged, default=30)
    epochs = [row["epoch"] for row in read_metrics(tmp_path)]
    assert epochs[:last] == list(range(1, last + 1))
    assert len(epochs) <= last + 1
