"""Rigid alignment of a skull to a template by their surfaces, without landmarks."""

from __future__ import annotations

from itertools import product
from typing import NamedTuple

import numpy as np
import SimpleITK as sitk  # noqa: N813 -- the name its users know it by
from numpy.typing import NDArray
from scipy import ndimage

from famseg.messages import InputError
from famseg.preparation.steps._bone import Mask, distance_mm, mask_of
from famseg.preparation.steps._grid import Matrix, Points, surface_points, to_ras
from famseg.volumes import Volume

_COARSE_MM, _FINE_MM = 6.0, 3.0
_REACH_MM = 20.0  # surfaces farther away have no influence: a missing jaw, a neck, a defect
_BORDER_MM = 18.0  # around the template within which surfaces count
_MOVING_BORDER_MM = 60.0  # margin within which the head can move
_PITCH_DEG = (-30.0, -15.0, 0.0, 15.0, 30.0)
_TILT_DEG = (-15.0, 0.0, 15.0)
_STARTS = 3  # number of candidates that are refined
_ITERATIONS = 150


class Template(NamedTuple):
    """A skull to which other skulls are aligned.

    Args:
        mask: Its mask, with axes to the right, front and top.
        affine: Maps indices to mm of its world, which is also the world of the results.
        surface: Points on its surface in mm, shape ``(N, 3)``.
    """

    mask: Mask
    affine: Matrix
    surface: Points


def as_template(volume: Volume) -> Template:
    """Return a mask as a template.

    Raises:
        InputError: If it is not a mask of a skull, or lies oblique in its world.
    """
    ras = to_ras(volume)
    try:
        mask, _ = mask_of(ras.array)
    except InputError as error:
        raise InputError(*(f"template: {fault}" for fault in error.faults)) from error
    axes = ras.affine[:3, :3] / np.linalg.norm(ras.affine[:3, :3], axis=0)
    if not np.allclose(axes, np.eye(3), atol=1e-3):
        raise InputError(
            "template: its axes do not lead to the right, the front and the top: resample it first"
        )
    return Template(mask, ras.affine, surface_points(mask, ras.affine))


def align(surface_mm: Points, template: Template) -> Matrix:
    """Return the rigid motion that aligns a template to a skull.

    Both surfaces are converted to distance maps, truncated at 20 mm. SimpleITK minimizes the mean
    squared difference of the maps over rotations and translations (`Euler3DTransform`), first on a
    grid of 6 mm, then on one of 3 mm. To avoid local minima, 45 initial poses with up to 30 degrees
    of nodding and 15 degrees of turning and leaning are compared, and the best three are refined.
    Nothing is random and only one thread is used, so the same skulls always give the same motion.

    Args:
        surface_mm: Surface of the skull in mm of its scan's world, shape ``(N, 3)``, axes roughly
            to the right, front and top.
        template: The template to align to.

    Returns:
        Maps mm of the template's world to mm of the scan's world, shape ``(4, 4)``. This takes a
        few seconds.
    """
    maps = _maps(surface_mm, template, _COARSE_MM)
    candidates = []
    for pitch, roll, yaw in product(_PITCH_DEG, _TILT_DEG, _TILT_DEG):
        start = start_at(surface_mm, template, np.deg2rad([pitch, roll, yaw]))
        candidates.append((registration(start).MetricEvaluate(*maps), start))
    candidates.sort(key=lambda c: c[0])
    followed = [refined(start, maps, _COARSE_MM) for _, start in candidates[:_STARTS]]
    best = min(followed, key=lambda f: f[0])[1]
    maps = _maps(surface_mm, template, _FINE_MM)
    return matrix_of(refined(best, maps, _FINE_MM)[1])


def surface_residual_mm(surface_mm: Points, template: Template) -> float:
    """Return the root mean square distance of a surface to the template's, in mm.

    Args:
        surface_mm: Points in the template's world, shape ``(N, 3)``.
        template: The template they were aligned to.
    """
    spacing = np.linalg.norm(template.affine[:3, :3], axis=0)
    border = 2 + np.ceil(40 / spacing).astype(int)
    image = np.pad(_surface_mask(template), [(int(b), int(b)) for b in border])
    distance = np.abs(distance_mm(image, spacing.tolist()))
    index = (surface_mm - template.affine[:3, 3]) / spacing + border
    found = ndimage.map_coordinates(distance, index.T, order=1, mode="nearest")
    return float(np.sqrt(np.mean(np.square(found))))


