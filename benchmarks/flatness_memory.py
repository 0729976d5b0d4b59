"""Memory of a penalized step of the autoencoder with several C allocators.

    python benchmarks/flatness_memory.py [LIBRARY...]

The scene of ``flatness.py``: 64^3, batch 4, the default penalty. The memory of a process consists
of its tensors and of fragmentation, which depends on the allocator: that of the C library, and each
LIBRARY, such as ``/usr/lib/x86_64-linux-gnu/libjemalloc.so.2``, in a process with LD_PRELOAD. Peaks
are relative to the memory before the first step, medians of three processes each.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from functools import partial
from pathlib import Path

from _flatness_steps import fam, plain, scene
from _measure import Step
from _memory import MIB, Memory, peak

LAMBDA = 0.002
PROCESSES = 3


def build(which: str) -> Step:
    """Create the plain or the penalized step."""
    setting = scene("autoencoder", "cpu")
    return plain(setting) if which == "plain" else fam(setting, weight=LAMBDA)


def measure(name: str) -> str:
    """Return the row of the allocator of this process."""
    found = [peak(partial(build, which), "cpu", 1, times=PROCESSES) for which in ("plain", "fam")]
    base, penalized = (one or Memory(0, 0) for one in found)
    cells = [f"{one.first / MIB:.0f} / {one.later / MIB:.0f}" for one in (base, penalized)]
    return f"| {name} | {' | '.join(cells)} | {penalized.peak / base.peak:.2f} |"


def main() -> None:
    """Print the table, one row per allocator."""
    libraries = sys.argv[1:]
    print("| allocator | plain step, MiB, first / later | default | ratio of the peaks |")
    print("| --- | --- | --- | --- |")
    print(measure(" ".join(platform.libc_ver())), flush=True)
    for library in libraries:
        code = f"import flatness_memory; print(flatness_memory.measure({Path(library).name!r}))"
        folder = Path(__file__).parent
        environment = {**os.environ, "LD_PRELOAD": library, "PYTHONPATH": str(folder)}
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        print(done.stdout.strip(), flush=True)


if __name__ == "__main__":
    main()
