"""The metrics benchmark completes, and its shapes have the stated distances."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
CONTESTANTS = [
    "famseg, all scores",
    "MONAI, HD95",
    "surface-distance, HD95",
    "medpy, HD95",
    "SimpleITK, HD alone",
]


@pytest.fixture
def module(monkeypatch):
    """Import a part of the benchmark by name."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return __import__


def sampled(radii, others):
    """Distances between concentric spheres, sampled uniformly by area."""
    spheres = np.array(radii)
    away = np.abs(spheres[:, None] - np.array(others)).min(axis=1)
    return away, spheres**2


@pytest.mark.parametrize("wider", [1.0, 3.0, 4.0, 6.0])
def test_the_distance_of_shells_is_that_of_the_nearest_sphere(module, wider):
    made = module("_metrics_pairs")._wider_shell(30.0, 34.0, wider)
    own, other = (30.0, 34.0), (30.0 + wider, 34.0 + wider)
    away, areas = (
        np.concatenate(x) for x in zip(sampled(own, other), sampled(other, own), strict=True)
    )
    assert made["ASSD"] == pytest.approx((away * areas).sum() / areas.sum())
    assert made["HD"] == made["HD95"] == away.max()


def test_a_target_is_open_where_the_other_one_was_ended(module):
    page, runs = module("_metrics_page"), module("_metrics_runs")

    def row(name, cpu, peak, ended=True):
        return page.Row("9^3", "noise", 1, name, [runs.Run(cpu, cpu, peak, ended, {})])

    ours = row(page.OURS, 2.0, 40)
    for cpu, peak, ended, wanted in (
        (4.0, 200, True, [True, True]),
        (1.0, 90, True, [False, False]),
        (4.0, 200, False, [True, True]),
        (1.0, 90, False, [None, None]),
    ):
        verdicts = page.verdicts([ours, row(page.MONAI, cpu, peak, ended)], [])
        assert [one.held for one in verdicts[:2]] == wanted


@pytest.mark.slow
@pytest.mark.nightly
def test_a_quick_run_shows_every_contestant(tmp_path):
    out = tmp_path / "metrics.md"
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / "metrics.py"), "--quick", "--out", str(out)],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    text, found = out.read_text(), json.loads(out.with_suffix(".json").read_text())
    assert [row["name"] for row in found["pairs"]] == CONTESTANTS * 3
    assert [name for name in CONTESTANTS if f"| {name} |" not in text] == []
    present = [row for row in found["pairs"] if row["missing"] is None]
    assert all(run["ended"] and run["cpu"] > 0 for row in present for run in row["runs"])
    # Same definition, same distance, different names.
    ours, monai = (found["pairs"][k]["runs"][0]["scores"] for k in (0, 1))
    assert ours["HD95 directed"] == pytest.approx(monai["HD95"], rel=1e-5)
    missed = [one["target"] for one in found["targets"] if one["held"] is False]
    assert [target for target in missed if "by the same definition" in target] == []
