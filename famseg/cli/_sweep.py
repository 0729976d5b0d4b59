"""``famseg sweep``."""

from __future__ import annotations

import inspect
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import famseg
from famseg.cli._common import DeviceOption, SeedOption, overrides_of, refuse_options
from famseg.cli._progress import duration
from famseg.cli._say import say, say_json
from famseg.messages import InputError, counted

if TYPE_CHECKING:
    from famseg.sweep import Cluster, Outcome, Runner, Show, State, Sweep, Trial

    Shown = Callable[[Mapping[str, State]], None]

EXAMPLES = """
Examples:

  famseg sweep --config skull.yaml lambda=0,0.0006,0.002,0.02 seed=1..5 --out runs/lambda

  famseg sweep --config skull.yaml lambda=0,0.002 seed=1..5 --out runs/lambda --dry-run

  famseg sweep --config skull.yaml "lambda=loguniform(1e-4,0.1)" --trials 12 --out runs/random

  famseg sweep --config skull.yaml optimizer.learning_rate=1e-4,3e-4,1e-3 --halving 3 --out rates
"""
_LIVE_ROWS = 20


class Backend(StrEnum):
    """Where trials run."""

    local = "local"
    slurm = "slurm"
    ray = "ray"
    kubernetes = "kubernetes"


_ONLY = {
    "slurm_options": {Backend.slurm},
    "address": {Backend.ray},
    "cores": {Backend.ray, Backend.kubernetes},
    "gpus": {Backend.ray, Backend.kubernetes},
    "memory": {Backend.kubernetes},
    "image": {Backend.kubernetes},
    "claim": {Backend.kubernetes},
    "data_claim": {Backend.kubernetes},
}
"""The back ends for which an option of `sweep` has an effect, if not for all."""


