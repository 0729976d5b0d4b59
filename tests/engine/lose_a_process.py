"""Trains the toy task in processes of which one is lost: ``FOLDER BACKEND HOW RANK``."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import torch
from toy import make_experiment, make_fit

from famseg.cli import _main
from famseg.engine import processes, stop_on_signals


def train(folder: Path, backend: str, how: str, lost: str) -> None:
    """Train until the process of that rank is killed, or fails, in its third step."""
    torch.set_num_threads(1)
    with processes(backend=backend) as group, stop_on_signals() as stop:
        fit = make_fit(make_experiment(), folder, processes=group, batch_size=4)

        def die(step: int, **_: object) -> None:
            if group.rank == int(lost) and step == 3 and how == "fails":
                raise MemoryError
            if group.rank == int(lost) and step == 3:
                os.kill(os.getpid(), signal.SIGKILL)

        observe = fit._after_step
        fit._after_step = lambda engine, stop: (die(engine.state.iteration), observe(engine, stop))
        fit.run(stop=stop)


if __name__ == "__main__":
    _main.app = lambda: train(Path(sys.argv[1]), *sys.argv[2:])
    _main.main()
