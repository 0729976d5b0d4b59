from __future__ import annotations

import json
import shutil

import pytest
from made_runs import BASELINE, FAM, SAM, make_run

from famseg.engine import FREE_ON_RESUME
from famseg.files import write_json
from famseg.messages import InputError
from famseg.reporting import find_runs
from famseg.reporting._runs import FREE
from famseg.runs import status_kept


def states(found):
    return {run.path.name: run.state for run in found.runs}


def test_a_run_is_what_its_folder_says(tmp_path):
    path = make_run(tmp_path, "a", seed=3, settings=SAM, metrics={"test/accuracy": 0.9})
    (run,) = find_runs([path]).runs
    assert (run.path, run.pipeline, run.seed, run.method) == (path, "skull", 3, "SAM rho=0.05")
    assert (run.data_hash, run.finished, run.plain) == ("0123456789", True, False)
    assert run.metrics == {"test/accuracy": 0.9, "seconds": 8.0, "epochs": 2.0}
    assert run.settings["training.batch_size"] == "2"
    assert run.settings["sam.rho"] == "0.05"


def test_what_runs_of_one_method_differ_in_is_no_setting(tmp_path):
    free = ["data.root=null", "training.threads=1", "training.device=cpu", "tracking.uri=null"]
    make_run(tmp_path, "a", seed=0, metrics={"x": 1.0})
    make_run(tmp_path, "b", seed=1, settings=[*BASELINE, *free[1:], "output=o"], metrics={"x": 2.0})
    one, two = find_runs([tmp_path]).runs
    assert one.settings == two.settings
    assert not {"seed", "name", "output"} & one.settings.keys()


def test_what_a_resumed_run_may_change_is_free_here_too():
    assert set(FREE_ON_RESUME) | {"seed", "name"} <= set(FREE)


def test_lambda_0_is_no_penalty_however_it_was_written(tmp_path):
    make_run(tmp_path, "a", settings=["lambda=0"], metrics={"x": 1.0})
    make_run(tmp_path, "b", seed=1, metrics={"x": 1.0})
    one, two = find_runs([tmp_path]).runs
    assert one.settings == two.settings
    assert one.method == two.method == "baseline"


def test_runs_are_found_at_any_depth_and_once(tmp_path):
    make_run(tmp_path / "study" / "deep", "b", metrics={"x": 1.0})
    path = make_run(tmp_path, "a", metrics={"x": 1.0})
    make_run(tmp_path / ".hidden", "c", metrics={"x": 1.0})
    (tmp_path / "killed").mkdir()
    found = find_runs([tmp_path, path, tmp_path / "study"])
    assert [run.path.name for run in found.runs] == ["a", "b"]
    assert found.notes == (f"{tmp_path}/killed: is empty: the run ended before it started",)


def test_copies_of_a_run_in_the_store_are_not_runs(tmp_path):
    path = make_run(tmp_path, "a", seed=0, metrics={"x": 1.0})
    store = tmp_path / "mlruns" / "1" / f"{7:032x}" / "artifacts"
    shutil.copytree(path, store)
    assert [run.path for run in find_runs([tmp_path]).runs] == [path]


def test_the_state_says_how_far_a_run_came(tmp_path):
    make_run(tmp_path, "none", epochs=0)
    make_run(tmp_path, "part", epochs=1)
    make_run(tmp_path, "trained", epochs=2)
    (make_run(tmp_path, "old", epochs=2) / "evaluation").mkdir()
    (tmp_path / "old" / "evaluation" / "summary.json").write_text("{}")
    make_run(tmp_path, "done", metrics={"x": 1.0})
    assert states(find_runs([tmp_path])) == {
        "done": "finished",
        "none": "no epoch finished",
        "old": f"evaluated by another version: famseg evaluate {tmp_path}/old",
        "part": "1 of 2 epochs",
        "trained": "trained, not evaluated",
    }


def test_how_an_unfinished_run_ended_is_told(tmp_path):
    path = make_run(tmp_path, "part", epochs=1)
    with pytest.raises(OSError, match="disk"), status_kept(path):
        raise OSError("the disk is full")
    assert states(find_runs([tmp_path])) == {"part": "1 of 2 epochs, failed (the disk is full)"}


def test_a_longer_run_that_did_not_finish_has_not_the_metrics_of_the_shorter(tmp_path):
    path = make_run(tmp_path, "longer", epochs=1, metrics={"test/set1/skull/dsc": 0.5})
    with status_kept(path):
        pass
    assert states(find_runs([tmp_path])) == {"longer": "finished"}  # it was stopped early
    with pytest.raises(OSError, match="disk"), status_kept(path):
        raise OSError("the disk is full")
    assert states(find_runs([tmp_path])) == {"longer": "1 of 2 epochs, failed (the disk is full)"}
    assert find_runs([tmp_path]).runs[0].metrics == {}


