from __future__ import annotations

import csv
import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import mlflow
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813  # its documented alias
import warm
from command import Run, environment
from tiny import TINY

from famseg.runs import RunFolder, read_status
from famseg.tracking import read_metrics

WITH_PAGE = ("train", "--config", "skull", *TINY, "training.epochs=2")
TRAIN = (*WITH_PAGE, "--no-report")


def faults(done: subprocess.CompletedProcess[str]) -> list[str]:
    assert done.returncode == 2, (done.returncode, done.stderr)
    assert "Traceback" not in done.stderr
    lines = done.stderr.strip().splitlines()
    return [line for line in lines if not line.startswith("device: ")]  # printed first


@pytest.mark.slow
def test_a_run_trains_evaluates_records_and_can_be_evaluated_again(
    famseg: Run, tmp_path: Path
) -> None:
    done = famseg(*WITH_PAGE, "lambda=0.05", "seed=3")
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("epoch")]
    assert [line.split("  ")[0] for line in lines] == ["epoch 1/2", "epoch 2/2"]
    assert "penalty" in lines[0]
    folder = tmp_path / "runs" / "skull-lambda0.05-seed3"
    assert str(folder.relative_to(tmp_path)) in done.stdout
    assert "mean skull" in done.stdout

    summary = json.loads((folder / "evaluation" / "summary.json").read_text())
    assert summary["set1"]["implant"]["hd95_mm"]["n"] == 2
    with (folder / "evaluation" / "cases.csv").open() as file:
        # Sets, cases; regions for model and mean skull, implants for four baselines in two
        # outlines.
        assert len(list(csv.DictReader(file))) == 2 * 2 * (3 * 2 + 4 * 2)
    assert len((folder / "metrics.jsonl").read_text().splitlines()) == 2

    runs = mlflow.MlflowClient(f"sqlite:///{tmp_path}/mlflow.db").search_runs(["1"])
    assert [run.info.run_name for run in runs] == ["FAM lambda=0.05 seed=3"]
    assert runs[0].info.status == "FINISHED"
    assert runs[0].data.metrics["lambda"] == 0.05
    assert runs[0].data.metrics["test/set1/skull/dsc"] == pytest.approx(
        summary["set1"]["skull"]["dsc"]["mean"]
    )

    page = folder / "report.html"
    assert f"report       {page.relative_to(tmp_path)}" in done.stdout
    assert "It is finished" in page.read_text()
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    tops = {file.path for file in client.list_artifacts(runs[0].info.run_id)}
    assert "report.html" in tops

    page.unlink()
    again = famseg("evaluate", str(folder), "--json")
    assert page.is_file()
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout) == summary
    reported = famseg(*WITH_PAGE, "lambda=0.05", "seed=3", "--resume")
    assert reported.returncode == 0, reported.stderr
    assert "epoch" not in reported.stderr
    assert [path.name for path in (tmp_path / "runs").iterdir()] == [folder.name]

    changed = famseg("train", "--resume", str(folder), "optimizer.learning_rate=0.5")
    assert "optimizer.learning_rate" in faults(changed)[0]
    other = famseg(*WITH_PAGE, "lambda=0.05", "seed=3", "optimizer.learning_rate=0.5", "--resume")
    assert other.returncode == 0, other.stderr
    assert "has another configuration (optimizer.learning_rate: 0.001 -> 0.5)" in other.stderr
    assert len(list((tmp_path / "runs").iterdir())) == 2


