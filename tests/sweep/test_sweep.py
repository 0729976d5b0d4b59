"""Complete sweeps, run as processes, over trainings of one second."""

from __future__ import annotations

import json
import os
import signal
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import psutil
import pytest
import warm
from tiny import TINY_CLASSES
from typer.testing import CliRunner

import famseg
from famseg.cli import app
from famseg.messages import InputError
from famseg.runs import RunFolder, owner_of
from famseg.sweep import Request, State, find_sweep, plan_sweep
from famseg.tracking import read_metrics

EPOCHS = 3
LONG = 300
WITHOUT_MLFLOW = "tracking.enabled=false"
PROGRAM = Path(__file__).parents[1] / "support" / "forking_sweep.py"


@dataclass
class Started:
    """A sweep that runs in its own process."""

    process: Any
    output: Path

    def end(self) -> tuple[int, str, str]:
        """Wait for its end; return the exit status and what it printed."""
        self.process.join(warm.LONGEST_S)
        texts = [self.output.with_suffix(f".{stream}").read_text() for stream in (1, 2)]
        return (self.process.exitcode, *texts)


def start(out: Path, *words: str, epochs: int = EPOCHS) -> Started:
    output = out.parent / f"said-{time.monotonic_ns()}"
    options = ("sweep", "--config", "smoke/fashionmnist_fam.yaml", "--out", str(out), "--jobs", "1")
    environment = {**os.environ, "FAMSEG_CACHE": str(out.parent / "cache")}
    arguments = [str(PROGRAM), *options, *TINY_CLASSES, f"training.epochs={epochs}", *words]
    return Started(warm.start(arguments, output, out.parent, environment), output)


def whole(out: Path, trials: int) -> None:
    """Check that every trial was trained completely, once, and is one finished MLflow run."""
    sweep = find_sweep(out)
    assert sweep is not None
    folders = sorted(sweep.trials.iterdir())
    assert len(folders) == trials
    for folder in folders:
        assert [row["epoch"] for row in read_metrics(folder)] == list(range(1, EPOCHS + 1))
        assert json.loads((folder / "status.json").read_text())["state"] == "finished"
    client = mlflow.MlflowClient(f"sqlite:///{out.parent}/mlflow.db")
    runs = client.search_runs(["1"], filter_string=f"tags.sweep_id = '{sweep.sweep_id}'")
    assert Counter(run.info.status for run in runs) == {"FINISHED": trials}


@pytest.mark.slow
def test_kills_and_two_sweeps_at_once_lose_nothing_and_do_nothing_twice(tmp_path: Path) -> None:
    out = tmp_path / "sweep"
    words = ("lambda=0,0.1",)
    first = start(out, *words)
    trial = _first_training(first, out)
    first.process.kill()  # the trial continues without it
    both = [start(out, *words) for _ in range(2)]
    trial.send_signal(signal.SIGKILL)
    for status, stdout, stderr in (each.end() for each in both):
        assert status == 0, stderr
        assert "2 trials: 2 finished" in stdout
    whole(out, 2)
    logs = {path: path.read_bytes() for path in out.glob("logs/*")}
    assert start(out, *words, "--json").end()[0] == 0
    assert {path: path.read_bytes() for path in out.glob("logs/*")} == logs  # nothing was trained

    # As a trial leaves it whose store was full when it ended.
    trial_folder = RunFolder(next((out / "trials").iterdir()))
    assert trial_folder.is_sent()
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    client.update_run(json.loads(trial_folder.tracking.read_text())["run_id"], status="RUNNING")
    trial_folder.note_sent(False)
    status, _, stderr = start(out, *words).end()
    assert status == 0, stderr
    whole(out, 2)
    assert trial_folder.is_sent()


@pytest.mark.slow
def test_a_signal_saves_what_runs_and_ends_the_sweep(tmp_path: Path) -> None:
    out = tmp_path / "sweep"
    sweep = start(out, "seed=1,2", WITHOUT_MLFLOW, epochs=LONG)
    trial = _first_training(sweep, out)
    sweep.process.terminate()
    status, stdout, stderr = sweep.end()
    assert status == 128 + signal.SIGTERM, stderr
    assert "1 interrupted, 1 waiting" in stdout
    assert not trial.is_running()


@pytest.mark.nightly
@pytest.mark.slow
def test_halving_trains_the_best_to_the_end_and_names_what_failed(tmp_path: Path) -> None:
    out = tmp_path / "sweep"
    rates = "optimizer.learning_rate=1e38,1e-9,0.05"  # the first diverges at its first step
    words = (rates, "--halving", "3", "--first-epochs", "1", WITHOUT_MLFLOW)
    status, stdout, stderr = start(out, *words).end()
    assert status == 1, stderr
    assert "3 trials: 1 finished, 1 failed, 1 paused" in stdout
    (line,) = [line for line in stdout.splitlines() if line.startswith("!")]
    assert line.startswith("! learning_rate1e+38-")
    assert "finite" in line
    ends = {path.name.partition("-")[0]: path for path in out.glob("trials/*")}
    epochs = {name: len(read_metrics(path)) for name, path in ends.items()}
    assert epochs == {"learning_rate1e+38": 0, "learning_rate1e": 1, "learning_rate0.05": EPOCHS}


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


@pytest.mark.parametrize(
    ("backend", "option", "value"),
    [("slurm", "--gpus", "1"), ("local", "--cores", "2"), ("ray", "--slurm", "--time=1")],
)
def test_an_option_of_another_back_end_is_an_error(
    tmp_path: Path, backend: str, option: str, value: str
) -> None:
    words = ["--config", "skull", "--out", str(tmp_path / "s"), "--backend", backend, "lambda=0,1"]
    done = CliRunner().invoke(app, ["sweep", *words, option, value])
    assert isinstance(done.exception, InputError)
    assert str(done.exception) == (
        f"{option}: has no effect with --backend {backend}: leave it out"
    )
    assert not (tmp_path / "s").exists()


def _first_training(sweep: Started, out: Path) -> psutil.Process:
    """Return the process of the first trial after its first epoch."""
    while not (found := [p for p in out.glob("trials/*/metrics.jsonl") if p.stat().st_size]):
        assert sweep.process.exitcode is None, sweep.end()
        time.sleep(0.02)
    owner = owner_of(found[0].parent)
    assert owner is not None
    return psutil.Process(owner.pid)
