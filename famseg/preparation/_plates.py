"""Tables, holders and frames: bone-like plates that leave the body, and bodies next to the head."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from famseg.preparation._bone import Mask, solid_core, working_steps

_SKIN_MM = 2.0  # outside of the solid body: bone that a ball of 6 mm rounds off reaches a bit out
_LEAVES_MM = 15.0  # no bone of a head lies farther outside of its solid body
_HOLLOW_MM = 25.0  # half the width of what is closed: the nasal cavity, open to the front
_PLATE_MM = 4.0  # how deep a plate that the head lies on may sink into its outline
_BESIDE_MM = 25.0  # from where it leaves the body
_METAL_HU = 2000.0  # denser than any bone
_TOUCHES_MM = 6.0
_SECOND_SHARE = 0.3  # of the body of the head
_FULL = np.ones((3, 3, 3), dtype=bool)

Spacing = tuple[float, float, float]


class Surroundings(NamedTuple):
    """What there is next to a head, on a grid of about 2 mm.

    Args:
        steps: Voxels of the scan in one of this grid, along each axis.
        plates: Plates that leave the body, with what of them touches it.
        metal: Whether metal of the plates touches the body, as the pins of frames do.
        second_ml: Volume of a second solid body; 0 where there is none of note.
    """

    steps: tuple[int, int, int]
    plates: Mask
    metal: bool
    second_ml: float

    def without_plates(self, mask: Mask) -> Mask:
        """Return a mask of the scan without the plates."""
        if not self.plates.any():
            return mask
        kept = mask.copy()
        for place in np.argwhere(self.plates):
            box = tuple(
                slice(p * step, (p + 1) * step) for p, step in zip(place, self.steps, strict=True)
            )
            kept[box] = False
        return kept


def surroundings(
    bone: Mask, values: NDArray[Any], tissue: float, spacing_mm: Spacing, *, hounsfield: bool
) -> Surroundings | None:
    """Find what is not the head; None where there is no solid body.

    Skin covers all bone of a head. A piece of bone-like voxels outside of the solid body (into
    which a ball of 6 mm fits) that reaches 15 mm away from it is a plate. Where a head lies on it,
    skin and plate make one solid body: there the piece is followed, up to 25 mm sideways, within
    the outermost 4 mm.

    Args:
        bone: What lies above the threshold of bone, shape ``(X, Y, Z)``.
        values: The scan, same shape.
        tissue: Above it lies the body.
        spacing_mm: Edge of a voxel along each axis.
        hounsfield: Whether values are HU, so that metal can be told.
    """
    steps = working_steps(spacing_mm)
    dense = _any_of_blocks(bone, steps)
    body = _sampled(values, steps) > tissue
    spacing = [step * s for step, s in zip(steps, spacing_mm, strict=True)]
    core = solid_core(body, spacing)
    if not core.any() or core.all():
        return None
    labels, count = ndimage.label(core)
    sizes = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    core = labels == 1 + int(np.argmax(sizes))
    second_ml = float(np.sort(sizes)[-2]) * float(np.prod(spacing)) / 1000 if count > 1 else 0.0
    own_ml = float(sizes.max()) * float(np.prod(spacing)) / 1000
    core = _filled(core)
    outside = ndimage.distance_transform_edt(~_without_hollows(core, spacing), sampling=spacing)
    free = dense & (outside > _SKIN_MM)
    plates = _leaving(free, outside)
    if plates.any():
        # Where it leaves the body it may hide below a fold of the outline: follow it inwards.
        inside = ndimage.distance_transform_edt(core, sampling=spacing)
        near = ndimage.distance_transform_edt(~plates, sampling=spacing) <= _BESIDE_MM
        rim = dense & near & (inside <= _PLATE_MM)
        plates = np.asarray(ndimage.binary_propagation(plates, structure=_FULL, mask=rim | plates))
    touching = plates & (outside <= _TOUCHES_MM)
    metal = hounsfield and bool((_highest_of_blocks(values, steps)[touching] > _METAL_HU).any())
    return Surroundings(
        steps, plates, metal, second_ml if second_ml > _SECOND_SHARE * own_ml else 0.0
    )


def _leaving(free: Mask, outside: NDArray[np.float64]) -> Mask:
    labels, count = ndimage.label(free, structure=_FULL)
    if count == 0:
        return np.zeros_like(free)
    reach = ndimage.maximum(outside, labels, np.arange(1, count + 1))
    leaves = np.concatenate([[False], np.asarray(reach) > _LEAVES_MM])
    return np.asarray(leaves[labels])


def _without_hollows(core: Mask, spacing: Sequence[float]) -> Mask:
    """Return the body with its hollows closed: bones of the nose stand in the air of its cavity."""
    grown = ndimage.distance_transform_edt(~core, sampling=spacing) <= _HOLLOW_MM
    if grown.all():
        return core
    return np.asarray(
        core | (ndimage.distance_transform_edt(grown, sampling=spacing) > _HOLLOW_MM), dtype=bool
    )


def _filled(core: Mask) -> Mask:
    """Return the body with its air cells, slice by slice."""
    filled = core.copy()
    for k in range(core.shape[2]):
        filled[:, :, k] = ndimage.binary_fill_holes(core[:, :, k])
    return filled


def _sampled(values: NDArray[Any], steps: Sequence[int]) -> NDArray[Any]:
    """Return the middle of each block."""
    places = [
        np.minimum(np.arange(0, n, step) + step // 2, n - 1)
        for n, step in zip(values.shape, steps, strict=True)
    ]
    return np.asarray(values[np.ix_(*places)])


def _any_of_blocks(mask: Mask, steps: Sequence[int]) -> Mask:
    """Return whether any voxel of a block is set: thin shells must not fall between samples."""
    for axis, step in enumerate(steps):
        mask = np.logical_or.reduceat(mask, np.arange(0, mask.shape[axis], step), axis=axis)
    return mask


def _highest_of_blocks(values: NDArray[Any], steps: Sequence[int]) -> NDArray[Any]:
    for axis, step in enumerate(steps):
        values = np.maximum.reduceat(values, np.arange(0, values.shape[axis], step), axis=axis)
    return values
