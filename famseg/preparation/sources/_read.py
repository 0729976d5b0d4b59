"""Reading of volumes, with detection of the kind of values and a check of memory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import SimpleITK
from numpy.typing import NDArray

from famseg.messages import InputError
from famseg.preparation._types import Kind, Scan
from famseg.preparation.sources._items import Item, local, told_as, without_path
from famseg.preparation.sources._labels import is_label_map, segment_names
from famseg.preparation.sources._shear import straightened
from famseg.preparation.sources._stated import check_stated
from famseg.volumes import MAX_VOXELS, Volume, check_header, quiet_itk, read_volume

AIR_HU = -1024
"""CT number of air. Values below it are padding (-2000, -3024) and are set to it."""

COPIES = 4
"""Number of copies of a volume that are in memory at once while it is read and cleaned."""

_MOST_LABELS = 16
_MOST_STRUCTURES = 256
_HIGHEST_LABEL = 2**15
_PROBE = 2_000_000  # number of voxels that are examined first


def read_file(item: Item, origin: str) -> Scan:
    """Read a volume and determine the kind of its values.

    Args:
        item: NIfTI, NRRD or MetaImage.
        origin: What error messages begin with.

    Returns:
        The scan; padding below -1024 HU is set to -1024.

    Raises:
        InputError: If it cannot be used, its header does not state a spacing, or it does not fit
            into memory.
    """
    with told_as(origin):
        if item.member is not None and item.name.lower().endswith((".mhd", ".nhdr", ".hdr")):
            raise InputError("its voxels are in another file of the archive: unpack it first")
        with local([item]) as (path,), without_path(path):
            check_header(path)
            _check_header(path)
            volume = read_volume(path, sheared="keep")
            stated = check_stated(path)
            segments = segment_names(path)
    kind, array, notes = understand(volume.array)
    straight, moved = straightened(Volume(array, volume.affine), kind)
    return Scan(straight, kind, (*stated, *notes, *moved), segments if kind == "mask" else {})


def check_memory(shape: Sequence[int], voxel_bytes: int) -> None:
    """Refuse a volume that does not fit into memory, before it is read.

    Args:
        shape: Voxels along each axis.
        voxel_bytes: Bytes of one voxel.

    Raises:
        InputError: If the volume has more than 2**30 voxels, or `COPIES` of it need more memory
            than is free; the message does not begin with a file name.
    """
    size = "x".join(str(int(n)) for n in shape)
    voxels = int(np.prod([int(n) for n in shape], dtype=object))
    if voxels > MAX_VOXELS:
        raise InputError(
            f"the header announces {size} voxels, more than {MAX_VOXELS}: it is damaged, or the "
            "volume must be resampled first"
        )
    need, free = voxels * voxel_bytes * COPIES, psutil.virtual_memory().available
    if need > free:
        raise InputError(
            f"{size} voxels need {need / 2**30:.1f} GiB of memory while they are prepared, "
            f"{free / 2**30:.1f} GiB are free: use a larger machine, or resample it first"
        )


def understand(array: NDArray[Any]) -> tuple[Kind, NDArray[Any], tuple[str, ...]]:
    """Return the kind of values, the values without padding and smoothing, and notes.

    - ``mask``: at most 16 distinct nonnegative whole numbers including 0, such as 0/1, 0/255 or
      labels; up to 256 if most neighbors are equal, as in maps of many structures. A mask that was
      resampled, with values from 0 to 1 or 255 and hardly any in between, counts as well and is
      thresholded at half of its maximum.
    - ``hounsfield``: air (one voxel in a thousand below -200) and bone (something above 200).
    - ``intensity``: everything else.

    Args:
        array: Values, shape ``(X, Y, Z)``.
    """
    array = array.astype(np.uint8) if array.dtype == bool else array
    probe = array.ravel(order="K")[:: max(1, array.size // _PROBE)]
    distinct = np.unique(probe)
    lowest, highest = float(array.min()), float(array.max())
    if distinct.size <= _MOST_LABELS and lowest >= 0 and distinct[0] == 0 and _whole(distinct):
        counted = sum(int(np.count_nonzero(array == value)) for value in distinct)
        if counted == array.size or np.unique(array).size <= _MOST_LABELS:
            return "mask", array, ()
    few = distinct.size <= _MOST_STRUCTURES and array.dtype.kind in "iu"
    if few and lowest == 0 and highest < _HIGHEST_LABEL and is_label_map(array):
        return "mask", array, ()
    if float(np.mean(probe < -200)) > 1e-3 and highest > 200:
        if lowest >= AIR_HU:
            return "hounsfield", array, ()
        note = f"Values below {AIR_HU} HU (padding, down to {lowest:g}) were set to {AIR_HU}."
        return "hounsfield", np.maximum(array, np.asarray(AIR_HU, array.dtype)), (note,)
    if lowest == 0 and highest in (1, 255) and array.dtype.kind == "f":
        between = float(np.mean((probe > 0.02 * highest) & (probe < 0.98 * highest)))
        solid = float(np.mean(probe >= 0.98 * highest))
        if between < 0.25 and solid > 0.2 * between:
            note = "A smoothed mask: voxels above half of the maximum are bone."
            return "mask", (array > highest / 2).astype(np.uint8), (note,)
    return "intensity", array, ()


def _whole(values: NDArray[Any]) -> bool:
    return bool(values.dtype.kind in "iu" or (values == np.round(values)).all())


def _check_header(path: Path) -> None:
    """Refuse a volume that does not fit; other errors in a header are reported by `read_volume`."""
    reader = SimpleITK.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        with quiet_itk():
            reader.ReadImageInformation()
    except RuntimeError:
        return
    probe = SimpleITK.Image([1] * 3, reader.GetPixelID())
    if len(reader.GetSize()) == 3 and reader.GetNumberOfComponents() == 1:
        check_memory(reader.GetSize(), probe.GetSizeOfPixelComponent())
