"""Python helpers of ``benchmarks/gpu.sh``: checks of the environment, and the report of its parts.

python benchmarks/_gpu_report.py processes cuda|cpu
python benchmarks/_gpu_report.py missing MODULE...
python benchmarks/_gpu_report.py metadata FOLDER
python benchmarks/_gpu_report.py port
python benchmarks/_gpu_report.py write OUT WORK cuda|cpu SECONDS
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import platform
import re
import shutil
import socket
import subprocess
import sys
import tomllib
import xml.etree.ElementTree as ET
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
_PACKAGES = (
    "torch",
    "triton",
    "numpy",
    "scipy",
    "monai",
    "pytorch-ignite",
    "pytorch_optimizer",
    "curvlinops-for-pytorch",
    "pytorch-lightning",
    "transformers",
    "pytest",
)
_SHOWN = 40  # lines shown from the log of a failed part


def processes(device: str) -> int:
    """Print the number of training processes: one per GPU, two on the CPU."""
    if device == "cpu":
        print(2)
        return 0
    driver = _driver()
    known = "no NVIDIA driver" if driver is None else f"NVIDIA driver {driver}"
    try:
        import torch
    except ImportError:
        return _refused(f"{sys.executable} has no torch. Set PYTHON to an interpreter that has.")
    if not torch.cuda.is_available():
        built = f"torch {torch.__version__} (CUDA {torch.version.cuda or 'not built in'})"
        return _refused(f"{built} finds no GPU, {known}. --device cpu rehearses without one.")
    print(torch.cuda.device_count())
    return 0


def _refused(why: str) -> int:
    print(f"gpu.sh: {why}", file=sys.stderr)
    return 2


def missing(*modules: str) -> int:
    """Print which modules are not installed."""
    print(*(name for name in modules if importlib.util.find_spec(name) is None))
    return 0


def metadata(folder: str) -> int:
    """Write famseg's entry points to a folder; status 1 if it is already installed."""
    if importlib.metadata.entry_points(group="famseg.pipelines"):
        return 1
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    place = Path(folder) / f"famseg-{project['version']}.dist-info"
    place.mkdir(parents=True)
    head = f"Metadata-Version: 2.1\nName: famseg\nVersion: {project['version']}\n"
    (place / "METADATA").write_text(head, encoding="utf-8")
    pipelines = project["entry-points"]["famseg.pipelines"].items()
    lines = ["[famseg.pipelines]", *(f"{name} = {module}" for name, module in pipelines)]
    (place / "entry_points.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return 0


def port() -> int:
    """Print a free port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        print(free.getsockname()[1])
    return 0


def write(out: str, work: str, device: str, seconds: str) -> int:
    """Write ``gpu.json`` and print one line per part."""
    parts = [
        _part(line.split("\t"), Path(work), Path(out))
        for line in (Path(work) / "parts.tsv").read_text(encoding="utf-8").splitlines()
    ]
    found = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "device": device,
        "seconds": int(seconds),
        "machine": _machine(device),
        "versions": _versions(),
        "parts": parts,
    }
    (Path(out) / "gpu.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    for part in parts:
        print(f"{part['name']:22} {part['seconds']:7.1f} s  {part['state']}{_in_short(part)}")
    print(f"{out}/gpu.json: {seconds} s in all")
    return 0


def _in_short(part: dict[str, Any]) -> str:
    counts = part["found"] if part["name"] == "tests" else None
    if not counts:
        return ""
    return "  " + ", ".join(f"{counts[key]} {key}" for key in ("passed", "failed", "skipped"))


def _part(row: list[str], work: Path, out: Path) -> dict[str, Any]:
    name, state, status, began, ended, limit, command = row
    began, ended = (time.replace(",", ".") for time in (began, ended))  # as some locales write it
    log = work / f"{name}.log"
    text = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
    part: dict[str, Any] = {
        "name": name,
        "state": state,
        "status": int(status),
        "seconds": round(float(ended) - float(began), 2),
        "limit_s": int(limit),
        "command": " ".join(command.replace(str(ROOT), ".").replace(str(work), "WORK").split()),
        "found": _found(name, text, work, out),
    }
    if state != "passed":
        part["log"] = text.splitlines()[-_SHOWN:]
    return part


def _found(name: str, log: str, work: Path, out: Path) -> Any:
    """Return the results of a part: counts of tests, output of the ranks, the table's file."""
    if name == "tests":
        return _tests(work / "tests.xml")
    if name.endswith("_ranks") or name == "one_rank":
        lines = [line for line in log.splitlines() if line.startswith('{"backend"')]
        return json.loads(lines[-1]) if lines else None
    if "_table" in name:
        page = out / f"{name.replace('_table', '')}.json"
        return page.name if page.exists() else None
    answer = re.search(r"^\{$.*?^\}$", log, re.MULTILINE | re.DOTALL)
    trained = json.loads(answer[0]) if answer else {}
    return {key: trained[key] for key in ("epochs", "best_validation", "seconds") if key in trained}


def _tests(file: Path) -> dict[str, Any] | None:
    if not file.exists():
        return None
    cases = list(ET.parse(file).iter("testcase"))  # noqa: S314 - pytest wrote it just now
    by_kind: dict[str, list[str]] = {"failure": [], "error": [], "skipped": []}
    for case in cases:
        for kind, names in by_kind.items():
            if case.find(kind) is not None:
                names.append(f"{case.get('classname')}::{case.get('name')}")
    failed = by_kind["failure"] + by_kind["error"]
    skipped = len(by_kind["skipped"])
    return {
        "passed": len(cases) - len(failed) - skipped,
        "failed": len(failed),
        "skipped": skipped,
        "failing": failed,
    }


def _machine(device: str) -> dict[str, Any]:
    import torch

    gpus = []
    for index in range(torch.cuda.device_count()) if device == "cuda" else ():
        properties = torch.cuda.get_device_properties(index)
        gpus.append(
            {
                "name": properties.name,
                "memory_gib": round(properties.total_memory / 2**30, 1),
                "compute_capability": f"{properties.major}.{properties.minor}",
            }
        )
    nccl = ".".join(map(str, torch.cuda.nccl.version())) if gpus else None
    return {
        "gpus": gpus,
        "driver": _driver(),
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "nccl": nccl,
        "platform": platform.platform(),
    }


def _driver() -> str | None:
    if shutil.which("nvidia-smi") is None:
        return None
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    done = subprocess.run(query, capture_output=True, text=True, timeout=20, check=False)
    return done.stdout.splitlines()[0].strip() if done.returncode == 0 and done.stdout else None


def _versions() -> dict[str, str]:
    git = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
    try:
        done = subprocess.run(git, capture_output=True, text=True, timeout=20, check=False)
        commit = done.stdout.strip() or "unknown"
    except OSError:
        commit = "unknown"
    found = {"famseg": commit, "python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


_COMMANDS: dict[str, Callable[..., int]] = {
    "processes": processes,
    "missing": missing,
    "metadata": metadata,
    "port": port,
    "write": write,
}

if __name__ == "__main__":
    sys.exit(_COMMANDS[sys.argv[1]](*sys.argv[2:]))
