"""Write a bill of materials (CycloneDX) of each lock: versions, hashes, licences.

make sbom        (or: python requirements/sbom.py FOLDER)
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from licences import locked

LOCKS = Path(__file__).parent


def written(lock: Path) -> dict[str, Any]:
    """Return what cyclonedx-py makes of a lock."""
    command = [sys.executable, "-m", "cyclonedx_py", "requirements", str(lock)]
    command += ["--pyproject", str(LOCKS.parent / "pyproject.toml"), "--output-reproducible"]
    done = subprocess.run(  # noqa: S603 - our own arguments
        command,
        check=True,
        stdout=subprocess.PIPE,
        # It warns that a list of requirements has no graph of dependencies.
        env={**os.environ, "PYTHONWARNINGS": "ignore"},
    )
    bill: dict[str, Any] = json.loads(done.stdout)
    return bill


def complete(bill: dict[str, Any], licences: Mapping[str, str | None]) -> dict[str, Any]:
    """Add licences; leave out descriptions, which are lines of the lock."""
    for component in bill["components"]:
        component.pop("description", None)
        licence = licences[component["name"]]
        if licence is not None:
            component["licenses"] = [{"expression": licence}]
    return bill


def main() -> None:
    """Write the bills to a folder."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "dist")
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("cuda", "cuda12", "cpu"):
        lock = LOCKS / f"{name}.lock"
        bill = complete(written(lock), {row.name: row.licence for row in locked(lock)})
        path = folder / f"famseg-{name}.cdx.json"
        path.write_text(json.dumps(bill, indent=2) + "\n")
        print(f"{path}: {len(bill['components'])} packages")


if __name__ == "__main__":
    main()
