"""Detection of skulls that a data set contains twice under different names."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from famseg.volumes import Volume

CELLS = 30
"""Cells along each edge of a signature."""

CELL_MM = 8.0
"""Edge of a cell: a head fits into the grid."""

SAME_DICE = 0.94
"""Soft Dice of two signatures from which on they are one skull.

Measured on 61 real heads: different people reach at most 0.893 (median 0.62); copies that were
shifted or changed in a voxel have 1.000, those resampled to voxels of twice the size 0.969 or more,
heads that were prepared twice, from DICOM and from masks of other spacing, 0.969 to 0.998.
"""

_CHUNK = 2**19  # voxels at a time: bounds the memory of a fine grid

Signature = NDArray[np.uint8]


@dataclass(frozen=True)
class Duplicate:
    """Two subjects that are one skull.

    Args:
        first: The name that comes first.
        second: The other.
        dice: Soft Dice of their coarse shapes; 1 for the same file.
        kind: ``same file``, ``near-duplicate``, or ``same head``: one only after alignment.
    """

    first: str
    second: str
    dice: float
    kind: Literal["same file", "near-duplicate", "same head"]


def signature(volume: Volume) -> Signature:
    """Return the coarse shape of a skull, independent of its grid, orientation and position.

    The bone is spread over cells of 8 mm around its centre of mass, linearly between the eight
    cells that are nearest to a voxel, so that a shift of the grid hardly changes it. A stray voxel
    hardly moves the centre.

    Args:
        volume: A mask; what is above half of its maximum is bone.

    Returns:
        The share of each cell that is bone, as 0 to 255; shape ``(30, 30, 30)``.
    """
    array = volume.array
    voxels = np.argwhere(array > max(float(array.max()), 1e-9) / 2)
    total = np.zeros((CELLS,) * 3)
    if len(voxels):
        middle, matrix = voxels.mean(axis=0), volume.affine[:3, :3].T / CELL_MM
        for start in range(0, len(voxels), _CHUNK):
            part = voxels[start : start + _CHUNK] - middle
            total += spread(part @ matrix + (CELLS - 1) / 2, total.shape)
    cell_share = abs(float(np.linalg.det(volume.affine[:3, :3]))) / CELL_MM**3
    shares = np.clip(total * cell_share, 0, 1)
    return np.rint(shares * 255).astype(np.uint8)


def signature_text(shape: Signature) -> str:
    """Return a signature as text for a record."""
    return base64.b64encode(zlib.compress(shape.tobytes(), 9)).decode()


def signature_of_text(text: str) -> Signature:
    """Return the signature that `signature_text` wrote.

    Raises:
        ValueError: If the text is none.
    """
    try:
        content = zlib.decompress(base64.b64decode(text, validate=True))
        return np.frombuffer(content, dtype=np.uint8).reshape(CELLS, CELLS, CELLS)
    except (zlib.error, ValueError) as error:
        raise ValueError("no signature") from error


def duplicates(
    sha256: Mapping[str, str],
    signatures: Mapping[str, Signature],
    *,
    threshold: float = SAME_DICE,
) -> list[Duplicate]:
    """Find the subjects that are one skull.

    The soft Dice of two signatures is ``2 a.b / (a.a + b.b)``: 1 for equal ones. A skull of which a
    copy was shifted, changed in some voxels or resampled is found; one that lost a large part, by a
    defect or by cropping, or was mirrored may not be.

    Args:
        sha256: Hash of each subject's file.
        signatures: Coarse shape of each subject.
        threshold: Soft Dice from which on two are one.

    Returns:
        Pairs in the order of their names. The cost grows with the square of the subjects: a second
        for a thousand.
    """
    names = sorted(signatures)
    shapes = np.stack([signatures[n].ravel() for n in names]).astype(np.float32) / 255
    products = shapes @ shapes.T
    own = np.diagonal(products)
    dice = 2 * products / np.maximum(own[:, None] + own[None, :], 1e-9)
    found = []
    for i, first in enumerate(names):
        for j in range(i + 1, len(names)):
            if sha256[first] == sha256[names[j]]:
                found.append(Duplicate(first, names[j], 1.0, "same file"))
            elif dice[i, j] >= threshold:
                found.append(Duplicate(first, names[j], float(dice[i, j]), "near-duplicate"))
    return found


def spread(places: NDArray[np.float64], shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Return how many places lie in each cell, each shared linearly by the eight cells around it.

    Args:
        places: In cells, shape ``(N, 3)``; what is outside is left out.
        shape: Of the cells.
    """
    total = np.zeros(int(np.prod(shape)))
    low = np.floor(places).astype(np.int64)
    part = places - low
    for corner in np.ndindex(2, 2, 2):
        cell = low + corner
        weight = np.prod(np.where(corner, part, 1 - part), axis=1)
        inside = ((cell >= 0) & (cell < shape)).all(axis=1)
        index = np.ravel_multi_index(tuple(cell[inside].T), shape)
        total += np.bincount(index, weight[inside], minlength=total.size)
    return total.reshape(shape)
