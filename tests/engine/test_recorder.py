from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlflow
import pytest
import torch
import warm

from famseg.engine import RunConfig
from famseg.engine._recorder import Recorder, recorder_of
from famseg.messages import InputError
from famseg.runs import RunFolder
from famseg.tracking import prepare_store


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    prepare_store(f"sqlite:///{path}")
    return path


@pytest.fixture
def store(made_once: Path, tmp_path: Path) -> str:
    """The address of an empty store."""
    shutil.copy(made_once, tmp_path / "mlflow.db")
    return f"sqlite:///{tmp_path}/mlflow.db"


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    (tmp_path / "run").mkdir()
    return RunFolder(tmp_path / "run")


def begin(
    folder: RunFolder, store: str | None, epochs: int | None = None, **tracking: Any
) -> Recorder:
    config = RunConfig.model_validate(
        {
            "pipeline": "skull",
            "training": {"epochs": 3},
            "penalty": {"kind": "none"},
            "tracking": {"uri": store, **tracking},
        }
    )
    experiment: Any = SimpleNamespace(
        data_hash="", write_manifest=lambda path: None, key_metric="dsc", scores=()
    )
    device = torch.device("cpu")
    return recorder_of(
        folder, experiment, config=config, device=device, weights=None, epochs=epochs
    )


def identity(folder: RunFolder) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(folder.tracking.read_text())
    return content


def test_the_identity_is_there_before_the_first_epoch(folder: RunFolder, store: str) -> None:
    recorder = begin(folder, store)
    noted = identity(folder)
    assert noted["run_id"] == recorder.tracker.run_id
    assert noted["uri"] == store
    recorder.tracker.finish()
    run = mlflow.MlflowClient(store).get_run(noted["run_id"])
    assert run.data.tags["famseg.start"] == noted["start"]


def test_a_server_that_does_not_answer_leaves_the_mark(folder: RunFolder) -> None:
    recorder = begin(folder, "http://127.0.0.1:9", timeout_s=1)
    noted = identity(folder)
    assert noted["run_id"] is None
    assert len(noted["start"]) == 32
    recorder.tracker._run._courier.end()  # type: ignore[union-attr]


def test_without_tracking_the_identity_stays_as_it_is(folder: RunFolder, store: str) -> None:
    begin(folder, store, enabled=False)
    assert not folder.tracking.exists()


@pytest.mark.parametrize("content", ["[]", '{"run_id": "../elsewhere"}', '{"start": 5}'])
def test_a_damaged_identity_changes_nothing(folder: RunFolder, store: str, content: str) -> None:
    folder.tracking.write_text(content)
    folder.config.write_text("as it was")
    with pytest.raises(InputError, match=r"tracking\.json: .*Restore it, or delete it"):
        begin(folder, store, epochs=0)
    assert sorted(path.name for path in folder.path.iterdir()) == ["config.yaml", "tracking.json"]
    assert folder.config.read_text() == "as it was"


def test_an_address_that_is_none_changes_nothing(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "file:///old")
    with pytest.raises(InputError, match="MLFLOW_TRACKING_URI: MLflow no longer writes to folders"):
        begin(folder, None)
    assert not list(folder.path.iterdir())


def test_a_run_that_was_replaced_is_noted(folder: RunFolder, store: str) -> None:
    first = begin(folder, store)
    first.epoch(1, {"train/loss": 1.0})
    first.tracker.finish()
    gone = identity(folder)
    mlflow.MlflowClient(store).delete_run(gone["run_id"])
    again = begin(folder, store, epochs=1)
    again.tracker.finish()
    noted = identity(folder)
    assert noted["run_id"] == again.tracker.run_id != gone["run_id"]
    assert noted["start"] == gone["start"]
    run = mlflow.MlflowClient(store).get_run(noted["run_id"])
    assert run.data.metrics["train/loss"] == 1.0


def test_the_identity_of_older_versions_is_taken(folder: RunFolder, store: str) -> None:
    first = begin(folder, store)
    first.tracker.finish()
    run_id = identity(folder)["run_id"]
    folder.tracking.write_text(json.dumps({"run_id": run_id, "uri": store}))
    shutil.rmtree(folder.path / "metrics.jsonl", ignore_errors=True)
    again = begin(folder, store, epochs=0)
    again.tracker.finish()
    assert identity(folder)["run_id"] == run_id
    assert len(identity(folder)["start"]) == 32


@pytest.mark.slow
def test_a_run_that_is_killed_anywhere_is_one_run_of_mlflow(folder: RunFolder, store: str) -> None:
    script = str(Path(__file__).with_name("record_toy.py"))
    kills = [
        (r"/tracking\.json$", 1),  # nothing is noted, nothing made
        ("created", 1),  # made, not noted
        (r"/tracking\.json$", 2),  # found, not noted
        (r"/provenance\.json$", 1),
    ]
    for event, number in kills:
        killed = warm.run(script, str(folder.path), store, event, str(number))
        assert killed.returncode == -signal.SIGKILL, killed.stderr
    done = warm.run(script, str(folder.path), store, "nothing", "1")
    assert done.returncode == 0, done.stderr
    client = mlflow.MlflowClient(store)
    numbers = [each.experiment_id for each in client.search_experiments()]
    (run,) = client.search_runs(numbers)
    assert run.info.status == "FINISHED"
    assert identity(folder)["run_id"] == run.info.run_id
    history = client.get_metric_history(run.info.run_id, "train/loss")
    assert [point.step for point in history] == [1, 2, 3]
    assert run.data.metrics["test/dsc"] == 0.5
