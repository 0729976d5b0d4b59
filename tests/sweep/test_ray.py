from __future__ import annotations

import signal
from importlib.util import find_spec
from pathlib import Path

import pytest

from famseg.messages import InputError
from famseg.sweep import RayRunner, SweepFolder
from famseg.sweep._ray import run_trial


def test_a_task_says_how_its_process_ended_and_what_it_said_last(tmp_path: Path) -> None:
    log = tmp_path / "log"
    program = "import os, sys; print(os.getcwd()); print('famseg: no'); sys.exit(2)"
    assert run_trial(["-c", program], str(log), str(tmp_path)) == (2, "no")
    assert log.read_text().splitlines()[0] == str(tmp_path)
    assert run_trial(["-c", ""], str(log), str(tmp_path))[0] == 0


def test_without_a_cluster_a_line_says_so(tmp_path: Path) -> None:
    reason = "is not installed" if find_spec("ray") is None else "there is no Ray cluster at"
    with pytest.raises(InputError, match=reason):
        RayRunner(
            SweepFolder(tmp_path, "s"),
            "dsc",
            address="127.0.0.1:1",
            jobs=None,
            threads=1,
            gpus=0,
            stop=lambda: False,
            show=lambda states: None,
        )


def test_a_cancelled_task_tells_its_process_to_save(tmp_path: Path) -> None:
    # Ray cancels by a KeyboardInterrupt; background jobs of a shell ignore SIGINT.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    program = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: (print('saved', flush=True), sys.exit(143)))\n"
        "signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "import os; os.kill(os.getppid(), signal.SIGINT); time.sleep(60)\n"
    )
    log = tmp_path / "log"
    try:
        with pytest.raises(KeyboardInterrupt):
            run_trial(["-c", program], str(log), str(tmp_path))
    finally:
        signal.signal(signal.SIGINT, before)
    assert log.read_text() == "saved\n"
