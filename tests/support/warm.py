"""Python programs, started in forks of a process that has the libraries loaded.

Importing MONAI takes longer than most of what tests start. What depends on how a process begins or
ends (signals, modules found in the working folder, an installed wheel) is started by `subprocess`.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from multiprocessing.context import ForkServerProcess
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
LONGEST_S = 250.0

_CONTEXT = multiprocessing.get_context("forkserver")
# famseg first: it turns off telemetry before MLflow is imported.
_CONTEXT.set_forkserver_preload(
    [
        *("famseg.cli", "monai.engines", "mlflow.store.tracking.sqlalchemy_store"),
        *("matplotlib.backends.backend_agg", "famseg.reporting._run_page"),
        *("famseg.cli._train", "famseg.cli._evaluate", "famseg.engine._session"),
        *(
            "famseg._pipelines.skull",
            "famseg._pipelines.implant",
            "famseg.reconstruction._baselines",
        ),
        *("famseg.flatness._fam", "monai.losses", "monai.metrics", "sqlalchemy.dialects.sqlite"),
        "torch.fx.experimental.symbolic_shapes",  # of every torch.autograd.grad with an argument
    ]
)

Done = subprocess.CompletedProcess[str]


def run(
    *words: str,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    timeout: float = LONGEST_S,
) -> Done:
    """Run what follows ``python`` on a command line, to its end.

    Args:
        words: A script and its arguments, or ``-m``, a module and its arguments.
        cwd: Its working folder.
        env: Its environment, by default that of the test.
        timeout: Seconds after which it is killed and the test fails.
    """
    return _run(words, [{}], cwd, env, timeout)[0]


def run_ranks(
    world: int,
    *words: str,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    timeout: float = LONGEST_S,
) -> list[Done]:
    """Run so many processes of one program side by side, with the variables torchrun gives them."""
    return _run(words, rank_variables(world), cwd, env, timeout)


def rank_variables(world: int) -> list[dict[str, str]]:
    """Return what torchrun puts into the environment of each rank; nothing for a single process."""
    if world == 1:
        return [{}]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    shared |= {"WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world)}
    return [{**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(world)]


def _run(
    words: Sequence[str],
    variables: Sequence[Mapping[str, str]],
    cwd: Path | None,
    env: Mapping[str, str] | None,
    timeout: float,
) -> list[Done]:
    with tempfile.TemporaryDirectory() as folder:
        outputs = [Path(folder, str(number)) for number in range(len(variables))]
        started = [
            start(words, output, cwd or Path.cwd(), {**(env or os.environ), **extra})
            for output, extra in zip(outputs, variables, strict=True)
        ]
        try:
            for process in started:
                process.join(timeout)
                if process.exitcode is None:
                    raise subprocess.TimeoutExpired(words, timeout)
        finally:
            for process in started:
                process.kill()
                process.join()
        return [
            subprocess.CompletedProcess(
                words,
                process.exitcode or 0,
                output.with_suffix(".1").read_text(),
                output.with_suffix(".2").read_text(),
            )
            for process, output in zip(started, outputs, strict=True)
        ]


def start(
    words: Sequence[str], output: Path, cwd: Path, env: Mapping[str, str]
) -> ForkServerProcess:
    """Start one program; its outputs are the files ``output`` with the endings .1 and .2."""
    process = _CONTEXT.Process(target=_become, args=(words, output, cwd, env))
    process.start()
    return process


def _become(words: Sequence[str], output: Path, cwd: Path, env: Mapping[str, str]) -> None:
    """Go on as the program; its status is that of the process."""
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for stream in (1, 2):
        os.dup2(os.open(output.with_suffix(f".{stream}"), os.O_WRONLY | os.O_CREAT), stream)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    # Folders of tests that pytest has added are not seen by a program that begins anew.
    installed = [place for place in sys.path if not Path(place).resolve().is_relative_to(TESTS)]
    if words[0] == "-m":
        sys.path[:] = [str(cwd), *installed]
        sys.argv = list(words[1:])
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    else:
        sys.path[:] = [str(Path(words[0]).parent), *installed]
        sys.argv = list(words)
        runpy.run_path(words[0], run_name="__main__")
