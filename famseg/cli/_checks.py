"""The checks of ``famseg doctor``; each function yields its results and raises nothing."""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import sqlite3
import tempfile
import urllib.request
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Literal, NamedTuple

from famseg.messages import InputError
from famseg.tracking import (
    StoreFaultError,
    check_tables,
    cores,
    cpu_name,
    memory_limit,
    processor_quota,
    resolve_uri,
    without_password,
)

_GIB = 1024**3

_PACKAGES = {
    "torch": "torch==2.13.0",
    "monai": "monai",
    "pytorch-ignite": "pytorch-ignite",
    "mlflow": "mlflow",
    "SimpleITK": "SimpleITK",
    "numpy": "numpy",
    "scipy": "scipy",
    "nibabel": "nibabel",
    "pydantic": "pydantic",
}
# Training with the embedded defaults needs less than 3 GB.
_LEAST_MEMORY_GIB = 3.0
# Workers transfer batches through /dev/shm, which has 64 MB in docker by default.
_LEAST_SHARED_GIB = 1.0
_LITTLE_DISK_GIB = 5.0
_NO_DISK_GIB = 0.5
_LEAST_FILES = 1024
# Minimum driver by major version of CUDA, from NVIDIA's tables of minor version compatibility.
_LEAST_DRIVERS = {12: 525, 13: 580}
_CUDA12 = "pip install torch==2.10.0, or the image built with --build-arg VARIANT=cuda12"
# Device files provided by the container toolkit; the second one is for WSL.
_GPU_NODES = (Path("/dev/nvidiactl"), Path("/dev/dxg"))
_SHOW_GPUS = (
    "Start the container with --gpus all (docker), --device nvidia.com/gpu=all (podman), --nv "
    "(Apptainer), or with nvidia.com/gpu in its limits (Kubernetes)."
)


class Check(NamedTuple):
    """One line of the report.

    Attributes:
        status: ``ok``, ``warning`` (it works, less well) or ``fault`` (it will not work).
        name: What was checked.
        text: What was found.
        advice: What to do; empty if nothing.
    """

    status: Literal["ok", "warning", "fault"]
    name: str
    text: str
    advice: str = ""


def versions() -> Iterator[Check]:
    """Check that Python and the packages are installed."""
    import famseg

    yield Check("ok", "famseg", famseg.__version__)
    yield Check("ok", "python", f"{platform.python_version()} on {platform.system()}")
    for name, requirement in _PACKAGES.items():
        try:
            yield Check("ok", name, metadata.version(name))
        except metadata.PackageNotFoundError:
            yield Check("fault", name, "is missing", f"Run: pip install '{requirement}'")


def processor() -> Iterator[Check]:
    """Check the processor, and that torch starts no more threads than it has cores."""
    usable = cores()
    quota = processor_quota()
    text = f"{cpu_name()}, {usable} cores"
    yield Check("ok", "cpu", text if quota is None else f"{text}, limited to {quota:g}")
    try:
        import torch
    except ImportError as error:
        yield Check("fault", "torch", f"cannot be imported ({error})", "Install torch anew.")
        return
    threads = torch.get_num_threads()
    allowed = max(1, int(min(usable, quota or usable)))
    if threads > allowed:
        advice = f"Set OMP_NUM_THREADS={allowed}: more threads than cores are slower."
        yield Check("warning", "threads", f"torch uses {threads} on {allowed} cores", advice)
    else:
        yield Check("ok", "threads", f"torch uses {threads}")


def graphics() -> Iterator[Check]:
    """Check the GPUs, and say why one is not used."""
    try:
        import torch
    except ImportError:
        return  # reported above
    driver = _driver_version()
    if not torch.cuda.is_available():
        yield _no_graphics(torch.version.cuda, driver)
        return
    known = f", driver {driver}" if driver else ""
    yield Check("ok", "cuda", f"{torch.version.cuda}{known}")
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        free, total = torch.cuda.mem_get_info(index)
        half = "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "no bf16"
        text = (
            f"{properties.name}, {free / _GIB:.1f} of {total / _GIB:.1f} GiB free, compute "
            f"capability {properties.major}.{properties.minor}, {half}"
        )
        yield Check("ok", f"gpu {index}", text)


