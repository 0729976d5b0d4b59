"""The command line: all commands, and the exit status of each kind of failure."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import shlex
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperGroup

import famseg
from famseg.cli import _config, _runs
from famseg.cli._compare import compare
from famseg.cli._defects import defects
from famseg.cli._doctor import doctor
from famseg.cli._evaluate import evaluate
from famseg.cli._export import export
from famseg.cli._measure import measure
from famseg.cli._metrics import metrics
from famseg.cli._prepare import prepare
from famseg.cli._reconstruct import reconstruct
from famseg.cli._report import report
from famseg.cli._say import VisibleFormatter, say
from famseg.cli._split import split
from famseg.cli._sweep import sweep
from famseg.cli._train import train
from famseg.cli._ui import ui
from famseg.messages import InputError, RunError, near, visible

_FAULTY_NAME = {errno.ENAMETOOLONG, errno.ELOOP}
_FEW_SPINS = "1000"  # instead of 300,000, the default of GNU's OpenMP
_LOOKS, _BETWEEN_LOOKS_S = 5, 0.002


class _Commands(TyperGroup):
    """Lists the commands by task, and suggests the closest name for an unknown one."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:  # noqa: ANN401  # typer's own click
        """List the commands by task."""
        for section, commands in _SECTIONS.items():
            with formatter.section(section):
                rows = [(name.ljust(11), text) for name, (_, text) in commands.items()]
                formatter.write_dl(rows)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:  # noqa: ANN401  # typer's own click
        name = args[0] if args else ""
        if name not in self.commands and not ctx.resilient_parsing:
            meant = near(name, [each for each, one in self.commands.items() if not one.hidden])
            if meant:
                ctx.fail(f"No such command {name!r}. Did you mean {meant!r}?")
        return super().resolve_command(ctx, args)


app = typer.Typer(
    cls=_Commands,
    help="Train networks with relative flatness (FAM), compare runs and reconstruct skulls.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
# By task, in the order of a project. Each line fits a terminal of 80 columns.
_SECTIONS: dict[str, dict[str, tuple[Callable[..., None] | typer.Typer, str]]] = {
    "Prepare data": {
        "prepare": (prepare, "Turn CT scans, masks or meshes into aligned skulls."),
        "split": (split, "Split a data set by person: train, validation, test."),
        "defects": (defects, "Cut defects into skulls and write them as a fixed set."),
    },
    "Train": {
        "config": (_config.app, "Show and check configurations without running them."),
        "train": (train, "Train a network, evaluate it and track the run."),
        "sweep": (sweep, "Train many runs: combinations, random settings, halving."),
        "runs": (_runs.app, "List run folders, or delete runs here and in MLflow."),
    },
    "Evaluate and compare": {
        "evaluate": (evaluate, "Evaluate a trained run on its test sets."),
        "measure": (measure, "Measure relative flatness, layer by layer."),
        "compare": (compare, "Compare runs over seeds: a verdict, tables, a page."),
        "report": (report, "Write a page about a run or about reconstructions."),
        "ui": (ui, "Start the MLflow UI; stop it with Ctrl-C."),
    },
    "Use": {
        "reconstruct": (reconstruct, "Complete defective skulls and make their implants."),
        "metrics": (metrics, "Score predicted masks against reference masks."),
        "export": (export, "Write a network as a MONAI bundle, ONNX or TorchScript."),
    },
    "Maintain": {
        "doctor": (doctor, "Check versions, devices, memory, store and folders."),
    },
}
for _commands in _SECTIONS.values():
    for _name, (_one, _help) in _commands.items():
        if isinstance(_one, typer.Typer):
            app.add_typer(_one, name=_name, short_help=_help)
        else:
            app.command(_name, short_help=_help)(_one)
app.command("predict", hidden=True, help="The same as reconstruct.")(reconstruct)


def _version(value: bool) -> None:
    if value:
        say(f"famseg {famseg.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Print the version and exit."
    ),
    debug: bool = typer.Option(
        False,
        "--debug",
        help="Show tracebacks and warnings. May also follow the name of a command.",
    ),
) -> None:
    pass


