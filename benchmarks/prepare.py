"""Cost of preparing a CT, compared with a plain SimpleITK script: processor time and memory.

python benchmarks/prepare.py --out benchmarks/results/prepare.md

The CT is a DICOM series of 512 x 512 x 200 voxels made from a phantom: bone, soft tissue, air, a
table below the head, noise. `famseg prepare` and plain scripts (read the series, threshold,
resample, keep the largest component, write) run in separate processes, in turns, including imports;
the tables have the median and the range. The plain scripts do no cleaning and no checks. Takes two
minutes on an otherwise idle machine.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from _measure import environment, say, table
from numpy.typing import NDArray
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian
from scipy import ndimage

from famseg.datasets import phantom

_PHANTOM, _PHANTOM_MM = 128, 1.75
_SHAPE, _SPACING_MM = (512, 512, 200), (0.4375, 0.4375, 1.12)
_SKIN_MM = 5.0
_AIR, _WATER, _BONE, _TABLE = -1000.0, 40.0, 1000.0, 300.0
_NOISE_HU = 15.0
_UID = "1.2.826.0.1.3680043.8.498.77"
_OURS = "famseg prepare"
_PROMISED = 1.5  # times the processor time of the plain script, with no more memory

_READ = """
import sys, SimpleITK as sitk
reader = sitk.ImageSeriesReader()
reader.SetFileNames(reader.GetGDCMSeriesFileNames(sys.argv[1]))
image = reader.Execute()
bone = sitk.BinaryThreshold(image, 226, 32767)
def largest(mask):
    return sitk.RelabelComponent(sitk.ConnectedComponent(mask, True)) == 1
def resampled(mask, size, step, interpolator=sitk.sitkLinear):
    grid = sitk.Image(size, sitk.sitkUInt8)
    grid.SetSpacing(step)
    middle = image.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in image.GetSize()])
    grid.SetOrigin([m - s * (n - 1) / 2 for m, n, s in zip(middle, size, step)])
    return sitk.Resample(mask, grid, sitk.Transform(), interpolator)
"""
# Threshold, resample, largest component, in this order: to cubic voxels of the finest spacing,
# which loses no wall; and to the 128 voxels that are trained on, where a table may be merged with
# the head. Then the latter with the component of the scan, and with as many samples per voxel as
# famseg uses.
_AIM = "plain, cubic voxels of the finest spacing"
PLAIN = {
    _AIM: _READ
    + """
fine = min(image.GetSpacing())
size = [round(n * s / fine) for n, s in zip(image.GetSize(), image.GetSpacing())]
skull = largest(resampled(bone, size, [fine] * 3, sitk.sitkNearestNeighbor))
sitk.WriteImage(skull, sys.argv[2])
""",
    "plain, 128 voxels": _READ
    + """
skull = largest(resampled(bone, [128] * 3, [1.75] * 3))
sitk.WriteImage(skull, sys.argv[2])
""",
    "plain, largest component in the scan": _READ
    + """
skull = resampled(largest(bone), [128] * 3, [1.75] * 3)
sitk.WriteImage(skull, sys.argv[2])
""",
    "plain, component in the scan, 75 samples per voxel": _READ
    + """
