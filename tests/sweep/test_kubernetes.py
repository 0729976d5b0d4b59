from __future__ import annotations

import subprocess
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml

from famseg.messages import InputError
from famseg.sweep import Cluster, SweepFolder, Trial, manifest

FOLDER = SweepFolder(Path("runs/Lambda_1"), "Lambda_1-0a1b2c3d")
TRIALS = [Trial(f"lambda{value}-seed1-abc", {}, f"seed: {value}\n", 3, 1) for value in (0, 1, 2)]
CLUSTER = Cluster("famseg:0.1.0", "runs", "skulls", gpus=1)


def documents(jobs: int | None = None, **changes: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    text = manifest(FOLDER, TRIALS, replace(CLUSTER, **changes), jobs=jobs, extra=["seed=1"])
    settings, job = yaml.safe_load_all(text)
    return settings, job


def test_each_index_trains_the_trial_of_its_line(tmp_path: Path) -> None:
    settings, job = documents()
    (container,) = job["spec"]["template"]["spec"]["containers"]
    shell = container["command"][-1]
    for name, text in settings["data"].items():
        (tmp_path / name).write_text(text)
    said = []
    for index in range(job["spec"]["completions"]):
        # The real command, with a famseg that only prints its arguments.
        script = f'famseg() {{ echo "$@"; }}; {shell.replace("exec ", "")}'.replace(
            "/sweep", str(tmp_path)
        )
        done = subprocess.run(
            ["sh", "-c", script],
            env={"JOB_COMPLETION_INDEX": str(index), "PATH": "/usr/bin:/bin"},
            capture_output=True,
            text=True,
            check=True,
        )
        said.append(done.stdout.strip())
    assert said == [
        f"train --config {tmp_path}/{trial.name}.yaml "
        f"--into /runs/lambda-1-0a1b2c3d/{trial.name} seed=1"
        for trial in TRIALS
    ]


def test_a_lost_pod_is_retried_and_a_finished_index_is_not() -> None:
    _, job = documents(jobs=2)
    spec = job["spec"]
    assert (spec["completionMode"], spec["completions"], spec["parallelism"]) == ("Indexed", 3, 2)
    assert spec["backoffLimitPerIndex"] == 6
    assert spec["template"]["spec"]["restartPolicy"] == "Never"
    assert spec["template"]["spec"]["terminationGracePeriodSeconds"] == 120


def test_gpus_and_data_are_mounted_where_they_are_asked_for() -> None:
    pod = documents()[1]["spec"]["template"]["spec"]
    assert pod["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert {"name": "data", "mountPath": "/data", "readOnly": True} in (
        pod["containers"][0]["volumeMounts"]
    )
    pod = documents(gpus=0, data=None)[1]["spec"]["template"]["spec"]
    assert "nvidia.com/gpu" not in pod["containers"][0]["resources"]["limits"]
    assert "data" not in {volume["name"] for volume in pod["volumes"]}


def test_too_long_a_manifest_is_refused() -> None:
    large = [Trial(f"t{i}", {}, "x" * 100_000, 1, 0) for i in range(10)]
    with pytest.raises(InputError, match="too long for one job"):
        manifest(FOLDER, large, CLUSTER, jobs=None)


def test_the_manifest_follows_the_schema(tmp_path: Path) -> None:
    if find_spec("kubernetes_validate") is None:
        pytest.skip("no kubernetes-validate: pip install famseg[release]")
    import kubernetes_validate

    for each in documents():
        kubernetes_validate.validate(each, "1.33", strict=True)
