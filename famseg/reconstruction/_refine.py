"""Refinement of the coarse prediction of a network to the resolution of the scan."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from famseg.messages import InputError, counted
from famseg.reconstruction._chart import Array, Layer, Mask, Wall, vault_middle_mm
from famseg.reconstruction._check import check_volumes
from famseg.reconstruction._lay import Laid, lay
from famseg.reconstruction._mirror import mirrored
from famseg.reconstruction._outline import Box, Piece, pieces_of
from famseg.reconstruction._surfaces import (
    Surfaces,
    across,
    across_both,
    across_like,
    between,
    inside,
    over_pixels,
)
from famseg.reconstruction._threads import one_thread

Method = Literal["residual thin plate", "vote", "coarse"]
Other = Callable[[], Array]
"""Returns the matrix from RAS+ mm to the mirrored point in the head, ``(4, 4)``."""

_SNAP_MM = 4.0  # a coarse voxel: largest distance of the edge of the bone from the prediction
_DEEP_MM = 5.0
_LEAST_DEEP = 10
_NETWORK_SHARE, _HALF_WAY_MM = 0.5, 15.0  # weight far from bone; distance of half of it
# The agreement in real heads is 0.93 to 1.00 in the vault and 0.76 to 0.94 at an orbit.
_LEAST_AGREEMENT, _LEAST_ABOVE = 0.955, 0.9
_LOW_DEG, _LOW_SHARE = -15.0, 0.05  # share below: 0.02 in pieces of vaults, 0.08 or more at orbits
_OTHER_SHARE, _OTHER_HALF_WAY_MM = 0.7, 8.0
_FADE_MM = 6.0  # distance from pixels where the other side has no wall
_CLOSE_MM = 2.0
_HALF, _VOTES = 0.5, 2
_INSTEAD: dict[Method, str] = {
    "coarse": "the network's coarse surface was kept",
    "vote": "voxels were taken on which two of network, surrounding bone and other side agree",
}


@dataclass(frozen=True, eq=False)
class Refinement:
    """An implant at the resolution of the scan.

    Args:
        implant: Mask on the scan's grid; it shares no voxel with the skull.
        outline: The region of the defect that was used, including bone, same shape.
        method: How each piece was computed, the largest first.
        warnings: Warnings for users of the implant, one sentence each.
    """

    implant: Mask
    outline: Mask
    method: tuple[Method, ...]
    warnings: tuple[str, ...]


@one_thread()
def refine(
    skull: Mask,
    affine: Array,
    coarse: NDArray[np.float32],
    *,
    threshold: float,
    other: Other | None = None,
) -> Refinement:
    """Return the implant at the scan's own resolution.

    The network determines where the defect is and, roughly, where the wall runs across it. The edge
    is that of the bone. Both surfaces of the wall are measured around the defect. Their offset from
    the network's surfaces is continued across it as a thin plate, so that the implant meets the
    bone without a step. If the other side of the head has a wall, it is used in the same way. Where
    the wall is not a single layer as seen from the center of the vault, as at an orbit, the implant
    consists of the voxels on which two of four agree: the network, the plates with and without it,
    and the other side of the head. Without the other side, the network's surface is kept.

    Args:
        skull: The skull with the defect, bool, shape ``(X, Y, Z)``; any spacing and orientation.
        affine: Maps voxel indices to RAS+ mm, shape ``(4, 4)``.
        coarse: Probability of the implant on the same grid.
        threshold: From which probability on a voxel belongs to the implant, between 0 and 1.
        other: Returns the reflection of the head; called only if it is needed.

    Raises:
        InputError: If the arrays are inconsistent, nothing is predicted, or the defect is cut off
            by the border of the scan.
    """
    check_volumes(skull, affine, coarse=coarse)
    if not 0 < threshold < 1:
        raise InputError(f"threshold {threshold:g} must be between 0 and 1")
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
    for number, piece in enumerate(kept, start=1):
        laid = lay(skull, affine, origin, piece, snap_mm=_SNAP_MM)
        layers = [Layer.of(skull), Layer(coarse, threshold)]
        predicted = laid.chart.walls(layers, laid.pixels)
        guided, agreement = _towards(laid, predicted), _agreement(laid, predicted, piece, skull)
        if other is not None:
            guided = _towards_other(guided, skull, other())
        method: Method = "residual thin plate"
        box, mask = guided.implant(skull)
        if agreement < (_LEAST_AGREEMENT if _reaches_low(piece, affine, origin) else _LEAST_ABOVE):
            method = "coarse" if other is None else "vote"
            own = _kept(piece, skull, affine)
            votes = [own, laid.implant(skull), (box, mask)]
            box, mask = own if other is None else _voted(votes, other, skull, affine)
            warnings.append(
                f"Piece {number} of the prediction ({piece.volume_ml:.1f} ml): the wall is not a "
                f"single layer there, as at an orbit; {_INSTEAD[method]}."
            )
        implant[box] |= mask
        if method == "residual thin plate":
            box, mask = guided.outline(skull.shape)
        outline[box] |= mask
        methods.append(method)
    if dropped:
        volume = sum(piece.volume_ml for piece in dropped)
        parts = counted(len(dropped), "small part")
        warnings.append(f"Left out of the prediction: {parts} ({volume:.2f} ml).")
    return Refinement(implant, outline, tuple(methods), tuple(warnings))


def _towards(laid: Laid, predicted: Wall) -> Laid:
    """Return a piece whose surfaces follow the network's within the defect.

    Near the edge, a coarse prediction is rounded, so only its interior is used. Its bias (too
    thick, too far out) is estimated as the median offset from the bone around the defect. The
    remaining offset is continued as a thin plate with a weak attraction to the network's surfaces.
    The result is averaged with the plate that uses only bone. The error of that plate grows with
    the distance from bone, whereas the error of the network is similar everywhere. The weight of
    the network is at most one half: in real heads its shape is no better on average than the plate.
    """
    depth = ndimage.distance_transform_edt(laid.pixels) * laid.chart.pixel_mm
    deep = laid.pixels & (depth > _DEEP_MM) & predicted.there
    if np.count_nonzero(deep) < _LEAST_DEEP:
        return laid
    guided = across_both(laid.chart, laid.wall, laid.surfaces.known, predicted, deep, laid.use)
    share = _NETWORK_SHARE * depth**2 / (depth**2 + _HALF_WAY_MM**2)
    return _moved(laid, guided, share)


def _towards_other(laid: Laid, skull: Mask, turn: Array) -> Laid:
    """Return a piece whose surfaces follow the other side of the head within the defect.

    The other side is thick and thin in the same regions; its offset from the bone around the defect
    is continued across it as a thin plate. Its weight increases from the edge, where the bone is
    the best evidence of the wall, and decreases to 0 where the other side has no wall, as in a
    defect that crosses the midline.
    """
    turned = replace(laid.chart, affine=np.linalg.inv(turn) @ laid.chart.affine)
    wall = turned.walls([Layer.of(skull)], laid.use)
    likely = across_like(laid.chart, laid.wall, laid.surfaces.known, wall, laid.use)
    if likely is None:
        return laid
    depth = ndimage.distance_transform_edt(laid.pixels) * laid.chart.pixel_mm
    there = ~laid.pixels | (wall.there & ~wall.doubtful)
    deep = ndimage.distance_transform_edt(np.pad(there, 1))[1:-1, 1:-1] * laid.chart.pixel_mm
    share = _OTHER_SHARE * depth**2 / (depth**2 + _OTHER_HALF_WAY_MM**2)
    share *= np.minimum(deep / _FADE_MM, 1.0)
    return _moved(laid, likely, share)


def _moved(laid: Laid, towards: Surfaces, share: Array) -> Laid:
    """Return a piece whose surfaces are interpolated towards others, with a weight per pixel."""
    own = laid.surfaces
    surfaces = replace(
        own,
        inner_mm=own.inner_mm + share * (towards.inner_mm - own.inner_mm),
        outer_mm=own.outer_mm + share * (towards.outer_mm - own.outer_mm),
    )
    return replace(laid, surfaces=surfaces)


def _agreement(laid: Laid, predicted: Wall, piece: Piece, skull: Mask) -> float:
    """Return how well two surfaces on the map can represent the network's prediction.

    The prediction is converted to smooth height fields and back. The result is the smaller of two
    shares: of the predicted voxels within half a voxel of the converted ones, and vice versa. It is
    close to 1 if the wall is a single layer, even if its position is wrong. Predictions on bone
    next to the defect are ignored.
    """
    seen = laid.pixels & predicted.there & ~predicted.doubtful
    if np.count_nonzero(seen) < _LEAST_DEEP:
        return 0.0
    surfaces = across(laid.chart, predicted, seen, laid.use)
    half = laid.edge_mm / 2
    box, mask = between(laid.chart, surfaces, laid.pixels, skull.shape, margin_mm=-half)
    made = mask & ~skull[box]
    rough = piece.placed(skull.shape)[box]
    places = np.argwhere(piece.mask) + [side.start for side in piece.box]
    places = places[over_pixels(laid.chart, laid.pixels, places)]
    if not made.any() or not len(places):
        return 0.0
    kept = inside(laid.chart, surfaces, laid.pixels, places, margin_mm=half)
    return min(float(kept.mean()), float(rough[made].mean()))


def _voted(
    votes: list[tuple[Box, Mask]], other: Other, skull: Mask, affine: Array
) -> tuple[Box, Mask]:
    """Return the voxels on which two of several implants and the other side of the head agree."""
    boxes = [box for box, _ in votes]
    box = tuple(
        slice(min(b[k].start for b in boxes), max(b[k].stop for b in boxes)) for k in range(3)
    )
    x, y, z = (side.stop - side.start for side in box)
    moved = affine.astype(np.float64)
    moved[:3, 3] += affine[:3, :3] @ np.array([side.start for side in box], dtype=np.float64)
    count = (mirrored(skull, affine, other(), moved, (x, y, z)) > _HALF).astype(np.uint8)
    for own, mask in votes:
        place = tuple(
            slice(a.start - b.start, a.stop - b.start) for a, b in zip(own, box, strict=True)
        )
        count[place] += mask
    return box, (count >= _VOTES) & ~skull[box]


def _reaches_low(piece: Piece, affine: Array, origin: Array) -> bool:
    """Return whether a piece reaches below the vault, to orbits and base."""
    places = np.argwhere(piece.mask) + [side.start for side in piece.box]
    offsets = places @ affine[:3, :3].T + affine[:3, 3] - origin
    steep = np.tan(np.deg2rad(_LOW_DEG))
    low = offsets[:, 2] < steep * np.hypot(offsets[:, 0], offsets[:, 1])
    return bool(low.mean() >= _LOW_SHARE)


def _kept(piece: Piece, skull: Mask, affine: Array) -> tuple[Box, Mask]:
    """Return the network's implant, extended to the bone that it nearly touches."""
    edges = np.linalg.norm(affine[:3, :3], axis=0)
    steps = np.ceil(2 * _CLOSE_MM / edges).astype(int) + 1
    box = tuple(
        slice(max(side.start - int(k), 0), min(side.stop + int(k), n))
        for side, k, n in zip(piece.box, steps, skull.shape, strict=True)
    )
    rough = np.zeros([side.stop - side.start for side in box], dtype=bool)
    own = tuple(
        slice(a.start - b.start, a.stop - b.start) for a, b in zip(piece.box, box, strict=True)
    )
    rough[own] = piece.mask
    bone = skull[box]
    # Boxes instead of balls, since distances take seconds on fine voxels.
    size = 2 * np.round(_CLOSE_MM / edges).astype(int) + 1
    grown = ndimage.maximum_filter((rough | bone).view(np.uint8), size)
    closed = ndimage.minimum_filter(grown, size) > 0
    near = ndimage.maximum_filter(rough.view(np.uint8), size) > 0
    return box, (rough | (closed & near)) & ~bone