def main() -> None:
    """Run the command line.

    Exit status: 0 success, 1 a run failed, 2 wrong input (one line per error), 128 + n ended by
    signal n. Tracebacks are shown only with ``--debug``.
    """
    # Removed here so that it may come before or after the name of the command.
    debug = "--debug" in sys.argv
    sys.argv = [argument for argument in sys.argv if argument != "--debug"]
    shown = logging.StreamHandler()
    shown.setFormatter(VisibleFormatter("%(message)s"))
    logging.basicConfig(handlers=[shown], level=logging.WARNING)
    # Processes that this one starts (the MLflow server, workers) would search the working folder
    # for modules first: they would run a mlflow.py in a folder of data.
    os.environ.setdefault("PYTHONSAFEPATH", "1")
    _sleep_soon_on_a_busy_machine()
    logging.getLogger("famseg").setLevel(logging.INFO if _speaks() else logging.ERROR)
    if not debug:
        warnings.simplefilter("ignore")  # from libraries: users of the command cannot fix them
    try:
        app()
    except InputError as error:
        _end(error, list(error.faults), 2, debug=debug)
    except OSError as error:
        _end(error, [_system_fault(error)], 2 if error.errno in _FAULTY_NAME else 1, debug=debug)
    except RunError as error:
        _end(error, [str(error)], 1, debug=debug, own=getattr(error, "everyone", False))
    except Exception as error:
        _end(error, [_memory_fault(error) or _report_bug(error)], 1, debug=debug, own=True)
    except BaseException as error:
        signum = getattr(error, "signum", None)
        if signum is None:
            raise
        _end(error, [f"{error}{_how_to_go_on(error)}"], 128 + signum)


def _sleep_soon_on_a_busy_machine() -> None:
    """Let torch's threads that wait for each other sleep soon if other programs need the cores.

    By default, OpenMP's threads wait in a loop for milliseconds. Where there are fewer free cores
    than threads, they thereby keep the thread that they wait for from running: a step of the skull
    autoencoder on two cores took 0.83 s while two other trainings ran, 0.51 s with this setting
    (AMD EPYC, medians of three runs). On an idle machine it would cost a tenth. This must precede
    the import of torch. Results do not depend on it.
    """
    if not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & set(os.environ) and _others_running() > 0:
        os.environ["GOMP_SPINCOUNT"] = _FEW_SPINS


def _others_running() -> int:
    """Return how many threads besides this one are running or want to: the least of some looks.

    The average load would include a command that has just ended. 0 where it is not known.
    """
    looks = []
    with contextlib.suppress(OSError, ValueError, IndexError):
        for _ in range(_LOOKS):
            running = Path("/proc/loadavg").read_text(encoding="ascii").split()[3].split("/")[0]
            looks.append(int(running) - 1)
            time.sleep(_BETWEEN_LOOKS_S)
    return min(looks, default=0)


def _speaks() -> bool:
    """Return whether this process prints messages: with torchrun, only rank 0 does."""
    return os.environ.get("RANK", "0") == "0"


def _system_fault(error: OSError) -> str:
    where = f"{error.filename}: " if error.filename else ""
    if error.errno == errno.ENOSPC:
        return f"{where}the disk is full. Free some space, then continue with --resume."
    if error.errno in _FAULTY_NAME:
        return f"{where}{error.strerror}. Choose another name."
    return f"{where}{error.strerror or error}"


def _how_to_go_on(error: BaseException) -> str:
    folder = getattr(error, "folder", None)
    if folder is None:
        return ""
    return f"; resume with: famseg train --resume {shlex.quote(str(folder))}"


def _memory_fault(error: Exception) -> str | None:
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return "out of memory. Lower training.batch_size (and raise training.accumulate)."
    return None


def _report_bug(error: Exception) -> str:
    return (
        f"{type(error).__name__}: {error}. This is a bug in famseg; --debug shows where. Please "
        "report it."
    )


def _end(
    error: BaseException, lines: list[str], status: int, *, debug: bool = False, own: bool = False
) -> None:
    """Print the errors and exit; with ``own``, ranks other than 0 print as well.

    Rank 0 learns only that another rank has ended, not why.
    """
    if debug:
        raise error
    speaks = _speaks()
    for line in lines if speaks or own else ():
        rank = "" if speaks else f"rank {os.environ['RANK']}: "
        say(f"famseg: {rank}{visible(line)}", err=True)
    sys.exit(status)
