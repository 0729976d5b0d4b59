"""Metrics that need no surface: border Dice, volumes and components."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from famseg.metrics._masks import as_mask, as_skull, as_spacing, as_volumes, check_volume
from famseg.metrics._overlap_and_surface import dice
from famseg.metrics._surface import Mask, Spacing, bounding_box, distances_at

BORDER_MM = 10.0
# Tolerance for squared distances in single precision, so that 10 mm counts as 10 mm.
_SLACK = 1 + 1e-5


def border_dice(
    prediction: npt.ArrayLike,
    truth: npt.ArrayLike,
    defective: npt.ArrayLike,
    spacing_mm: Sequence[float],
    *,
    distance_mm: float = BORDER_MM,
) -> float:
    """Return the border Dice coefficient (bDSC) of two implants, as AutoImplant defines it.

    ``2 |P and T and B| / (|P and B| + |T and B|)``, where ``B`` is the set of voxels whose centers
    are at most ``distance_mm`` from the center of a voxel of the defective skull: how well the
    implant fits the rim of the defect (Li et al., AutoImplant 2021 challenge). Voxels of an implant
    inside the defective skull count. Two masks without a voxel in ``B`` agree: 1.

    Time is linear in the box around both implants, enlarged by the distance.

    Args:
        prediction: The implant, a mask of shape ``(X, Y, Z)``; for a completed skull, the part that
            it adds to the defective one.
        truth: The reference implant, same shape.
        defective: The skull with the defect, same shape.
        spacing_mm: Edge lengths of a voxel along X, Y and Z, in mm.
        distance_mm: How far the border reaches into the defect.

    Raises:
        ValueError: If the masks do not fit together, the defective skull is empty, or a length is
            not positive.

    Example:
        >>> skull = np.zeros((30, 4, 4), dtype=bool)
        >>> skull[:5] = True
        >>> truth, prediction = np.zeros((2, 30, 4, 4), dtype=bool)
        >>> truth[5:25], prediction[5:15] = True, True  # correct up to 10 mm
        >>> border_dice(prediction, truth, skull, (1.0, 1.0, 1.0)), dice(prediction, truth)
        (1.0, 0.6666666666666666)
    """
    prediction, truth = as_volumes(prediction, truth)
    skull = as_skull(defective, truth)
    if not 0 < distance_mm < np.inf:
        raise ValueError(f"distance_mm must be a positive length in mm, got {distance_mm}.")
    near = near_skull(prediction | truth, skull, as_spacing(spacing_mm), distance_mm)
    return dice(prediction & near, truth & near)


def near_skull(implants: Mask, skull: Mask, spacing: Spacing, distance_mm: float) -> Mask:
    """Return the voxels of ``implants`` within a distance of the skull's voxels."""
    near = np.zeros_like(implants)
    if not implants.any():
        return near
    # Bone outside this box is too far from every implant voxel to matter.
    reach = [int(np.ceil(distance_mm / edge)) + 1 for edge in spacing]
    box = tuple(
        slice(max(side.start - extra, 0), side.stop + extra)
        for side, extra in zip(bounding_box(implants), reach, strict=True)
    )
    queries = implants[box]
    if skull[box].any():
        distances = distances_at(skull[box], queries, spacing)
        near[box][queries] = distances <= distance_mm * _SLACK
    return near


def rim(skull: Mask, spacing: Spacing, distance_mm: float) -> Mask:
    """Return all voxels within a distance of the skull's: `near_skull` for any implant.

    Needs 16 bytes per voxel of the whole grid while it runs; worth it for several implants.
    """
    if not skull.any():
        return np.zeros_like(skull)
    distances = distances_at(skull, np.ones_like(skull), spacing)
    return (distances <= distance_mm * _SLACK).reshape(skull.shape)


def volume_ml(mask: Mask, spacing: Spacing) -> float:
    """Return the volume of a mask in ml: the number of its voxels times the volume of one.

    Example:
        >>> volume_ml(np.ones((10, 10, 10), dtype=bool), (1.0, 1.0, 2.0))  # 1000 voxels of 2 mm3
        2.0
    """
    return int(np.count_nonzero(mask)) * float(np.prod(spacing)) / 1000


def volume_difference_ml(
    prediction: npt.ArrayLike, truth: npt.ArrayLike, spacing_mm: Sequence[float]
) -> float:
    """Return the volume of the prediction minus that of the reference, in ml.

    ``(|P| - |T|) v``, with ``v`` the volume of a voxel: positive where the prediction has too much.
    Time is linear in the number of voxels.

    Args:
        prediction: Mask, shape ``(X, Y, Z)``.
        truth: Mask of the same shape.
        spacing_mm: Edge lengths of a voxel along X, Y and Z, in mm.

    Raises:
        ValueError: If the masks do not fit together or the spacing is not positive.

    Example:
        >>> volume_difference_ml(np.ones((10, 10, 10)), np.zeros((10, 10, 10)), (1, 1, 2))
        2.0
    """
    prediction, truth = as_volumes(prediction, truth)
    spacing = as_spacing(spacing_mm)
    return volume_ml(prediction, spacing) - volume_ml(truth, spacing)


def count_components(mask: npt.ArrayLike) -> int:
    """Return the number of connected components of a mask, whose voxels share faces.

    Parts that touch only along an edge or in a corner are two components (6-connectivity): as a
    printed implant they would fall apart. Time is linear in the bounding box of the mask.

    Args:
        mask: Shape ``(X, Y, Z)``.

    Raises:
        ValueError: If it is not a three-dimensional mask.

    Example:
        >>> mask = np.zeros((4, 4, 4))
        >>> mask[:2, :2, :2] = mask[2:, 2:, 2:] = 1  # corner to corner
        >>> count_components(mask)
        2
    """
    import SimpleITK as sitk  # noqa: N813 -- the name its users know it by

    found = as_mask(mask, "mask")
    check_volume(found)
    if not found.any():
        return 0
    image = sitk.GetImageFromArray(found[bounding_box(found)].astype(np.uint8))
    label = sitk.ConnectedComponentImageFilter()
    label.Execute(image)
    return int(label.GetObjectCount())
