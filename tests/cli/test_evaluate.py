from __future__ import annotations

from pathlib import Path

import pytest
from command import Run


def test_a_folder_that_is_no_run_is_refused(famseg: Run, tmp_path: Path) -> None:
    done = famseg("evaluate", "nowhere")
    assert done.returncode == 2
    assert done.stderr.strip() == (
        "famseg: nowhere: is no run folder (it has no config.yaml). Give one below runs/."
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
