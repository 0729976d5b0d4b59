from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from famseg.sweep import SweepFolder, Trial, _local
from famseg.sweep._local import LocalRunner, Workers


def test_a_process_has_its_own_session_threads_and_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = (
        "import os, sys; print(os.getsid(0), os.environ['OMP_NUM_THREADS'],"
        " os.environ['CUDA_VISIBLE_DEVICES'], sys.stdin.read());"
        " print('famseg: said last', file=sys.stderr); sys.exit(3)"
    )
    command = [sys.executable, "-c", program]
    monkeypatch.setattr(_local, "trial_command", lambda *_, **__: command)
    folder = SweepFolder(tmp_path, "s")
    (tmp_path / "logs").mkdir()
    workers = Workers(1, 2, devices=("GPU-7",))
    runner = LocalRunner(folder, "dsc", workers, stop=lambda: False, show=lambda states: None)
    outcome = runner.run([Trial("a", {}, "", 1, 0)])
    assert outcome.failed == {"a": "said last"}
    session, *rest = (tmp_path / "logs" / "a.log").read_text().split()
    assert int(session) != os.getsid(0)
    assert rest == ["2", "GPU-7", "famseg:", "said", "last"]
