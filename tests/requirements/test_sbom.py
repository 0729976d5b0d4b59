from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "requirements"))

import sbom

LOCK = """\
six==1.17.0 \\
    --hash=sha256:4721f391ed90541fddacab5acf947aa0d3dc7d27b2e1e8eda2be8970586c3274
huey==3.5.4 \\
    --hash=sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef
"""


def test_a_bill_has_versions_hashes_and_licences(tmp_path: Path) -> None:
    if find_spec("cyclonedx_py") is None:
        pytest.skip("no cyclonedx-bom: pip install famseg[release]")
    lock = tmp_path / "small.lock"
    lock.write_text(LOCK)
    bill = sbom.complete(sbom.written(lock), {"six": "MIT", "huey": None})
    assert (bill["bomFormat"], bill["metadata"]["component"]["name"]) == ("CycloneDX", "famseg")
    huey, six = sorted(bill["components"], key=lambda component: component["name"])
    assert six["purl"].startswith("pkg:pypi/six@1.17.0")
    assert "4721f391ed90541f" in str(six["externalReferences"])
    assert six["licenses"] == [{"expression": "MIT"}]
    assert "licenses" not in huey
    assert "description" not in six
