"""Whole sweeps over a training of seconds, as processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import mlflow
import psutil
import pytest
from tiny import TINY
from typer.testing import CliRunner

import famseg
from famseg.cli._main import app
from famseg.sweep import Request, State, find_sweep, plan_sweep
from famseg.tracking import read_metrics

pytestmark = pytest.mark.timeout(1200)  # each is several trainings, on a busy machine minutes
EPOCHS = 3
WORDS = (*TINY, f"training.epochs={EPOCHS}", "training.batch_size=4")


def command(out: Path, *words: str) -> list[str]:
    base = [sys.executable, "-m", "famseg", "sweep", "--config", "skull", "--out", str(out)]
    return [*base, *WORDS, *words]


def start(out: Path, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command(out, *words),
        cwd=out.parent,
        env={**os.environ, "FAMSEG_CACHE": str(out.parent / "cache")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def result(out: Path, *words: str) -> dict[str, Any]:
    process = start(out, *words, "--json")
    stdout, stderr = process.communicate()
    assert process.returncode == 0, stderr
    found: dict[str, Any] = json.loads(stdout)
    return found


def tracked(folder: Path, sweep_id: str) -> list[Any]:
    client = mlflow.MlflowClient(f"sqlite:///{folder}/mlflow.db")
    return list(client.search_runs(["1"], filter_string=f"tags.sweep_id = '{sweep_id}'"))


def whole(out: Path, trials: int) -> None:
    """Check that every trial was trained once, in full, and is one finished run of MLflow."""
    sweep = find_sweep(out)
    assert sweep is not None
    folders = sorted(sweep.trials.iterdir())
    assert len(folders) == trials
    for folder in folders:
        assert [row["epoch"] for row in read_metrics(folder)] == list(range(1, EPOCHS + 1))
        assert json.loads((folder / "status.json").read_text())["state"] == "finished"
    runs = tracked(out.parent, sweep.sweep_id)
    assert Counter(run.info.status for run in runs) == {"FINISHED": trials}


@pytest.mark.slow
def test_a_sweep_started_twice_at_once_shares_its_trials(tmp_path: Path) -> None:
    out = tmp_path / "sweep"
    both = [start(out, "lambda=0,0.002", "--jobs", "1") for _ in range(2)]
    ended = [(*process.communicate(), process.returncode) for process in both]
    assert [status for _, _, status in ended] == [0, 0], ended
    whole(out, 2)
    again = result(out, "lambda=0,0.002")
    assert {trial["state"] for trial in again["trials"]} == {"finished"}
    whole(out, 2)


@pytest.mark.slow
def test_a_killed_sweep_and_a_killed_trial_lose_nothing(tmp_path: Path) -> None:
    out = tmp_path / "sweep"
    process = start(out, "seed=1,2", "--jobs", "1")
    trial = _first_training(process, out)
    process.kill()  # the trial goes on by itself
    process.communicate()
    rest = start(out, "seed=1,2", "--jobs", "1")
    trial.send_signal(signal.SIGKILL)
    stdout, stderr = rest.communicate()
    assert rest.returncode == 0, stderr
    assert "2 trials: 2 finished" in stdout
    whole(out, 2)


@pytest.mark.slow
def test_a_signal_saves_what_runs_and_ends_the_sweep(tmp_path: Path) -> None:
    out = tmp_path / "sweep"
    process = start(out, "seed=1,2", "--jobs", "1")
    trial = _first_training(process, out)
    process.terminate()
    stdout, stderr = process.communicate()
    assert process.returncode == 128 + signal.SIGTERM, stderr
    assert "1 interrupted, 1 waiting" in stdout
    assert not trial.is_running()


@pytest.mark.slow
def test_a_failing_trial_stops_nothing_and_is_named(tmp_path: Path) -> None:
    out = tmp_path / "sweep"
    # The first diverges at its first step.
    process = start(out, "optimizer.learning_rate=1e38,1e-3", "--jobs", "1")
    stdout, stderr = process.communicate()
    assert process.returncode == 1, stderr
    assert "2 trials: 1 finished, 1 failed" in stdout
    (line,) = [line for line in stdout.splitlines() if line.startswith("!")]
    assert line.startswith("! learning_rate1e+38-")
    assert "finite" in line


@pytest.mark.slow
def test_halving_trains_the_best_settings_to_the_end(tmp_path: Path) -> None:
    out = tmp_path / "sweep"
    words = ("optimizer.learning_rate=1e-9,1e-2", "--halving", "2", "--first-epochs", "1")
    found = result(out, *words)
    ends = {trial["point"]["optimizer.learning_rate"]: trial for trial in found["trials"]}
    assert (ends["1e-9"]["state"], ends["1e-9"]["epoch"]) == ("paused", 1)
    assert (ends["1e-2"]["state"], ends["1e-2"]["epoch"]) == ("finished", EPOCHS)


def test_a_plan_writes_nothing(tmp_path: Path) -> None:
    request = Request("skull", ("lambda=0,0.002", "seed=1..3", "training.epochs=5"))
    plan = plan_sweep(request, tmp_path / "sweep", dry=True)
    assert len(plan.trials) == 6
    assert plan.metric == "dsc"
    assert set(plan.states().values()) == {State("waiting")}
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("uri", [None, "http://mlflow:5000"])
def test_a_manifest_shares_no_database_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uri: str | None
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    words = ["lambda=0,1", *([] if uri is None else [f"tracking.uri={uri}"])]
    options = ["--config", "skull", "--out", str(tmp_path / "s"), "--backend", "kubernetes"]
    done = CliRunner().invoke(app, ["sweep", *options, *words])
    assert done.exit_code == 0, done.output
    text = (tmp_path / "s" / "sweep.k8s.yaml").read_text()
    assert ("tracking.enabled=false" in text) == (uri is None)
    assert ("MLflow       not used" in done.output) == (uri is None)
    assert f"image: famseg:{famseg.__version__}" in text


def _first_training(sweep: subprocess.Popen[str], out: Path) -> psutil.Process:
    """Return the process of the first trial, once it has an epoch behind it."""
    while not any(path.stat().st_size for path in out.glob("trials/*/metrics.jsonl")):
        assert sweep.poll() is None, sweep.communicate()
        time.sleep(0.05)
    return psutil.Process(sweep.pid).children()[0]
