from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "requirements"))

import audit

SAFE: dict[str, Any] = {"name": "six", "version": "1.17.0", "vulns": []}
FAULT = {"id": "PYSEC-2026-1", "fix_versions": ["2.0"]}
SKIPPED = {"name": "torch", "skip_reason": "Dependency not found on PyPI"}


def test_a_known_vulnerability_fails() -> None:
    status, lines = audit.report([SAFE, {**SAFE, "vulns": [FAULT]}], "")
    assert status == 1
    assert lines[0] == "six 1.17.0: PYSEC-2026-1, fixed in 2.0"


def test_none_is_known_of_packages_that_were_asked_for() -> None:
    status, lines = audit.report([SAFE, SKIPPED], "")
    assert (status, lines) == (
        0,
        [
            "1 packages asked for, 0 vulnerabilities known",
            "not asked for, since the index does not know them: torch",
        ],
    )


def test_an_index_without_advisories_is_no_clean_bill() -> None:
    status, (line,) = audit.report([SKIPPED], "")
    assert status == 0
    assert line.startswith("audit skipped: the index has no advisories")


@pytest.mark.parametrize(
    ("said", "status"),
    [("...\nrequests.exceptions.ConnectionError: no route", 0), ("ERROR: invalid lock", 1)],
)
def test_only_a_missing_network_passes(said: str, status: int) -> None:
    found, (line,) = audit.report(None, said)
    assert found == status
    assert line.endswith(said.splitlines()[-1])
