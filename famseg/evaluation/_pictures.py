"""Pictures of cases: input, output and truth in three planes through the defect."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure, SubFigure
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke

from famseg.evaluation._surface import Floats, Mask

# Okabe and Ito's palette: told apart with any colour vision.
_COLOURS = {
    "bone": (0.86, 0.86, 0.86),
    "missing from the output": (0.90, 0.62, 0.00),
    "too much in the output": (0.34, 0.71, 0.91),
    "removed region": (0.00, 0.62, 0.45),
}
_BACKGROUND = 0.08
# Plane, its axis, directions at the left, right, bottom and top edge. Arrays are RAS+.
_PLANES = (("axial", 2, "LRPA"), ("coronal", 1, "LRIS"), ("sagittal", 0, "PAIS"))
_INCHES, _DPI = 1.55, 120


@dataclass(frozen=True)
class SlicesCase:
    """One row of the picture.

    Args:
        title: What stands over it: case and scores with units.
        image: The input, a mask of shape ``(X, Y, Z)`` in RAS+ order.
        output: The answer, same shape.
        truth: The true skull, same shape.
        region: What was removed, same shape.
        spacing_mm: Edge lengths of a voxel in mm, for the proportions.
    """

    title: str
    image: Mask
    output: Mask
    truth: Mask
    region: Mask
    spacing_mm: tuple[float, float, float]


@rc_context({"text.parse_math": False})  # a name with dollars is no formula
def slices_picture(cases: Sequence[SlicesCase]) -> bytes:
    """Draw one row a case: input, output and truth, each axial, coronal and sagittal.

    The planes run through the centre of the removed bone. The output shows what is missing and what
    is too much in colour; the removed region is outlined.

    Args:
        cases: What to draw, at least one.

    Returns:
        The PNG file; the same bytes for the same cases.

    Raises:
        ValueError: If there is no case.
    """
    if not cases:
        raise ValueError("there is no case to draw: give at least one.")
    figure = Figure(figsize=(9 * _INCHES, (len(cases) * 1.18 + 0.3) * _INCHES), facecolor="white")
    FigureCanvasAgg(figure)
    heights = [1.18] * len(cases) + [0.3]
    rows = figure.subfigures(len(cases) + 1, 1, height_ratios=heights, squeeze=False)[:, 0]
    for row, case in zip(rows, cases, strict=False):
        _draw_case(row, case)
    handles = [Patch(color=colour, label=name) for name, colour in _COLOURS.items()]
    rows[-1].legend(handles=handles, loc="center", ncols=len(handles), frameon=False, fontsize=9)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=_DPI, metadata={"Software": None})
    return file.getvalue()


def defect_centre(truth: Mask, region: Mask) -> tuple[int, ...]:
    """Return the voxel at the centre of the removed bone; without any, of the region or the image.

    Args:
        truth: The true skull, shape ``(X, Y, Z)``.
        region: What was removed.
    """
    removed = truth & region
    for mask in (removed, region):
        if mask.any():
            return tuple(round(float(where.mean())) for where in np.nonzero(mask))
    return tuple(size // 2 for size in truth.shape)


def _draw_case(row: SubFigure, case: SlicesCase) -> None:
    row.suptitle(case.title, fontsize=9, x=0.01, y=0.985, ha="left")
    grid = row.add_gridspec(1, 9, left=0.01, right=0.99, bottom=0.02, top=0.80, wspace=0.04)
    centre = defect_centre(case.truth, case.region)
    shown = (
        ("input", case.image, case.image),
        ("output", case.output, case.truth),
        ("truth", case.truth, case.truth),
    )
    for p, (plane, axis, edges) in enumerate(_PLANES):
        width, height = (length for i, length in enumerate(case.spacing_mm) if i != axis)
        for column, (name, *masks) in enumerate(shown):
            axes = row.add_subplot(grid[0, 3 * p + column])
            mask, truth, region = (_slice(m, axis, centre) for m in (*masks, case.region))
            axes.imshow(
                _coloured(mask, truth),
                origin="lower",
                interpolation="nearest",
                aspect=height / width,
            )
            if region.any() and not region.all():
                colour = _COLOURS["removed region"]
                axes.contour(region, levels=[0.5], colors=[colour], linewidths=0.9)
            axes.set_axis_off()
            _write(axes, f"{plane}: {name}", edges)


def _slice(mask: Mask, axis: int, centre: Sequence[int]) -> Mask:
    """Return the plane through the centre, its first axis upwards."""
    plane: Mask = np.take(mask, centre[axis], axis).T
    return plane


def _write(axes: Axes, title: str, edges: str) -> None:
    """Write the title and the directions at the left, right, bottom and top edge."""
    # A title proper is laid out anew for each axes, which doubles the time of the whole picture.
    axes.text(0.5, 1.03, title, transform=axes.transAxes, fontsize=7, ha="center")
    places = ((0.03, 0.5), (0.97, 0.5), (0.5, 0.04), (0.5, 0.96))
    halo = [withStroke(linewidth=1.5, foreground="black")]  # legible on bone
    for place, letter in zip(places, edges, strict=True):
        text = axes.text(*place, letter, transform=axes.transAxes, fontsize=6, color="white")
        text.set(ha="center", va="center", path_effects=halo)


def _coloured(shown: Mask, truth: Mask) -> npt.NDArray[np.float64]:
    """Return the difference of two planes as RGB."""
    rgb: Floats = np.full((*shown.shape, 3), _BACKGROUND)
    rgb[shown & truth] = _COLOURS["bone"]
    rgb[truth & ~shown] = _COLOURS["missing from the output"]
    rgb[shown & ~truth] = _COLOURS["too much in the output"]
    return rgb
