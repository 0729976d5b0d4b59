"""The chain of MONAI transforms from a file to the grid of the network."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from monai.transforms import Compose, EnsureChannelFirstd, Orientationd
from numpy.typing import NDArray

from famseg.datasets.skulls._transforms import BinarizeBoned, Center, Fit, HeadToGridd, LoadVolumed
from famseg.messages import InputError


def prepare_transform(
    size: int,
    spacing_mm: float,
    *,
    fit: Fit = "pad",
    center: Center = "keep",
    threshold: float = 0.5,
    key: str = "image",
) -> Compose:
    """Return the transforms that resample a skull mask to the grid.

    The steps are: load with geometry, binarize, orient to RAS+, crop to the head, resample once
    onto an axis-aligned isotropic grid, and threshold. Before linear resampling to coarser voxels
    the mask is smoothed (Gaussian, sigma = (ratio - 1) / 2 voxels along each axis) to avoid
    aliasing and steps in walls. A volume that already has the grid's spacing is only shifted by
    whole voxels.

    If all values are whole numbers (0/1, 0/255, labels), bone is everything other than 0; otherwise
    (probabilities) it is everything above half of the maximum.

    Args:
        size: Voxels along each edge of the grid.
        spacing_mm: Edge of a voxel; ``fit="resize"`` ignores it.
        fit: ``pad`` keeps the spacing and pads with background; ``resize`` scales each head (all
            axes alike) until it fills the grid but for one voxel, which sets its own spacing.
        center: What is put into the middle of the grid: the box around the bone (``head``) or the
            middle of the volume (``keep``). ``resize`` always takes the head.
        threshold: Share of bone from which on a voxel of the new grid is bone.
        key: Key of the file in the dictionaries that go in and of the mask that comes out.

    Returns:
        Maps ``{key: path}`` to ``{key: MetaTensor}``: uint8, shape ``(1, size, size, size)``, with
        the RAS+ affine of the grid. Raises InputError for a volume that cannot be used.

    Raises:
        InputError: If an argument is out of range.
    """
    if size < 8 or not spacing_mm > 0 or not 0 < threshold < 1:
        raise InputError(
            f"preparation: size {size} (8 or more), spacing_mm {spacing_mm:g} (above 0), threshold "
            f"{threshold:g} (between 0 and 1)"
        )
    return Compose(
        [
            LoadVolumed(key),
            EnsureChannelFirstd(key),
            BinarizeBoned(key),
            Orientationd(key, axcodes="RAS", labels=None),
            HeadToGridd(key, size, spacing_mm, fit=fit, center=center, threshold=threshold),
        ]
    )


def prepare_file(path: Path, transform: Compose) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """Return the mask ``(S, S, S)`` and the affine that a transform makes of one file.

    MONAI wraps errors; those of famseg are unwrapped.
    """
    try:
        image = transform({"image": path})["image"]
    except Exception as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, InputError):
            cause = cause.__cause__ or cause.__context__
        if cause is None:
            raise
        faults = [f if f.startswith(str(path)) else f"{path}: {f}" for f in cause.faults]
        raise InputError(*faults) from error
    mask = np.ascontiguousarray(image[0].numpy(), dtype=np.uint8)
    return mask, np.asarray(image.affine.numpy(), dtype=np.float64)
