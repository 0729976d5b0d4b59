from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from famseg.runs import RunFolder
from famseg.sweep import SweepFolder, Trial, _local
from famseg.sweep._local import LocalRunner, Workers, send_rest


def test_a_process_has_its_own_session_threads_and_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = (
        "import os, sys; print(os.getsid(0), os.environ['OMP_NUM_THREADS'],"
        " os.environ['CUDA_VISIBLE_DEVICES'], sys.stdin.read());"
        " print('famseg: said last', file=sys.stderr); sys.exit(3)"
    )
    command = [sys.executable, "-c", program]
    monkeypatch.setattr(_local, "trial_command", lambda *_, **__: command)
    folder = SweepFolder(tmp_path, "s")
    (tmp_path / "logs").mkdir()
    workers = Workers(1, 2, devices=("GPU-7",))
    runner = LocalRunner(folder, "dsc", workers, stop=lambda: False, show=lambda states: None)
    outcome = runner.run([Trial("a", {}, "", 1, 0)])
    assert outcome.failed == {"a": "said last"}
    session, *rest = (tmp_path / "logs" / "a.log").read_text().split()
    assert int(session) != os.getsid(0)
    assert rest == ["2", "GPU-7", "famseg:", "said", "last"]


def test_the_rest_of_trials_is_sent_until_the_store_is_found_to_be_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder = SweepFolder(tmp_path, "s")
    trials = [Trial(name, {}, "", 1, 0) for name in "abc"]
    (tmp_path / "logs").mkdir()
    for trial in trials:
        run = RunFolder(folder.run_folder(trial))
        run.path.mkdir(parents=True)
        run.config.touch()
        run.evaluation.mkdir()
        run.metrics.write_text("{}")
        (run.path / "status.json").write_text('{"state": "finished"}')
        (run.path / "metrics.jsonl").write_text('{"epoch": 1, "time": 0}\n')
        run.tracking.write_text(json.dumps({"complete": trial.name == "a"}))
    monkeypatch.setattr(_local, "trial_command", lambda *_, **__: [sys.executable, "-c", "1"])
    send_rest(folder, trials, "dsc", stop=lambda: False)
    assert [path.name for path in (tmp_path / "logs").iterdir()] == ["b.log"]
    assert caplog.messages == [
        "MLflow lacks a part of 2 trials. The run folders have it; run the same command again "
        "to send it."
    ]
