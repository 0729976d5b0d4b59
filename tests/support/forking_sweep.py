"""famseg whose sweeps start their trials as forks of themselves: ``ARGUMENTS...``.

For `warm.start`. A trial that begins anew imports MONAI for longer than a test trains. All else is
as in the command: own processes and sessions, logs, signals and exit statuses.
"""

from __future__ import annotations

import gc
import os
import runpy
import signal
import subprocess
import sys
import traceback
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import IO


class Forked:
    """What a sweep needs of `subprocess.Popen`, for ``python -m famseg ...``."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        stdin: int,
        stdout: IO[bytes],
        stderr: IO[bytes],
        env: Mapping[str, str],
        start_new_session: bool,
    ) -> None:
        self.returncode: int | None = None
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if self.pid == 0:
            os.setsid()
            os.dup2(stdout.fileno(), 1)
            os.dup2(stderr.fileno(), 2)
            os._exit(_become(command, env))

    def poll(self) -> int | None:
        """Return the exit status, or None while it runs."""
        return self._wait(os.WNOHANG)

    def wait(self) -> int | None:
        """Wait for its end."""
        return self._wait(0)

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def _wait(self, options: int) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, options)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode


def _become(command: Sequence[str], env: Mapping[str, str]) -> int:
    """Go on as the command; return its exit status."""
    from sqlalchemy import Engine

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for each in gc.get_objects():  # connections to MLflow's store stay with the sweep
        if isinstance(each, Engine):
            each.dispose(close=False)
    os.environ.clear()
    os.environ.update(env)
    sys.argv = list(command[2:])
    try:
        runpy.run_module("famseg", run_name="__main__", alter_sys=True)
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:  # as an interpreter does
        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return 0


if __name__ == "__main__":
    from famseg.cli import main
    from famseg.sweep import _local

    vars(_local)["subprocess"] = SimpleNamespace(**vars(subprocess) | {"Popen": Forked})
    sys.argv = ["famseg", *sys.argv[1:]]
    main()