def _surface_mask(template: Template) -> Mask:
    index = np.rint((template.surface - template.affine[:3, 3]) / np.diag(template.affine)[:3])
    mask = np.zeros(template.mask.shape, dtype=bool)
    mask[tuple(index.astype(int).T)] = True
    return mask


def start_at(
    surface_mm: Points, template: Template, angles: NDArray[np.float64], *, cut_mm: float = 0.0
) -> sitk.Transform:
    """Return an initial pose in which the vertices and the centers of both skulls coincide.

    Args:
        surface_mm: Surface of the skull, shape ``(N, 3)``.
        template: The template that it is compared with.
        angles: Angles about the axes to the right, front and top, in radians.
        cut_mm: Height of the part of the vault that is assumed to be missing.
    """
    middle = (template.surface.min(axis=0) + template.surface.max(axis=0)) / 2
    transform = sitk.Euler3DTransform()
    transform.SetRotation(*angles.tolist())
    turn = matrix_of(transform)[:3, :3]
    upright = surface_mm @ turn  # rotates each point by the inverse
    height = float(np.ptp(template.surface[:, 2]))
    corners = []
    for points in (upright, template.surface):
        top = points[:, 2].max()
        kept = points[points[:, 2] >= top - height]
        corners.append([*(kept.min(axis=0) + kept.max(axis=0))[:2] / 2, top])
    corners[1][2] -= cut_mm
    shift = turn @ np.array(corners[0]) - turn @ np.array(corners[1])
    transform.SetCenter(middle.tolist())
    transform.SetTranslation((turn @ middle + shift - middle).tolist())
    return transform


def _maps(
    surface_mm: Points, template: Template, spacing_mm: float
) -> tuple[sitk.Image, sitk.Image]:
    """Return the distance maps of the template and of the skull."""
    return (
        surface_map(template.surface, spacing_mm, _BORDER_MM),
        surface_map(surface_mm, spacing_mm, _MOVING_BORDER_MM),
    )


def surface_map(points: Points, spacing_mm: float, border_mm: float) -> sitk.Image:
    """Return the truncated distance to a surface on a grid around it."""
    low = points.min(axis=0) - border_mm
    shape = np.ceil((points.max(axis=0) + border_mm - low) / spacing_mm).astype(int) + 1
    mask = np.zeros(shape, dtype=bool)
    mask[tuple(np.rint((points - low) / spacing_mm).astype(int).T)] = True
    distance = np.clip(distance_mm(mask, [spacing_mm] * 3), 0, _REACH_MM)
    image = sitk.GetImageFromArray(distance.transpose(2, 1, 0))
    image.SetSpacing([spacing_mm] * 3)
    image.SetOrigin(low.tolist())
    return image


def registration(transform: sitk.Transform) -> sitk.ImageRegistrationMethod:
    method = sitk.ImageRegistrationMethod()
    method.SetNumberOfThreads(1)  # with several threads, sums would vary between runs
    method.SetMetricAsMeanSquares()
    method.SetMetricSamplingStrategy(method.NONE)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetInitialTransform(transform, inPlace=False)
    return method


def refined(
    start: sitk.Transform, maps: tuple[sitk.Image, sitk.Image], spacing_mm: float
) -> tuple[float, sitk.Transform]:
    """Return the smallest difference found from an initial pose, and the pose."""
    method = registration(start)
    method.SetOptimizerAsRegularStepGradientDescent(
        learningRate=spacing_mm / 2,
        minStep=spacing_mm / 1000,
        numberOfIterations=_ITERATIONS,
        relaxationFactor=0.6,
        gradientMagnitudeTolerance=1e-6,
    )
    method.SetOptimizerScalesFromPhysicalShift()
    found = method.Execute(*maps)
    return float(method.GetMetricValue()), sitk.Euler3DTransform(found.GetNthTransform(0))


def matrix_of(transform: sitk.Transform) -> Matrix:
    """Return a transform as a matrix of shape ``(4, 4)``."""
    matrix = np.eye(4)
    matrix[:3, :3] = np.array(transform.GetMatrix()).reshape(3, 3)
    matrix[:3, 3] = transform.TransformPoint((0.0, 0.0, 0.0))
    return matrix


def angle_deg(matrix: Matrix) -> float:
    """Return the angle of rotation of a motion of shape ``(4, 4)`` in degrees.

    Example:
        >>> angle_deg(np.eye(4))
        0.0
    """
    cosine = (np.trace(matrix[:3, :3]) - 1) / 2
    return float(np.degrees(np.arccos(np.clip(cosine, -1, 1))))
