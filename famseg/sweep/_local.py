"""Trials as processes on this machine."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from famseg.files import open_to_append
from famseg.messages import counted
from famseg.runs import RunFolder
from famseg.sweep._folder import SweepFolder
from famseg.sweep._resources import gpus, memory_of
from famseg.sweep._state import State, read_state, read_states, unfinished
from famseg.sweep._trials import Trial
from famseg.tracking import free_memory, usable_cores

_logger = logging.getLogger("famseg")

_POLL_S = 0.25
_LOOK_S = 2.0  # interval between two checks of the folders
_UNKNOWN_BYTES = 2 * 2**30  # memory of a trial before one was observed
_RESERVE = 1.15  # factor for a peak after the observed memory
_MOST_KILLS = 3
_KILLED = {-signal.SIGKILL, 128 + signal.SIGKILL}
Device = Literal["auto", "cpu", "cuda"]


@dataclass(frozen=True)
class Workers:
    """The number of simultaneous trials and their resources.

    Args:
        jobs: Largest number of simultaneous trials.
        threads: Threads per trial.
        devices: GPUs, one for each trial; empty on the CPU.
    """

    jobs: int
    threads: int
    devices: tuple[str, ...] = ()


@dataclass
class Running:
    """A trial that is trained by a child process."""

    trial: Trial
    process: subprocess.Popen[bytes]
    device: str | None
    peak: int = 0


@dataclass
class Outcome:
    """The results of the trials.

    Attributes:
        states: The final states by name of the trial.
        failed: Names of trials that failed, with the reason.
    """

    states: dict[str, State] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)


def plan_workers(device: str, threads: int | None, jobs: int | None, trials: int) -> Workers:
    """Choose the number of simultaneous trials.

    It is one per GPU, or one per core with one thread each, because several small trainings in
    parallel finish sooner than one at a time with all threads. While they run, memory limits them
    further.

    Args:
        device: ``training.device`` of the trials.
        threads: ``training.threads`` of the trials, or None.
        jobs: The requested number, or None.
        trials: Number of trials to run.
    """
    found = () if device == "cpu" else tuple(gpus())
    usable = usable_cores()
    if found:
        number = jobs or len(found)
        devices = tuple(found[index % len(found)] for index in range(number))
        return Workers(number, threads or max(1, usable // number), devices)
    number = jobs or max(1, min(trials, usable // (threads or 1)))
    return Workers(number, threads or max(1, usable // number))


class LocalRunner:
    """Runs trials as processes until all are done.

    Each is ``famseg train --into``, whose run folder has one owner: a sweep that is started twice
    shares the trials, and waits for those of the other process. A killed trial is resumed up to
    three times; if memory may be the reason, fewer run at once.

    Args:
        folder: The sweep.
        metric: Name of the validation's key metric.
        workers: The number of simultaneous trials and their resources.
        stop: Whether a signal requested the end.
        show: Called about every two seconds with the states of all trials.
    """

    def __init__(
        self,
        folder: SweepFolder,
        metric: str,
        workers: Workers,
        *,
        stop: Callable[[], bool],
        show: Callable[[Mapping[str, State]], None],
    ) -> None:
        self.folder = folder
        self.metric = metric
        self.workers = workers
        self._stop = stop
        self._show = show
        self._running: list[Running] = []
        self._kills: dict[str, int] = {}
        self._most = 0  # largest memory of a trial in bytes observed so far

    def run(
        self, trials: Sequence[Trial], *, until: int | None = None, extra: Sequence[str] = ()
    ) -> Outcome:
        """Run trials to the end, or up to an epoch.

        Args:
            trials: The trials, in the order in which they start.
            until: The epoch at which they pause; None for the end.
            extra: Further overrides of keys that may change when a run is resumed.

        Returns:
            Their states; after a signal, as soon as the running trials have saved.
        """
        outcome, looked = Outcome(), 0.0
        try:
            while True:
                self._collect(outcome)
                if time.monotonic() - looked >= _LOOK_S or not self._running:
                    outcome.states = read_states(self.folder, trials, self.metric)
                    self._show(outcome.states)
                    looked = time.monotonic()
                ours = {each.trial.name for each in self._running}
                waiting = unfinished(
                    trials, outcome.states, until=until, without=ours | outcome.failed.keys()
                )
                if self._stop():
                    break
                if waiting and self._start_next(waiting, until, extra):
                    continue
                if not self._running and not waiting and not self._elsewhere(outcome):
                    break
                time.sleep(_POLL_S)
        finally:
            self._end()
        self._collect(outcome)
        outcome.states = read_states(self.folder, trials, self.metric)
        self._show(outcome.states)
        return outcome

    def _elsewhere(self, outcome: Outcome) -> bool:
        """Return whether another sweep, or an orphan of a killed one, is running a trial."""
        return any(
            state.kind == "running" and name not in outcome.failed
            for name, state in outcome.states.items()
        )

    def _start_next(
        self, waiting: Sequence[Trial], until: int | None, extra: Sequence[str]
    ) -> bool:
        if len(self._running) >= self.workers.jobs or not self._fits():
            return False
        taken = [each.device for each in self._running]
        free = [device for device in self.workers.devices if device not in taken]
        device = next(iter([*free, *self.workers.devices]), None)
        trial = waiting[0]
        process = self._spawn(trial, device, until, extra)
        self._running.append(Running(trial, process, device))
        return True

    def _fits(self) -> bool:
        """Return whether there is memory for another trial and for growth of the running ones."""
        if not self._running:
            return True
        need = self._most or _UNKNOWN_BYTES
        growth = sum(max(0, need - memory_of(each.process.pid)) for each in self._running)
        return free_memory() > _RESERVE * need + growth

    def _spawn(
        self, trial: Trial, device: str | None, until: int | None, extra: Sequence[str]
    ) -> subprocess.Popen[bytes]:
        command = trial_command(self.folder, trial, threads=self.workers.threads, until=until)
        environment = {**os.environ, "OMP_NUM_THREADS": str(self.workers.threads)}
        if device is not None:
            environment["CUDA_VISIBLE_DEVICES"] = device
        with open_to_append(self.folder.log(trial)) as log:
            return subprocess.Popen(  # noqa: S603  # runs famseg
                [*command, *extra],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,  # Ctrl-C reaches the sweep, which tells the trials
            )

    def _collect(self, outcome: Outcome) -> None:
        """Handle processes that have ended."""
        for each in list(self._running):
            each.peak = max(each.peak, memory_of(each.process.pid))
            self._most = max(self._most, each.peak)
            status = each.process.poll()
            if status is None:
                continue
            self._running.remove(each)
            name = each.trial.name
            state = read_state(self.folder.run_folder(each.trial), self.metric)
            outcome.states[name] = state
            if status == 0 or self._stop() or self._was_taken(each.trial, state):
                continue
            if status < 0 or status in _KILLED or status >= 128:
                self._killed(each.trial, status, outcome)
            else:
                outcome.failed[name] = (
                    last_line(self.folder.log(each.trial)) or f"exit status {status}"
                )

    def _was_taken(self, trial: Trial, state: State) -> bool:
        """Return whether another process owned the run folder, or had already finished the run."""
        return state.kind in ("running", "finished") or "is in use by" in last_line(
            self.folder.log(trial)
        )

    def _killed(self, trial: Trial, status: int, outcome: Outcome) -> None:
        kills = self._kills[trial.name] = self._kills.get(trial.name, 0) + 1
        if status in _KILLED and self.workers.jobs > 1 and not self.workers.devices:
            self.workers = Workers(self.workers.jobs - 1, self.workers.threads)
            _logger.warning(
                "%s was killed, perhaps for its memory: now at most %d trials run at once.",
                trial.name,
                self.workers.jobs,
            )
        if kills > _MOST_KILLS:
            outcome.failed[trial.name] = f"was killed {kills} times, the last with status {status}"

    def _end(self) -> None:
        """Tell running trials to save and end, and wait for them."""
        for each in self._running:
            with suppress(ProcessLookupError):
                each.process.send_signal(signal.SIGTERM)
        for each in self._running:
            each.process.wait()


def trial_command(
    folder: SweepFolder, trial: Trial, *, threads: int | None = None, until: int | None = None
) -> list[str]:
    """Return the command that starts, resumes or only reports a trial.

    Args:
        folder: The sweep.
        trial: The trial.
        threads: Threads of the process, or None.
        until: The epoch at which it pauses, or None.
    """
    command = [sys.executable, "-m", "famseg", "train", "--config", str(folder.config(trial))]
    command += ["--into", str(folder.run_folder(trial))]
    command += [] if until is None or until >= trial.epochs else ["--until", str(until)]
    return command + ([] if threads is None else [f"training.threads={threads}"])


def track_finished(
    folder: SweepFolder, trials: Sequence[Trial], metric: str, *, stop: Callable[[], bool]
) -> None:
    """Let finished trials report again one at a time, which tracks them in MLflow.

    Args:
        folder: The sweep.
        trials: The trials; unfinished ones are skipped.
        metric: Name of the validation's key metric.
        stop: Whether a signal requested the end.
    """
    for trial in trials:
        if stop() or read_state(folder.run_folder(trial), metric).kind != "finished":
            continue
        with open_to_append(folder.log(trial)) as log:
            ended = subprocess.run(  # noqa: S603  # runs famseg
                trial_command(folder, trial), stdout=log, stderr=log, check=False
            )
        if ended.returncode:
            reason = last_line(folder.log(trial))
            _logger.warning("%s: could not be tracked: %s", trial.name, reason)


def send_rest(
    folder: SweepFolder, trials: Sequence[Trial], metric: str, *, stop: Callable[[], bool]
) -> None:
    """Send finished trials again of which MLflow lacks a part, because it was away or full.

    Ends at the first trial that cannot be sent: then the store is still away.

    Args:
        folder: The sweep.
        trials: The trials; unfinished ones are skipped.
        metric: Name of the validation's key metric.
        stop: Whether a signal requested the end.
    """
    behind = [trial for trial in trials if not RunFolder(folder.run_folder(trial)).is_sent()]
    for number, trial in enumerate(behind):
        track_finished(folder, [trial], metric, stop=stop)
        finished = read_state(folder.run_folder(trial), metric).kind == "finished"
        if finished and not RunFolder(folder.run_folder(trial)).is_sent():
            _logger.warning(
                "MLflow lacks a part of %s. The run folders have it; run the same command again "
                "to send it.",
                counted(len(behind) - number, "trial"),
            )
            return


def last_line(log: Path) -> str:
    """Return the last line printed by a trial, which is the reason if it failed."""
    with suppress(OSError):
        lines = log.read_bytes()[-4096:].decode(errors="replace").strip().splitlines()
        return (lines or [""])[-1].removeprefix("famseg: ")
    return ""
