"""Provenance of a result: code, versions, machine, data, seed."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

import famseg
from famseg.tracking._uri import without_password

_PACKAGES = ("torch", "monai", "pytorch-ignite", "mlflow", "numpy", "SimpleITK")
# Set by container images that contain the code without its repository.
_COMMIT_VARIABLE = "FAMSEG_COMMIT"


def provenance(
    *,
    config_text: str,
    seed: int,
    device: str,
    data_hash: str | None = None,
    weights_hash: str | None = None,
    command: Sequence[str] | None = None,
) -> dict[str, object]:
    """Collect the facts needed to reproduce a run or to explain a difference.

    They contain no personal data: no user or host name, no password of an address, and ``~``
    instead of the home folder. This takes about 10 ms for git, and imports torch.

    Args:
        config_text: The resolved configuration.
        seed: The seed of the run.
        device: The torch device, such as ``cpu`` or ``cuda:0``.
        data_hash: Hash of the data's manifest.
        weights_hash: Hash of the initial weights of the training.
        command: The command line; None takes this process's.

    Returns:
        A mapping of JSON types. ``commit`` is None if the code is not in its git repository;
        ``dirty`` states whether files differ from the commit.
    """
    commit, dirty = _commit(Path(famseg.__file__).resolve().parent)
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": _impersonal(sys.argv if command is None else command),
        "commit": commit,
        "dirty": dirty,
        "versions": versions(),
        "machine": _machine(device),
        "seed": seed,
        "data_hash": data_hash,
        "weights_hash": weights_hash,
        "config_hash": hashlib.sha256(config_text.encode()).hexdigest(),
    }


def provenance_tags(record: Mapping[str, object]) -> dict[str, str]:
    """Return the entries of a provenance that help to filter and group runs, as MLflow tags.

    Args:
        record: The result of :func:`provenance`.

    Returns:
        Names and texts; entries that are None are left out.
    """
    machine = record.get("machine")
    versions_ = record.get("versions")
    tags: dict[str, object] = {
        "commit": record.get("commit"),
        # This tag fills the UI's column "Version".
        "mlflow.source.git.commit": record.get("commit"),
        "mlflow.source.name": "famseg",
        "dirty": record.get("dirty"),
        "seed": record.get("seed"),
        "data_hash": record.get("data_hash"),
        "weights_hash": record.get("weights_hash"),
        "config_hash": record.get("config_hash"),
    }
    if isinstance(machine, Mapping):
        tags["device"] = machine.get("device")
        tags["device_name"] = machine.get("device_name")
    if isinstance(versions_, Mapping):
        tags.update((f"version.{name}", text) for name, text in versions_.items())
    return {
        name: value if isinstance(value, str) else json.dumps(value)
        for name, value in tags.items()
        if value is not None
    }


def versions() -> dict[str, str | None]:
    """Return the versions of famseg, Python and the packages that results depend on.

    They are read from the installed metadata, without importing the packages.

    Example:
        >>> versions()["famseg"] == famseg.__version__
        True
    """
    found: dict[str, str | None] = {
        "famseg": famseg.__version__,
        "python": platform.python_version(),
    }
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found


def _commit(package: Path) -> tuple[str | None, bool | None]:
    """Return commit and dirty flag, but only if the repository tracks this package.

    An installed copy may be inside another repository (``.venv`` in a project).
    """
    if _git(package, "ls-files", "--error-unmatch", "__init__.py") is None:
        return os.environ.get(_COMMIT_VARIABLE) or None, None
    commit = _git(package, "rev-parse", "HEAD")
    changes = _git(package.parent, "status", "--porcelain", "--untracked-files=no")
    return commit, None if changes is None else changes != ""


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(  # noqa: S603 - fixed arguments
            # A repository may configure a program that monitors its files, which must not be run.
            ["git", "-c", "core.fsmonitor=false", "-C", str(folder), *arguments],  # noqa: S607 - PATH
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _machine(device: str) -> dict[str, object]:
    import torch

    machine: dict[str, object] = {
        "platform": f"{platform.system()} {platform.release()}",
        "cpu": cpu_name(),
        "cores": cores(),
        "threads": torch.get_num_threads(),
        "device": device,
        "device_name": cpu_name(),
        "cuda": torch.version.cuda,
    }
    if device.startswith("cuda") and torch.cuda.is_available():
        machine["device_name"] = torch.cuda.get_device_name(device)
    return machine


def cores() -> int:
    """Return the number of processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cpu_name() -> str:
    """Return the processor's name."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        text = ""
    for line in text.splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _impersonal(command: Sequence[str]) -> str:
    home = str(Path.home())
    text = without_password(" ".join(command))
    return text if home == "/" else text.replace(home, "~")
