"""Whole runs as processes: killed, resumed, started twice, signalled, begun from old weights."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import warm

from famseg.runs import owner_of, read_status
from famseg.tracking import read_metrics

pytestmark = pytest.mark.slow

RUN = str(Path(__file__).parent / "run_toy.py")
NAME = "toy-lambda0-seed0"


def words(output: Path, **options: Any) -> list[str]:
    return [RUN, str(output), *(f"{key}={json.dumps(value)}" for key, value in options.items())]


def train(output: Path, **options: Any) -> warm.Done:
    return warm.run(*words(output, **options))


def start(folder: Path, name: str, **options: Any) -> tuple[Any, Path]:
    """Start a run that goes on by itself; return it and the file of what it says."""
    output = folder / name
    process = warm.start(words(folder / "runs", **options), output, folder, dict(os.environ))
    return process, output.with_suffix(".2")


def wait_for(what: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not what():
        assert time.monotonic() < deadline, "nothing has happened for a minute"
        time.sleep(0.01)


def state(run: Path, which: str = "last") -> dict[str, Any]:
    found: dict[str, Any] = torch.load(run / "checkpoints" / f"{which}.pt", weights_only=True)
    return found


def same_weights(one: Path, other: Path) -> bool:
    pairs = [
        (state(one, which)["model"], state(other, which)["model"]) for which in ("last", "best")
    ]
    return all(torch.equal(a[key], b[key]) for a, b in pairs for key in a)


def files(run: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in run.rglob("*") if path.is_file()}


def losses(run: Path) -> list[tuple[Any, Any]]:
    return [(row["epoch"], row["train/loss"]) for row in read_metrics(run)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing disturbed."""
    output = tmp_path_factory.mktemp("whole")
    done = train(output)
    assert done.returncode == 0, done.stderr
    return output / NAME


@pytest.mark.parametrize("kill_at", [2, 3, 4])  # the first opening is that of the new file
def test_a_kill_between_checkpoint_and_record_leaves_no_hole(
    tmp_path: Path, whole: Path, kill_at: int
) -> None:
    run = tmp_path / NAME
    assert train(tmp_path, kill_at=kill_at).returncode == -signal.SIGKILL
    assert state(run)["epoch"] == kill_at - 1
    assert len(read_metrics(run)) == kill_at - 2
    assert read_status(run) == "killed"
    (run / "checkpoints" / ".last.pt.0123456789abcdef.part").write_text("half")
    done = train(tmp_path, resume=True)
    assert done.returncode == 0, done.stderr
    assert losses(run) == losses(whole)
    assert same_weights(run, whole)
    names = {path.relative_to(run) for path in run.rglob("*")}
    assert names == {path.relative_to(whole) for path in whole.rglob("*")}
    assert [path.name for path in tmp_path.iterdir()] == [NAME]


def test_of_two_resumes_at_once_one_trains(tmp_path: Path, whole: Path) -> None:
    runs = tmp_path / "runs"
    assert train(runs, kill_at=2).returncode == -signal.SIGKILL
    started = [start(tmp_path, str(number), resume=True, pause=0.2) for number in range(2)]
    for process, _ in started:
        process.join(100)
    statuses = sorted(process.exitcode for process, _ in started)
    said = "".join(output.read_text() for _, output in started)
    assert statuses == [0, 2], said
    assert f"{NAME}: is in use by process" in said
    assert same_weights(runs / NAME, whole)
    assert losses(runs / NAME) == losses(whole)


def test_who_is_refused_changes_nothing(tmp_path: Path) -> None:
    process, output = start(tmp_path, "first", pause=60.0)
    run = tmp_path / "runs" / NAME
    try:
        wait_for(lambda: output.exists() and "step 1" in output.read_text())
        before = files(run)
        assert read_status(run) == "running"
        for resume in (True, str(run)):
            refused = train(tmp_path / "runs", resume=resume, workers=1)
            assert refused.returncode == 2, refused.stderr
            (line,) = refused.stderr.strip().splitlines()
            assert f"is in use by process {process.pid} (train, since" in line
        both = warm.run_ranks(2, *words(tmp_path / "runs", resume=True))
        assert [done.returncode for done in both] == [2, 2]
        assert all("is in use by process" in done.stderr for done in both)
        assert files(run) == before
    finally:
        process.kill()
        process.join()
    assert owner_of(run) is None
    assert read_status(run) == "killed"


