"""Cost of a reconstruction: processor time, memory, and time of each stage.

python benchmarks/reconstruct.py --out benchmarks/results/reconstruct.md

Each case is the command `famseg reconstruct` in a separate process, from a file to the implant's
STL file, including imports. The CT is made from a phantom with a hole: bone, soft tissue and air,
blurred as by a scanner. Takes two minutes on an otherwise idle machine.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from _measure import environment, say, table
from numpy.typing import NDArray
from scipy import ndimage

from famseg.datasets import RegionDefect, inject, phantom
from famseg.volumes import Volume, write_volume

_PHANTOM, _PHANTOM_MM = 128, 1.75
_CT_SHAPE, _CT_MM = (512, 512, 250), (0.4375, 0.4375, 0.896)
_SKIN_MM = 5.0
_AIR, _WATER, _BONE = -1000.0, 40.0, 1000.0
_NOISE_HU = 15.0
_CASE = Path(__file__).with_name("_reconstruct_case.py")
_LOADING = ("start", "imports")
# Name, most processor seconds, most GiB.
_PROMISED = {"CT 512 x 512 x 250": (60.0, 2.5), "mask 128^3": (10.0, 2.5)}


def holed() -> NDArray[np.uint8]:
    """Return a phantom with a defect at the side."""
    skull = phantom(0, 0, _PHANTOM, _PHANTOM_MM)
    spacing = (_PHANTOM_MM,) * 3
    return inject(skull, RegionDefect("parietotemporal"), spacing, np.random.default_rng(0))[0]


def write_mask(path: Path) -> None:
    """Write the phantom as a mask."""
    write_volume(Volume(holed(), np.diag([_PHANTOM_MM] * 3 + [1.0])), path)


def write_ct(path: Path) -> None:
    """Write the phantom as a CT of 512 x 512 x 250 voxels."""
    bone = holed()
    body = ndimage.binary_fill_holes(ndimage.binary_closing(phantom(0, 0, _PHANTOM), iterations=9))
    depth = ndimage.distance_transform_edt(~body) * _PHANTOM_MM
    soft = ndimage.gaussian_filter(bone.astype(np.float32), 0.6)
    values = np.empty(_CT_SHAPE, dtype=np.int16)
    step = np.array(_CT_MM) / _PHANTOM_MM
    rng = np.random.default_rng(0)
    for k in range(_CT_SHAPE[2]):  # slice by slice, to avoid a second volume in floating point
        x, y = np.indices(_CT_SHAPE[:2], dtype=np.float32)
        where = np.stack([x * step[0], y * step[1], np.full_like(x, k * step[2])])
        share = ndimage.map_coordinates(soft, where, order=1)
        skin = ndimage.map_coordinates(depth, where, order=1, mode="nearest") < _SKIN_MM
        tissue = np.where(skin, _WATER, _AIR)
        level = tissue + share * (_BONE - tissue) + rng.normal(0, _NOISE_HU, tissue.shape)
        values[:, :, k] = np.round(level)
    write_volume(Volume(values, np.diag([*_CT_MM, 1.0])), path)


def measured(path: Path) -> dict[str, Any]:
    """Run a case in a separate process; add its processor time, wall time and memory."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with tempfile.TemporaryDirectory() as out:
        began = time.monotonic()
        command = [sys.executable, "-W", "ignore", str(_CASE), str(path), out]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        wall = time.monotonic() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    result: dict[str, Any] = json.loads(done.stdout)
    if result["case"] is None:
        raise SystemExit(f"{path.name}: {result['reason']}")
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {**result, "cpu": cpu, "wall": wall}


def report(results: dict[str, dict[str, Any]]) -> list[str]:
    """Return the tables as lines of Markdown."""
    totals = []
    for name, found in results.items():
        seconds, gib = _PROMISED[name]
        loading = sum(found["seconds"].get(stage, 0.0) for stage in _LOADING)
        held = found["cpu"] <= seconds and found["gib"] <= gib
        totals.append(
            [
                name,
                f"{found['cpu']:.1f}",
                f"{found['cpu'] - loading:.1f}",
                f"{found['wall']:.1f}",
                f"{found['gib']:.2f}",
                f"<= {seconds:g} s, {gib:g} GiB: {'held' if held else 'missed'}",
            ]
        )
    stages = list(dict.fromkeys(s for found in results.values() for s in found["seconds"]))
    rows = [
        [stage, *(f"{found['seconds'].get(stage, 0):.1f}" for found in results.values())]
        for stage in stages
    ]
    shapes = [
        f"- {name}: implant of {found['case']['implant']['volume_ml']:.1f} ml, gap "
        f"{found['case']['gap_mm']['p1']} mm (1st percentile), confidence "
        f"{found['case']['confidence']['value']:.2f}"
        for name, found in results.items()
    ]
    head = [
        "case",
        "processor, s",
        "without start and imports, s",
        "wall, s",
        "peak memory, GiB",
        "promised",
    ]
    return [
        "Processor time of the whole process, on one thread, from its start to its end, imports",
        *("included.", ""),
        *(table(head, totals), "", "## Where the processor time goes, in seconds", ""),
        *(table(["stage", *results], rows), "", "## What came out", "", *shapes, ""),
    ]


def main() -> None:
    """Measure both cases, print the tables, and write them if asked."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, help="Markdown file")
    options = parser.parse_args()
    surroundings = environment("cpu", 1, ["torch", "numpy", "SimpleITK", "scikit-image"])
    with tempfile.TemporaryDirectory() as folder:
        files = {"CT 512 x 512 x 250": write_ct, "mask 128^3": write_mask}
        results = {}
        for number, (name, write) in enumerate(files.items()):
            path = Path(folder) / f"case{number}.nii.gz"
            write(path)
            results[name] = measured(path)
    lines = [f"- {key}: {value}" for key, value in surroundings.items()]
    text = "\n".join(["# What a reconstruction costs", "", *lines, "", *report(results)])
    say(text)
    if options.out is not None:
        options.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