def _no_graphics(built_for: str | None, driver: str | None) -> Check:
    image = os.environ.get("FAMSEG_VARIANT", "")
    if image.startswith("cuda") and not any(path.exists() for path in _GPU_NODES):
        known = f" (the machine has driver {driver})" if driver else ""
        text = f"no GPU is visible in this container{known}: training runs on the CPU"
        return Check("warning", "cuda", text, _SHOW_GPUS)
    if driver is None:
        return Check("ok", "cuda", "no NVIDIA driver: training runs on the CPU")
    if built_for is None:
        advice = "Install the build with CUDA: pip install --force-reinstall torch==2.13.0"
        if image:
            advice = "Use the image with CUDA, built with --build-arg VARIANT=cuda or cuda12."
        return Check("warning", "cuda", f"driver {driver}, but torch is built without CUDA", advice)
    text = f"driver {driver} and torch for CUDA {built_for} find no device"
    least = _LEAST_DRIVERS.get(_major(built_for))
    if least is not None and _major(driver) < least:
        advice = f"Update the driver: CUDA {built_for} needs {least} or later."
        if _major(driver) >= _LEAST_DRIVERS[12]:
            advice += f" Or install torch for CUDA 12: {_CUDA12}."
        return Check("warning", "cuda", text, advice)
    shown = os.environ.get("CUDA_VISIBLE_DEVICES")
    advice = (
        "Run nvidia-smi: it says what is wrong with the driver or the GPU."
        if shown is None
        else f"CUDA_VISIBLE_DEVICES is {shown!r}: unset it, or name a GPU of nvidia-smi."
    )
    return Check("warning", "cuda", text, advice)


def _major(version: str) -> int:
    first = version.partition(".")[0]
    return int(first) if first.isdecimal() else 0


def memory() -> Iterator[Check]:
    """Check the available memory, including the limit of a container."""
    import psutil

    found = psutil.virtual_memory()
    free = found.available / _GIB
    text = f"{free:.1f} of {found.total / _GIB:.1f} GiB free"
    limit = memory_limit()
    if limit is not None:
        left = (limit[0] - limit[1]) / _GIB
        text += f"; the container's limit leaves {left:.1f} of {limit[0] / _GIB:.1f} GiB"
        free = min(free, left)
    if free < _LEAST_MEMORY_GIB:
        advice = "Close other programs, or reduce data.size or training.batch_size."
        yield Check("warning", "memory", text, advice)
    else:
        yield Check("ok", "memory", text)


def shared_memory(path: Path = Path("/dev/shm")) -> Iterator[Check]:  # noqa: S108 - size only
    """Check the size of ``/dev/shm``, through which workers pass batches.

    Args:
        path: Its path; systems without it pass.
    """
    if not path.is_dir():
        return
    usage = shutil.disk_usage(path)
    text = f"{usage.free / _GIB:.2f} of {usage.total / _GIB:.2f} GiB free"
    if usage.free < _LEAST_SHARED_GIB * _GIB:
        advice = "Start docker with --shm-size=2g (or --ipc=host); otherwise workers are slower."
        yield Check("warning", str(path), text, advice)
    else:
        yield Check("ok", str(path), text)


def store() -> Check:
    """Check that the MLflow store can be reached and written; nothing is created."""
    try:
        uri = resolve_uri()
    except InputError as error:
        return Check("fault", "mlflow store", str(error))
    shown = without_password(uri)
    if uri.startswith("sqlite"):
        return _sqlite_store(uri, Path(uri.partition("///")[2].partition("?")[0]))
    if not uri.startswith("http"):
        return Check("ok", "mlflow store", f"{shown} (a database: not tested)")
    try:
        with urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=3):  # noqa: S310 - http
            return Check("ok", "mlflow store", f"{shown} answers")
    except (OSError, ValueError) as error:
        why = getattr(error, "reason", error)
        advice = "Start the server. Training also works without it, and runs keep their own record."
        return Check("warning", "mlflow store", f"{shown} does not answer ({why})", advice)


