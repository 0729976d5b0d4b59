"""Mapping of masks from the grid of prepared skulls back to the scan."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from famseg.messages import InputError
from famseg.preparation.batch._record import Folder, read_record
from famseg.volumes import Volume


def to_source_of(folder: Path, subject: str) -> NDArray[np.float64]:
    """Return the rigid motion that maps a prepared skull back to its scan.

    Args:
        folder: A folder that `famseg prepare` wrote.
        subject: Name of the subject.

    Returns:
        Maps mm of the skull's world (the affine of its NIfTI file, RAS+) to mm of the scan's (RAS+;
        in DICOM, x and y have the opposite sign), shape ``(4, 4)``. A point ``p`` of the skull lies
        at ``(to_source @ [*p, 1])[:3]``.

    Raises:
        InputError: If this version cannot find or read a record of the subject.
    """
    record = read_record(subject, Folder(folder))
    if record is None or len(record.to_source) != 16:
        raise InputError(
            f"{folder}: has no record of {subject}: prepare it again with this version"
        )
    return np.array(record.to_source, dtype=np.float64).reshape(4, 4)


def back_to_scan(
    mask: Volume,
    to_source: NDArray[np.float64],
    shape: tuple[int, int, int],
    affine: NDArray[np.float64],
) -> Volume:
    """Return a mask on the grid of prepared skulls as a mask on the grid of the scan.

    This works for everything on the prepared grid: implants, predictions and the skull itself.
    Values are interpolated linearly and thresholded at one half, so that a surface is off by at
    most half a voxel of the coarser grid, and on average by much less.

    Args:
        mask: Mask of 0 and 1 on the prepared grid.
        to_source: The motion of its subject, from `to_source_of`.
        shape: Shape of the scan.
        affine: Affine of the scan, RAS+, as nibabel reads it.

    Returns:
        A mask of 0 and 1 as uint8 with the given shape; voxels outside the prepared grid are 0.
        This takes a second for 30 million voxels.
    """
    values = (mask.array > 0).astype(np.float32)
    to_index = np.linalg.inv(to_source @ mask.affine) @ affine
    found = ndimage.affine_transform(
        values,
        to_index[:3, :3],
        offset=to_index[:3, 3],
        output_shape=shape,
        output=np.float32,
        order=1,
        mode="constant",
        prefilter=False,
    )
    return Volume((found > 0.5).astype(np.uint8), np.asarray(affine, dtype=np.float64))
