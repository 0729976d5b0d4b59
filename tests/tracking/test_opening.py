from __future__ import annotations

from pathlib import Path

import pytest

from famseg.tracking._opening import _STAGED, remove_staged


def test_half_copied_artifacts_are_called_as_mlflow_calls_them() -> None:
    from mlflow.store.artifact import local_artifact_repo

    assert local_artifact_repo._TEMP_ARTIFACT_PREFIX == _STAGED


def test_half_copied_artifacts_of_a_killed_run_are_removed(tmp_path: Path) -> None:
    artifacts = tmp_path / "a run" / "artifacts"
    images = artifacts / "images"
    images.mkdir(parents=True)
    elsewhere = tmp_path / f"{_STAGED}elsewhere"
    for path in (images / f"{_STAGED}abc", artifacts / f"{_STAGED}def", elsewhere):
        path.write_text("half")
    (images / f"{_STAGED}link").symlink_to(elsewhere)
    (images / "whole.png").write_text("whole")
    remove_staged(artifacts.as_uri())
    left = {path.name for path in artifacts.rglob("*")}
    assert left == {"images", "whole.png", f"{_STAGED}link"}
    assert elsewhere.exists()


@pytest.mark.parametrize("scheme", ["mlflow-artifacts:", "s3:", "file://elsewhere"])
def test_artifacts_elsewhere_are_left_alone(tmp_path: Path, scheme: str) -> None:
    (tmp_path / f"{_STAGED}abc").write_text("half")
    remove_staged(f"{scheme}{tmp_path}")
    assert (tmp_path / f"{_STAGED}abc").exists()