# Long, and with many parameters, because each option of the command is stated here once.
def sweep(
    context: typer.Context,
    config: Annotated[
        str,
        typer.Option(
            "--config",
            "-c",
            help="Configuration: a path, or the name of a shipped one, such as skull.",
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            metavar="SWEEP",
            help="Folder of the sweep. If it exists, finished trials are kept and interrupted ones "
            "are resumed.",
        ),
    ],
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="KEY=VALUES",
            help="Settings to vary: lambda=0,0.002 seed=1..5; with --trials also "
            "loguniform(1e-4,0.1), uniform(a,b), randint(a,b). A single value is set for all "
            "trials.",
        ),
    ] = None,
    jobs: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Maximum number of trials at once. Default: one per GPU or, without a GPU, one "
            "per core; fewer if memory is short.",
        ),
    ] = None,
    trials: Annotated[
        int | None,
        typer.Option(
            min=1, help="Random search: number of settings to draw, each run with every seed."
        ),
    ] = None,
    draw_seed: Annotated[int, typer.Option(help="Seed of the random settings.")] = 0,
    halving: Annotated[
        int | None,
        typer.Option(
            min=2,
            metavar="N",
            help="Successive halving: train all settings for a few epochs, then the best 1/N of "
            "them (by validation) for N times as many epochs, and so on.",
        ),
    ] = None,
    first_epochs: Annotated[
        int | None, typer.Option(min=1, help="Epochs of the first stage of --halving.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Run at most this many trials in this call.")
    ] = None,
    backend: Annotated[
        Backend,
        typer.Option(
            help="Where trials run. local: on this machine; slurm: as a job array, which is "
            "submitted and followed; ray: as tasks on the cluster at --address; kubernetes: a "
            "manifest is written."
        ),
    ] = Backend.local,
    slurm_options: Annotated[
        str,
        typer.Option(
            "--slurm",
            metavar="OPTIONS",
            help='Options for sbatch, such as "--gpus=1 --time=4:00:00".',
        ),
    ] = "",
    address: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Address of the Ray cluster.")
    ] = "auto",
    cores: Annotated[int, typer.Option(min=1, help="Cores per trial (Ray and Kubernetes).")] = 2,
    gpus: Annotated[int, typer.Option(min=0, help="GPUs per trial (Ray and Kubernetes).")] = 0,
    memory: Annotated[str, typer.Option(help="Memory per trial (Kubernetes).")] = "8Gi",
    image: Annotated[
        str, typer.Option(help="Image for Kubernetes.")
    ] = f"famseg:{famseg.__version__}",
    claim: Annotated[
        str, typer.Option(help="Kubernetes: volume claim of the run folders, at /runs.")
    ] = "famseg-runs",
    data_claim: Annotated[
        str | None, typer.Option(help="Kubernetes: volume claim of the data, at /data.")
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Only print which trials would run and how long they will take."
        ),
    ] = False,
    device: DeviceOption = None,
    seed: SeedOption = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the result as JSON on standard output.")
    ] = False,
) -> None:
    """Train many runs: all combinations, random settings, or successive halving.

    A trial is one configuration; its hash names its run folder in SWEEP/trials. Finished trials are
    never run again, interrupted ones are resumed, and two processes of the same sweep share the
    trials. The output of a trial is in SWEEP/logs. See the result with: famseg compare SWEEP. Exit
    status: 0 all finished, 1 a trial failed (the others continue), 2 wrong input.
    """
    from famseg.engine import Interrupted, stop_on_signals
    from famseg.sweep import (
        Cluster,
        RayRunner,
        Request,
        SlurmRunner,
        local_runner,
        plan_sweep,
        run_sweep,
    )

    idle = {name for name, backends in _ONLY.items() if backend not in backends}
    used = {each.name for each in context.command.params if each.name} - idle
    refuse_options(context, used, f"has no effect with --backend {backend}")
    request = Request(
        config,
        tuple(overrides_of(words, device=device, seed=seed)),
        trials=trials,
        draw_seed=draw_seed,
        halving=halving,
        first_epochs=first_epochs,
        limit=limit,
    )
    plan = plan_sweep(request, out, dry=dry_run)
    if dry_run:
        _say_plan(plan, jobs, as_json=as_json)
        return
    if backend is Backend.kubernetes:
        cluster = Cluster(image, claim, data_claim, gpus=gpus, cpus=cores, memory=memory)
        _write_manifest(plan, cluster, jobs)
        return
    with stop_on_signals() as stop, stop.deferred(), _display(plan) as show:

        def stopped() -> bool:
            return stop.signum is not None

        def runner(shown: Shown) -> Runner:
            if backend is Backend.slurm:
                options = shlex.split(slurm_options)
                return SlurmRunner(
                    plan.folder, plan.metric, jobs=jobs, options=options, stop=stopped, show=shown
                )
            if backend is Backend.ray:
                return RayRunner(
                    plan.folder,
                    plan.metric,
                    address=address,
                    jobs=jobs,
                    threads=cores,
                    gpus=gpus,
                    stop=stopped,
                    show=shown,
                )
            return local_runner(plan, shown, jobs=jobs, stop=stopped)

        outcome = run_sweep(
            plan, runner, stop=stopped, show=show, several_machines=backend is not Backend.local
        )
    _say_outcome(plan, outcome, as_json=as_json)
    if stop.signum is not None:
        say("progress was saved; resume with the same command", err=True)
        raise Interrupted(stop.signum)
    if outcome.failed:
        raise typer.Exit(1)


sweep.__doc__ = f"{inspect.cleandoc(sweep.__doc__ or '')}\n{EXAMPLES}"


def _say_plan(plan: Sweep, jobs: int | None, *, as_json: bool) -> None:
    """Print what a sweep would run and, if a trial has been timed, how long it will take."""
    from famseg.sweep import counts, seconds_left

    states = plan.states()
    left = seconds_left(plan.trials, states, jobs or 1)
    if as_json:
        say_json(_described(plan, states) | {"seconds_left": left})
        return
    if plan.request.halving and len(plan.stages) == 1:
        say(
            "--halving: there are too few settings or epochs to halve; all settings are trained in "
            "full."
        )
    for stage in plan.stages if len(plan.stages) > 1 else ():
        say(f"{stage.settings} settings to epoch {stage.epoch}")
    for trial in plan.trials:
        say(f"{trial.name}  {states[trial.name].kind}, {trial.epochs} epochs")
    say(counts(states))
    if left is None:
        say("The time is known once a trial has completed an epoch: run one with --limit 1.")
    else:
        at_once = f"with {jobs} at once" if jobs else "one after the other"
        say(f"About {duration(left)} of training is left, {at_once}, without the evaluations.")


