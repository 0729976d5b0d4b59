"""Trains the toy task as the process that a test starts: ``train_toy.py FOLDER KEY=VALUE...``."""

from __future__ import annotations

import json
import signal
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.optim import SGD
from toy import Log, make_experiment, make_fit, way_of_training

from famseg.engine import Fit, Interrupted, StopRequest, processes, stop_on_signals


def main(folder: Path, options: dict[str, object]) -> None:
    """Train, then write the weights and what an observer saw."""
    torch.set_num_threads(1)
    epochs = options.pop("epochs", 3)
    batch_size = options.pop("batch_size", 4)
    accumulate = options.pop("accumulate", 1)
    workers = options.pop("workers", 0)
    slow = options.pop("slow", False)
    backend = options.pop("backend", None)
    synced = options.pop("sync_batchnorm", True)
    stop_after = options.pop("stop_after", None)
    ways = {name: options.pop(name) for name in ("sam", "nso", "ema", "swa") if name in options}
    rate = options.pop("rate", 0.1)
    with processes(backend=backend) as group, stop_on_signals() as stop:
        experiment = make_experiment(
            dtype=torch.float64, optimizer=partial(SGD, lr=rate), **options
        )
        fit = make_fit(
            experiment,
            folder,
            epochs=epochs,
            batch_size=batch_size,
            accumulate=accumulate,
            workers=workers,
            sync_batchnorm=synced,
            processes=group,
            **{name: way_of_training(name, value) for name, value in ways.items()},
        )
        fit.restore()
        log = Log()
        observers = [log, Announcer()] if slow else [log]
        if stop_after is not None:
            interrupt(fit, stop, stop_after if group.rank == group.world - 1 else None)
            return
        fit.run(observers=observers, stop=stop)
        if group.main:
            gradients = {
                name: parameter.grad
                for name, parameter in experiment.objective.model.named_parameters()
            }
            state = experiment.objective.model.state_dict()
            torch.save({"weights": state, "gradients": gradients}, folder / "result.pt")
            (folder / "log.json").write_text(json.dumps(log.epochs))


def interrupt(fit: Fit, stop: StopRequest, step: int | None) -> None:
    """Train until a signal comes to this process after a step; or to another one."""
    after_step = fit._after_step

    def signalled(engine: Any, request: StopRequest) -> None:
        if engine.state.iteration == step:
            request(signal.SIGTERM, None)
        after_step(engine, request)

    fit._after_step = signalled
    with suppress(Interrupted):
        fit.run(stop=stop)


class Announcer(Log):
    """Says each step on standard output, so that a test can kill between two of them."""

    def __init__(self) -> None:
        super().__init__()

    def stepped(self, step: int, *, loss: float, penalty: float | None) -> None:
        print(step, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), {k: json.loads(v) for k, v in (a.split("=") for a in sys.argv[2:])})