@pytest.mark.slow
def test_sigterm_saves_ends_as_killed_and_resume_goes_on(famseg: Run, tmp_path: Path) -> None:
    arguments = [*TRAIN, "training.epochs=20"]
    with subprocess.Popen(
        [sys.executable, "-m", "famseg", *arguments],
        cwd=tmp_path,
        env=environment(tmp_path),
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("epoch 3/"):
                process.send_signal(signal.SIGTERM)
                break
        rest = process.stderr.read()
    assert process.returncode == 128 + signal.SIGTERM
    run = "runs/skull-lambda0.0006-seed0"
    assert f"ended by SIGTERM; resume with: famseg train --resume {run}" in rest
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    assert [run.info.status for run in client.search_runs(["1"])] == ["KILLED"]

    done = famseg("train", "--resume", run, "training.threads=1", "training.keep.every=10")
    assert done.returncode == 0, done.stderr
    assert "resumed at step" in done.stderr
    kept = sorted(path.name for path in (tmp_path / run / "checkpoints").glob("epoch-*"))
    assert kept == ["epoch-00010.pt", "epoch-00020.pt"]
    (run,) = client.search_runs(["1"])
    assert run.info.status == "FINISHED"
    history = client.get_metric_history(run.info.run_id, "train/loss")
    assert sorted(point.step for point in history) == list(range(1, 21))
    folder = tmp_path / "runs" / "skull-lambda0.0006-seed0"
    assert [row["epoch"] for row in read_metrics(folder)] == list(range(1, 21))


@pytest.mark.nightly
@pytest.mark.slow
def test_a_run_that_is_trained_belongs_to_its_process(famseg: Run, tmp_path: Path) -> None:
    run = "runs/skull-lambda0.0006-seed0"
    with subprocess.Popen(
        [sys.executable, "-m", "famseg", *TRAIN, "training.epochs=400"],
        cwd=tmp_path,
        env=environment(tmp_path),
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("epoch 2/"):
                process.send_signal(signal.SIGSTOP)  # stopped, but alive
                break
        try:
            for words in (("train", "--resume"), ("evaluate",), ("measure",)):
                (line,) = faults(famseg(*words, run))
                assert f"{run}: is in use by process {process.pid} (train, since" in line
        finally:
            process.kill()
    # Dead owners are not waited for, and complete files can be used.
    done = famseg("evaluate", run)
    assert done.returncode == 0, done.stderr
    assert not list((tmp_path / run).glob("lease*"))


@pytest.mark.nightly
@pytest.mark.slow
def test_a_new_run_begins_from_old_weights(famseg: Run, tmp_path: Path) -> None:
    assert famseg(*TRAIN).returncode == 0
    new = [*TRAIN, "lambda=0.5", "training.epochs=1", "--from"]
    done = famseg(*new, "runs/skull-lambda0.0006-seed0/last", "--json")
    assert done.returncode == 0, done.stderr
    folder = tmp_path / json.loads(done.stdout)["folder"]
    assert folder.name == "skull-lambda0.5-seed0"
    origin = json.loads((folder / "provenance.json").read_text())
    assert origin["started_from"]["epoch"] == 2
    assert origin["started_from"]["sha256"] == origin["weights_hash"]
    wide = famseg(*new, "runs/skull-lambda0.0006-seed0", "model.latent=3")
    (line,) = faults(wide)
    assert re.search(r"best\.pt: does not fit the network of the configuration: .* and not ", line)


@pytest.mark.nightly
@pytest.mark.slow
def test_more_epochs_of_a_constant_schedule_are_trained_and_evaluated(
    famseg: Run, tmp_path: Path
) -> None:
    constant = [*TRAIN, "schedule={kind: constant}", "--resume"]
    assert famseg(*constant).returncode == 0
    folder = tmp_path / "runs" / "skull-lambda0.0006-seed0"
    before = (folder / "evaluation" / "summary.json").stat().st_mtime_ns
    done = famseg(*constant, "training.epochs=4")
    assert done.returncode == 0, done.stderr
    assert [row["epoch"] for row in read_metrics(folder)] == [1, 2, 3, 4]
    assert (folder / "evaluation" / "summary.json").stat().st_mtime_ns > before


@pytest.mark.nightly
@pytest.mark.slow
def test_two_processes_give_the_files_of_one(famseg: Run, tmp_path: Path) -> None:
    command = ["-m", "famseg", *TRAIN, "lambda=0"]
    for done in warm.run_ranks(2, *command, cwd=tmp_path, env=environment(tmp_path)):
        assert done.returncode == 0, done.stderr
    two = tmp_path / "runs" / "skull-lambda0-seed0" / "evaluation" / "summary.json"
    one = famseg(*TRAIN, "lambda=0", "output=one", "--json")
    assert one.returncode == 0, one.stderr
    alone, both = tmp_path / "one" / "skull-lambda0-seed0", two.parents[1]
    losses = [[row["train/loss"] for row in read_metrics(run)] for run in (alone, both)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    scores = [
        json.loads((run / "evaluation" / "summary.json").read_text()) for run in (alone, both)
    ]
    dsc, dsc_of_both = (score["set1"]["skull"]["dsc"] for score in scores)
    # Nearly untrained outputs lie close to the threshold: rounding moves some voxels over it.
    assert dsc["mean"] == pytest.approx(dsc_of_both["mean"], abs=0.02)
    assert dsc["n"] == dsc_of_both["n"]
    runs = mlflow.MlflowClient(f"sqlite:///{tmp_path}/mlflow.db").search_runs(["1"])
    assert len(runs) == 2


def volume(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(exist_ok=True)
    sitk.WriteImage(sitk.GetImageFromArray(array.astype(np.uint8)), str(path))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--config", "nosuch"), "nosuch: there is no such configuration"),
        (("--config", "skull", "penalty.layer=expnd"), "penalty.layer: .*'?expnd.*expand"),
        (("--config", "skull", "lambda=-1"), "command line: penalty.lambda: must be at least 0"),
        (("--config", "skull", "training.epochs=many"), "training.epochs: .*many"),
        (("--config", "skull", "traning.epochs=2"), "traning.*did you mean training"),
        (("--config", "skull", "output=/proc/none"), "output: /proc/none: no run folder"),
        (("--config", "skull", "--from", "none"), "none: there is no such run or checkpoint"),
        (("--config", "skull", "--from", "none", "--resume"), "--from: starts a new run. Leave"),
        (("nosuch",), "nosuch: there is no such configuration"),
        (("skull.yaml", "lambda=-1"), "command line: penalty.lambda: must be at least 0"),
        (("--resume",), "--resume: no run is given. Give its folder"),
        (
            (),
            "--config: is missing. Give a configuration, such as skull.yaml, for a new run, or",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
@pytest.mark.slow
def test_faulty_arguments_get_one_line(
    famseg: Run, tmp_path: Path, arguments: tuple[str, ...], expected: str
) -> None:
    lines = faults(famseg("train", *TINY, *arguments))
    assert len(lines) == 1
    assert re.search(expected, lines[0], re.IGNORECASE), lines[0]


@pytest.mark.slow
def test_an_empty_folder_is_said_with_the_formats_looked_for(famseg: Run, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (line,) = faults(famseg("train", "--config", "skull_folder", "data.root=empty"))
    assert "empty" in line
    assert ".nii.gz" in line


@pytest.mark.slow
def test_every_faulty_volume_is_named_in_one_go(famseg: Run, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    volume(tmp_path / "in" / "a_truncated.nii.gz", rng.random((16, 16, 16)) > 0.5)
    whole = (tmp_path / "in" / "a_truncated.nii.gz").read_bytes()
    (tmp_path / "in" / "a_truncated.nii.gz").write_bytes(whole[: len(whole) // 2])
    volume(tmp_path / "in" / "b_empty.nii.gz", np.zeros((16, 16, 16)))
    volume(tmp_path / "in" / "c_flat.nii.gz", np.ones((16, 16)))
    lines = faults(famseg("train", "--config", "skull_folder", "data.root=in"))
    assert [name for name in ("a_trunc", "b_empty", "c_flat") if name in "".join(lines)] == [
        "a_trunc",
        "b_empty",
        "c_flat",
    ]
    assert len(lines) == 3


@pytest.mark.slow
def test_without_a_server_the_run_goes_on_with_a_warning(famseg: Run, tmp_path: Path) -> None:
    done = famseg(*TRAIN, "tracking.uri=http://127.0.0.1:9", "tracking.timeout_s=1")
    assert done.returncode == 0, done.stderr
    assert "127.0.0.1:9" in done.stderr
    folder = tmp_path / "runs" / "skull-lambda0.0006-seed0"
    assert len((folder / "metrics.jsonl").read_text().splitlines()) == 2
    assert not RunFolder(folder).is_sent()


@pytest.mark.slow
def test_a_diverging_run_stops_with_its_numbers_and_status_one(famseg: Run, tmp_path: Path) -> None:
    done = famseg(*TRAIN, "optimizer={kind: sgd, learning_rate: 1e30}", "schedule.warmup=0")
    assert done.returncode == 1, done.stderr
    assert "is not finite (loss" in done.stderr
    assert "Traceback" not in done.stderr
    runs = mlflow.MlflowClient(f"sqlite:///{tmp_path}/mlflow.db").search_runs(["1"])
    assert [run.info.status for run in runs] == ["FAILED"]


@pytest.mark.nightly
@pytest.mark.slow
def test_a_run_in_a_named_folder_pauses_and_is_resumed_there(famseg: Run, tmp_path: Path) -> None:
    place = tmp_path / "trials" / "first"
    command = (*TRAIN, "--into", str(place), "tracking.enabled=false")
    done = famseg(*command, "--until", "1")
    assert done.returncode == 0, done.stderr
    assert "paused after epoch 1 of 2; resume with: famseg train --resume" in done.stdout
    assert read_status(place) == "interrupted (paused after epoch 1 of 2)"
    done = famseg(*command)
    assert done.returncode == 0, done.stderr
    assert [row["epoch"] for row in read_metrics(place)] == [1, 2]
    assert read_status(place) == "finished"
    assert not (tmp_path / "runs").exists()
    again = famseg(*command, "--resume")
    assert faults(again) == [
        "famseg: --into: starts or resumes the run there. Leave out --resume and --from."
    ]
