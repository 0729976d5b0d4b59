"""``famseg ui``."""

from __future__ import annotations

import contextlib
import errno
import inspect
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from types import FrameType
from typing import IO, TYPE_CHECKING, Annotated

import typer

from famseg.cli._say import say, say_json
from famseg.messages import InputError
from famseg.tracking import (
    comparison_url,
    prepare_store,
    resolve_uri,
    sqlite_path,
    without_password,
)

if TYPE_CHECKING:
    from famseg.tracking import TrackingConfig

EXAMPLES = """
Examples:

  famseg ui

  famseg ui --config skull.yaml --port 5001

  famseg ui tracking.uri=sqlite:////data/mlflow.db
"""

_START_SECONDS = 90.0
_STOP_SECONDS = 10.0
# Users list other host names here that MLflow's server must accept, such as that of a proxy.
_HOSTS_VARIABLE = "MLFLOW_SERVER_ALLOWED_HOSTS"


def ui(
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[KEY=VALUE]...", help="Overrides, such as tracking.experiment=NAME."
        ),
    ] = None,
    config: Annotated[
        str | None,
        typer.Option("--config", "-c", help="Configuration whose MLflow store is shown."),
    ] = None,
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port of the server. 0: any free port.")
    ] = 5000,
    host: Annotated[
        str,
        typer.Option(
            help="Network interface. With 0.0.0.0, everyone who can reach this machine has access."
        ),
    ] = "127.0.0.1",
    browser: Annotated[bool, typer.Option(help="Open a browser, if there is a display.")] = True,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the addresses as JSON on one line.")
    ] = False,
) -> None:
    """Start the MLflow UI on the store of the runs; stop it with Ctrl-C.

    Opens the comparison of methods and lambdas of the newest experiment and lists the other
    experiments; --config or tracking.experiment choose one. Without --config, the store is
    MLFLOW_TRACKING_URI or mlflow.db in the working folder.
    """
    tracking, experiment = _tracking(config, overrides or [])
    uri = resolve_uri(tracking.uri)
    if uri.startswith(("http://", "https://")):
        experiments = prepare_store(uri, experiment, timeout_s=tracking.timeout_s)
        _announce(uri, uri, experiments, browser=browser, as_json=as_json)
        return
    port = _free_port(host, port)
    experiments = prepare_store(uri, experiment, timeout_s=tracking.timeout_s)
    server = f"http://{_shown_host(host)}:{port}"
    with _stopped_by_signals(), _server(uri, host, port) as process:
        _announce(server, uri, experiments, browser=browser, as_json=as_json)
        process.wait()
        raise InputError(
            f"the MLflow server on port {port} has stopped unexpectedly. Start it again."
        )


ui.__doc__ = f"{inspect.cleandoc(ui.__doc__ or '')}\n{EXAMPLES}"


def _tracking(config: str | None, overrides: Sequence[str]) -> tuple[TrackingConfig, str | None]:
    """Return the address of the store and the requested experiment (None for any)."""
    from famseg.config import load  # pydantic
    from famseg.tracking import TrackingConfig

    if config is not None:
        tracking = getattr(load(config, overrides)[1], "tracking", None)
        found = tracking if isinstance(tracking, TrackingConfig) else TrackingConfig()
        return found, found.experiment
    values: dict[str, str] = {}
    for override in overrides:
        key, _, value = override.partition("=")
        if key not in ("tracking.uri", "tracking.experiment") or not value:
            raise InputError(
                f"command line: {override}: without --config FILE, only tracking.uri=ADDRESS and "
                "tracking.experiment=NAME can be set."
            )
        values[key] = value
    uri = values.get("tracking.uri")
    if uri is not None:
        resolve_uri(uri)  # raises an error that says what is wrong with the address
    return TrackingConfig(uri=uri), values.get("tracking.experiment")


def _shown_host(host: str) -> str:
    return "127.0.0.1" if host in ("0.0.0.0", "::", "") else host  # noqa: S104 - compared, not bound


def _free_port(host: str, port: int) -> int:
    """Return the port if it is free; the server would take several seconds to find out."""
    try:
        with socket.create_server((host, port)) as probe:
            return int(probe.getsockname()[1])
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            why = f"port {port} is in use. Choose another (--port {port + 1}), or --port 0 for any."
        elif error.errno == errno.EACCES:
            why = f"port {port} is reserved for the system. Choose one above 1023."
        else:
            why = (
                f"{host} is not an interface of this machine. Leave out --host to serve only this "
                "machine."
            )
        raise InputError(f"command line: {why}") from error


