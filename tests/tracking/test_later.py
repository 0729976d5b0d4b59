from __future__ import annotations

import logging
from pathlib import Path

import pytest

from famseg.tracking import Tracker, add_artifact


@pytest.fixture
def tracked(tmp_path: Path) -> dict[str, str]:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    with Tracker.start(uri=uri, run_name="a", parameters={}) as tracker:
        tracker.log_epoch(1, {"train/loss": 0.5})
    assert tracker.run_id is not None
    return {"run_id": tracker.run_id, "uri": uri}


@pytest.mark.slow
def test_a_file_joins_a_run_that_has_ended(tracked: dict[str, str], tmp_path: Path) -> None:
    import mlflow

    page = tmp_path / "report.html"
    client = mlflow.MlflowClient(tracked["uri"])
    before = client.get_run(tracked["run_id"])
    for text in ("old", "new"):
        page.write_text(text)
        assert add_artifact(tracked, page)
    (file,) = client.list_artifacts(tracked["run_id"])
    assert file.path == "report.html"
    found = client.download_artifacts(tracked["run_id"], file.path, str(tmp_path))
    assert Path(found).read_text() == "new"
    after = client.get_run(tracked["run_id"])
    assert (after.info.status, after.info.end_time) == ("FINISHED", before.info.end_time)
    assert after.data.metrics == before.data.metrics


def test_a_store_that_is_gone_is_one_warning_and_is_not_made_anew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    page = tmp_path / "report.html"
    page.write_text("page")
    database = tmp_path / "gone.db"
    identity = {"run_id": "0" * 32, "uri": f"sqlite:///{database}"}
    with caplog.at_level(logging.WARNING, logger="famseg"):
        assert not add_artifact(identity, page)
    (record,) = caplog.records
    assert "was not sent to the MLflow store" in record.getMessage()
    assert "The run folder has it." in record.getMessage()
    assert not database.exists()


def test_a_run_that_was_never_in_the_store_is_left_alone(tmp_path: Path) -> None:
    assert not add_artifact({"run_id": None, "uri": "sqlite:///x.db"}, tmp_path / "a.html")
