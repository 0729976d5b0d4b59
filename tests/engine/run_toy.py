"""Runs the toy task as ``famseg train`` runs a pipeline: ``run_toy.py OUTPUT KEY=VALUE...``.

Keys: ``resume`` and ``weights`` as of `Session.run`; ``pause`` seconds after each step; ``kill_at``
ends the process by SIGKILL just before it opens its record so many times; all else is of the
section ``training``. ``wide`` takes another network, ``group`` makes a group of the processes,
``nohup`` ignores SIGHUP as that program does, and ``terminal`` runs in one that is closed then.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import pty
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch
from toy import Boxes, Log, changed, make_experiment

from famseg.engine import Experiment, Interrupted, RunConfig, Session, processes, stop_on_signals
from famseg.messages import InputError


def main(output: Path, options: dict[str, Any]) -> None:
    """Train and evaluate; exit statuses are those of the command."""
    torch.set_num_threads(1)
    # As in a program that was not itself started by a fork server, which workers would import anew.
    multiprocessing.set_start_method("fork", force=True)
    resume, weights = options.pop("resume", False), options.pop("weights", None)
    pause, kill_at = options.pop("pause", 0.0), options.pop("kill_at", 0)
    wide = options.pop("wide", False)
    if options.pop("group", False):
        os.setsid()
    if options.pop("terminal", False):
        in_terminal("step 2")
    if options.pop("nohup", False):
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    if kill_at:
        kill_before_record(kill_at)
    config = RunConfig.model_validate(
        {
            "pipeline": "skull",
            "name": "toy",
            "output": str(output),
            "training": {"epochs": 3, "batch_size": 2, **options},
            "penalty": {"kind": "none"},
            "tracking": {"enabled": False},
        }
    )

    def build(config: RunConfig, device: torch.device) -> Experiment:
        experiment = make_experiment(dtype=torch.float64, normalized=wide)
        return changed(experiment, tests={"set": Boxes(2, torch.float64)})

    try:
        with processes() as group, stop_on_signals() as stop:
            session = Session(build, config, processes=group, stop=stop)
            session.run(
                resume=Path(resume) if isinstance(resume, str) else resume,
                weights=None if weights is None else Path(weights),
                observers=[Slow(pause)],
            )
    except InputError as error:
        print("\n".join(error.faults), file=sys.stderr)
        sys.exit(2)
    except Interrupted as error:
        print(error, file=sys.stderr)
        sys.exit(128 + error.signum)


def kill_before_record(times: int) -> None:
    """End as by a power cut just before the record of epochs is opened to be written to."""
    count = 0

    def hear(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal count
        if event == "open" and str(arguments[0]).endswith("/metrics.jsonl"):
            count += bool(arguments[2] & os.O_RDWR)
            if count == times:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hear)


def in_terminal(until: str) -> None:
    """Go on in a terminal, which is closed once a text was seen in it."""
    pid, screen = pty.fork()
    if pid == 0:
        return
    text = ""
    while until not in text:
        text += os.read(screen, 1000).decode()
    os.close(screen)
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))


class Slow(Log):
    """Says each step on standard error and then waits."""

    def __init__(self, pause: float) -> None:
        super().__init__()
        self.pause = pause

    def stepped(self, step: int, *, loss: float, penalty: float | None) -> None:
        if self.pause:
            print(f"step {step}", file=sys.stderr, flush=True)
            time.sleep(self.pause)


if __name__ == "__main__":
    main(Path(sys.argv[1]), {k: json.loads(v) for k, v in (a.split("=") for a in sys.argv[2:])})
