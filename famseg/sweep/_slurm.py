"""Trials as a Slurm job array: a readable script, which is submitted and monitored."""

from __future__ import annotations

import logging
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from famseg.files import write_atomically
from famseg.messages import InputError, RunError
from famseg.sweep._folder import SweepFolder
from famseg.sweep._local import Outcome, last_line
from famseg.sweep._state import State, read_states, unfinished
from famseg.sweep._trials import Trial

_logger = logging.getLogger("famseg")

_POLL_S = 5.0
_MOST_SUBMISSIONS = 10
# A job in one of these states writes to its run folder, or will do so.
_ALIVE = (
    "PENDING",
    "RUNNING",
    "COMPLETING",
    "CONFIGURING",
    "REQUEUED",
    "SUSPENDED",
    "RESIZING",
    "REQUEUE_HOLD",
    "REQUEUE_FED",
    "SIGNALING",
    "STAGE_OUT",
    "STOPPED",
    "SPECIAL_EXIT",
)

_SCRIPT = """\
#!/bin/bash
# A job array of famseg: one task for each trial of the sweep, which it starts or resumes.
# Two minutes before the time is over a training is told to stop: it saves and ends. A preempted
# task is queued again and resumes. Submit it by: famseg sweep ... --backend slurm
#SBATCH --job-name={name}
#SBATCH --requeue
#SBATCH --signal=TERM@120
#SBATCH --open-mode=append
#SBATCH --output={logs}/slurm-%A_%a.log
set -euo pipefail
cd {folder}
sweep={sweep}
trials=(
{names}
)
trial=${{trials[$SLURM_ARRAY_TASK_ID]}}
export OMP_NUM_THREADS=${{SLURM_CPUS_PER_TASK:-1}}
exec srun {python} -m famseg train \\
    --config "$sweep/configs/$trial.yaml" --into "$sweep/trials/$trial"{extra} \\
    >> "$sweep/logs/$trial.log" 2>&1
"""


def write_array(folder: SweepFolder, trials: Sequence[Trial], *, extra: Sequence[str] = ()) -> Path:
    """Write the batch script with its list of trials, and return it. Slurm keeps its own copy.

    Args:
        folder: The sweep, on a shared file system.
        trials: The trials, in the order of their tasks.
        extra: Overrides of keys that may change when a run is resumed.
    """
    sweep = folder.path.resolve()
    text = _SCRIPT.format(
        name=folder.sweep_id,
        logs=sweep / "logs",
        folder=shlex.quote(str(Path.cwd())),
        sweep=shlex.quote(str(sweep)),
        names="\n".join(f"    {shlex.quote(trial.name)}" for trial in trials),
        python=shlex.quote(sys.executable),
        extra="".join(f" {shlex.quote(word)}" for word in extra),
    )
    script = sweep / "sweep.sbatch"
    write_atomically(script, text.encode())
    return script


class SlurmRunner:
    """Submits unfinished trials as a job array, and monitors it.

    A task that is killed or reaches its time limit is submitted again until its trial is done, at
    most ten times. If the sweep is interrupted, its jobs continue, and a restarted sweep monitors
    them.

    Args:
        folder: The sweep.
        metric: Name of the validation's key metric.
        jobs: Largest number of simultaneous tasks; None for as many as Slurm allows.
        options: Further options of ``sbatch``, such as ``--gpus=1 --time=4:00:00``.
        stop: Whether a signal requested the end.
        show: Called with the states of all trials.
    """

    def __init__(
        self,
        folder: SweepFolder,
        metric: str,
        *,
        jobs: int | None,
        options: Sequence[str],
        stop: Callable[[], bool],
        show: Callable[[Mapping[str, State]], None],
    ) -> None:
        if shutil.which("sbatch") is None:
            raise InputError(
                "--backend slurm: sbatch was not found. Run the command on a login node."
            )
        self.folder = folder
        self.metric = metric
        self.jobs = jobs
        self.options = options
        self._stop = stop
        self._show = show

    def run(
        self, trials: Sequence[Trial], *, until: int | None = None, extra: Sequence[str] = ()
    ) -> Outcome:
        """Run trials to the end, or up to an epoch; arguments as for `LocalRunner.run`."""
        outcome = Outcome()
        words = [*extra, *([] if until is None else ["--until", str(until)])]
        submissions = 0
        tried: set[str] = set()
        while True:
            alive = self._tasks()
            outcome.states = read_states(self.folder, trials, self.metric)
            self._show(outcome.states)
            # A trial that failed in an earlier sweep is retried, since the reason may no longer
            # exist.
            failed = {n for n in tried if outcome.states[n].kind == "failed"}
            waiting = unfinished(trials, outcome.states, until=until, without=failed)
            running = any(state.kind == "running" for state in outcome.states.values())
            if self._stop() or not (waiting or running or alive):
                break
            if waiting and not alive:
                if submissions == _MOST_SUBMISSIONS:
                    for trial in waiting:
                        said = last_line(self.folder.log(trial))
                        outcome.failed[trial.name] = f"unfinished after {submissions} jobs: {said}"
                    break
                self._submit(waiting, words)
                tried |= {trial.name for trial in waiting}
                submissions += 1
            time.sleep(_POLL_S)
        for name, state in outcome.states.items():
            if state.kind == "failed":
                outcome.failed[name] = state.reason
        return outcome

    def _submit(self, trials: Sequence[Trial], words: Sequence[str]) -> None:
        script = write_array(self.folder, trials, extra=words)
        array = f"0-{len(trials) - 1}" + (f"%{self.jobs}" if self.jobs else "")
        text = _slurm("sbatch", "--parsable", f"--array={array}", *self.options, str(script))
        _logger.info("submitted job %s with %d tasks", text.strip(), len(trials))

    def _tasks(self) -> int:
        """Return the number of waiting and running tasks of this sweep, in all submissions."""
        text = _slurm(
            "squeue",
            "--noheader",
            "--array",
            "--me",
            f"--name={self.folder.sweep_id}",
            "--format=%T",
        )
        return sum(line.strip() in _ALIVE for line in text.splitlines())


def _slurm(*command: str) -> str:
    """Run a Slurm command and return its output.

    Raises:
        RunError: If it fails.
    """
    ended = subprocess.run(  # noqa: S603  # our own arguments, no shell
        command, capture_output=True, text=True, check=False
    )
    if ended.returncode:
        reason = ended.stderr.strip().splitlines() or [f"exit status {ended.returncode}"]
        raise RunError(
            f"{command[0]}: {reason[-1]}. Submitted jobs continue; run the command again."
        )
    return ended.stdout
