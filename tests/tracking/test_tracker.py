from __future__ import annotations

import contextlib
import csv
import json
import logging
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import urlparse

import numpy as np
import pytest
from PIL import Image

from famseg.messages import InputError
from famseg.tracking import LocalRecord, Tracker, read_metrics, run_name


@pytest.fixture(autouse=True)
def record_log(caplog):
    caplog.set_level(logging.INFO, "famseg")


@pytest.fixture
def start():
    """Starts trackers; those that a test does not finish are not waited for at exit."""
    started = []

    def begin(uri, **changes):
        given = {"run_name": "a", "parameters": {}, **changes}
        started.append(Tracker.start(uri=uri, **given))
        return started[-1]

    yield begin
    for tracker in started:
        tracker._run._courier.end()


def settled(tracker):
    """Wait until the thread has sent everything possible; this does not end an outage."""
    courier = tracker._run._courier
    with courier._changed:
        assert courier._changed.wait_for(lambda: courier._idle, 60)


def history(client, tracker, key):
    return [(m.step, m.value) for m in client.get_metric_history(tracker.run_id, key)]


def artifacts(client, tracker):
    """All files of a run, relative to its artifact folder."""
    root = Path(urlparse(client.get_run(tracker.run_id).info.artifact_uri).path)
    return {p.relative_to(root).as_posix(): p for p in root.rglob("*") if p.is_file()}


def test_a_run_arrives_whole(start, uri, client):
    parameters = {"seed": 0, "penalty": {"kind": "none", "lambda": 0.002}, "channels": [8, 16]}
    with start(
        uri,
        run_name=run_name(0.002, 0),
        parameters=parameters,
        penalty_weight=0.002,
        tags={"device": "cpu"},
    ) as tracker:
        tracker.log_epoch(1, {"train/loss": 0.5, "val/dsc": 0.6})
        tracker.log_epoch(2, {"train/loss": 0.25, "val/dsc": 0.7})
    run = client.get_run(tracker.run_id)
    assert run.info.run_name == "lambda=0.002 seed=0"
    assert run.info.status == "FINISHED"
    assert run.info.end_time >= run.info.start_time
    assert run.data.params == {
        "seed": "0",
        "penalty.kind": "none",
        "penalty.lambda": "0.002",
        "channels": "[8, 16]",
        "lambda": "0.002",
    }
    assert run.data.tags["device"] == "cpu"
    assert history(client, tracker, "train/loss") == [(1, 0.5), (2, 0.25)]
    assert history(client, tracker, "lambda") == [(0, 0.002)]
    assert run.data.metrics["log10_lambda"] == pytest.approx(math.log10(0.002))
    assert tracker.experiment_id == run.info.experiment_id
    assert (tracker.waiting, tracker.problem) == (0, None)


def test_the_method_is_a_parameter_and_a_tag(start, uri, client):
    tracker = start(uri, penalty_weight=0.0, method="SAM rho=0.05", scores=["val/accuracy (%)"])
    tracker.finish()
    run = client.get_run(tracker.run_id)
    assert run.data.params["method"] == run.data.tags["method"] == "SAM rho=0.05"
    experiment = client.get_experiment(run.info.experiment_id)
    view = experiment.tags["mlflow.sharedViewState.famseg-lambda"]
    assert '"metricKey":"val/accuracy ___"' in view  # under the metric's name in MLflow


def test_lambda_0_has_no_logarithm(start, uri, client):
    with start(uri, penalty_weight=0.0) as tracker:
        pass
    assert client.get_run(tracker.run_id).data.metrics == {"lambda": 0.0}


def test_runs_sort_by_lambda_as_a_number(start, uri, client):
    for weight in (0.01, 0.0, 5e-05, 0.2):
        start(uri, run_name=run_name(weight, 0), penalty_weight=weight).finish()
    number = client.get_experiment_by_name("famseg").experiment_id
    runs = client.search_runs([number], order_by=["metrics.`lambda` ASC"])
    assert [run.info.run_name.split()[0] for run in runs] == [
        "lambda=0",
        "lambda=5e-05",
        "lambda=0.01",
        "lambda=0.2",
    ]
    small = client.search_runs([number], "metrics.`lambda` < 0.001")
    assert len(small) == 2


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_left_out_counted_and_said_once(start, uri, client, caplog, value):
    with start(uri) as tracker:
        tracker.log_epoch(1, {"train/loss": 1.0, "val/dsc": value})
        tracker.log_epoch(2, {"train/loss": 2.0, "val/dsc": value})
        tracker.log_epoch(3, {"train/loss": 3.0, "val/dsc": 0.5})
    assert history(client, tracker, "val/dsc") == [(3, 0.5)]
    assert history(client, tracker, "train/loss") == [(1, 1.0), (2, 2.0), (3, 3.0)]
    assert history(client, tracker, "nonfinite") == [(1, 1.0), (2, 2.0)]
    assert caplog.messages == [f"val/dsc is {value} in epoch 1: not sent to MLflow."]


