"""Lengths, areas and volumes of an implant, each with its unit."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from famseg.meshes import Mesh, simplify, surface_mesh
from famseg.reconstruction._fit import Fitted

Mask = NDArray[np.bool_]
Floats = NDArray[np.float64]

_FINEST_SKULL_MM = 0.9  # smallest voxels for the mesh of a skull; finer detail is not needed
_SKULL_ERROR_MM = 0.05
_MOST_FACES = 400_000


def implant_shape(fitted: Fitted) -> dict[str, Any]:
    """Return volume, area, thickness and box of an implant, in JSON types.

    Thickness is the length of a ray through the implant, straight inwards from 2,000 points spread
    evenly over its surface (`famseg.meshes.thickness_mm`).

    Args:
        fitted: From `famseg.reconstruction.fit`.
    """
    mesh, thick = fitted.mesh, fitted.thickness
    low, high = mesh.bounds_mm
    return {
        "volume_ml": mesh.volume_mm3 / 1000,
        "area_cm2": mesh.area_mm2 / 100,
        "thickness_mm": {
            "min": float(thick.min()),
            "p5": float(np.percentile(thick, 5)),
            "median": float(np.median(thick)),
        },
        "box_mm": high - low,
        "box_ras_mm": [low, high],
        "faces": len(mesh.faces),
        "watertight": mesh.is_watertight,
    }


def implant_fit(fitted: Fitted, requested_mm: float) -> dict[str, Any]:
    """Return gap, insertion direction, undercut and flushness of an implant, in JSON types.

    Args:
        fitted: From `famseg.reconstruction.fit`.
        requested_mm: The requested gap.
    """
    gap = fitted.gap
    return {
        "gap_mm": {
            "requested": requested_mm,
            "min": gap.minimum_mm,
            "p1": gap.p1_mm,
            "median": gap.median_mm,
            "samples": gap.samples,
        },
        "insertion": {
            "direction_ras": fitted.direction,
            "undercut_mm3": fitted.undercut_mm3,
            "undercut_share": fitted.undercut_mm3 / fitted.mesh.volume_mm3,
            "undercut_removed_mm3": fitted.undercut_removed_mm3,
        },
        "rim_removed_mm3": fitted.rim_removed_mm3,
        "step_mm": [None if step is None else step._asdict() for step in fitted.step],
    }


def skull_surface(bone: Mask, affine: Floats) -> Mesh:
    """Return the surface of a skull on voxels of about 0.9 mm or more, simplified by 0.05 mm.

    Finer voxels are combined in blocks of whole numbers along each axis: a block is bone if more
    than half of it is. It has 400,000 faces at most. Takes about 3 s for a skull of any resolution.
    """
    edges = np.linalg.norm(affine[:3, :3], axis=0)
    steps = np.maximum(np.rint(_FINEST_SKULL_MM / edges), 1).astype(int)
    if (steps > 1).any():
        bone, affine = _coarser(bone, affine, steps)
    mesh = simplify(surface_mesh(bone, affine), max_error_mm=_SKULL_ERROR_MM)
    return simplify(mesh, max_faces=_MOST_FACES)


def _coarser(bone: Mask, affine: Floats, steps: NDArray[np.int_]) -> tuple[Mask, Floats]:
    """Return a mask downsampled by an integer factor along each axis."""
    padded = np.pad(bone, [(0, -n % step) for n, step in zip(bone.shape, steps, strict=True)])
    count = padded.astype(np.uint8)
    for axis, step in enumerate(steps.tolist()):
        shape = [*count.shape[:axis], count.shape[axis] // step, step, *count.shape[axis + 1 :]]
        count = count.reshape(shape).sum(axis=axis + 1, dtype=np.uint8)
    moved = affine @ np.diag([*steps, 1.0])
    moved[:3, 3] = affine[:3, 3] + affine[:3, :3] @ ((steps - 1) / 2)
    return 2 * count > np.prod(steps), moved
