"""Trials as tasks of an existing Ray cluster, each in its own process."""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from famseg.files import open_to_append
from famseg.messages import InputError
from famseg.sweep._folder import SweepFolder
from famseg.sweep._local import Outcome, last_line, trial_command
from famseg.sweep._state import State, read_states, unfinished
from famseg.sweep._trials import Trial

_logger = logging.getLogger("famseg")

_POLL_S = 2.0
_GRACE_S = 60.0
_CONNECT_S = 10.0
_MOST_TRIES = 6
_RETRY_S = 20.0  # the lease of a lost node expires after a minute


class RayRunner:
    """Runs trials as tasks of an existing Ray cluster until all are done.

    All nodes must have famseg and the sweep's folder at the same path. Each task starts ``famseg
    train --into`` as a process and waits for it. A task whose node is lost is rerun on another
    node, where the trial resumes from its checkpoint; so is a killed task, up to five times.

    Args:
        folder: The sweep, on a shared file system.
        metric: Name of the validation's key metric.
        address: The address of the cluster, such as ``HOST:6379`` or ``auto``.
        jobs: Largest number of simultaneous trials; None for as many as fit into the cluster.
        threads: Threads, and thus cores, per trial.
        gpus: GPUs per trial.
        stop: Whether a signal requested the end.
        show: Called with the states of all trials.

    Raises:
        InputError: If Ray is not installed or the cluster does not exist.
    """

    def __init__(
        self,
        folder: SweepFolder,
        metric: str,
        *,
        address: str,
        jobs: int | None,
        threads: int,
        gpus: int,
        stop: Callable[[], bool],
        show: Callable[[Mapping[str, State]], None],
    ) -> None:
        self.folder = SweepFolder(folder.path.resolve(), folder.sweep_id)
        self.metric = metric
        self.jobs = jobs
        self.threads = threads
        self._stop = stop
        self._show = show
        self._ray = _connect(address)
        self._task = self._ray.remote(num_cpus=threads, num_gpus=gpus, max_retries=_MOST_TRIES)(
            run_trial
        )

    def run(
        self, trials: Sequence[Trial], *, until: int | None = None, extra: Sequence[str] = ()
    ) -> Outcome:
        """Run trials to the end, or up to an epoch; arguments as for `LocalRunner.run`."""
        outcome = Outcome()
        running: dict[str, Any] = {}
        tries: dict[str, int] = {}
        ended_at: dict[str, float] = {}
        while True:
            outcome.states = read_states(self.folder, trials, self.metric)
            self._show(outcome.states)
            for name in self._ended(running, outcome):
                ended_at[name] = time.monotonic()
            waiting = unfinished(
                trials, outcome.states, until=until, without=running.keys() | outcome.failed.keys()
            )
            elsewhere = any(state.kind == "running" for state in outcome.states.values())
            if self._stop() or not (waiting or running or elsewhere):
                break
            for trial in waiting:
                soon = time.monotonic() - ended_at.get(trial.name, -_RETRY_S) < _RETRY_S
                if soon or len(running) >= (self.jobs or len(trials)):
                    continue
                tries[trial.name] = tries.get(trial.name, 0) + 1
                if tries[trial.name] > _MOST_TRIES:
                    outcome.failed[trial.name] = f"ended {_MOST_TRIES} times unfinished"
                    continue
                command = trial_command(self.folder, trial, threads=self.threads, until=until)
                log = str(self.folder.log(trial))
                running[trial.name] = self._task.remote(
                    [*command[1:], *extra], log, str(Path.cwd())
                )
            time.sleep(_POLL_S)
        for task in running.values():
            self._ray.cancel(task)  # the task tells its process to save and end
        if running:
            self._ray.wait(list(running.values()), num_returns=len(running), timeout=_GRACE_S)
        return outcome

    def _ended(self, running: dict[str, Any], outcome: Outcome) -> list[str]:
        """Handle tasks that have ended; return the names of their trials."""
        if not running:
            return []
        ready, _ = self._ray.wait(list(running.values()), num_returns=len(running), timeout=0)
        names = [name for name, task in running.items() if task in ready]
        for name in names:
            try:
                status, line = self._ray.get(running.pop(name))
            except self._ray.exceptions.RayError as error:
                _logger.warning("%s: %s. It is tried again.", name, str(error).partition("\n")[0])
                continue
            if status in (1, 2) and "is in use by" not in line:
                outcome.failed[name] = line or f"exit status {status}"
        return names


def run_trial(command: Sequence[str], log: str, folder: str) -> tuple[int, str]:
    """Run a trial as a process on this node; return its exit status and last line of output.

    If the task is canceled, the process is told to save and end.

    Args:
        command: The arguments of ``python``.
        log: The file to which it prints.
        folder: Its working folder.
    """
    with open_to_append(Path(log)) as file:
        process = subprocess.Popen(  # noqa: S603  # runs famseg
            [sys.executable, *command],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            env=dict(os.environ),
        )
        try:
            status = process.wait()
        except BaseException:
            process.terminate()
            process.wait()
            raise
    return status, last_line(Path(log))


def _connect(address: str) -> Any:  # noqa: ANN401  # Ray is a module without types
    try:
        import ray
    except ImportError as error:
        raise InputError("--backend ray: Ray is not installed: pip install famseg[ray]") from error
    try:
        _check_open(address)  # Ray itself would retry for minutes
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, RuntimeError, ValueError) as error:
        reason = str(error).partition("\n")[0][:200]
        raise InputError(
            f"--address: there is no Ray cluster at {address} ({reason}). Start one with ray start "
            "--head, and give HOST:6379."
        ) from error
    return ray


def _check_open(address: str) -> None:
    """Check that a server listens at HOST:PORT; Ray checks other forms of addresses.

    Raises:
        OSError: If there is none.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), timeout=_CONNECT_S).close()
