from __future__ import annotations

import subprocess
import sys

import pytest
from pydantic import Field, ValidationError

from famseg.config import Strict, read
from famseg.tracking import TrackingConfig


def test_the_section_checks_the_address():
    with pytest.raises(ValidationError, match="MLflow no longer writes to folders"):
        TrackingConfig(uri="file:///data")


@pytest.mark.parametrize(("enabled", "rank"), [(False, 0), (True, 1), (True, 7)])
def test_off_and_other_ranks_track_nothing(tmp_path, monkeypatch, enabled, rank):
    monkeypatch.chdir(tmp_path)
    tracker = TrackingConfig(enabled=enabled).build(run_name="a", parameters={}, rank=rank)
    tracker.log_epoch(1, {"train/loss": 1.0})
    tracker.finish()
    assert tracker.run_id is None
    assert tracker.uri is None
    assert list(tmp_path.iterdir()) == []


def test_the_section_starts_a_run_with_its_tags(uri, client):
    config = TrackingConfig(uri=uri, experiment="study", tags={"sweep_id": "s1", "device": "mine"})
    tracker = config.build(
        run_name="a",
        parameters={},
        method="baseline",
        scores=["val/dsc"],
        tags={"device": "cpu", "seed": "0"},
    )
    tracker.finish()
    run = client.get_run(tracker.run_id)
    assert client.get_experiment(run.info.experiment_id).name == "study"
    wanted = {"sweep_id": "s1", "device": "mine", "seed": "0", "method": "baseline"}
    assert wanted.items() <= run.data.tags.items()


def test_a_pipeline_has_an_experiment_of_its_own(tmp_path):
    class Config(Strict):
        tracking: TrackingConfig = Field(
            default_factory=lambda: TrackingConfig(experiment="famseg-mine")
        )

    path = tmp_path / "a.yaml"
    path.write_text("tracking: {uri: 'sqlite:///a.db'}\n")
    assert read(str(path)).validate(Config).tracking.experiment == "famseg-mine"
    other = read(str(path), ["tracking.experiment=study"]).validate(Config)
    assert other.tracking.experiment == "study"


def test_the_section_imports_neither_torch_nor_mlflow():
    code = (
        "import sys; from famseg.tracking import TrackingConfig, resolve_uri; TrackingConfig();"
        "print([m for m in ('torch', 'monai', 'mlflow', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