@pytest.mark.parametrize("damage", ["fewer epochs", "damaged", "hostile"])
def test_a_resume_that_cannot_work_changes_nothing(tmp_path: Path, damage: str) -> None:
    assert train(tmp_path).returncode == 0
    run, options = tmp_path / NAME, {"epochs": 3}
    if damage == "fewer epochs":
        options = {"epochs": 2}
    for path in (run / "checkpoints").iterdir():
        if damage == "damaged":
            path.write_bytes(path.read_bytes()[:-1000])
        elif damage == "hostile":
            torch.save(state(run, path.stem) | {"history": [{"epoch": "x"}]}, path)
    before = files(run)
    done = train(tmp_path, resume=True, workers=1, **options)
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert files(run) == before


def test_all_ranks_hear_of_an_error_of_the_record(tmp_path: Path) -> None:
    assert train(tmp_path, kill_at=2).returncode == -signal.SIGKILL
    (tmp_path / NAME / "metrics.jsonl").write_text('nonsense\n{"epoch": 1}\n')
    both = warm.run_ranks(2, *words(tmp_path, resume=True), timeout=100)
    assert [done.returncode for done in both] == [2, 2]
    assert all("metrics.jsonl:1: is not a line of metrics" in done.stderr for done in both)


def test_two_ranks_go_on_with_what_one_began(tmp_path: Path, whole: Path) -> None:
    assert train(tmp_path, kill_at=2).returncode == -signal.SIGKILL
    for done in warm.run_ranks(2, *words(tmp_path, resume=True)):
        assert done.returncode == 0, done.stderr
    assert [epoch for epoch, _ in losses(tmp_path / NAME)] == [1, 2, 3]
    for (_, one), (_, other) in zip(losses(tmp_path / NAME), losses(whole), strict=True):
        assert one == pytest.approx(other, rel=1e-12)
    assert owner_of(tmp_path / NAME) is None


SIGNALS = [signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM, signal.SIGINT]


@pytest.mark.parametrize("signum", SIGNALS, ids=[each.name for each in SIGNALS])
def test_a_signal_to_all_processes_of_a_job_saves(
    tmp_path: Path, whole: Path, signum: signal.Signals
) -> None:
    process, output = start(tmp_path, "run", pause=0.3, workers=2, group=True)
    run = tmp_path / "runs" / NAME
    wait_for(lambda: output.exists() and "step 2" in output.read_text())
    os.killpg(process.pid, signum)  # those that load data too, as of a terminal or of Slurm
    process.join(60)
    assert process.exitcode == 128 + signum, output.read_text()
    assert state(run)["iteration"] in (2, 3)
    assert read_status(run) == f"interrupted (ended by {signum.name})"
    assert owner_of(run) is None
    done = train(tmp_path / "runs", resume=str(run))
    assert done.returncode == 0, done.stderr
    assert same_weights(run, whole)
    assert losses(run) == losses(whole)


def test_a_closed_terminal_saves(tmp_path: Path) -> None:
    done = train(tmp_path, pause=0.3, terminal=True)
    assert done.returncode == 128 + signal.SIGHUP, done.stderr
    assert state(tmp_path / NAME)["iteration"] in (2, 3)
    assert read_status(tmp_path / NAME) == "interrupted (ended by SIGHUP)"


def test_under_nohup_a_closed_terminal_is_ignored(tmp_path: Path) -> None:
    process, output = start(tmp_path, "run", pause=0.1, nohup=True)
    wait_for(lambda: output.exists() and "step 2" in output.read_text())
    os.kill(process.pid, signal.SIGHUP)
    process.join(60)
    assert process.exitcode == 0, output.read_text()
    assert read_status(tmp_path / "runs" / NAME) == "finished"


@pytest.mark.parametrize("damage", ["summary", "other summary", "best"])
def test_a_finished_run_that_is_not_whole_is_left_as_it_is(tmp_path: Path, damage: str) -> None:
    assert train(tmp_path).returncode == 0
    run = tmp_path / NAME
    summary, best = run / "evaluation" / "summary.json", run / "checkpoints" / "best.pt"
    if damage == "best":
        (run / "evaluation" / "metrics.json").unlink()  # it would be evaluated again
        best.write_bytes(best.read_bytes()[:-1000])
    else:
        summary.write_text("{" if damage == "summary" else '{"a": 1}')
    before = files(run)
    done = train(tmp_path, resume=True, workers=1)
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.strip().splitlines()
    assert str(best if damage == "best" else summary) in line
    assert files(run) == before


def epoch_files(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "checkpoints").glob("epoch-*"))


