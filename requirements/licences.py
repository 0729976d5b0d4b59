"""List the licences of all locked packages and check them against an allow-list.

    make licences        (or: python requirements/licences.py FILE)

The wheel of famseg holds nothing but famseg: all of these are separate packages, which pip or the
image installs beside it. Permissive licences are allowed, and three kinds with a condition, see
``CONDITIONS``; a GPL is not. (Wheels of numpy, scipy, scikit-learn and torch carry runtime
libraries of GCC, whose GPL makes an exception for just that.)

Licences are read from the installed packages' metadata; of the CUDA libraries, which only a GPU
machine has, from ``CUDA`` below.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from importlib.metadata import PackageMetadata, PackageNotFoundError, metadata
from pathlib import Path
from typing import NamedTuple

# Together they hold all that cpu.lock does.
LOCKS = tuple(Path(__file__).with_name(name) for name in ("cuda.lock", "cuda12.lock"))

PERMISSIVE = {
    *("0BSD", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "BSL-1.0", "CC0-1.0", "CNRI-Python"),
    *("ISC", "MIT", "MIT-0", "MIT-CMU", "PSF-2.0", "Zlib", "Apache-2.0 WITH LLVM-exception"),
}
CONDITIONS = {
    "MPL-2.0": "file by file: its files are passed on unchanged",
    "LGPL-3.0-only": "a separate, unchanged package that a user can replace; extra `server` alone",
    "LicenseRef-NVIDIA-Proprietary": "CUDA libraries, passed on under NVIDIA's CUDA licence",
}
ALLOWED = PERMISSIVE | CONDITIONS.keys()

# What metadata say where they give no SPDX expression.
SPDX = {
    "3-Clause BSD License": "BSD-3-Clause",
    "Apache": "Apache-2.0",
    "Apache 2.0": "Apache-2.0",
    "Apache 2.0 License": "Apache-2.0",
    "Apache License 2.0": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "BSD License": "BSD-3-Clause",
    "ISC License (ISCL)": "ISC",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Python Software Foundation License": "PSF-2.0",
}
# Metadata say nothing usable; read in the package's own licence file.
BY_HAND = {"dumb-init": "MIT", "huey": "MIT", "skops": "MIT"}
# Read in the metadata of the wheels.
CUDA = {
    **dict.fromkeys(("cuda-bindings", "cuda-pathfinder", "nvidia-nvtx"), "Apache-2.0"),
    # Holds no file, only names the libraries.
    "cuda-toolkit": "LicenseRef-NVIDIA-Proprietary",
    "triton": "MIT",
}


class Row(NamedTuple):
    """A package and its licence, None if it is not installed."""

    name: str
    version: str
    licence: str | None


def locked(*locks: Path) -> Iterator[Row]:
    """Yield the packages of locks, of all unless some are given, each version once."""
    texts = [lock.read_text() for lock in locks or LOCKS]
    found = [re.findall(r"^([a-z0-9-]+)==(\S+)", text, re.MULTILINE) for text in texts]
    for name, version in dict.fromkeys(pair for pairs in found for pair in pairs):
        yield Row(name, version, _licence(name))


def allowed(licence: str) -> bool:
    """Tell whether an SPDX expression is allowed; parts of a mixture of AND and OR all must be.

    Example:
        >>> allowed("Apache-2.0 OR GPL-2.0-only"), allowed("Apache-2.0 AND GPL-2.0-only")
        (True, False)
    """
    names = re.split(r"\s+(?:AND|OR)\s+", licence.replace("(", "").replace(")", ""))
    enough = any if " AND " not in licence else all
    return enough(name in ALLOWED for name in names)


def _licence(name: str) -> str | None:
    if name in CUDA:
        return CUDA[name]
    if name.startswith("nvidia-"):
        return "LicenseRef-NVIDIA-Proprietary"
    if name in BY_HAND:
        return BY_HAND[name]
    try:
        return _stated(metadata(name))
    except PackageNotFoundError:
        return None


def _stated(data: PackageMetadata) -> str:
    """Return the expression, else the classifiers, else the licence field, as SPDX where known."""
    if expression := data.get("License-Expression"):
        return expression
    names = [
        value.rpartition(" :: ")[2]
        for value in data.get_all("Classifier") or ()
        if value.startswith("License :: OSI Approved :: ")
    ]
    names = names or [(data.get("License") or "not stated").strip().partition("\n")[0]]
    return " AND ".join(SPDX.get(name, name) for name in names)


def table(rows: list[Row]) -> str:
    """Return the list as Markdown."""
    lines = ["# Licences of what famseg is installed with", ""]
    lines += ["| package | version | licence | condition |", "|---|---|---|---|"]
    for name, version, licence in rows:
        words = re.findall(r"[\w.-]+", licence or "")
        conditions = [text for key, text in CONDITIONS.items() if key in words]
        lines.append(f"| {name} | {version} | {licence} | {'; '.join(conditions)} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Write the list to a file, print what is not allowed, return the exit status."""
    rows = list(locked())
    target = Path(sys.argv[1] if len(sys.argv) > 1 else "dist/licences.md")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(table(rows))
    faults = [
        f"{name}: {licence} is not allowed"
        for name, _, licence in rows
        if licence is not None and not allowed(licence)
    ]
    faults += [
        f"{row.name}: not installed, so its licence is not known: make licences"
        for row in rows
        if row.licence is None
    ]
    print("\n".join(faults or [f"{target}: {len(rows)} packages, all allowed"]))
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
