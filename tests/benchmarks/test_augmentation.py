"""The augmentation benchmark completes and shows both pipelines."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "augmentation.py"
WAYS = ["Pillow, one image at a time", "famseg, whole batches"]


@pytest.mark.slow
def test_a_quick_run_shows_both_ways(tmp_path):
    page = tmp_path / "augmentation.md"
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--quick", "--out", str(page)],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    text, rows = page.read_text(), json.loads(page.with_suffix(".json").read_text())["rows"]
    assert [row["name"] for row in rows] == WAYS * 3
    assert all(row["faster"][3] >= 2 for row in rows)  # turns
    assert text.count(">= 5: ") == 2
