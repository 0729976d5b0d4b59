"""A procedural skull, assembled from implicit surfaces with anatomical parameters."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from famseg.datasets.phantoms._braincase import (
    add_base,
    carve_diploe,
    open_foramen,
    outer_surface,
    wall_thickness,
)
from famseg.datasets.phantoms._face import add_arches, add_face, open_face
from famseg.datasets.phantoms._implicit import Array, Field
from famseg.datasets.phantoms._parameters import HEAD_EXTENT_MM, PhantomParameters
from famseg.datasets.phantoms._scene import Scene, make_scene
from famseg.messages import InputError

PHANTOM_VERSION = 1
"""Part of every cache key; increased when the same arguments give another skull."""

_FIELD_OF_VIEW_MM = 224.0


def phantom(
    subject: int, seed: int, size: int = 64, spacing_mm: float | None = None
) -> NDArray[np.uint8]:
    """Return the complete skull of one synthetic subject.

    A cranial vault with outer and inner table of varying thickness (and marrow between them where
    the voxels are fine enough to show it), a base with fossae, petrous ridges and foramen magnum,
    orbits, nasal aperture and septum, maxilla with sinuses and alveolar arch, zygomatic arches,
    mastoids; left and right differ. Walls are never thinner than 1.1 voxels, so that the vault
    stays closed at low resolution. The mandible is left out, as in most data for cranial implants.

    Args:
        subject: Number of the subject, 0 or more.
        seed: Seed of the population, 0 or more; (seed, subject) alone decides the anatomy.
        size: Voxels along each edge.
        spacing_mm: Edge of a voxel in mm; 224 mm / size by default.

    Returns:
        A mask of 0 and 1, shape ``(size, size, size)``, axes to the right, front and top, one
        connected piece. Takes about 60 ms at 64^3.

    Raises:
        InputError: If an argument is out of range or a head does not fit into the grid.

    Example:
        >>> skull = phantom(subject=3, seed=0, size=32)
        >>> skull.shape, skull.dtype, bool((skull == phantom(3, 0, 32)).all())
        ((32, 32, 32), dtype('uint8'), True)
    """
    if subject < 0 or seed < 0:
        raise InputError(f"phantom: subject {subject} and seed {seed} must be 0 or more")
    parameters = PhantomParameters.draw(np.random.default_rng([seed, subject]))
    return phantom_from(parameters, size=size, spacing_mm=spacing_mm)


def phantom_from(
    parameters: PhantomParameters, size: int = 64, spacing_mm: float | None = None
) -> NDArray[np.uint8]:
    """Return the skull of a given anatomy.

    Args:
        parameters: The anatomy.
        size: Voxels along each edge.
        spacing_mm: Edge of a voxel in mm; 224 mm / size by default.

    Returns:
        A mask as `phantom` returns it.

    Raises:
        InputError: If an argument is out of range or a head does not fit into the grid.
    """
    if size < 16 or (spacing_mm is not None and not 0 < spacing_mm < np.inf):
        raise InputError(
            f"phantom: size {size}, spacing_mm {spacing_mm}: give a size of 16 or more and a "
            "spacing above 0 mm"
        )
    spacing = _FIELD_OF_VIEW_MM / size if spacing_mm is None else float(spacing_mm)
    if size * spacing < HEAD_EXTENT_MM:
        raise InputError(
            f"phantom: {size} voxels of {spacing:g} mm cover {size * spacing:g} mm, a head needs "
            f"{HEAD_EXTENT_MM:g} mm: use spacing_mm {np.ceil(100 * HEAD_EXTENT_MM / size) / 100:g} "
            f"or more, or size {int(np.ceil(HEAD_EXTENT_MM / spacing))} or more"
        )
    bone = _bone(make_scene(parameters, size, spacing)) <= 0
    labels, count = ndimage.label(bone, structure=np.ones((3, 3, 3)))
    if count > 1:
        bone = labels == 1 + np.argmax(np.bincount(labels.ravel())[1:])
    return np.asarray(bone, dtype=np.uint8)


def _bone(scene: Scene) -> Array:
    """Return the signed distance to bone in mm, negative inside."""
    head = outer_surface(scene)
    thickness = wall_thickness(scene)
    inner = head + thickness  # negative inside the cranial cavity
    shell = carve_diploe(np.maximum(head, -inner), scene, head, thickness)
    field = Field(scene.x, scene.y, scene.z, shell)
    add_face(scene, field)
    # The face is in front of and below the cranial cavity, but not inside it.
    field.distance = np.maximum(field.distance, -inner)
    add_base(scene, field)
    open_face(scene, field)
    open_foramen(scene, field)
    add_arches(scene, field)
    return field.distance
