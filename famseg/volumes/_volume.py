"""Volumes on disk: NIfTI, NRRD and MetaImage through SimpleITK, with their geometry in RAS+."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import SimpleITK
from numpy.typing import NDArray

from famseg.messages import NO_TEXT, InputError, is_text, visible
from famseg.volumes._copy import copy_into
from famseg.volumes._nifti_header import (
    check_nifti,
    check_room,
    has_room,
    nifti_affine,
    nifti_array,
    nifti_header,
    not_finite,
    too_many_voxels,
    unusable_spacing,
)
from famseg.volumes._nrrd_header import check_text_header, unit_mm

MAX_VOXELS = 2**30
"""Headers with more voxels than this (1024^3) are refused before memory is allocated."""

VOLUME_SUFFIXES = (".nii", ".nii.gz", ".nrrd", ".nhdr", ".mha", ".mhd")
"""Suffixes of the files that `read_volume` reads and `write_volume` writes."""

_PAIR = ".hdr"  # NIfTI with its voxels in a separate .img: read, but never written
_NIFTI = (".nii", ".nii.gz", _PAIR)
_RIGHT_ANGLES = 1e-3  # cosines up to this are rounding errors

_SHEARED = "the header's axes are singular or not at right angles: resample it, or fix its affine"
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0])


@dataclass(frozen=True, eq=False)
class Volume:
    """A 3D image and its position in space.

    Args:
        array: Values, shape ``(X, Y, Z)`` in the order of the file's axes.
        affine: Maps voxel indices to mm in RAS+ (right, anterior, superior), shape ``(4, 4)``.
        path: The file it was read from, if any.
    """

    array: NDArray[Any]
    affine: NDArray[np.float64]
    path: Path | None = None

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance between voxel centers along each axis of the array, in mm."""
        x, y, z = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(x), float(y), float(z)


def volume_suffix(path: Path) -> str | None:
    """Return the suffix that `read_volume` recognizes, or None.

    Example:
        >>> volume_suffix(Path("head.v2.nii.gz")), volume_suffix(Path("notes.txt"))
        ('.nii.gz', None)
    """
    name = path.name.lower()
    endings = [s for s in (*VOLUME_SUFFIXES, _PAIR) if name.endswith(s) and len(name) > len(s)]
    return max(endings, key=len) if endings else None


def read_volume(
    path: str | Path,
    *,
    max_voxels: int = MAX_VOXELS,
    sheared: Literal["refuse", "keep"] = "refuse",
    flat: Literal["refuse", "keep"] = "refuse",
) -> Volume:
    """Read a 3D image with its geometry.

    The header is checked before the voxels are read. Nothing is resampled or reoriented. NIfTI
    files are placed by their sform, or by the qform if there is no sform.

    Args:
        path: A file ending in .nii, .nii.gz, .nrrd, .nhdr, .mha, .mhd or .hdr (NIfTI with .img).
        max_voxels: Larger images are refused.
        sheared: What to do with NIfTI whose axes are not at right angles; a volume that is kept has
            an affine that only NIfTI files can store.
        flat: What to do with a slice: an image with two axes, or with three of which one has a
            single voxel. A slice that is kept has the shape ``(X, Y, 1)``, or that of its file.

    Returns:
        The volume; its affine is right-anterior-superior whatever the file's convention.

    Raises:
        InputError: If the file is missing, damaged or not a 3D image, or its geometry is unusable;
            one line that begins with the path.
    """
    path = Path(path)
    suffix = volume_suffix(path)
    if not path.is_file():
        what = "is a folder, not a file" if path.is_dir() else "there is no such file"
        raise InputError(f"{path}: {what}")
    if suffix is None:
        raise InputError(
            f"{path}: not a volume by its name: it must end in one of {', '.join(VOLUME_SUFFIXES)}"
        )
    if path.stat().st_size == 0:
        raise InputError(f"{path}: the file is empty (0 bytes): copy it again")
    if not os.access(path, os.R_OK):
        raise InputError(f"{path}: no permission to read it")
    check_header(path, max_voxels)
    if suffix in _NIFTI and not _itk_reads(path, sheared):
        affine = _nibabel_affine(path, sheared)
        return Volume(_finite(nifti_array(path, flat=flat == "keep"), path), affine, path)
    affine = read_header(path, max_voxels, flat)
    try:
        with quiet_itk():
            image = SimpleITK.ReadImage(str(path))
    except (RuntimeError, MemoryError) as error:
        beside = ", or its data file is missing" if suffix in (".mhd", ".nhdr") else ""
        raise InputError(
            f"{path}: the header is readable, the voxels are not: the file is cut short or "
            f"damaged{beside}"
        ) from error
    array = SimpleITK.GetArrayFromImage(image).T
    return Volume(_finite(array if array.ndim == 3 else array[..., None], path), affine, path)


