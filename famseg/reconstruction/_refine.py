"""From the coarse prediction of a network to an implant at the scan's own resolution."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from famseg.config import InputError
from famseg.reconstruction._chart import Array, Layer, Mask, vault_middle_mm
from famseg.reconstruction._check import check_volumes
from famseg.reconstruction._lay import Laid, lay
from famseg.reconstruction._outline import check_border, pieces_of
from famseg.reconstruction._surfaces import across

Method = Literal["residual thin plate", "coarse"]

_SNAP_MM = 4.0  # a coarse voxel: how far the edge of the bone may lie outside the prediction
_DEEP_MM = 3.5
_LEAST_DEEP = 10
_MOST_STRANGE = 0.15


@dataclass(frozen=True, eq=False)
class Refinement:
    """An implant at the resolution of the scan.

    Args:
        implant: Mask on the scan's grid; it shares no voxel with the skull.
        outline: The region of the defect that was used, bone or not, same shape.
        method: How each piece was made, the largest first.
        warnings: What a reader of the implant should know, one sentence each.
    """

    implant: Mask
    outline: Mask
    method: tuple[Method, ...]
    warnings: tuple[str, ...]


def refine(
    skull: Mask, affine: Array, coarse: NDArray[np.float32], *, threshold: float
) -> Refinement:
    """Return the implant at the scan's own resolution.

    The network says where the defect is and, roughly, where the wall runs across it. The edge is
    that of the bone. Both surfaces of the wall are measured around the defect; what they are off
    the network's is continued across it as a thin plate, so that the implant meets the bone without
    a step. Where the wall is not seen from the middle of the vault as one layer, as at an orbit,
    the network's surface is kept.

    Args:
        skull: The skull with the defect, bool, shape ``(X, Y, Z)``; any spacing and orientation.
        affine: Maps voxel indices to RAS+ mm, shape ``(4, 4)``.
        coarse: Probability of the implant on the same grid.
        threshold: From which probability on a voxel belongs to the implant, between 0 and 1.

    Raises:
        InputError: If the arrays do not fit together, nothing is predicted, or the scan's border
            cuts the defect off.
    """
    check_volumes(skull, affine, coarse=coarse)
    if not 0 < threshold < 1:
        raise InputError(f"threshold {threshold:g} must lie between 0 and 1")
    kept, dropped = pieces_of((coarse >= threshold) & ~skull, affine)
    if not kept:
        raise InputError(
            f"no defect was found: the highest probability is {float(coarse.max()):.2f}, "
            f"the threshold {threshold:.2f}"
        )
    origin = vault_middle_mm(skull, affine)
    implant, outline = np.zeros(skull.shape, dtype=bool), np.zeros(skull.shape, dtype=bool)
    methods: list[Method] = []
    warnings: list[str] = []
    for piece in kept:
        laid = lay(skull, affine, origin, piece, snap_mm=_SNAP_MM)
        laid = _towards(laid, skull, coarse, threshold)
        box, mask = laid.implant(skull)
        check_border(box, mask, affine, skull.shape)
        implant[box] |= mask
        box, mask = laid.outline(skull.shape)
        outline[box] |= mask
        methods.append("residual thin plate")
    if dropped:
        volume = sum(piece.volume_ml for piece in dropped)
        warnings.append(f"{len(dropped)} small parts of the prediction ({volume:.2f} ml) left out")
    return Refinement(implant, outline, tuple(methods), tuple(warnings))


def _towards(laid: Laid, skull: Mask, coarse: NDArray[np.float32], threshold: float) -> Laid:
    """Return a piece whose surfaces follow the network's within the defect."""
    predicted = laid.chart.walls([Layer.of(skull), Layer(coarse, threshold)], laid.pixels)
    depth = ndimage.distance_transform_edt(laid.pixels) * laid.chart.pixel_mm
    deep = laid.pixels & (depth > _DEEP_MM) & predicted.there
    if np.count_nonzero(deep) < _LEAST_DEEP:
        return laid
    base = across(laid.chart, predicted, deep, laid.use)
    tied = across(
        laid.chart,
        laid.wall,
        laid.surfaces.known,
        laid.use,
        base=np.stack([base.outer_mm, base.outer_mm - base.inner_mm]),
    )
    return replace(laid, surfaces=tied)