@contextlib.contextmanager
def _server(uri: str, host: str, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """Run the server within the context, and end all its processes with it."""
    with tempfile.TemporaryFile() as log:
        process = _start(uri, host, port, log)
        try:
            _wait_until_up(process, f"http://{_shown_host(host)}:{port}", log)
            yield process
        finally:
            _end(process)


def _start(uri: str, host: str, port: int, log: IO[bytes]) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", uri]
    command += ["--host", host, "--port", str(port), "--workers", "1"]
    if not os.environ.get(_HOSTS_VARIABLE):
        command += ["--allowed-hosts", ",".join(_names(host, port))]
    database = sqlite_path(uri)
    if database is not None:
        # Artifacts are stored next to the database instead of the working folder.
        command += ["--artifacts-destination", (database.parent / "mlartifacts").as_uri()]
    environment = {
        **os.environ,
        # Without it, the server starts 13 processes that use 2.3 GB to list runs.
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "PYTHONWARNINGS": "ignore",
    }
    return subprocess.Popen(  # noqa: S603 - our own arguments, no shell
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,  # Ctrl-C reaches only this process, which ends the group
    )


def _names(host: str, port: int) -> list[str]:
    """Return the accepted values of the header ``Host`` as patterns for MLflow.

    A malicious web page can resolve its own host name to this machine and then read the server's
    responses (DNS rebinding). MLflow's default accepts all names that begin like private addresses,
    such as 10.evil.example. Here names must match exactly. Any port is accepted, since tunnels
    change it and it is not part of the name.
    """
    names = {"localhost", "127.0.0.1", "::1"}
    if host in ("0.0.0.0", "::", ""):  # noqa: S104 - compared, not bound
        names |= {socket.gethostname(), socket.getfqdn()}
        import psutil

        addresses = [each for card in psutil.net_if_addrs().values() for each in card]
        families = (socket.AF_INET, socket.AF_INET6)
        names |= {each.address.partition("%")[0] for each in addresses if each.family in families}
    else:
        names.add(host)
    patterns: list[str] = []
    for name in sorted(name.lower() for name in names if not set(name) & set("*?[],")):
        # Brackets are a character class in a pattern, so IPv6 addresses are listed with their port
        # instead of a wildcard.
        ipv6 = ":" in name
        patterns += [f"[{name}]", f"[{name}]:{port}"] if ipv6 else [name, f"{name}:*"]
    return patterns


def _wait_until_up(process: subprocess.Popen[bytes], server: str, log: IO[bytes]) -> None:
    end = time.monotonic() + _START_SECONDS
    while time.monotonic() < end:
        if process.poll() is not None:
            raise InputError(f"the MLflow server did not start: {_last_line(log)}")
        if _is_up(server):
            return
        time.sleep(0.2)
    raise InputError(
        f"the MLflow server did not answer within {_START_SECONDS:.0f} s: {_last_line(log)}"
    )


def _is_up(server: str) -> bool:
    import urllib.request

    try:
        with urllib.request.urlopen(f"{server}/health", timeout=2) as answer:  # noqa: S310 - http
            return bool(answer.status == 200)
    except OSError:  # refused, or no response yet
        return False


def _last_line(log: IO[bytes]) -> str:
    log.seek(0)
    lines = [line for line in log.read().decode(errors="replace").splitlines() if line.strip()]
    return lines[-1].strip() if lines else "it said nothing"


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the process group of the server, first with SIGTERM."""
    for signum in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signum)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=_STOP_SECONDS)
            break
    # Children that outlive their parent are still in its group.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


@contextlib.contextmanager
def _stopped_by_signals() -> Iterator[None]:
    """End with status 0 on Ctrl-C, on SIGTERM and when the terminal closes."""

    def stop(signum: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(signum, stop) for signum in signals]
    try:
        yield
    except KeyboardInterrupt:
        raise typer.Exit(0) from None
    finally:
        for signum, handler in zip(signals, before, strict=True):
            signal.signal(signum, handler)


def _announce(
    server: str, uri: str, experiments: Mapping[str, str], *, browser: bool, as_json: bool
) -> None:
    uri = without_password(uri)
    urls = {name: comparison_url(server, number) for name, number in experiments.items()}
    compare = next(iter(urls.values()), None)
    if as_json:
        content = {"url": server, "compare": compare, "experiments": urls, "store": uri}
        say_json(content, indent=None)
    else:
        say(f"MLflow UI        {server}")
        for name, url in urls.items():
            say(f"Compare lambdas  {url}" + (f"  ({name})" if len(urls) > 1 else ""))
        if not urls:
            say("Compare lambdas  available once there are runs")
        say(f"Store            {uri}")
        if not uri.startswith("http"):
            say("Ctrl-C ends it.")
    sys.stdout.flush()
    if browser and sys.stdout.isatty() and _has_display():
        import webbrowser

        webbrowser.open(compare or server)


def _has_display() -> bool:
    return sys.platform == "darwin" or bool(
        os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    )