def _sqlite_store(uri: str, path: Path) -> Check:
    if not path.exists():
        folder = path.parent
        while not folder.exists():
            folder = folder.parent
        if _writable(folder) is None:
            return Check("ok", "mlflow store", f"{uri} (made by the first run)")
        advice = "Set tracking.uri or MLFLOW_TRACKING_URI to another place."
        return Check("fault", "mlflow store", f"{folder} cannot be written", advice)
    try:
        with contextlib.closing(sqlite3.connect(path, timeout=2, isolation_level=None)) as base:
            base.execute("BEGIN IMMEDIATE")
            base.execute("ROLLBACK")
    except sqlite3.OperationalError as error:
        advice = "Close what uses it, or fix its permissions; runs keep their own record."
        return Check("warning", "mlflow store", f"{uri}: {error}", advice)
    except sqlite3.DatabaseError as error:
        advice = "Move it away, or set tracking.uri to another file."
        return Check("fault", "mlflow store", f"{uri}: {error}", advice)
    try:
        check_tables(path)
    except StoreFaultError as error:
        return Check("fault", "mlflow store", f"{uri}: {error.what}", error.advice)
    return Check("ok", "mlflow store", f"{uri} can be written")


def folders() -> Iterator[Check]:
    """Check that the output folders are writable and have enough space."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "famseg"
    cache = Path(os.environ.get("FAMSEG_CACHE") or cache)
    # If runs/ exists, as in the Docker image, the working folder itself need not be writable.
    runs = Path.cwd() / "runs"
    name, path = ("runs", runs) if runs.is_dir() else ("working folder", Path.cwd())
    yield _folder(
        name, path, "fault", "Change to a folder that you can write to, or set output=FOLDER."
    )
    advice = "Set FAMSEG_CACHE to a writable folder; without a cache, each start is slower."
    yield _folder("cache", cache, "warning", advice)


def _folder(name: str, path: Path, severity: Literal["warning", "fault"], advice: str) -> Check:
    present = path
    while not present.exists():
        present = present.parent
    why = _writable(present)
    if why is not None:
        return Check(severity, name, f"{path} cannot be written ({why})", advice)
    free = shutil.disk_usage(present).free / _GIB
    text = f"{path}, {free:.1f} GiB free"
    if free < _NO_DISK_GIB:
        return Check("fault", name, text, "Make room: checkpoints will not fit.")
    if free < _LITTLE_DISK_GIB:
        return Check("warning", name, text, "Make room before a long training.")
    return Check("ok", name, text)


def open_files() -> Check:
    """Check the limit of open files, which workers can exhaust."""
    try:
        import resource
    except ImportError:  # pragma: no cover - not POSIX
        return Check("ok", "open files", "no limit is known")
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit != resource.RLIM_INFINITY and limit < _LEAST_FILES:
        advice = f"Run: ulimit -n {_LEAST_FILES}"
        return Check("warning", "open files", f"at most {limit}", advice)
    return Check("ok", "open files", f"at most {limit}")


def _writable(folder: Path) -> str | None:
    """Return why a folder is not writable; None if it is. This requires a trial."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            return None
    except OSError as error:
        return error.strerror or str(error)


def _driver_version() -> str | None:
    for path in ("/proc/driver/nvidia/version", "/sys/module/nvidia/version"):
        with contextlib.suppress(OSError):
            text = Path(path).read_text()
            numbers = [word for word in text.split() if word[:1].isdigit() and "." in word]
            return numbers[0] if numbers else text.strip()
    return None
