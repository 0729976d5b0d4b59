"""Atomic writing of the files of a reconstruction."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from famseg.files import fresh_part, write_atomically, write_json
from famseg.meshes import Mesh, write_mesh
from famseg.messages import InputError
from famseg.reconstruction._seg_nrrd import seg_nrrd
from famseg.volumes import Volume, write_volume

MeshFormat = Literal["stl", "ply", "3mf"]
MESH_FORMATS: tuple[MeshFormat, ...] = get_args(MeshFormat)

CASE = "case.json"
"""The file that is written last: if it exists, the case is complete."""


@dataclass(frozen=True)
class Outputs:
    """Files that are written in addition to the volumes.

    Args:
        formats: Formats of the meshes.
        seg_nrrd: Whether to write a segmentation for 3D Slicer.
        dicom_seg: Whether to write a DICOM segmentation for inputs that are DICOM series.

    Raises:
        InputError: If a format is unknown.
    """

    formats: tuple[MeshFormat, ...] = MESH_FORMATS
    seg_nrrd: bool = False
    dicom_seg: bool = False

    def __post_init__(self) -> None:
        unknown = [name for name in self.formats if name not in MESH_FORMATS]
        if unknown or not self.formats:
            raise InputError(
                f"--format: {', '.join(unknown) or 'no format'}: meshes are written as "
                f"{', '.join(MESH_FORMATS)}"
            )


@dataclass(frozen=True, eq=False)
class Result:
    """A reconstruction in the voxels of its scan.

    Args:
        completed: The completed skull: all bone of the input plus the implant.
        implant: The implant; shares no voxel with the input's bone.
        agreement: Percentage of the network's predictions that agree at each voxel.
        affine: Maps voxel indices of the three to mm in RAS+.
        implant_mesh: Surface of the implant in mm.
        skull_mesh: Surface of the input's bone in mm.
        case: The facts about it, in JSON types.
    """

    completed: NDArray[np.bool_]
    implant: NDArray[np.bool_]
    agreement: NDArray[np.uint8]
    affine: NDArray[np.float64]
    implant_mesh: Mesh
    skull_mesh: Mesh
    case: Mapping[str, Any]


def save_case(
    result: Result,
    folder: Path,
    outputs: Outputs,
    *,
    facts: Mapping[str, Any],
    ending: str = ".nii.gz",
    space: Literal["RAS", "LPS"] = "LPS",
    extra: Mapping[str, bytes] | None = None,
) -> dict[str, Any]:
    """Write a reconstruction; ``case.json`` is written last and lists all other files.

    The same result gives the same bytes: no file contains a time or the name of a machine.

    Args:
        result: The reconstruction.
        folder: Output folder, which is created; files of an earlier reconstruction are removed.
        outputs: Which files to write.
        facts: Content of ``case.json``, in JSON types.
        ending: Format of the volumes.
        space: Axes of the coordinates in STL, PLY and 3MF files, which state them.
        extra: Further files by name.

    Returns:
        The content of ``case.json``: the facts, and the SHA-256 of each file.

    Raises:
        OSError: If a file cannot be written; there is then no ``case.json``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CASE).unlink(missing_ok=True)
    written = [
        *_write_volumes(result, folder, ending),
        *_write_meshes(result, folder, outputs, space),
    ]
    contents = dict(extra or {})
    if outputs.seg_nrrd:
        skull = result.completed & ~result.implant
        segments = {"skull": skull, "implant": result.implant}
        contents["segmentation.seg.nrrd"] = seg_nrrd(segments, result.affine)
    for name, content in contents.items():
        write_atomically(folder / name, content)
        written.append(folder / name)
    for stale in folder.iterdir():
        if stale not in written and stale.name.split(".")[0] in _NAMES:
            stale.unlink(missing_ok=True)
    case = {**facts, "files": {path.name: _sha256(path) for path in sorted(written)}}
    write_json(folder / CASE, case)
    return case


# Including the report, so that a page never shows an earlier reconstruction.
_NAMES = ("completed", "implant", "skull", "agreement", "reconstruction", "segmentation", "report")


def _write_volumes(result: Result, folder: Path, ending: str) -> Iterator[Path]:
    volumes: dict[str, NDArray[Any]] = {
        "completed": result.completed.astype(np.uint8),
        "implant": result.implant.astype(np.uint8),
        "agreement": result.agreement,
    }
    for name, array in volumes.items():
        path = folder / f"{name}{ending}"
        with fresh_part(path, ending) as part:
            write_volume(Volume(array, result.affine), part)
        yield path


def _write_meshes(
    result: Result, folder: Path, outputs: Outputs, space: Literal["RAS", "LPS"]
) -> Iterator[Path]:
    meshes = {"implant": result.implant_mesh, "skull": result.skull_mesh}
    for kind in dict.fromkeys(outputs.formats):
        if kind == "3mf":  # one file with named parts
            write_mesh(folder / "reconstruction.3mf", meshes, space=space)
            yield folder / "reconstruction.3mf"
            continue
        for name, mesh in meshes.items():
            write_mesh(folder / f"{name}.{kind}", mesh, space=space)
            yield folder / f"{name}.{kind}"


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
