"""Write the two locks of the image: every package with its version and the hashes of its files.

    make lock        (or: python requirements/lock.py)

Versions come from ``pyproject.toml`` and ``constraints.txt``; what neither names, the CUDA
libraries that torch asks for, stays as locked before. uv reads metadata alone: nothing large is
downloaded.

``cpu.lock`` is ``cuda.lock`` without the CUDA libraries and with torch's CPU build, which PyTorch
serves from an index of its own.
"""

from __future__ import annotations

import re
import subprocess
import sys
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CUDA = ROOT / "requirements" / "cuda.lock"
CPU = ROOT / "requirements" / "cpu.lock"
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


def compile_cuda() -> str:
    """Return the body of the CUDA lock as uv resolves it."""
    command = [sys.executable, "-m", "uv", "pip", "compile", "pyproject.toml", "--quiet"]
    command += [f"--extra={extra}" for extra in EXTRAS]
    command += ["--constraints=constraints.txt", "--generate-hashes", "--no-header"]
    command += [f"--python-version={PYTHON}", "--python-platform=x86_64-manylinux_2_28"]
    command += ["--default-index=https://pypi.org/simple", f"--output-file={CUDA}"]
    subprocess.run(command, cwd=ROOT, check=True)  # noqa: S603 - our own arguments
    return "".join(BLOCK.findall(CUDA.read_text()))


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
    """Write both locks."""
    body = compile_cuda()
    for path, text in ((CUDA, body), (CPU, cpu_body(body))):
        path.write_text(HEAD.format(python=PYTHON, name=path.name) + "\n" + text)
        print(f"{path.relative_to(ROOT)}: {len(BLOCK.findall(text))} packages")


if __name__ == "__main__":
    main()
