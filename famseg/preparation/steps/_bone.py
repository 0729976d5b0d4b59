"""Detection of bone: by Hounsfield units, by Otsu's method, or from a mask."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import SimpleITK as sitk  # noqa: N813 -- the name its users know it by
from numpy.typing import NDArray

from famseg.messages import InputError
from famseg.preparation._settings import Settings
from famseg.preparation._types import Kind
from famseg.preparation.sources import chosen_labels

Mask = NDArray[np.bool_]

_TISSUE_HU = -500.0  # half air, half skin; foam rubber and hair have less
_SOFT_HU = 40.0  # brain and muscle
_SOLID_HU = 1000.0  # cortical bone, somewhat blurred
_WORKING_MM = 2.0  # fine enough for what is decided on tissue: the table, the threshold
_SOLID_CORE_MM = 6.0  # a radius: thicker than shells of tables, skulls and plastics
_SOLID_SHARE = 0.3  # share of the tissue in solid cores: 0.9 in a head, 0.1 in a dry skull
_MOST_BONE = 0.6  # of all voxels; tight boxes around skulls hold a quarter


class Scale(NamedTuple):
    """The meaning of the values of a scan.

    Args:
        tissue: Above it lies the body, below it air.
        soft: The tissue around bone.
        threshold: Bone lies above it.
        solid: Bone without anything else in its voxel.
    """

    tissue: float
    soft: float
    threshold: float
    solid: float


class Bone(NamedTuple):
    """The bone of a scan.

    Args:
        mask: Shape of the scan.
        scale: What values mean; None for masks.
        notes: What looked strange, one sentence each.
    """

    mask: Mask
    scale: Scale | None
    notes: tuple[str, ...]


def find_bone(
    values: NDArray[Any],
    kind: Kind,
    spacing_mm: tuple[float, float, float],
    settings: Settings,
    segments: Mapping[int, str] | None = None,
) -> Bone:
    """Separate bone from everything else.

    Args:
        values: The scan, shape ``(X, Y, Z)``, finite.
        kind: What its values are.
        spacing_mm: Edge of a voxel along each axis.
        settings: Thresholds, and which label of a label map is the skull.
        segments: Names of labels as the file states them; None takes all labels.

    Returns:
        Bone, not cleaned. Masks: the rule of `famseg.datasets.prepare_transform`, and a background
        other than 0 is noted.

    Raises:
        InputError: If there is no bone, or hardly anything else, or a label map leaves open which
            label is the skull.
    """
    if kind == "mask":
        labeled: tuple[str, ...] = ()
        if segments is not None:
            values, labeled = chosen_labels(values, segments, settings.label)
        mask, notes = mask_of(values)
        return Bone(_plausible(mask), None, (*labeled, *notes))
    low, high = float(values.min()), float(values.max())
    if low == high:
        raise InputError(f"every voxel is {low:g}: the scan is empty")
    scale, notes = (
        _hounsfield(settings)
        if kind == "hounsfield"
        else _otsu_scale(values, spacing_mm, settings.threshold)
    )
    if high <= scale.threshold:
        raise InputError(
            f"no bone: the highest value is {high:g}, the threshold is {scale.threshold:g}; lower "
            "it if this is a CT of a head"
        )
    return Bone(_plausible(values > scale.threshold), scale, notes)


def mask_of(values: NDArray[Any]) -> tuple[Mask, tuple[str, ...]]:
    """Return where a mask is set, and notes on an unusual coding.

    Whole numbers: all but the background, which is 0 or, where 0 does not occur or two values are
    all there is, the lowest value. Fractions: above half of the highest.

    Example:
        >>> mask_of(np.array([[[0, 255, 255]]]))[0].tolist()
        [[[False, True, True]]]
        >>> mask_of(np.array([[[-1, -1, 1]]]))
        (array([[[False, False,  True]]]), ('The mask is coded as -1 and 1.',))
    """
    low, high = float(values.min()), float(values.max())
    if low == high:
        what = "all zero: there is no bone in it" if low == 0 else f"full: every voxel is {low:g}"
        raise InputError(f"the mask is {what}")
    if values.dtype.kind == "f" and not _whole(values):
        if low < 0:
            raise InputError(
                f"fractions from {low:g} to {high:g}: a mask has nothing below 0; threshold it, "
                "or name the scan a CT"
            )
        return values > high / 2, (f"The mask has fractions: bone is above {high / 2:g}.",)
    if low == 0:
        return values != 0, ()
    if not ((values == low) | (values == high)).all():
        if low < 0:
            raise InputError(
                f"labels from {low:g} to {high:g}: a mask has 0 for background and nothing below"
            )
        return values != low, (f"The background of the mask is {low:g}.",)
    return values == high, (f"The mask is coded as {low:g} and {high:g}.",)


def _whole(values: NDArray[Any]) -> bool:
    # In slabs: a copy of the whole volume is not needed for this.
    return all(bool((slab == np.round(slab)).all()) for slab in values)


def _plausible(mask: Mask) -> Mask:
    share = np.count_nonzero(mask) / mask.size
    if share > _MOST_BONE:
        raise InputError(
            f"{100 * share:.0f} % of the voxels are bone: a skull fills less than "
            f"{100 * _MOST_BONE:.0f} %; is the mask inverted, or the threshold too low?"
        )
    return mask


def _hounsfield(settings: Settings) -> tuple[Scale, tuple[str, ...]]:
    threshold = settings.threshold_hu
    return Scale(_TISSUE_HU, _SOFT_HU, threshold, max(_SOLID_HU, 2 * threshold)), ()


def _otsu_scale(
    values: NDArray[Any], spacing_mm: tuple[float, float, float], threshold: float | None
) -> tuple[Scale, tuple[str, ...]]:
    """Return the scale of values without one.

    Otsu's threshold of all values parts the head from air, whatever lies in it. A second one among
    the values of the head parts bone from soft tissue. It is not used for a dry skull, whose head
    is bone alone: there it would part dense from less dense bone.
    """
    steps = working_steps(spacing_mm)
    sample = np.asarray(values[:: steps[0], :: steps[1], :: steps[2]], dtype=np.float32)
    tissue = _otsu(sample)
    body = sample > tissue
    soft, bone, found = sample[~body], sample[body], tissue
    if solid_core(body, [n * s for n, s in zip(steps, spacing_mm, strict=True)]).any():
        found = _otsu(sample[body])
        soft, bone = sample[body & (sample <= found)], sample[sample > found]
    if threshold is None:
        how = f"{found:.4g}, found by Otsu's method: check the result"
    else:
        found, how = threshold, f"the given {threshold:g}"
    # A threshold given by the user may be outside the range that was found.
    scale = Scale(
        min(tissue, found),
        min(float(np.median(soft)), np.nextafter(found, -np.inf)),
        found,
        max(float(np.median(bone)), np.nextafter(found, np.inf)),
    )
    return scale, (f"Values have no known unit: voxels above {how} are bone.",)


def working_steps(spacing_mm: tuple[float, float, float]) -> tuple[int, int, int]:
    """Return the number of voxels along each axis that make about 2 mm.

    Example:
        >>> working_steps((0.5, 0.5, 3.0))
        (4, 4, 1)
    """
    x, y, z = (max(1, round(_WORKING_MM / s)) for s in spacing_mm)
    return x, y, z


def solid_core(body: Mask, spacing_mm: Sequence[float]) -> Mask:
    """Return where a ball of 6 mm fits into the body; nothing if the body is all shells.

    The body is assumed to continue outside the volume.
    """
    empty = np.zeros_like(body)
    if not body.any() or body.all():
        return body
    core = ~within_mm(~body, spacing_mm, _SOLID_CORE_MM)
    if not core.any():
        return empty
    opened = within_mm(core, spacing_mm, _SOLID_CORE_MM)
    return opened if opened.sum() > _SOLID_SHARE * body.sum() else empty


def within_mm(mask: Mask, spacing_mm: Sequence[float], radius_mm: float) -> Mask:
    """Return where a mask is no farther than a small radius, as its distance map would tell.

    The squared distance is put together axis by axis, but only as far as the radius reaches: for a
    few voxels that is several times as fast as the map.

    Args:
        mask: Any number of axes.
        spacing_mm: Edge of a voxel along each axis.
        radius_mm: How far.
    """
    squared = np.where(mask, np.float32(0), np.float32(np.inf))
    for axis, edge in enumerate(spacing_mm):
        nearest = squared.copy()
        for k in range(1, int(radius_mm / edge) + 1):
            lower = tuple(slice(None, -k) if a == axis else slice(None) for a in range(mask.ndim))
            upper = tuple(slice(k, None) if a == axis else slice(None) for a in range(mask.ndim))
            farther = squared + np.float32((k * edge) ** 2)
            np.minimum(nearest[lower], farther[upper], out=nearest[lower])
            np.minimum(nearest[upper], farther[lower], out=nearest[upper])
        squared = nearest
    return np.asarray(squared <= radius_mm**2 * (1 + 1e-5))


def distance_mm(mask: Mask, spacing_mm: Sequence[float]) -> NDArray[np.float32]:
    """Return the distance of every voxel to a mask that is not empty, in mm.

    Within the mask it is 0 at its outermost voxels and negative farther inside.

    Args:
        mask: Any number of axes.
        spacing_mm: Edge of a voxel along each axis.
    """
    image = sitk.GetImageFromArray(np.ascontiguousarray(mask).view(np.uint8))
    image.SetSpacing([float(s) for s in spacing_mm][::-1])  # the last axis is the image's first
    transform = sitk.SignedMaurerDistanceMapImageFilter()
    transform.SetNumberOfThreads(1)
    transform.SquaredDistanceOff()
    transform.UseImageSpacingOn()
    return np.asarray(sitk.GetArrayFromImage(transform.Execute(image)))


def _otsu(values: NDArray[np.float32]) -> float:
    otsu = sitk.OtsuThresholdImageFilter()
    otsu.SetNumberOfThreads(1)
    # Rare bright voxels (metal) would compress all others into a few bins of the histogram.
    low, high = np.percentile(values, [0.1, 99.9])
    otsu.Execute(sitk.GetImageFromArray(np.clip(values, low, high).reshape(1, -1)))
    return float(otsu.GetThreshold())
