"""Look the locked packages up among the known vulnerabilities.

    make audit        (or: python requirements/audit.py)

pip-audit counts a package that the index tells nothing of as passed. Here that is said: exit status
1 if a vulnerability is known, 0 if none is or if the advisories cannot be had, which is then the
message.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

# Together they hold all that cpu.lock does.
LOCKS = tuple(Path(__file__).with_name(name) for name in ("cuda.lock", "cuda12.lock"))


def ask(lock: Path) -> tuple[list[dict[str, Any]] | None, str]:
    """Return pip-audit's dependencies, or None, and what it said."""
    command = [sys.executable, "-m", "pip_audit", "--require-hashes", "--disable-pip"]
    command += ["--format=json", "--progress-spinner=off", f"--requirement={lock}"]
    done = subprocess.run(command, capture_output=True, text=True)  # noqa: S603 - our own arguments
    try:
        return json.loads(done.stdout)["dependencies"], done.stderr
    except (json.JSONDecodeError, KeyError):
        return None, done.stderr


def report(dependencies: list[dict[str, Any]] | None, said: str) -> tuple[int, list[str]]:
    """Return exit status and lines to print."""
    if dependencies is None:
        last = (said.strip().splitlines() or ["it said nothing"])[-1]
        # Only a network that is missing may pass; a lock that cannot be read may not.
        missing = "requests.exceptions." in said or "ServiceError" in said
        return (0 if missing else 1), [f"audit {'skipped' if missing else 'failed'}: {last}"]
    skipped = [found["name"] for found in dependencies if "skip_reason" in found]
    asked = [found for found in dependencies if "skip_reason" not in found]
    if not asked:
        return 0, ["audit skipped: the index has no advisories on any package; try another one"]
    lines = [
        f"{found['name']} {found['version']}: {fault['id']}, fixed in "
        f"{', '.join(fault['fix_versions']) or 'no version'}"
        for found in asked
        for fault in found["vulns"]
    ]
    status = 1 if lines else 0
    lines.append(f"{len(asked)} packages asked for, {len(lines)} vulnerabilities known")
    if skipped:
        lines.append(f"not asked for, since the index does not know them: {', '.join(skipped)}")
    return status, lines


def main() -> int:
    """Audit the locks, print what is found, return the exit status."""
    worst = 0
    for lock in LOCKS:
        status, lines = report(*ask(lock))
        print("\n".join(f"{lock.name}: {line}" for line in lines))
        worst = max(worst, status)
    return worst


if __name__ == "__main__":
    sys.exit(main())
