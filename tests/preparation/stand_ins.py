"""Sources made of phantoms, and steps that fail on demand; other processes import this by name."""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path

import numpy as np

from famseg.datasets import phantom
from famseg.messages import InputError
from famseg.preparation import Companion, Found, Prepared, Quality, Refused, Scan, Source
from famseg.preparation._types import Role
from famseg.volumes import Volume

SPACING_MM = 7.0
AFFINE = np.diag([SPACING_MM, SPACING_MM, SPACING_MM, 1.0])


def found(folder: Path, names: Iterable[str], *, refused: Iterable[str] = ()) -> Found:
    """Sources of the given names, each a file below a folder; the name determines the behavior."""
    sources = tuple(source(folder, name, number) for number, name in enumerate(sorted(names)))
    return Found("folder", sources, tuple(Refused(n, f"{n}.dcm", "no CT") for n in refused))


def source(folder: Path, name: str, number: int = 0) -> Source:
    """A phantom as a source with a file of its own."""
    folder.mkdir(exist_ok=True)
    file = folder / f"{name}.npy"
    if not file.exists():
        np.save(file, phantom(number, 0, 32))
    companions = ()
    if name.startswith("holed"):
        companions = tuple(
            Companion(role, "bilateral", partial(read_part, file, role))
            for role in ("defective", "implant")
        )
    return Source(name, f"{name}.npy", (file,), partial(read, file), companions)


def read(file: Path) -> Scan:
    """Read a phantom, or fail as its name says."""
    if file.stem.startswith("bad"):
        raise InputError(f"{file}: no bone above 226 HU: check the scan")
    if file.stem.startswith("defect"):
        raise ZeroDivisionError("division by zero")
    if file.stem.startswith("killed"):
        os.kill(os.getpid(), signal.SIGKILL)
    if file.stem.startswith("crash"):
        os.kill(os.getpid(), signal.SIGSEGV)
    if file.stem.startswith("slow"):
        time.sleep(20)
    if file.stem.startswith("full"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(file))
    if file.stem.startswith("large"):
        raise MemoryError
    notes = ("The slices were sorted.",) if file.stem.startswith("noted") else ()
    return Scan(Volume(np.load(file), AFFINE, file), "mask", notes)


def read_part(file: Path, role: Role) -> Scan:
    """Read a phantom with a hole at its front, or the bone of the hole."""
    bone = np.load(file)
    implant = bone.copy()
    implant[:, :18] = 0
    return Scan(Volume(implant if role == "implant" else bone - implant, AFFINE, file), "mask")


def steps(
    scan: Scan, *, companions: Mapping[tuple[Role, str], Scan], warn: bool = False
) -> Prepared:
    """Use the scan unchanged."""
    skull = scan.volume
    quality = Quality(
        volume_ml=float(skull.array.sum()) * SPACING_MM**3 / 1000,
        box_mm=(140.0, 180.0, 150.0),
        components=1,
        removed_ml={"neck": 2.5, "table and holder": 1.25},
        truncated_vault=False,
        existing_defect=False,
        threshold=None,
        source_spacing_mm=(0.5, 0.5, 1.25),
        spacing_mm=skull.spacing_mm,
        warnings=(f"{skull.path}: looks strange.",) if warn else (),
    )
    return Prepared(skull, quality, {key: other.volume for key, other in companions.items()})
