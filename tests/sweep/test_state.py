from __future__ import annotations

import json
from pathlib import Path

from famseg.runs import lease
from famseg.sweep import State, Trial, counts, read_state, seconds_left
from famseg.sweep._state import best_until, done


def folder(tmp_path: Path, state: str, reason: str | None = None, epochs: int = 2) -> Path:
    path = tmp_path / "run"
    (path / "evaluation").mkdir(parents=True, exist_ok=True)
    (path / "config.yaml").touch()
    (path / "status.json").write_text(json.dumps({"state": state, "reason": reason}))
    rows = [
        {"epoch": epoch, "val/dsc": value, "train/epoch_seconds": 2.0}
        for epoch, value in zip(range(1, epochs + 1), (0.5, 0.9, 0.7), strict=False)
    ]
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_trial_is_finished_once_it_is_evaluated(tmp_path: Path) -> None:
    assert read_state(tmp_path / "none", "dsc") == State("waiting")
    path = folder(tmp_path, "finished")
    assert read_state(path, "dsc").kind == "interrupted"
    (path / "evaluation" / "metrics.json").write_text("{}")
    assert read_state(path, "dsc") == State("finished", 2, 0.9, 4.0)


def test_a_trial_that_was_killed_before_its_report_is_resumed(tmp_path: Path) -> None:
    path = folder(tmp_path, "finished")
    (path / "evaluation" / "metrics.json").write_text("{}")
    with lease(path, purpose="train"):
        (left,) = path.glob("lease-*.json")
        owner = json.loads(left.read_text())
    left.write_text(json.dumps(owner | {"pid": 2**22 + 1}))  # no process has this id
    found = read_state(path, "dsc")
    assert (found.kind, found.reason) == ("interrupted", "killed")


def test_failed_paused_and_killed_trials_are_told_apart(tmp_path: Path) -> None:
    failed = read_state(folder(tmp_path, "failed", "the loss is nan"), "dsc")
    assert (failed.kind, failed.reason) == ("failed", "the loss is nan")
    paused = read_state(folder(tmp_path, "interrupted", "paused after epoch 2 of 9"), "dsc")
    assert paused.kind == "paused"
    ended = read_state(folder(tmp_path, "interrupted", "ended by SIGTERM"), "dsc")
    assert (ended.kind, ended.reason) == ("interrupted", "ended by SIGTERM")
    assert read_state(folder(tmp_path, "running"), "dsc").kind == "interrupted"  # no owner


def test_a_trial_with_a_living_owner_runs(tmp_path: Path) -> None:
    path = folder(tmp_path, "running")
    with lease(path, purpose="train"):
        assert read_state(path, "dsc") == State("running", 2, 0.9, 4.0)


def test_trials_of_a_stage_are_compared_after_equally_many_epochs(tmp_path: Path) -> None:
    path = folder(tmp_path, "interrupted", "paused after epoch 3 of 9", epochs=3)
    assert [best_until(path, "dsc", epoch) for epoch in (0, 1, 3)] == [None, 0.5, 0.9]
    assert best_until(tmp_path / "none", "dsc", 3) is None


def test_a_part_is_done_once_its_epoch_is_reached() -> None:
    trial = Trial("a", {}, "", 9, 0)
    assert not done(trial, State("paused", 3))
    assert done(trial, State("paused", 3), until=3)
    assert done(trial, State("interrupted", 4), until=3)
    assert not done(trial, State("paused", 3), until=6)
    assert done(trial, State("finished", 9), until=6)


def test_the_time_left_is_that_of_the_missing_epochs() -> None:
    trials = [Trial(name, {"x": name}, "", 10, 0) for name in "abc"]
    states = {
        "a": State("finished", 10, 0.5, 20.0),
        "b": State("running", 4),
        "c": State("waiting"),
    }
    assert seconds_left(trials, states, 1) == 2.0 * (6 + 10)
    assert seconds_left(trials, states, 2) == 2.0 * (6 + 10) / 2
    assert seconds_left(trials, {name: State("waiting") for name in "abc"}, 1) is None
    assert counts(states) == "3 trials: 1 running, 1 finished, 1 waiting"
