"""Segmentation of bone by Hounsfield units, by Otsu's method, or from a mask."""

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

_TISSUE_HU = -500.0  # between air and skin; foam and hair lie below
_SOFT_HU = 40.0  # brain and muscle
_SOLID_HU = 1000.0  # cortical bone, somewhat blurred
_WORKING_MM = 2.0  # fine enough for decisions on tissue: the table, the threshold
_SOLID_CORE_MM = 6.0  # radius; shells of tables, plastics and skulls are thinner
_SOLID_SHARE = 0.3  # share of the tissue in solid cores: 0.9 in a head, 0.1 in a dry skull
_MOST_BONE = 0.6  # share of all voxels; in tight boxes around skulls it is a quarter


class Scale(NamedTuple):
    """Reference values on the scale of a scan.

    Args:
        tissue: Threshold between air and the body.
        soft: Value of the soft tissue around bone.
        threshold: Threshold of bone.
        solid: Value of voxels that are completely bone.
    """

    tissue: float
    soft: float
    threshold: float
    solid: float


class Bone(NamedTuple):
    """The segmented bone of a scan.

    Args:
        mask: Mask with the shape of the scan.
        scale: Reference values of the scan; None for masks.
        notes: Unusual properties, one sentence each.
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
        kind: Kind of its values.
        spacing_mm: Edge of a voxel along each axis.
        settings: Thresholds, and which label of a label map is the skull.
        segments: Names of labels as stated in the file; None takes all labels.

    Returns:
        The bone before cleaning. Masks follow the rule of `famseg.datasets.prepare_transform`, and
        a background other than 0 is noted.

    Raises:
        InputError: If there is no bone or hardly anything else, or if it is not clear which label
            of a label map is the skull.
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

    For whole numbers, everything except the background is set. The background is 0 or, if 0 does
    not occur or there are only two values, the lowest value. Fractions are set above half of the
    highest value.

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
    # In slabs, to avoid a copy of the whole volume.
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
    """Return the reference values of a scan without Hounsfield units.

    Otsu's threshold (IEEE Trans. SMC 9, 1979) of all values separates the head from air. A second
    threshold, of the values in the head, separates bone from soft tissue. It is not used for a dry
    skull, which contains only bone: there it would separate dense bone from less dense bone.
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
    # A user-defined threshold may be outside the range that was found.
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
    """Return where a ball of 6 mm radius fits into the body; empty if the body is only shells.

    This is a morphological opening; the body is assumed to continue outside the volume.
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
    """Return all voxels within a small radius of a mask, with the same result as a distance map.

    The squared distance is computed axis by axis, as in the distance transform of Felzenszwalb and
    Huttenlocher (2012), but only within the radius. For a radius of a few voxels this is several
    times as fast as the map.

    Args:
        mask: Mask with any number of axes.
        spacing_mm: Edge of a voxel along each axis.
        radius_mm: The radius.
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
    """Return the distance of every voxel to a nonempty mask in mm.

    It is 0 at the outermost voxels of the mask and negative farther inside.

    Args:
        mask: Mask with any number of axes.
        spacing_mm: Edge of a voxel along each axis.
    """
    image = sitk.GetImageFromArray(np.ascontiguousarray(mask).view(np.uint8))
    image.SetSpacing([float(s) for s in spacing_mm][::-1])  # ITK reverses the order of axes
    transform = sitk.SignedMaurerDistanceMapImageFilter()
    transform.SetNumberOfThreads(1)
    transform.SquaredDistanceOff()
    transform.UseImageSpacingOn()
    return np.asarray(sitk.GetArrayFromImage(transform.Execute(image)))


def _otsu(values: NDArray[np.float32]) -> float:
    otsu = sitk.OtsuThresholdImageFilter()
    otsu.SetNumberOfThreads(1)
    # Few very bright voxels (metal) would compress all others into a few bins of the histogram.
    low, high = np.percentile(values, [0.1, 99.9])
    otsu.Execute(sitk.GetImageFromArray(np.clip(values, low, high).reshape(1, -1)))
    return float(otsu.GetThreshold())