def test_more_than_the_limits_of_one_request(start, uri, client, caplog):
    parameters = {f"p{i}": i for i in range(250)} | {"long": "x" * 7000}
    with start(uri, parameters=parameters, tags={"t": "y" * 9000}) as tracker:
        tracker.log_epoch(1, {f"m{i}": i for i in range(1500)})
        tracker.log_tags({f"t{i}": "z" for i in range(150)})
    data = client.get_run(tracker.run_id).data
    assert len(data.params) == 251
    assert data.params["long"] == "x" * 5997 + "..."
    assert data.tags["t"] == "y" * 7997 + "..."
    assert len(data.metrics) == 1500
    assert data.tags["t149"] == "z"
    assert caplog.messages == []


def test_names_that_mlflow_refuses_are_mended(start, uri, client, caplog):
    with start(uri, parameters={"a=b": 1}) as tracker:
        tracker.log_epoch(1, {"test/Straße (A)!/dsc": 0.5})
        tracker.log_image(np.zeros((2, 2)), "Straße (A)", 1)
    data = client.get_run(tracker.run_id).data
    assert data.params == {"a_b": "1"}
    assert data.metrics == {"test/Straße _A__/dsc": 0.5}
    assert any(name.startswith("images/Stra_e _A_+step+1") for name in artifacts(client, tracker))
    assert caplog.messages == []


def test_a_foreign_active_run_is_neither_joined_nor_touched(start, uri, client):
    import mlflow

    mlflow.set_tracking_uri(uri)
    try:
        with mlflow.start_run(run_name="foreign") as foreign:
            with start(uri, parameters={"seed": 1}, penalty_weight=0.1) as first:
                pass
            with start(uri, parameters={"seed": 1}, penalty_weight=0.2) as second:
                pass
            assert mlflow.active_run().info.run_id == foreign.info.run_id
    finally:
        mlflow.set_tracking_uri(None)
    assert len({foreign.info.run_id, first.run_id, second.run_id}) == 3
    assert client.get_run(foreign.info.run_id).data.params == {}
    assert "mlflow.parentRunId" not in client.get_run(second.run_id).data.tags


def test_no_personal_data_is_sent(start, uri, client):
    start(uri).finish()
    (run,) = client.search_runs([client.get_experiment_by_name("famseg").experiment_id])
    assert run.info.user_id in ("", "unknown")
    assert "mlflow.user" not in run.data.tags


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (None, "FINISHED"),
        (RuntimeError("x"), "FAILED"),
        (KeyboardInterrupt(), "KILLED"),
        (SystemExit(143), "KILLED"),
    ],
)
def test_the_status_says_how_it_ended(start, uri, client, error, status):
    tracker = start(uri)
    ends = contextlib.nullcontext() if error is None else pytest.raises(type(error))
    with ends, tracker:
        if error is not None:
            raise error
    tracker.finish("FINISHED")  # a second end changes nothing
    assert client.get_run(tracker.run_id).info.status == status