many = resampled(largest(bone), [640, 640, 384], [0.35, 0.35, 1.75 / 3]) * 255
skull = sitk.BinShrink(many, [5, 5, 3]) > 127
sitk.WriteImage(skull, sys.argv[2])
""",
}


def write_series(folder: Path) -> None:
    """Write the CT slice by slice in LPS order, feet first, as scanners do."""
    bone = phantom(0, 0, _PHANTOM, _PHANTOM_MM)
    body = ndimage.binary_fill_holes(ndimage.binary_closing(bone, iterations=9))
    depth = ndimage.distance_transform_edt(~body) * _PHANTOM_MM
    soft = ndimage.gaussian_filter(bone.astype(np.float32), 0.6)
    step = np.array(_SPACING_MM) / _PHANTOM_MM
    rng = np.random.default_rng(0)
    across, down, count = _SHAPE
    y, x = np.indices((down, across), dtype=np.float32)
    x, y = across - 1 - x, down - 1 - y  # the phantom's axes point to the right and to the front
    for k in range(count):
        where = np.stack([x * step[0], y * step[1], np.full_like(x, k * step[2])])
        share = ndimage.map_coordinates(soft, where, order=1)
        skin = ndimage.map_coordinates(depth, where, order=1, mode="nearest") < _SKIN_MM
        tissue = np.where(skin, _WATER, _AIR)
        level = tissue + share * (_BONE - tissue)
        level[505:508, 60:450] = np.maximum(level[505:508, 60:450], _TABLE)
        level += rng.normal(0, _NOISE_HU, level.shape)
        _write_slice(folder / f"IM{k:04d}.dcm", k, np.round(level + 1024).astype(np.int16))


def _write_slice(path: Path, number: int, stored: NDArray[np.int16]) -> None:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = f"{_UID}.3.{number + 1}"
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    data.SOPClassUID, data.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
    data.StudyInstanceUID, data.SeriesInstanceUID = f"{_UID}.1", f"{_UID}.2"
    data.FrameOfReferenceUID = f"{_UID}.4"
    data.Modality, data.ImageType = "CT", ["ORIGINAL", "PRIMARY", "AXIAL"]
    data.PatientID, data.SeriesNumber, data.InstanceNumber = "benchmark", 1, number + 1
    data.Rows, data.Columns = stored.shape
    data.PixelSpacing, data.SliceThickness = [_SPACING_MM[1], _SPACING_MM[0]], _SPACING_MM[2]
    data.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    data.ImagePositionPatient = [-112.0, -112.0, number * _SPACING_MM[2]]
    data.RescaleSlope, data.RescaleIntercept, data.RescaleType = 1, -1024, "HU"
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 16, 15, 1
    data.PixelData = stored.tobytes()
    data.save_as(path, enforce_file_format=True)


def measured(command: list[str]) -> dict[str, float]:
    """Run a command; return its processor seconds, wall seconds and peak memory in MB.

    Child processes are included: the sum of seconds, and the largest memory.
    """
    code = (
        "import json, resource, subprocess, sys, time\n"
        "began = time.monotonic()\n"
        "done = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=sys.stderr)\n"
        "used = resource.getrusage(resource.RUSAGE_CHILDREN)\n"
        "found = {'cpu': used.ru_utime + used.ru_stime, 'wall': time.monotonic() - began,\n"
        "         'mb': used.ru_maxrss / 1000, 'rc': done.returncode}\n"
        "print(json.dumps(found))\n"
    )
    threads = {"OMP_NUM_THREADS": "1", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code, *command],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, **threads},
    )
    found: dict[str, float] = json.loads(done.stdout)
    if found["rc"] != 0:
        raise SystemExit(f"{' '.join(command)}: exit status {found['rc']}\n{done.stderr}")
    return found


def compare(series: Path, folder: Path, rounds: int) -> dict[str, Any]:
    """Run both in turns; return the medians and the hash of famseg's skull."""
    skull = folder / "prepared0" / "skulls" / f"{series.name}.nii.gz"
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in (*PLAIN, _OURS)}
    for k in range(rounds):
        say(f"round {k + 1} of {rounds}")
        for name, code in PLAIN.items():
            plain = [sys.executable, "-c", code, str(series), str(folder / "plain.nii.gz")]
            runs[name].append(measured(plain))
        out = folder / f"prepared{k}"
        command = ["-m", "famseg", "prepare", str(series), "--out", str(out), "--workers", "1"]
        runs[_OURS].append(measured([sys.executable, *command]))
    medians = {
        name: {key: statistics.median(run[key] for run in each) for key in ("cpu", "wall", "mb")}
        | {"least": min(r["cpu"] for r in each), "most": max(r["cpu"] for r in each)}
        for name, each in runs.items()
    }
    return {"runs": medians, "sha256": hashlib.sha256(skull.read_bytes()).hexdigest()}


def report(found: dict[str, Any]) -> list[str]:
    """Return the table as lines of Markdown."""
    plain, ours = found["runs"][_AIM], found["runs"][_OURS]
    rows = [
        [
            name,
            f"{run['cpu']:.2f} ({run['least']:.2f} to {run['most']:.2f})",
            f"{run['cpu'] / plain['cpu']:.2f}",
            f"{run['wall']:.1f}",
            f"{run['mb']:.0f}",
        ]
        for name, run in found["runs"].items()
    ]
    held = ours["cpu"] <= _PROMISED * plain["cpu"] and ours["mb"] <= plain["mb"]
    return [
        *table(["", "processor, s", "ratio", "wall, s", "peak memory, MB"], rows).splitlines(),
        "",
        f"Aim: {_PROMISED:g} times the processor time of the first plain script at no more memory: "
        f"{'held' if held else 'missed'}.",
        f"SHA-256 of the skull that was written: `{found['sha256'][:16]}`.",
        "",
    ]


def main() -> None:
    """Measure, print the table, and write it if asked."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, help="Markdown file")
    parser.add_argument("--rounds", type=int, default=5, help="runs of each")
    parser.add_argument("--keep", type=Path, help="folder to write the series to, and to leave")
    options = parser.parse_args()
    surroundings = environment("cpu", 1, ["numpy", "scipy", "SimpleITK", "pydicom"])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        series = (options.keep or folder) / "head"
        if not series.exists():
            series.mkdir(parents=True)
            write_series(series)
        found = compare(series, folder, options.rounds)
    lines = [f"- {key}: {value}" for key, value in surroundings.items()]
    text = "\n".join(["# What preparing a CT costs", "", *lines, "", *report(found)])
    say(text)
    if options.out is not None:
        options.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
