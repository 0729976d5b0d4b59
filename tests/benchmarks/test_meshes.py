"""The benchmark of meshes on its smallest grid."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def meshes(monkeypatch):
    """Import the benchmark."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return __import__("meshes")


def test_its_page_has_a_line_for_each_way(meshes, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(sys, "argv", ["meshes.py", "--quick", "--out", str(tmp_path / "a.md")])
    meshes.main()
    rows = [line.split("|") for line in (tmp_path / "a.md").read_text().splitlines()]
    found = {row[1].strip(): row for row in rows if len(row) > 5}
    assert set(meshes.WAYS) <= set(found)
    ours, plain = found["surface_mesh"], found["binary marching cubes"]
    assert float(ours[3]) < 0.4 * float(plain[3])  # mean deviation of normals
    assert ours[6].strip() == "yes"
    assert ours[7].strip() == "NoError"
    assert [path.name for path in tmp_path.iterdir()] == ["a.md"]
