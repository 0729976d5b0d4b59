from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from command import Run

from famseg.cli._evaluate import evaluate
from famseg.cli._measure import measure
from famseg.config import load, to_yaml
from famseg.messages import InputError


def test_a_folder_that_is_no_run_is_refused(famseg: Run, tmp_path: Path) -> None:
    done = famseg("evaluate", "nowhere")
    assert done.returncode == 2
    assert done.stderr.strip() == (
        "famseg: nowhere: is not a run folder (it has no config.yaml). Give one below runs/."
    )


@pytest.mark.slow
def test_a_run_without_a_checkpoint_is_said(famseg: Run, tmp_path: Path) -> None:
    shown = famseg("config", "show", "--config", "smoke/skull")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text(shown.stdout)
    done = famseg("evaluate", "run", "--checkpoint", "last")
    assert done.returncode == 2
    expected = (
        "famseg: run/checkpoints/last.pt: there is no such checkpoint. Has the run saved one?"
    )
    assert done.stderr.strip() == expected


@pytest.mark.parametrize("command", [evaluate, measure])
def test_a_run_on_the_cpu_asks_for_no_gpus(
    command: Callable[..., None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """More processes than GPUs are refused only if the run uses GPUs."""
    for name, value in {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    run = tmp_path / "run"
    run.mkdir()
    for device, kind, message in (
        ("auto", InputError, "2 processes were started on a machine with 1 GPU"),
        ("cpu", ValueError, "RANK expected"),  # it continues and waits for the other process
    ):
        run.joinpath("config.yaml").write_text(
            to_yaml(load("smoke/skull", [f"training.device={device}"])[1])
        )
        with pytest.raises(kind, match=message):
            command(run)