def test_resume_goes_on_with_the_run_and_logs_nothing_twice(start, uri, client, tmp_path, caplog):
    record = LocalRecord.create(tmp_path / "run")
    first = start(uri, parameters={"seed": 0, "epochs": 2}, penalty_weight=0.1)
    for epoch in (1, 2):
        record.append(epoch, {"train/loss": float(epoch)})
        first.log_epoch(epoch, {"train/loss": float(epoch)})
    first.finish("KILLED")

    # Epoch 2 was logged but did not reach the checkpoint: it is run again.
    again = start(
        uri, parameters={"seed": 0, "epochs": 3, "new": 1}, penalty_weight=0.1, run_id=first.run_id
    )
    assert client.get_run(again.run_id).info.status == "RUNNING"
    again.log_history(read_metrics(tmp_path / "run"))
    for epoch in (2, 3):
        again.log_epoch(epoch, {"train/loss": float(epoch), "lr": 0.1})
    again.finish()
    assert again.run_id == first.run_id
    assert history(client, again, "train/loss") == [(1, 1.0), (2, 2.0), (3, 3.0)]
    assert history(client, again, "lr") == [(2, 0.1), (3, 0.1)]
    run = client.get_run(again.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params == {"seed": "0", "epochs": "2", "new": "1", "lambda": "0.1"}
    assert caplog.messages == []


@pytest.mark.parametrize("deleted", [True, False])
def test_a_run_that_is_gone_is_replaced_with_its_history(
    start, uri, client, tmp_path, caplog, deleted
):
    gone = "0" * 32
    if deleted:
        gone = start(uri).run_id
        client.delete_run(gone)
    record = LocalRecord.create(tmp_path / "run")
    record.append(1, {"train/loss": 1.0, "val/dsc": math.nan})
    with start(uri, run_id=gone) as tracker:
        tracker.log_history(read_metrics(tmp_path / "run"))
    assert tracker.run_id != gone
    assert history(client, tracker, "train/loss") == [(1, 1.0)]
    (metric,) = client.get_metric_history(tracker.run_id, "train/loss")
    assert metric.timestamp == pytest.approx(
        1000 * read_metrics(tmp_path / "run")[0]["time"], abs=2
    )
    assert client.get_run(tracker.run_id).data.tags["famseg.resumed_from"] == gone
    assert caplog.messages == [f"MLflow store {uri} has no run {gone}: a new run takes its place."]


def test_holes_of_a_run_are_filled_from_the_record(start, uri, client, tmp_path):
    """An outage at epochs 2 and 3, and a kill before its end."""
    record = LocalRecord.create(tmp_path / "run")
    for epoch in (1, 2, 3, 4):
        value = math.nan if epoch == 3 else float(epoch)
        record.append(epoch, {"train/loss": float(epoch), "val/dsc": value})
    first = start(uri)
    for epoch in (1, 4):
        first.log_epoch(epoch, {"train/loss": float(epoch), "val/dsc": float(epoch)})
    first.finish("KILLED")
    with start(uri, run_id=first.run_id) as again:
        again.log_history(read_metrics(tmp_path / "run"))
        again.log_epoch(5, {"train/loss": 5.0, "val/dsc": math.inf})
    steps = sorted(history(client, again, "train/loss"))
    assert steps == [(epoch, float(epoch)) for epoch in range(1, 6)]
    assert sorted(history(client, again, "val/dsc")) == [(1, 1.0), (2, 2.0), (4, 4.0)]
    assert history(client, again, "nonfinite") == [(3, 1.0), (5, 2.0)]


def test_the_first_page_has_description_data_model_load_and_few_results(
    start, uri, client, tmp_path
):
    checkpoint = tmp_path / "best.pt"
    checkpoint.touch()
    many = {f"test/set1/mirror/m{i}": 0.0 for i in range(40)}
    shown = {"test/set1/skull/dsc": 0.9, "test/set1/skull/dsc_std": 0.1, "test/set1/skull/n": 3.0}
    options = {
        "parameters": {"data": {"kind": "phantom"}, "seed": 0},
        "tags": {"data_hash": "0123456789abcdef0123"},
        "method": "baseline",
        "scores": ("val/dsc", "test/set1/skull/dsc"),
        "monitor": True,
    }
    with start(uri, **options) as tracker:
        tracker.log_epoch(1, {"train/loss": 1.0})
        tracker.log_results(shown | many)
        tracker.log_model(checkpoint)
    client.set_tag(tracker.run_id, "mlflow.note.content", "Mine.")
    with start(uri, run_id=tracker.run_id, **options) as again:
        again.log_model(checkpoint)
    run = client.get_run(tracker.run_id)
    load = {name for name in run.data.metrics if name.startswith("system/")}
    assert "system/cpu_utilization_percentage" in load
    assert run.data.metrics.keys() - load == {"train/loss", *shown}
    assert run.data.tags["mlflow.note.content"] == "Mine."
    (given,) = run.inputs.dataset_inputs
    assert (given.dataset.name, given.dataset.digest) == ("phantom", "0123456789abcdef")
    (output,) = run.outputs.model_outputs
    model = client.get_logged_model(output.model_id)
    assert model.tags["checkpoint"] == f"runs:/{tracker.run_id}/checkpoints/best.pt"
    assert (model.name, model.status.name, model.params["method"]) == ("best", "READY", "baseline")


def test_results_of_a_longer_run_replace_the_old_ones(start, uri, client):
    with start(uri) as first:
        first.log_results({"test/dsc": 0.9, "test/n": 4.0})
    with start(uri, run_id=first.run_id) as again:
        again.log_results({"test/dsc": 0.8, "test/n": 4.0})
    run = client.get_run(first.run_id)
    assert run.data.metrics == {"test/dsc": 0.8, "test/n": 4.0}
    assert history(client, again, "test/n") == [(0, 4.0)]
    assert {step for step, _ in history(client, again, "test/dsc")} == {0}


def test_a_run_is_found_by_its_mark(start, uri, client):
    """Killed after the run was created, before its id was saved."""
    known = []
    first = start(uri, start="abc123", opened=known.append)
    first.log_epoch(1, {"a": 1.0})
    first.flush()
    assert known == [first.run_id]
    with start(uri, start="abc123") as again:
        again.log_epoch(1, {"a": 1.0})
        again.log_epoch(2, {"a": 2.0})
    assert again.run_id == first.run_id
    assert history(client, again, "a") == [(1, 1.0), (2, 2.0)]
    with start(uri, start="other") as another:
        pass
    assert another.run_id != first.run_id


def test_a_replacement_whose_id_was_not_noted_is_found_by_its_mark(start, uri, client, caplog):
    gone = "0" * 32
    first = start(uri, run_id=gone, start="abc123")
    first.flush()
    with start(uri, run_id=gone, start="abc123") as again:
        pass
    assert again.run_id == first.run_id
    assert len(caplog.messages) == 1


def test_files_folders_images_and_tables(start, uri, client, tmp_path):
    (tmp_path / "evaluation").mkdir()
    (tmp_path / "evaluation" / "cases.csv").write_text("subject,dsc\na,0.5\n")
    (tmp_path / "config.yaml").write_text("seed: 0\n")
    Image.new("L", (8, 6)).save(tmp_path / "slice.png")
    with start(uri) as tracker:
        tracker.log_artifact(tmp_path / "config.yaml")
        tracker.log_artifact(tmp_path / "evaluation", "evaluation")
        tracker.log_image(np.zeros((6, 8, 3), np.uint8), "val/worst", 4)
        tracker.log_image(tmp_path / "slice.png", "val/worst", 8)
        for dsc in (0.5, 0.75):
            tracker.log_table([{"subject": "a", "dsc": dsc}, {"subject": "b"}], "evaluation/t.json")
    files = artifacts(client, tracker)
    assert files["config.yaml"].read_text() == "seed: 0\n"
    with files["evaluation/cases.csv"].open() as file:
        assert list(csv.reader(file)) == [["subject", "dsc"], ["a", "0.5"]]
    steps = sorted(name.split("+")[2] for name in files if name.endswith(".png"))
    assert steps == ["4", "8"]
    assert json.loads(files["evaluation/t.json"].read_text()) == {
        "columns": ["subject", "dsc"],
        "data": [["a", 0.75], ["b", None]],
    }
    tags = client.get_run(tracker.run_id).data.tags
    assert json.loads(tags["mlflow.loggedArtifacts"]) == [
        {"path": "evaluation/t.json", "type": "table"}
    ]


def test_a_missing_file_and_a_bad_image_are_said_and_left_out(start, uri, client, tmp_path, caplog):
    (tmp_path / "bad.png").write_bytes(b"no picture")
    with start(uri) as tracker:
        tracker.log_artifact(tmp_path / "none.csv")
        tracker.log_image(tmp_path / "bad.png", "x", 1)
        tracker.log_image(np.zeros((2, 2, 2, 2)), "y", 1)
        tracker.log_epoch(1, {"a": 1.0})
    assert history(client, tracker, "a") == [(1, 1.0)]
    said = "\n".join(caplog.messages)
    assert f"does not accept the file {tmp_path}/none.csv (no such file). It is left out." in said
    assert "does not accept the image x (cannot identify image file" in said
    assert "does not accept the image y" in said
    assert len(caplog.messages) == 3
    assert client.get_run(tracker.run_id).info.status == "FINISHED"


def test_metrics_arrive_while_the_artifact_store_is_away(start, uri, client, tmp_path, caplog):
    """A file replaces the artifact folder: this looks like a server without its bucket."""
    (tmp_path / "mlruns").touch()
    with start(uri) as tracker:
        for epoch in (1, 2):
            tracker.log_image(np.zeros((4, 4), np.uint8), "x", epoch)
            tracker.log_epoch(epoch, {"a": float(epoch)})
    assert history(client, tracker, "a") == [(1, 1.0), (2, 2.0)]
    assert client.get_run(tracker.run_id).info.status == "FINISHED"
    assert tracker.waiting == 2
    first, second = caplog.messages
    assert first.startswith(f"Artifact store of MLflow {uri} does not answer (")
    assert "2 entries were not sent" in second


def test_a_refused_connection_costs_one_line_and_no_time(start, tmp_path, caplog):
    began = time.monotonic()
    with start("http://127.0.0.1:9") as tracker:
        for epoch in range(1, 50):
            tracker.log_epoch(epoch, {"train/loss": 1.0})
    assert time.monotonic() - began < 100  # 49 waits for a reply take longer
    assert tracker.run_id is None
    assert tracker.problem == "Connection refused"
    assert caplog.messages == [
        "MLflow store http://127.0.0.1:9 does not answer (Connection refused). The run "
        "continues with its local record; waiting entries are sent when the store is back.",
        "MLflow store http://127.0.0.1:9 still does not answer (Connection refused): "
        f"{tracker.waiting} entries were not sent. The run folder has them.",
    ]


def test_a_password_is_neither_logged_nor_printed(start, uri, client, caplog):
    address = "http://ann:secret@127.0.0.1:9"
    away = start(address, parameters={"tracking": {"uri": address}})
    away.finish()
    assert away.uri == "http://ann:***@127.0.0.1:9"
    with start(uri, parameters={"tracking": {"uri": address}}) as tracker:
        pass
    assert client.get_run(tracker.run_id).data.params == {"tracking.uri": away.uri}
    assert "secret" not in caplog.text


def test_a_store_that_goes_in_mid_run_gets_everything_once_it_is_back(
    start, uri, client, tmp_path, caplog, monkeypatch
):
    now = [1000.0]
    monkeypatch.setattr("famseg.tracking._outbox.time.monotonic", lambda: now[0])
    base = tmp_path / "mlflow.db"
    tracker = start(uri)
    tracker.log_epoch(1, {"a": 1.0})
    settled(tracker)
    base.rename(tmp_path / "away.db")
    for epoch in (2, 3, 4):
        tracker.log_epoch(epoch, {"a": float(epoch)})
        settled(tracker)
        now[0] += 5
    assert tracker.waiting == 3
    base.unlink(missing_ok=True)  # what SQLite may have begun in its place
    (tmp_path / "away.db").rename(base)
    now[0] += 100
    tracker.log_epoch(5, {"a": 5.0})
    assert tracker.flush()
    tracker.finish()
    assert history(client, tracker, "a") == [(e, float(e)) for e in range(1, 6)]
    assert len(caplog.messages) == 2
    assert "does not answer" in caplog.messages[0]
    assert caplog.messages[1] == f"MLflow store {uri} is back: 4 entries sent."


def test_a_store_that_comes_late_gets_the_run_from_its_beginning(start, uri, client, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr("famseg.tracking._outbox.time.monotonic", lambda: now[0])
    from famseg.tracking import _store

    whole = _store.open_store

    def away(uri, timeout_s):
        raise ConnectionRefusedError(111, "Connection refused")

    monkeypatch.setattr(_store, "open_store", away)
    before = time.time()
    tracker = start(uri, parameters={"seed": 0}, penalty_weight=0.5)
    tracker.log_epoch(1, {"a": 1.0})
    settled(tracker)
    assert tracker.run_id is None
    monkeypatch.setattr(_store, "open_store", whole)
    now[0] += 100
    tracker.log_epoch(2, {"a": 2.0})
    tracker.finish()
    run = client.get_run(tracker.run_id)
    assert run.data.params == {"seed": "0", "lambda": "0.5"}
    assert run.info.start_time == pytest.approx(1000 * before, abs=500)
    assert history(client, tracker, "a") == [(1, 1.0), (2, 2.0)]


def test_a_creation_that_was_answered_too_late_makes_no_second_run(start, uri, client, monkeypatch):
    """The first try creates the run, but its answer is lost."""
    import mlflow

    create = mlflow.MlflowClient.create_run
    answers = [ConnectionResetError(104, "Connection reset by peer"), None]

    def lossy(self, *arguments, **options):
        run = create(self, *arguments, **options)
        if (answer := answers.pop(0)) is not None:
            raise answer
        return run

    monkeypatch.setattr(mlflow.MlflowClient, "create_run", lossy)
    tracker = start(uri)
    assert tracker.run_id is None
    tracker.finish()
    number = client.get_experiment_by_name("famseg").experiment_id
    assert [run.info.run_id for run in client.search_runs([number])] == [tracker.run_id]


def test_a_deleted_experiment_is_refused_before_anything_is_trained(start, uri, client):
    number = client.create_experiment("old")
    client.delete_experiment(number)
    with pytest.raises(InputError, match=r"tracking\.experiment: 'old' was deleted\. Choose"):
        start(uri, experiment="old")


def test_a_name_too_long_for_mlflow_is_a_warning(start, uri, caplog):
    with start(uri, experiment="x" * 600) as tracker:
        tracker.log_epoch(1, {"a": 1.0})
        tracker.log_artifact(__file__)
    assert (tracker.run_id, tracker.waiting) == (None, 0)
    (message,) = caplog.messages
    assert "does not accept the run" in message
    assert message.endswith("The run is not tracked there.")


def test_null_takes_everything_and_does_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with Tracker.null() as tracker:
        tracker.log_epoch(1, {"a": math.nan})
        tracker.log_history([{"epoch": 1, "a": 1.0}])
        tracker.log_artifact("none")
        tracker.log_image("none", "x", 1)
        tracker.log_table([], "t.json")
        tracker.log_tags({})
    assert (tracker.run_id, tracker.experiment_id, tracker.waiting) == (None, None, 0)
    assert list(tmp_path.iterdir()) == []


FULL_DISK = """
import logging, resource, signal, sys, pathlib
from famseg.tracking import LocalRecord, Tracker
logging.basicConfig(format="%(message)s")
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
folder = pathlib.Path(sys.argv[1])
record = LocalRecord.create(folder / "run")
tracker = Tracker.start(uri=f"sqlite:///{folder}/mlflow.db", run_name="a", parameters={})
size = (folder / "mlflow.db").stat().st_size
# The store's file cannot grow any more, the far smaller record can: a disk that is full for one.
resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
for epoch in range(1, 400):
    metrics = {f"metric/{i}/{'x' * 100}": epoch / 7 for i in range(5)}
    record.append(epoch, metrics)
    tracker.log_epoch(epoch, metrics)
tracker.finish()
"""


@pytest.mark.slow
def test_a_full_disk_in_mid_run_does_not_stop_it(uri, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    first, *rest = done.stderr.splitlines()
    assert "does not answer (" in first
    assert "is full" in first or "disk I/O error" in first
    assert len(rest) == 1
    assert "entries were not sent. The run folder has them." in rest[0]
    assert len(read_metrics(tmp_path / "run")) == 399


LOCKED = """
import logging, sqlite3, sys, time
from famseg.tracking import Tracker
logging.basicConfig(format="%(message)s")
logging.getLogger("famseg").setLevel(logging.INFO)
tracker = Tracker.start(uri=f"sqlite:///{sys.argv[1]}", run_name="a", parameters={})
other = sqlite3.connect(sys.argv[1], isolation_level=None)
other.execute("BEGIN EXCLUSIVE")
began = time.monotonic()
for epoch in range(1, 30):
    tracker.log_epoch(epoch, {"a": float(epoch)})
assert time.monotonic() - began < 60, "no epoch waits for the lock"
time.sleep(0.5)
other.execute("ROLLBACK")
tracker.finish()
print(tracker.run_id, tracker.waiting)
"""


@pytest.mark.slow
def test_a_locked_database_delays_no_epoch_and_loses_none(uri, client, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", LOCKED, str(tmp_path / "mlflow.db")],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    run_id, waiting = done.stdout.split()
    assert waiting == "0"
    assert done.stderr == ""
    assert len(client.get_metric_history(run_id, "a")) == 29


KILLED = """
import os, signal, sys
from famseg.tracking import Tracker
tracker = Tracker.start(uri=sys.argv[1], run_name="a", parameters={"seed": 0})
tracker.log_epoch(1, {"a": 1.0})
print(tracker.run_id, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.slow
def test_a_killed_run_goes_on_as_the_same_run(start, uri, client):
    done = subprocess.run(
        [sys.executable, "-c", KILLED, uri], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == -signal.SIGKILL
    run_id = done.stdout.strip()
    assert client.get_run(run_id).info.status == "RUNNING"
    with start(uri, run_id=run_id, parameters={"seed": 0}) as tracker:
        tracker.log_epoch(1, {"a": 1.0})
        tracker.log_epoch(2, {"a": 2.0})
    assert history(client, tracker, "a") == [(1, 1.0), (2, 2.0)]
    assert client.get_run(run_id).info.status == "FINISHED"
    assert "MLFLOW_RUN_ID" not in os.environ
