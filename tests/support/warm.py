"""Python programs that run in forks of a process with preloaded libraries.

Importing MONAI takes longer than most programs that tests start. Programs that depend on how a
process starts or ends (signals, modules in the working folder, an installed wheel) are started by
`subprocess`.
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
        "torch.fx.experimental.symbolic_shapes",  # for any torch.autograd.grad
        "torch._dynamo",  # for DistributedDataParallel
        *("torch.distributed.optim", "torch.distributed.algorithms.join"),
        *("pytorch_optimizer", "transformers.models.bert.modeling_bert", "matplotlib.pyplot"),
        *("alembic.command", "rich.table", "scipy.stats"),
    ]
)

Done = subprocess.CompletedProcess[str]


def run(
    *words: str,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    timeout: float = LONGEST_S,
) -> Done:
    """Run the arguments of a ``python`` command line to completion.

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
    """Run several processes of one program in parallel, with the variables that torchrun sets."""
    return _run(words, rank_variables(world), cwd, env, timeout)


def rank_variables(world: int) -> list[dict[str, str]]:
    """Return the variables that torchrun sets for each rank; none for a single process."""
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
    """Start one program; stdout and stderr go to ``output`` with the suffixes .1 and .2."""
    process = _CONTEXT.Process(target=_become, args=(words, output, cwd, env))
    process.start()
    return process


def _become(words: Sequence[str], output: Path, cwd: Path, env: Mapping[str, str]) -> None:
    """Continue as the program; its exit status becomes that of the process."""
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for stream in (1, 2):
        os.dup2(os.open(output.with_suffix(f".{stream}"), os.O_WRONLY | os.O_CREAT), stream)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    # A newly started program does not see the test folders that pytest has added to the path.
    installed = [place for place in sys.path if not Path(place).resolve().is_relative_to(TESTS)]
    if words[0] == "-m":
        sys.path[:] = [str(cwd), *installed]
        sys.argv = list(words[1:])
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    else:
        sys.path[:] = [str(Path(words[0]).parent), *installed]
        sys.argv = list(words)
        runpy.run_path(words[0], run_name="__main__")
