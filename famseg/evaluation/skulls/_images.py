"""Images of cases: input, prediction and reference in three planes through the defect."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke

from famseg.figures import encode, new_figure, styled
from famseg.metrics import Floats, Mask

# Palette by Okabe and Ito, distinguishable with any color vision.
_COLORS = {
    "bone": (0.86, 0.86, 0.86),
    "missing from the prediction": (0.90, 0.62, 0.00),
    "too much in the prediction": (0.34, 0.71, 0.91),
    "removed region": (0.00, 0.62, 0.45),
}
_BACKGROUND = 0.08
# Plane, its axis, and the directions at the left, right, bottom and top edge. The patient's right
# is on the left of the image, as in radiology, and the sagittal plane is seen from the right.
# Arrays are RAS+.
_PLANES = (("axial", 2, "RLPA"), ("coronal", 1, "RLIS"), ("sagittal", 0, "PAIS"))
_INCHES = 1.55
_BAR_MM = (10.0, 20.0, 50.0)  # lengths of a scale bar
_BAR_SHARE = 0.4  # largest share of a plane's width


@dataclass(frozen=True)
class SlicesCase:
    """One row of the image.

    Args:
        title: The text above it: case and metrics with units.
        image: The input, a mask of shape ``(X, Y, Z)`` in RAS+ order.
        output: The prediction, same shape.
        truth: The true skull, same shape.
        region: The region that was removed, same shape.
        spacing_mm: Edge lengths of a voxel in mm, for the proportions.
    """

    title: str
    image: Mask
    output: Mask
    truth: Mask
    region: Mask
    spacing_mm: tuple[float, float, float]


def slices_image(cases: Sequence[SlicesCase]) -> bytes:
    """Return `slices_figure` as a PNG file; the same bytes for the same cases.

    Args:
        cases: The cases to draw, at least one.

    Raises:
        ValueError: If there is no case.
    """
    return encode(slices_figure(cases))


@styled()
def slices_figure(cases: Sequence[SlicesCase]) -> Figure:
    """Draw one row per case: input, prediction and reference, each axial, coronal and sagittal.

    The planes run through the center of the removed bone. In the prediction, missing and excess
    parts are colored; the removed region is outlined. Each plane has a scale bar.

    Args:
        cases: The cases to draw, at least one.

    Raises:
        ValueError: If there is no case.
    """
    if not cases:
        raise ValueError("there is no case to draw: give at least one.")
    height = (len(cases) * 1.18 + 0.3) * _INCHES
    figure = new_figure(9 * _INCHES, height, constrained=False)
    heights = [1.18] * len(cases) + [0.3]
    rows = figure.subfigures(len(cases) + 1, 1, height_ratios=heights, squeeze=False)[:, 0]
    for row, case in zip(rows, cases, strict=False):
        _draw_case(row, case)
    handles = [Patch(color=color, label=name) for name, color in _COLORS.items()]
    rows[-1].legend(handles=handles, loc="center", ncols=len(handles))
    return figure


def defect_center(truth: Mask, region: Mask) -> tuple[int, ...]:
    """Return the voxel at the center of the removed bone; without any, of the region or the image.

    Args:
        truth: The true skull, shape ``(X, Y, Z)``.
        region: The region that was removed.
    """
    removed = truth & region
    for mask in (removed, region):
        if mask.any():
            return tuple(round(float(where.mean())) for where in np.nonzero(mask))
    return tuple(size // 2 for size in truth.shape)


def _draw_case(row: SubFigure, case: SlicesCase) -> None:
    row.suptitle(case.title, fontsize=9, x=0.01, y=0.985, ha="left")
    grid = row.add_gridspec(1, 9, left=0.01, right=0.99, bottom=0.02, top=0.80, wspace=0.04)
    center = defect_center(case.truth, case.region)
    shown = (
        ("input", case.image, case.image),
        ("prediction", case.output, case.truth),
        ("reference", case.truth, case.truth),
    )
    for p, (plane, axis, edges) in enumerate(_PLANES):
        width, height = (length for i, length in enumerate(case.spacing_mm) if i != axis)
        for column, (name, *masks) in enumerate(shown):
            axes = row.add_subplot(grid[0, 3 * p + column])
            mask, truth, region = (_slice(m, axis, center) for m in (*masks, case.region))
            axes.imshow(
                _colored(mask, truth),
                origin="lower",
                interpolation="nearest",
                aspect=height / width,
            )
            if region.any() and not region.all():
                color = _COLORS["removed region"]
                axes.contour(region, levels=[0.5], colors=[color], linewidths=0.9)
            axes.set_axis_off()
            _write(axes, f"{plane}: {name}", edges)
            _draw_bar(axes, mask.shape[1], width)


def _slice(mask: Mask, axis: int, center: Sequence[int]) -> Mask:
    """Return the plane through the center, with its first axis upwards."""
    plane: Mask = np.take(mask, center[axis], axis).T
    return plane if axis == 0 else plane[:, ::-1]  # the patient's right comes first


def _write(axes: Axes, title: str, edges: str) -> None:
    """Write the title and the directions at the left, right, bottom and top edge."""
    # A regular title is laid out for each axes, which doubles the time for the whole image.
    axes.text(0.5, 1.03, title, transform=axes.transAxes, fontsize=7, ha="center")
    places = ((0.03, 0.5), (0.97, 0.5), (0.5, 0.04), (0.5, 0.96))
    halo = [withStroke(linewidth=1.5, foreground="black")]  # legible on bone
    for place, letter in zip(places, edges, strict=True):
        text = axes.text(*place, letter, transform=axes.transAxes, fontsize=6, color="white")
        text.set(ha="center", va="center", path_effects=halo)


def _draw_bar(axes: Axes, voxels: int, spacing_mm: float) -> None:
    """Draw a scale bar at the lower left, unless the plane is too small."""
    fitting = [length for length in _BAR_MM if length <= _BAR_SHARE * voxels * spacing_mm]
    if not fitting:
        return
    length = fitting[-1] / spacing_mm / voxels
    ends = [0.05, 0.05 + length]
    axes.plot(ends, [0.05, 0.05], transform=axes.transAxes, color="white", linewidth=1.2)
    text = axes.text(ends[1] + 0.02, 0.05, f"{fitting[-1]:g} mm", transform=axes.transAxes)
    halo = [withStroke(linewidth=1.5, foreground="black")]
    text.set(color="white", fontsize=5, va="center", path_effects=halo)


def _colored(shown: Mask, truth: Mask) -> npt.NDArray[np.float64]:
    """Return the difference between two planes as RGB."""
    rgb: Floats = np.full((*shown.shape, 3), _BACKGROUND)
    rgb[shown & truth] = _COLORS["bone"]
    rgb[truth & ~shown] = _COLORS["missing from the prediction"]
    rgb[shown & ~truth] = _COLORS["too much in the prediction"]
    return rgb