def test_checkpoints_of_epochs_are_kept(tmp_path: Path, whole: Path) -> None:
    done = train(tmp_path, epochs=7, keep={"last": 2, "every": 3})
    assert done.returncode == 0, done.stderr
    run = tmp_path / NAME
    assert epoch_files(run) == [f"epoch-0000{number}.pt" for number in (3, 6, 7)]
    assert state(run, "epoch-00003")["epoch"] == 3
    kept, last = state(run, "epoch-00003")["model"], state(whole)["model"]
    assert all(torch.equal(kept[name], last[name]) for name in last)
    # What is kept may change when a run goes on.
    more = train(tmp_path, epochs=8, keep={"last": 1}, resume=True)
    assert more.returncode == 0, more.stderr
    assert epoch_files(run) == []
    assert epoch_files(whole) == []


def provenance(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "provenance.json").read_text())
    return found


@pytest.mark.parametrize(("behind", "which"), [((), "best"), (("last",), "last")])
def test_a_new_run_begins_from_old_weights(
    tmp_path: Path, whole: Path, behind: Sequence[str], which: str
) -> None:
    # No epoch is finished: what is kept are nearly the first weights.
    done = train(tmp_path, weights=str(whole.joinpath(*behind)), epochs=2, kill_at=2)
    assert done.returncode == -signal.SIGKILL
    run = tmp_path / NAME
    origin = provenance(run)["started_from"]
    path = whole / "checkpoints" / f"{which}.pt"
    assert Path(origin["path"]).expanduser() == path.resolve()
    assert origin["epoch"] == state(whole, which)["epoch"]
    assert origin["sha256"] == provenance(run)["weights_hash"]
    assert origin["sha256"] != provenance(whole)["weights_hash"]
    ended = train(tmp_path, resume=True, epochs=2)
    assert ended.returncode == 0, ended.stderr
    assert provenance(run)["started_from"] == origin
    undisturbed = train(tmp_path / "other", weights=str(path), epochs=2)
    assert undisturbed.returncode == 0, undisturbed.stderr
    assert same_weights(run, tmp_path / "other" / NAME)
    assert not same_weights(run, whole)


@pytest.mark.parametrize("early", [False, True])
def test_a_run_from_old_weights_that_saved_nothing_begins_from_them_again(
    tmp_path: Path, whole: Path, early: bool
) -> None:
    old = tmp_path / "old.pt"
    old.write_bytes((whole / "checkpoints" / "last.pt").read_bytes())
    assert train(tmp_path, weights=str(old), epochs=2, kill_at=1).returncode == -signal.SIGKILL
    run = tmp_path / NAME
    assert not (run / "checkpoints").exists()
    for path in run.iterdir() if early else ():  # killed before anything else was written
        if path.name != "provenance.json":
            path.unlink()
    kept = old.read_bytes()
    old.write_bytes((whole / "checkpoints" / "previous.pt").read_bytes())
    refused = train(tmp_path, resume=True, epochs=2)
    assert refused.returncode == 2, refused.stderr
    assert f"has changed since {run} started from it" in refused.stderr
    old.write_bytes(kept)
    done = train(tmp_path, resume=True, epochs=2)
    assert done.returncode == 0, done.stderr
    whole_one = train(tmp_path / "other", weights=str(old), epochs=2)
    assert whole_one.returncode == 0, whole_one.stderr
    assert same_weights(run, tmp_path / "other" / NAME)


def test_weights_of_another_network_are_refused_with_what_differs(
    tmp_path: Path, whole: Path
) -> None:
    for place in (whole, whole / "last", whole / "checkpoints" / "best.pt"):
        done = train(tmp_path, weights=str(place), wide=True)
        assert done.returncode == 2, done.stderr
        (line,) = done.stderr.strip().splitlines()
        assert "does not fit the network of the configuration: 2.weight is missing; " in line
        assert re_more(line)
    done = train(tmp_path, weights=str(whole / "first"))
    assert "there is no such run or checkpoint" in done.stderr
    assert not list(tmp_path.iterdir())


def re_more(line: str) -> bool:
    """Whether a line says that there is more than it lists."""
    return line.split("; ")[-1].split(" ")[1].startswith("more.")


def test_workers_of_the_validation_change_no_bit(tmp_path: Path, whole: Path) -> None:
    done = train(tmp_path, workers=2)
    assert done.returncode == 0, done.stderr
    kept = [{k: v for k, v in row.items() if k.startswith("val/")} for row in read_metrics(whole)]
    assert all(row["val/n"] == 3 for row in kept)
    assert kept == [
        {k: v for k, v in row.items() if k.startswith("val/")}
        for row in read_metrics(tmp_path / NAME)
    ]