def _write_manifest(plan: Sweep, cluster: Cluster, jobs: int | None) -> None:
    """Write the manifest of a sweep, and print how to use it."""
    from famseg.files import write_atomically
    from famseg.sweep import manifest
    from famseg.tracking import resolve_uri, sqlite_path

    if len(plan.stages) > 1:
        raise InputError("--halving: is not available with --backend kubernetes.")
    path = plan.folder.path / "sweep.k8s.yaml"
    tracking = plan.config.tracking
    # Pods cannot share a database file, so runs keep their record only in their folders.
    alone = tracking.enabled and sqlite_path(resolve_uri(tracking.uri)) is not None
    extra = ["tracking.enabled=false"] * alone
    text = manifest(plan.folder, plan.limited, cluster, jobs=jobs, extra=extra)
    write_atomically(path, text.encode())
    say(f"{counted(len(plan.limited), 'trial')} in {path}")
    if alone:
        say("MLflow       not used, since it needs a server: set tracking.uri=http://HOST:5000")
    say(f"start        kubectl apply -f {shlex.quote(str(path))}")


def _say_outcome(plan: Sweep, outcome: Outcome, *, as_json: bool) -> None:
    from famseg.sweep import counts, table

    if as_json:
        say_json(_described(plan, outcome.states) | {"failed": outcome.failed})
        return
    from rich.console import Console

    Console(highlight=False).print(table(plan.trials, outcome.states, metric=plan.metric))
    say(counts(outcome.states))
    for name, reason in outcome.failed.items():
        say(f"! {name} failed: {reason}; see {plan.folder.path}/logs/{name}.log")
    if any(state.kind == "finished" for state in outcome.states.values()):
        say(f"\ncompare      famseg compare {shlex.quote(str(plan.folder.path))}")


def _described(plan: Sweep, states: Mapping[str, State]) -> dict[str, Any]:
    return {
        "sweep": str(plan.folder.path),
        "sweep_id": plan.folder.sweep_id,
        "metric": plan.metric,
        "stages": [{"epoch": each.epoch, "settings": each.settings} for each in plan.stages],
        "trials": [
            {
                "name": trial.name,
                "point": dict(trial.point),
                "run": str(plan.folder.run_folder(trial)),
                "state": states[trial.name].kind,
                "epoch": states[trial.name].epoch,
                "epochs": trial.epochs,
                "best": states[trial.name].best,
                "seconds": states[trial.name].seconds,
                "reason": states[trial.name].reason,
            }
            for trial in plan.trials
        ],
    }


@contextmanager
def _display(plan: Sweep) -> Iterator[Show]:
    """Yield the display of the trials: a live table on a terminal, a line per change elsewhere."""
    from rich.console import Console, Group
    from rich.live import Live
    from rich.text import Text

    from famseg.sweep import counts, seconds_left, table

    console = Console(stderr=True, highlight=False)

    def line(trials: Sequence[Trial], states: Mapping[str, State]) -> str:
        running = sum(state.kind == "running" for state in states.values())
        left = seconds_left(trials, states, running)
        return counts(states) + (
            "" if left is None else f"; about {duration(left)} of training left"
        )

    if not console.is_terminal:
        said: list[str] = []

        def show(trials: Sequence[Trial], states: Mapping[str, State]) -> None:
            if said[-1:] != [counts(states)]:
                said.append(counts(states))
                say(line(trials, states), err=True)

        yield show
        return
    with Live(console=console, refresh_per_second=2, transient=True) as live:

        def draw(trials: Sequence[Trial], states: Mapping[str, State]) -> None:
            rows = table(trials, states, metric=plan.metric, limit=_LIVE_ROWS)
            live.update(Group(rows, Text(line(trials, states))))

        yield draw