def _finite(array: NDArray[Any], path: Path) -> NDArray[Any]:
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise InputError(not_finite(path))
    return array


def _itk_reads(path: Path, sheared: Literal["refuse", "keep"]) -> bool:
    """Return whether ITK can read a NIfTI file: not version 2, pairs, slices or sheared axes.

    ITK refuses sheared axes if there is no qform to use instead, and for a slice it keeps only two
    of the three axes in space.
    """
    header = nifti_header(path)
    if int(header["sizeof_hdr"]) != 348 or volume_suffix(path) == _PAIR:
        return False
    if int(header["dim"][0]) < 3 or int(header["dim"][3]) == 1:
        return False
    return sheared == "refuse" or not _sheared(nifti_affine(header, path))


def _sheared(affine: NDArray[np.float64]) -> bool:
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    return bool(np.abs(axes.T @ axes - np.eye(3)).max() > _RIGHT_ANGLES)


def _nibabel_affine(path: Path, sheared: Literal["refuse", "keep"]) -> NDArray[np.float64]:
    affine = nifti_affine(nifti_header(path), path)
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) == 0:
        raise InputError(f"{path}: the header's direction is singular: two axes point the same way")
    if sheared == "refuse" and _sheared(affine):
        raise InputError(f"{path}: {_SHEARED}")
    return affine


def volume_shape(path: Path) -> tuple[int, ...]:
    """Return the number of voxels along each axis of a file that passed `check_header`.

    Raises:
        InputError: If it cannot be read.
    """
    if volume_suffix(path) in _NIFTI:
        dimensions = nifti_header(path)["dim"]
        return tuple(int(n) for n in dimensions[1 : 1 + int(dimensions[0])])
    reader = _read_information(path)
    return tuple(reader.GetSize())


def check_header(path: Path, max_voxels: int = MAX_VOXELS) -> None:
    """Refuse a file that is unsafe for the libraries that read volumes.

    Args:
        path: A file ending in one of `VOLUME_SUFFIXES`.
        max_voxels: Larger images are refused.

    Raises:
        InputError: If voxels are missing or too many, or it references files in other folders.
    """
    if not is_text(str(path)):
        raise InputError(f"{visible(str(path))}: {NO_TEXT}")
    if volume_suffix(path) in _NIFTI:
        check_nifti(path, max_voxels)
    else:
        check_text_header(path, max_voxels)


def write_volume(volume: Volume, path: str | Path) -> None:
    """Write a volume such that `read_volume` returns the same values and geometry.

    Args:
        volume: The volume; a boolean array is written as uint8.
        path: The file to write, in an existing folder; its suffix decides the format.

    Raises:
        InputError: If the suffix is unknown, the affine is sheared (files store a spacing and a
            rotation), or the file cannot be written.
    """
    path = Path(path)
    if volume_suffix(path) not in VOLUME_SUFFIXES:
        raise InputError(f"{path}: must end in one of {', '.join(VOLUME_SUFFIXES)}")
    matrix = _LPS_TO_RAS @ volume.affine[:3, :3]
    spacing = np.linalg.norm(matrix, axis=0)
    direction = matrix / spacing
    if not np.allclose(direction.T @ direction, np.eye(3), atol=1e-4):
        raise InputError(f"{path}: the affine is sheared: resample the volume before writing it")
    array = volume.array.astype(np.uint8) if volume.array.dtype == bool else volume.array
    if not array.flags.f_contiguous:
        values = array
        array = np.empty(values.shape, dtype=values.dtype, order="F")
        copy_into(array, values)
    image = SimpleITK.GetImageFromArray(array.T)
    image.SetSpacing(spacing.tolist())
    image.SetDirection(direction.ravel().tolist())
    image.SetOrigin((_LPS_TO_RAS @ volume.affine[:3, 3]).tolist())
    try:
        with quiet_itk():
            SimpleITK.WriteImage(image, str(path), useCompression=True)
    except RuntimeError as error:
        raise InputError(
            f"{path}: cannot be written: check that its folder exists and is writable"
        ) from error


