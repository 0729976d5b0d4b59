from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from famseg.messages import InputError
from famseg.sweep import SlurmRunner, SweepFolder, Trial, write_array

TRIALS = [Trial(f"lambda{value}-seed1-abc", {}, "", 3, 1) for value in (0, 1)]


def test_each_task_trains_the_trial_of_its_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    place = tmp_path / "my sweep"
    (place / "logs").mkdir(parents=True)
    script = write_array(SweepFolder(place, "sweep-1"), TRIALS, extra=["tracking.enabled=false"])
    text = script.read_text()
    assert "#SBATCH --requeue\n#SBATCH --signal=TERM@120\n" in text
    bin_ = tmp_path / "bin"
    bin_.mkdir()
    (bin_ / "srun").write_text('#!/bin/sh\nfor word; do echo "$word"; done\n')
    (bin_ / "srun").chmod(0o755)
    for number, trial in enumerate(TRIALS):
        environment = {"SLURM_ARRAY_TASK_ID": str(number), "PATH": f"{bin_}:/usr/bin:/bin"}
        subprocess.run(["bash", str(script)], env=environment, check=True)
        words = (place / "logs" / f"{trial.name}.log").read_text().splitlines()
        assert words[1:] == [
            *("-m", "famseg", "train"),
            *("--config", f"{place}/configs/{trial.name}.yaml"),
            *("--into", f"{place}/trials/{trial.name}", "tracking.enabled=false"),
        ]
    if shutil.which("shellcheck"):
        assert subprocess.run(["shellcheck", str(script)], check=False).returncode == 0


def test_without_slurm_a_line_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match="sbatch was not found"):
        SlurmRunner(
            SweepFolder(tmp_path, "s"),
            "dsc",
            jobs=None,
            options=(),
            stop=lambda: False,
            show=lambda states: None,
        )