def test_a_pipeline_that_is_not_installed_is_compared_as_written(tmp_path):
    text = "pipeline: mine\nseed: 4\npenalty: {kind: none}\ntraining: {epochs: 9, device: cuda}\n"
    make_run(tmp_path, "a", config=text, metrics={"x": 1.0})
    found = find_runs([tmp_path])
    assert [run.pipeline for run in found.runs] == ["mine"]
    assert found.runs[0].settings == {
        "penalty.kind": "none",
        "pipeline": "mine",
        "training.epochs": "9",
    }
    (note,) = found.notes
    assert "no pipeline is called 'mine'" in note
    assert note.endswith("The run is compared as its configuration was written.")


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("config.yaml", "pipeline: mine\n", r"config\.yaml: has no seed: is it the config.* run\?"),
        ("config.yaml", "a: [", r"config\.yaml:\d+: .*"),
        ("provenance.json", "{", r"provenance\.json: cannot be read \(Expecting .*\)"),
        ("provenance.json", "[]", r"provenance\.json: must contain a JSON object"),
        ("evaluation/metrics.json", '{"x": "y"}', r"must contain names and numbers\."),
        ("evaluation/metrics.json", '{"x": NaN}', r"metrics\.json: cannot be read \(NaN is not"),
        (
            "evaluation/metrics.json",
            '{"x": 1e999}',
            r"metrics\.json: cannot be read \(1e999 is",
        ),
        ("evaluation/metrics.json", '{"x": 1e200}', r"must contain names and numbers"),
        (
            "evaluation/metrics.json",
            f'{{"x": {10**400}}}',
            r"metrics\.json: must contain names and num",
        ),
        ("evaluation/metrics.json", '{"x":' * 10**5, r"metrics\.json: cannot be read \(nested too"),
        ("provenance.json", "[" * 10**5, r"provenance\.json: cannot be read \(nested too deep\)"),
        ("metrics.jsonl", "[[\n{}\n", r"metrics\.jsonl:1: is not a line of metrics\."),
        ("metrics.jsonl", '{"epoch": -1}\n{}\n', r"metrics\.jsonl:1: is not a line of metrics"),
        ("metrics.jsonl", f'{{"epoch": {10**400}}}\n{{}}\n', r"metrics\.jsonl:1: is not a line"),
        ("metrics.jsonl", '{"epoch": 1, "a": "b"}\n{}\n', r"metrics\.jsonl:1: is not a line of"),
        ("config.yaml", "pipeline: mine\nseed: true\n", r"config\.yaml: has no seed"),
        (
            "config.yaml",
            "pipeline: mine\nseed: 0\ntraining: [1]\n",
            r"config\.yaml: is not the configuration of a run \(AttributeError\)",
        ),
        (
            "config.yaml",
            "pipeline: mine\nseed: 0\npenalty: {lambda: [much]}\n",
            r"config\.yaml: is not the configuration of a run \(TypeError\)",
        ),
    ],
)
def test_a_broken_folder_is_left_out_and_named(tmp_path, file, text, message):
    make_run(tmp_path, "good", metrics={"x": 1.0})
    (make_run(tmp_path, "broken", metrics={"x": 1.0}) / file).write_text(text)
    found = find_runs([tmp_path])
    assert states(found) == {"good": "finished"}
    (note,) = found.notes
    assert note.endswith("The run is left out.")
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(note)


def test_if_no_run_can_be_read_it_is_said_why(tmp_path):
    for name in "ab":
        make_run(tmp_path, name, metrics={"x": 1.0}).joinpath("provenance.json").write_text("[]")
    with pytest.raises(InputError) as caught:
        find_runs([tmp_path])
    assert caught.value.faults == tuple(
        f"{tmp_path}/{name}/provenance.json: must contain a JSON object. Restore the file. The "
        "run is left out."
        for name in "ab"
    )


def test_all_faulty_paths_are_said_at_once(tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.yaml").write_text("a: 1\n")  # somebody's, not a run's
    with pytest.raises(InputError) as caught:
        find_runs([tmp_path / "nowhere", tmp_path / "other"])
    assert caught.value.faults == (
        f"{tmp_path}/nowhere: is not a folder. Give a folder of runs.",
        f"{tmp_path}/other: contains no run folder (one with config.yaml and provenance.json). "
        "Give a folder of runs.",
    )


def test_a_time_that_was_not_measured_is_left_out(tmp_path):
    path = make_run(tmp_path, "a", settings=FAM, metrics={"x": 1.0}, epochs=0)
    row = {"epoch": 1, "time": 0.0, "train/loss": 1.0}
    (path / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    (run,) = find_runs([path]).runs
    assert run.metrics == {"x": 1.0, "epochs": 1.0}


def evaluated(path, folder, metrics, checkpoint):
    (path / folder).mkdir(exist_ok=True)
    write_json(path / folder / "metrics.json", metrics)
    if checkpoint is not None:
        write_json(path / folder / "checkpoint.json", {"checkpoint": checkpoint, "epoch": 2})


def test_evaluations_of_best_and_last_are_never_taken_for_each_other(tmp_path):
    both = make_run(tmp_path, "both", metrics={"x": 1.0})
    evaluated(both, "evaluation-last", {"x": 2.0}, "last")
    make_run(tmp_path, "one", metrics={"x": 3.0})
    best, last = (find_runs([tmp_path], which) for which in ("best", "last"))
    assert [run.metrics["x"] for run in best.runs] == [1.0, 3.0]
    assert [run.metrics.get("x") for run in last.runs] == [2.0, None]
    assert [run.evaluation.name for run in last.runs] == ["evaluation-last"] * 2
    command = f"famseg evaluate {tmp_path}/one --checkpoint last"
    assert states(last) == {"both": "finished", "one": f"last.pt is not evaluated: {command}"}


def test_an_evaluation_under_the_name_of_another_is_not_taken(tmp_path):
    path = make_run(tmp_path, "a")
    evaluated(path, "evaluation", {"x": 1.0}, "last")
    expected = f"evaluation is of another checkpoint (last): famseg evaluate {path}"
    assert states(find_runs([tmp_path])) == {"a": expected}


def test_older_evaluations_do_not_say_what_they_are_of(tmp_path):
    path = make_run(tmp_path, "a")
    evaluated(path, "evaluation", {"x": 1.0}, None)
    (run,) = find_runs([tmp_path]).runs
    assert (run.finished, run.noted) == (True, False)