def _read_information(path: Path) -> SimpleITK.ImageFileReader:
    """Return SimpleITK's reader after it has read the header, with errors in one line."""
    reader = SimpleITK.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        with quiet_itk():
            reader.ReadImageInformation()
    except RuntimeError as error:
        raise InputError(f"{path}: {_reason(error)}") from error
    return reader


def read_header(
    path: Path, max_voxels: int, flat: Literal["refuse", "keep"] = "refuse"
) -> NDArray[np.float64]:
    """Return the RAS+ affine, or raise an error if the header is unusable."""
    if volume_suffix(path) in _NIFTI and not _itk_reads(path, "refuse"):
        return _nibabel_affine(path, "refuse")
    reader = _read_information(path)
    size = np.array(reader.GetSize())
    spacing = np.array(reader.GetSpacing())
    if not has_room(size[:3].tolist(), flat=flat == "keep"):
        raise InputError(f"{path}: {'x'.join(map(str, size))} voxels is not 3D: give a 3D volume")
    if len(size) > 3:
        raise InputError(
            f"{path}: {'x'.join(map(str, size))} voxels is {len(size)}D: give one 3D volume per "
            "file"
        )
    kind = SimpleITK.GetPixelIDValueAsString(reader.GetPixelID())
    if reader.GetNumberOfComponents() != 1 or "complex" in kind:
        raise InputError(f"{path}: its voxels are of type {kind!r}: a mask has one value per voxel")
    voxels = int(np.prod(size, dtype=object))
    if voxels > max_voxels:
        raise InputError(too_many_voxels(path, size.tolist(), max_voxels))
    check_room(
        path, voxels * SimpleITK.Image([1] * 3, reader.GetPixelID()).GetSizeOfPixelComponent()
    )
    if not np.isfinite(spacing).all() or (spacing <= 0).any():
        raise InputError(unusable_spacing(path, spacing.tolist()))
    direction, origin = np.eye(3), np.zeros(3)  # the third axis of a 2D image
    direction[: len(size), : len(size)] = np.reshape(reader.GetDirection(), (len(size), len(size)))
    origin[: len(size)] = reader.GetOrigin()
    spacing = np.append(spacing, np.ones(3 - len(size)))
    if not np.isfinite(origin).all() or not np.isfinite(direction).all():
        raise InputError(f"{path}: the header's origin or direction is not a number")
    if abs(np.linalg.det(direction)) < 1e-3:
        raise InputError(f"{path}: the header's direction is singular: two axes point the same way")
    affine = np.eye(4)
    affine[:3, :3] = _LPS_TO_RAS @ direction * spacing
    affine[:3, 3] = _LPS_TO_RAS @ origin
    if volume_suffix(path) in _NIFTI:
        # ITK prefers the qform and also rounds differently.
        stated = nifti_affine(nifti_header(path), path)
        other = np.abs(stated - affine).max() > 1e-2 * spacing.min() and not _sheared(stated)
        return stated if other else affine
    affine[:3] *= unit_mm(path)
    return affine


@contextmanager
def quiet_itk() -> Iterator[None]:
    """Suppress output of ITK and its libraries to the stderr of the process.

    Bypassing `sys.stderr`, their C++ code prints errors that are raised anyway.
    """
    sys.stderr.flush()
    shown = SimpleITK.ProcessObject.GetGlobalWarningDisplay()
    SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        kept = os.dup(2)
    except OSError:  # there is no stderr
        yield
        return
    with Path(os.devnull).open("wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            SimpleITK.ProcessObject.SetGlobalWarningDisplay(shown)


def _reason(error: BaseException) -> str:
    """Return the meaning of an ITK message in one line."""
    text = str(error)
    if "Unable to determine ImageIO reader" in text:
        return "its content does not have the format of its file name"
    if "orthonormal" in text:
        return _SHEARED
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return "not readable as a volume: " + (lines[-1] if lines else type(error).__name__)[:200]
