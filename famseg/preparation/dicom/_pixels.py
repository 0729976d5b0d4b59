"""Reading of the pixels of a planned series, in HU on the grid of the plan."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import pydicom
import SimpleITK
from numpy.typing import NDArray
from pydicom.uid import RLELossless
from scipy import ndimage

from famseg.messages import DAMAGED, InputError
from famseg.preparation._between import from_level, to_level
from famseg.preparation._types import Scan
from famseg.preparation.dicom._compressed import check_compressed
from famseg.preparation.dicom._geometry import Plan
from famseg.preparation.dicom._header import silent, standard_name
from famseg.preparation.dicom._scale import checked_scale
from famseg.preparation.dicom._slice import Slice
from famseg.preparation.sources import AIR_HU, Item, check_memory, local, told_as
from famseg.volumes import Volume, quiet_itk

_HIGHEST_HU = 3072  # padding values above this cannot be confused with bone
_HARDLY = 1e-3  # weights below this are rounding errors


def read_series(plan: Plan, origin: str, notes: tuple[str, ...], rescaled: bool) -> Scan:
    """Read the slices of a series and resample them to the grid of its plan.

    Each slice is decoded, converted to HU with its own slope and intercept, shifted within its
    plane (linear interpolation) and interpolated along the normal where the grid lies between two
    slices. Besides the volume as int16, two slices are in memory at a time.

    Args:
        plan: From `make_plan`.
        origin: The prefix of error messages.
        notes: Notes from reading the headers.
        rescaled: Whether the headers state the conversion to HU.

    Returns:
        The scan, in which padding and values below air are -1024.

    Raises:
        InputError: If a slice cannot be decoded, or the volume does not fit into memory.
    """
    with told_as(origin), silent(), ExitStack() as stack:
        check_memory(plan.shape, np.dtype(np.int16).itemsize)
        items = list(dict.fromkeys(part.item for part in plan.slices))
        paths = dict(zip(items, stack.enter_context(local(items)), strict=True))
        out = np.empty(plan.shape[::-1], dtype=np.int16)
        slices = _moved(plan, paths)
        _fill(out, plan, slices)
    array = out.transpose(2, 1, 0)
    array, kind, scale_notes = checked_scale(array, rescaled=rescaled)
    return Scan(Volume(array, plan.affine), kind, (*notes, *plan.notes, *scale_notes))


def _fill(out: NDArray[np.int16], plan: Plan, slices: Iterator[NDArray[np.float32]]) -> None:
    """Fill each level of the grid by interpolation between the two slices around it."""
    heights = plan.heights_mm
    below, above = next(slices), next(slices)
    upper = 1
    for level, height in enumerate(plan.levels_mm):
        while upper < len(heights) - 1 and height > heights[upper]:
            below, above = above, next(slices)
            upper += 1
        weight = (height - heights[upper - 1]) / (heights[upper] - heights[upper - 1])
        if weight < _HARDLY:
            values = below
        elif weight > 1 - _HARDLY:
            values = above
        else:
            part = np.float32(weight)
            values = from_level((1 - part) * to_level(below) + part * to_level(above))
        whole = np.rint(values)
        out[level] = np.clip(whole, AIR_HU, np.iinfo(np.int16).max, out=whole)


def _moved(plan: Plan, paths: dict[Item, Path]) -> Iterator[NDArray[np.float32]]:
    """Yield the slices in order, in HU, each shifted within its plane."""
    across, down, _ = plan.shape
    for part, (right, low) in zip(plan.slices, plan.shifts, strict=True):
        pixels = _hounsfield(part, paths[part.item])
        if pixels.shape == (down, across) and max(abs(right), abs(low)) < _HARDLY:
            yield pixels  # not shifted, like most slices
            continue
        canvas = np.full((down, across), AIR_HU, dtype=np.float32)
        whole = int(np.floor(low)), int(np.floor(right))
        rest = low - whole[0], right - whole[1]
        if max(rest) > _HARDLY:
            padded = np.pad(pixels, ((0, 1), (0, 1)), constant_values=AIR_HU)
            level = ndimage.shift(to_level(padded), rest, order=1, mode="nearest", prefilter=False)
            pixels = from_level(level)
        rows = min(pixels.shape[0], down - whole[0])
        columns = min(pixels.shape[1], across - whole[1])
        canvas[whole[0] : whole[0] + rows, whole[1] : whole[1] + columns] = pixels[:rows, :columns]
        yield canvas


def _hounsfield(part: Slice, path: Path) -> NDArray[np.float32]:
    """Return a slice in HU, ``(rows, columns)``, with padding as air."""
    if part.frame is None and part.syntax != RLELossless:
        pixels = _by_gdcm(part, path)  # GDCM applies slope and intercept
    else:
        pixels = _by_pydicom(part, path) * np.float32(part.slope) + np.float32(part.intercept)
    across, down = part.size
    if pixels.size != across * down:
        raise InputError(
            f"{part.shown} has {pixels.size} pixels, its header announces {across} x {down}: the "
            "file is damaged; copy it again"
        )
    pixels = pixels.reshape(down, across).astype(np.float32, copy=False)
    if part.padding is not None:
        nothing = part.padding * part.slope + part.intercept
        if nothing > _HIGHEST_HU:
            pixels[pixels == np.float32(nothing)] = AIR_HU
    return np.maximum(pixels, np.float32(AIR_HU), out=pixels)


def _by_pydicom(part: Slice, path: Path) -> NDArray[np.float32]:
    """Decode a frame of a multi-frame file, or RLE, where damaged data make GDCM divide by zero."""
    try:
        stored = pydicom.pixels.pixel_array(path, index=part.frame)
    except MemoryError:
        raise  # not the file's fault
    except (*DAMAGED, NotImplementedError, RuntimeError):
        raise _not_decoded(part) from None
    return np.asarray(stored, dtype=np.float32)


def _not_decoded(part: Slice) -> InputError:
    name = standard_name(part.syntax) or "an unknown transfer syntax"
    return InputError(
        f"the pixels of {part.shown} cannot be decoded ({name}): it is cut short or damaged; copy "
        "it again"
    )


def _by_gdcm(part: Slice, path: Path) -> NDArray[np.float32]:
    check_compressed(part, path)
    if (
        part.inverted
    ):  # GDCM inverts the values of MONOCHROME1, but HU do not depend on how they are displayed
        with _as_monochrome2(path) as plain:
            return _decoded(part, plain)
    return _decoded(part, path)


@contextmanager
def _as_monochrome2(path: Path) -> Iterator[Path]:
    """Provide a copy of a file that is marked as MONOCHROME2, so that values are not inverted."""
    with tempfile.TemporaryDirectory(prefix="famseg-") as folder:
        data = pydicom.dcmread(path, force=True)
        data.PhotometricInterpretation = "MONOCHROME2"
        plain = Path(folder, "slice.dcm")
        data.save_as(plain)
        yield plain


def _decoded(part: Slice, path: Path) -> NDArray[np.float32]:
    reader = SimpleITK.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileName(str(path))
    try:
        with quiet_itk():
            image = reader.Execute()
    except RuntimeError:
        raise _not_decoded(part) from None
    return np.array(SimpleITK.GetArrayViewFromImage(image), dtype=np.float32)
