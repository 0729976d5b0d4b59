"""Write the three locks of the image: every package with its version and the hashes of its files.

    make lock        (or: python requirements/lock.py)

Versions come from ``pyproject.toml`` and ``constraints.txt``, and what only the image needs from
``requirements/image.txt``. What none of them names, the CUDA libraries that torch asks for, stays
as locked before. uv reads only metadata: nothing large is downloaded.

``cuda12.lock`` has the newest torch that the index holds for CUDA 12, for drivers below 580, and is
otherwise the same. ``cpu.lock`` is ``cuda.lock`` without the CUDA libraries and with torch's CPU
build, which PyTorch serves from an index of its own.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CUDA = ROOT / "requirements" / "cuda.lock"
CUDA12 = ROOT / "requirements" / "cuda12.lock"
CPU = ROOT / "requirements" / "cpu.lock"
# From 2.11 on, the index has torch for CUDA 13 only.
CUDA12_TORCH = "2.10.0"
PYTHON = "3.11"
EXTRAS = ("language", "server")
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
# What torch's CUDA build draws in and its CPU build does not.
CUDA_ONLY = re.compile(r"(nvidia|cuda)-|triton==")
BLOCK = re.compile(r"^\w.*?\n(?=\w|\Z)", re.DOTALL | re.MULTILINE)
HEAD = """\
# Made by `make lock` from pyproject.toml and constraints.txt; do not edit. Python {python}, Linux.
#   pip install --require-hashes -r requirements/{name}
"""


def compile_cuda(lock: Path, torch: str | None = None) -> str:
    """Return the body of a lock as uv resolves it.

    Args:
        lock: The lock as it is; versions that nothing else pins stay.
        torch: Version of torch instead of the one in ``constraints.txt``.
    """
    with tempfile.TemporaryDirectory() as folder:
        # A copy: uv names its inputs in the lock, and one of them differs.
        place = Path(folder)
        (place / "requirements").mkdir()
        for name in ("pyproject.toml", "constraints.txt", "requirements/image.txt"):
            shutil.copy(ROOT / name, place / name)
        if torch is not None:
            constraints = place / "constraints.txt"
            text, count = re.subn(
                r"^torch==.*$", f"torch=={torch}", constraints.read_text(), flags=re.MULTILINE
            )
            if count != 1:
                sys.exit("constraints.txt pins torch in one line, which is missing.")
            constraints.write_text(text)
        resolved = place / lock.name
        if lock.exists():
            shutil.copy(lock, resolved)
        command = [sys.executable, "-m", "uv", "pip", "compile", "pyproject.toml"]
        command += ["requirements/image.txt", "--quiet"]
        command += [f"--extra={extra}" for extra in EXTRAS]
        command += ["--constraints=constraints.txt", "--generate-hashes", "--no-header"]
        command += [f"--python-version={PYTHON}", "--python-platform=x86_64-manylinux_2_28"]
        command += ["--default-index=https://pypi.org/simple", f"--output-file={resolved.name}"]
        subprocess.run(command, cwd=place, check=True)  # noqa: S603 - our own arguments
        return "".join(BLOCK.findall(resolved.read_text()))


def cpu_hashes(version: str) -> list[str]:
    """Return the hashes of torch's CPU files, from PyTorch's index or the lock that is there."""
    name = rf"torch-{re.escape(version)}(?:%2B|\+)cpu-cp311-cp311-manylinux\w+\.whl"
    try:
        with urllib.request.urlopen(f"{CPU_INDEX}/torch/", timeout=20) as answer:  # noqa: S310
            return sorted(set(re.findall(rf"{name}#sha256=(\w+)", answer.read().decode())))
    except OSError as error:
        locked = BLOCK.findall(CPU.read_text()) if CPU.exists() else []
        known = [block for block in locked if block.startswith(f"torch=={version}+cpu ")]
        if not known:
            sys.exit(f"{CPU_INDEX} cannot be read ({error}): try again where it can be.")
        print(f"{CPU_INDEX} cannot be read ({error}): torch's CPU hashes stay as they are.")
        return re.findall(r"sha256:(\w+)", known[0])


def cpu_body(cuda: str) -> str:
    """Return the body of the CPU lock."""
    blocks = [block for block in BLOCK.findall(cuda) if not CUDA_ONLY.match(block)]
    return f"--extra-index-url {CPU_INDEX}\n\n" + "".join(map(_on_cpu, blocks))


def _on_cpu(block: str) -> str:
    torch = re.match(r"torch==(\S+) ", block)
    if torch is None:
        return block
    hashes = " \\\n".join(f"    --hash=sha256:{value}" for value in cpu_hashes(torch[1]))
    comment = block[block.index("    # via") :]
    return f"torch=={torch[1]}+cpu \\\n{hashes}\n{comment}"


def main() -> None:
    """Write the locks."""
    cuda = compile_cuda(CUDA)
    bodies = {CUDA: cuda, CUDA12: compile_cuda(CUDA12, CUDA12_TORCH), CPU: cpu_body(cuda)}
    for path, text in bodies.items():
        path.write_text(HEAD.format(python=PYTHON, name=path.name) + "\n" + text)
        print(f"{path.relative_to(ROOT)}: {len(BLOCK.findall(text))} packages")


if __name__ == "__main__":
    main()
