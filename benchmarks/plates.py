"""Accuracy of thin plates that continue the wall across a defect, with and without a network.

python benchmarks/plates.py --out benchmarks/results/plates.md

Defects of the five classes are cut into phantoms (128^3, 1.75 mm) and, where `FAMSEG_REAL_DATA` has
them, into eight real heads at 1.75 mm. Implants are scored unmasked, in the whole volume. *plate*
uses the reference outline without learning. The other methods use a simulated network: the
reference implant at 3.5 mm, blurred by 0.7 voxels and resampled; for *moved* networks the implant
is first deformed by a smooth random displacement of 2 mm (root mean square). *upsampled* is this
output, thresholded; *refined* is `famseg.reconstruction.refine` of it. Errors of real networks are
different. Takes about five minutes on one core.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from _measure import environment, table
from numpy.typing import NDArray
from scipy import ndimage

from famseg.datasets import WHERES, RegionDefect, inject, phantom
from famseg.files import write_atomically
from famseg.messages import InputError
from famseg.metrics import score
from famseg.reconstruction import plate, refine
from famseg.volumes import read_volume

SPACING = (1.75, 1.75, 1.75)
AFFINE = np.diag([*SPACING, 1.0])
DEFECTIVE = ("invesalius_cranium", "seg3d_skull_craniotomy")  # real defects, without reference
THRESHOLD = 0.4
MOVED_MM = 2.0
VAULT = tuple(where for where in WHERES if where != "frontoorbital")
Mask = NDArray[np.bool_]


class Case(NamedTuple):
    """A skull with a defect and the reference implant."""

    group: str
    head: str
    number: int
    where: str
    skull: Mask
    region: Mask
    implant: Mask
    affine: NDArray[np.float64]


class Row(NamedTuple):
    """The scores of one implant."""

    group: str
    head: str
    where: str
    method: str
    dsc: float
    bdsc: float
    hd95_mm: float
    seconds: float
    failed: bool


def heads(phantoms: int) -> Iterator[tuple[str, str, NDArray[np.uint8], NDArray[np.float64]]]:
    """Yield phantoms, then real complete heads: group, name, mask and affine."""
    for subject in range(phantoms):
        yield "phantoms", f"phantom {subject}", phantom(subject, 0, size=128), AFFINE
    root = Path(__file__).resolve().parents[1].parent / "shared" / "data"
    folder = Path(os.environ.get("FAMSEG_REAL_DATA", root)) / "skulls" / "heads128"
    for path in sorted(folder.glob("*.nii.gz")):
        if not path.name.startswith(DEFECTIVE):
            volume = read_volume(path)
            name = path.name.partition(".")[0]
            yield "real heads", name, (volume.array > 0).astype(np.uint8), volume.affine


def cases(phantoms: int) -> Iterator[Case]:
    """Yield one defect of each class in each head where it is possible."""
    for number, (group, name, head, affine) in enumerate(heads(phantoms)):
        for k, where in enumerate(WHERES):
            rng = np.random.default_rng([7, number, k])
            try:
                holed, region = inject(head, RegionDefect(where), SPACING, rng)
            except InputError:
                continue
            skull = holed.astype(bool)
            implant = head.astype(bool) & ~skull
            yield Case(group, name, number, where, skull, region, implant, affine)


def network(implant: Mask, seed: int, moved_mm: float) -> NDArray[np.float32]:
    """Return a simulated network output at 3.5 mm for an implant."""
    seen = implant.astype(np.float32)
    if moved_mm:
        coarse = np.random.default_rng(seed).normal(size=(3, 7, 7, 7))
        at = np.stack(np.meshgrid(*(np.linspace(0, 6, n) for n in seen.shape), indexing="ij"))
        bend = np.stack(
            [ndimage.map_coordinates(one, at, order=3, mode="nearest") for one in coarse]
        )
        bend *= moved_mm / SPACING[0] / np.sqrt(3) / bend.std()
        seen = ndimage.map_coordinates(seen, np.indices(seen.shape) + bend, order=1)
    x, y, z = (n // 2 for n in seen.shape)
    half = seen.reshape(x, 2, y, 2, z, 2).mean(axis=(1, 3, 5))
    half = ndimage.gaussian_filter(half, 0.7)
    back = np.meshgrid(*((np.arange(2 * n) - 0.5) / 2 for n in half.shape), indexing="ij")
    full = ndimage.map_coordinates(half, np.stack(back), order=1, mode="nearest")
    return np.clip(full, 0, 1).astype(np.float32)


def methods(case: Case) -> Iterator[tuple[str, Mask, float]]:
    """Yield the implants of all methods with their processor seconds."""
    began = time.process_time()
    found = plate(case.skull, case.affine, case.region)
    yield "plate", found, time.process_time() - began
    for name, moved in (("", 0.0), (", moved", MOVED_MM)):
        coarse = network(case.implant, case.number, moved)
        yield f"upsampled{name}", (coarse >= THRESHOLD) & ~case.skull, 0.0
        began = time.process_time()
        found = refine(case.skull, case.affine, coarse, threshold=THRESHOLD).implant
        yield f"refined{name}", found, time.process_time() - began


def scored(case: Case, method: str, implant: Mask, seconds: float) -> Row:
    """Return the row of an implant."""
    one = score(implant, case.implant, SPACING, defective=case.skull, kind="implant")
    assert one.bdsc is not None  # noqa: S101  # the defective skull was given
    about = (case.group, case.head, case.where, method)
    return Row(*about, one.dsc, one.bdsc, one.hd95_mm, seconds, one.failed)


def rows(phantoms: int) -> list[Row]:
    """Score all methods on all cases."""
    found = []
    for case in cases(phantoms):
        for method, implant, seconds in methods(case):
            found.append(scored(case, method, implant, seconds))
        print(case.group, case.number, case.where, flush=True)
    return found


def summary(found: list[Row], group: str) -> str:
    """Return one table: methods by class, mean ± standard deviation over cases."""
    lines: list[list[object]] = []
    for name, among in [("four vault classes", VAULT), *((where, (where,)) for where in WHERES)]:
        for method in dict.fromkeys(row.method for row in found):
            own = [r for r in found if r.group == group and r.where in among and r.method == method]
            if own:
                lines.append(_line(name, method, own))
    head = ["class", "method", "n", "failed", "DSC", "bDSC", "HD95, mm", "processor, s"]
    return table(head, lines)


def _line(name: str, method: str, own: list[Row]) -> list[object]:
    def spread(values: list[float], digits: int) -> str:
        return f"{np.mean(values):.{digits}f} ± {np.std(values):.{digits}f}"

    return [
        name,
        method,
        len(own),
        sum(row.failed for row in own),
        spread([row.dsc for row in own], 3),
        spread([row.bdsc for row in own], 3),
        spread([row.hd95_mm for row in own], 2),
        f"{np.mean([row.seconds for row in own]):.2f}",
    ]


def page(phantoms: int) -> str:
    """Measure and return the page."""
    found = rows(phantoms)
    groups = dict.fromkeys(row.group for row in found)
    tables = "\n\n".join(f"## {group.capitalize()}\n\n{summary(found, group)}" for group in groups)
    about = environment("cpu", 1, ["numpy", "scipy"])
    return f"""# Thin plates across defects

Written by `python benchmarks/plates.py`:

{chr(10).join(f"- {name}: {value}" for name, value in about.items())}

{(__doc__ or "").split(chr(10) * 2, 2)[2].strip()}

Mean ± standard deviation over cases; HD95 is `hd95_mm`, see [metrics](../../docs/metrics.md).

{tables}
"""


def main() -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description="Score thin plates across defects.")
    parser.add_argument("--phantoms", type=int, default=2)
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    text = page(chosen.phantoms)
    if chosen.out is None:
        print(text)
    else:
        write_atomically(chosen.out, text.encode())


if __name__ == "__main__":
    main()
