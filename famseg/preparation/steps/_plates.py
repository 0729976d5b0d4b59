"""Tables, head holders and frames: plates that extend from the body, and a second body."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from famseg.preparation.steps._bone import Mask, solid_core, within_mm, working_steps

_SKIN_MM = 2.0  # outside of the solid body: bone that a ball of 6 mm rounds off reaches a bit out
_LEAVES_MM = 15.0  # no bone of a head lies farther outside of its solid body
_HOLLOW_MM = 25.0  # half the width of what is closed: the nasal cavity, open to the front
_PLATE_MM = 4.0  # how deep a plate that the head lies on may sink into its outline
_BESIDE_MM = 25.0  # from where it leaves the body
_METAL_TOUCHING_HU = 2000.0  # dense bone and enamel may reach it, but not at a table
_TOUCHES_MM = 6.0
_SECOND_SHARE = 0.3  # share of the body of the head
_FULL = np.ones((3, 3, 3), dtype=bool)

Spacing = tuple[float, float, float]


class Body(NamedTuple):
    """Everything that is not air, on a grid of about 2 mm.

    Args:
        steps: Voxels of the scan per voxel of this grid, along each axis.
        spacing_mm: Edge of a voxel of this grid.
        tissue: Whether the center of each block is tissue.
        core: The solid part of it (`solid_core`); empty if all tissue is shells.
    """

    steps: tuple[int, int, int]
    spacing_mm: Spacing
    tissue: Mask
    core: Mask

    @classmethod
    def of(cls, values: NDArray[Any], tissue: float, spacing_mm: Spacing) -> Body:
        """Sample a scan.

        Args:
            values: The scan, shape ``(X, Y, Z)``.
            tissue: Threshold between air and the body.
            spacing_mm: Edge of a voxel along each axis.
        """
        steps = working_steps(spacing_mm)
        own = (steps[0] * spacing_mm[0], steps[1] * spacing_mm[1], steps[2] * spacing_mm[2])
        body = sampled(values, steps) > tissue
        return cls(steps, own, body, solid_core(body, own))


class Surroundings(NamedTuple):
    """Objects next to a head, on a grid of about 2 mm.

    Args:
        steps: Voxels of the scan per voxel of this grid, along each axis.
        plates: Plates that extend from the body, including their parts that touch it.
        metal: Whether metal of the plates touches the body, like the pins of a frame.
        second_ml: Volume of a second solid body; 0 if there is none of relevant size.
    """

    steps: tuple[int, int, int]
    plates: Mask
    metal: bool
    second_ml: float

    def without_plates(self, mask: Mask) -> Mask:
        """Remove the plates from a mask in the voxels of the scan, in place, and return it."""
        if not self.plates.any():
            return mask
        places = np.argwhere(self.plates)
        low, high = places.min(axis=0), places.max(axis=0) + 1
        plates = self.plates[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
        part = mask[
            tuple(slice(a * s, b * s) for a, b, s in zip(low, high, self.steps, strict=True))
        ]
        part &= ~enlarged(plates, self.steps, part.shape)
        return mask


def surroundings(
    bone: Mask, values: NDArray[Any], body: Body, *, hounsfield: bool
) -> Surroundings | None:
    """Find objects that are not part of the head; None if there is no solid body.

    Skin covers all bone of a head. A piece of bone-like voxels outside the solid body (into which a
    ball of 6 mm fits) that extends 15 mm away from it is therefore a plate. Where a head rests on
    the plate, skin and plate form one solid body; there the piece is followed up to 25 mm sideways
    within the outermost 4 mm.

    Args:
        bone: Voxels above the threshold of bone, shape ``(X, Y, Z)``.
        values: The scan, same shape.
        body: The body in the scan.
        hounsfield: Whether values are in HU, so that metal can be identified.
    """
    steps, spacing, core = body.steps, body.spacing_mm, body.core
    if not core.any() or core.all():
        return None
    labels, count = ndimage.label(core)
    sizes = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    core = labels == 1 + int(np.argmax(sizes))
    second_ml = float(np.sort(sizes)[-2]) * float(np.prod(spacing)) / 1000 if count > 1 else 0.0
    own_ml = float(sizes.max()) * float(np.prod(spacing)) / 1000
    core = filled_slices(core)
    closed = without_hollows(core, spacing)
    if closed.all():
        return None
    dense = any_of_blocks(bone, steps)
    free = dense & ~within_mm(closed, spacing, _SKIN_MM)
    plates = _leaving(free, ~within_mm(closed, spacing, _LEAVES_MM))
    if plates.any():
        # Where a plate leaves the body, it may lie below a fold of the outline: follow it inwards.
        near = _around(plates, spacing, _BESIDE_MM)
        rim = dense & near & within_mm(~core, spacing, _PLATE_MM)
        plates = np.asarray(ndimage.binary_propagation(plates, structure=_FULL, mask=rim | plates))
    metal = False
    if hounsfield and plates.any():
        touching = plates & within_mm(closed, spacing, _TOUCHES_MM)
        metal = bool((any_of_blocks(values > _METAL_TOUCHING_HU, steps) & touching).any())
    return Surroundings(
        steps, plates, metal, second_ml if second_ml > _SECOND_SHARE * own_ml else 0.0
    )


def _leaving(free: Mask, far: Mask) -> Mask:
    """Return the pieces that extend far from the body."""
    labels, count = ndimage.label(free, structure=_FULL)
    leaves = np.zeros(count + 1, dtype=bool)
    leaves[labels[far]] = True
    leaves[0] = False
    return np.asarray(leaves[labels])


def without_hollows(core: Mask, spacing: Sequence[float]) -> Mask:
    """Return the body with hollows closed, since the nasal bones are surrounded by air.

    This is computed on voxels of twice the size, since hollows of up to 50 mm are closed.
    """
    pairs = [(0, n % 2) for n in core.shape]
    coarse = ~any_of_blocks(np.pad(~core, pairs, mode="edge"), (2, 2, 2))
    edges = [2 * s for s in spacing]
    grown = within_mm(coarse, edges, _HOLLOW_MM)
    if grown.all():
        return core
    return core | _doubled(~within_mm(~grown, edges, _HOLLOW_MM), core.shape)


def _around(mask: Mask, spacing: Sequence[float], radius_mm: float) -> Mask:
    """Return the voxels within a radius of a mask, computed on voxels of twice the size."""
    near = within_mm(any_of_blocks(mask, (2, 2, 2)), [2 * s for s in spacing], radius_mm)
    return _doubled(near, mask.shape)


def _doubled(coarse: Mask, shape: Sequence[int]) -> Mask:
    return enlarged(coarse, (2, 2, 2), shape)


def filled_slices(mask: Mask) -> Mask:
    """Return a mask with its holes filled, slice by slice along the last axis."""
    within = np.zeros((3, 3, 3), dtype=bool)
    within[1, :, 1] = within[:, 1, 1] = True
    labels, count = ndimage.label(~mask, structure=within)
    outside = np.zeros(count + 1, dtype=bool)
    for face in (labels[0], labels[-1], labels[:, 0], labels[:, -1]):
        outside[face] = True
    outside[0] = False
    return np.asarray(~outside[labels])


def enlarged(mask: Mask, steps: Sequence[int], shape: Sequence[int]) -> Mask:
    """Return the voxels of the blocks of a mask, cut to a shape; stored slice by slice."""
    # Along the first axis at first, whose neighbors lie side by side, while the array is small.
    for axis, step in enumerate(steps):
        mask = np.repeat(mask.T, step, axis=2 - axis).T
    return mask[: shape[0], : shape[1], : shape[2]]


def sampled(values: NDArray[Any], steps: Sequence[int]) -> NDArray[Any]:
    """Return the center voxel of each block."""
    places = [
        np.minimum(np.arange(0, n, step) + step // 2, n - 1)
        for n, step in zip(values.shape, steps, strict=True)
    ]
    return np.asarray(values[np.ix_(*places)])


def any_of_blocks(mask: Mask, steps: Sequence[int]) -> Mask:
    """Return whether any voxel of a block is set, so that thin shells are not missed."""
    # The axis with the largest stride is reduced first, which is fastest.
    for axis in np.argsort(mask.strides)[::-1].tolist():
        step, n = steps[axis], mask.shape[axis]
        places = [
            tuple(np.s_[k::step] if a == axis else np.s_[:] for a in range(3)) for k in range(step)
        ]
        joined = mask[places[0]].copy(order="K")
        for at in places[1 : min(step, n)]:
            part = mask[at]
            joined[tuple(slice(m) for m in part.shape)] |= part
        mask = joined
    return mask
