"""Pairs of masks: skulls with three kinds of predictions, and shapes with known distances."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import scipy.ndimage as ndi

from famseg.datasets import phantom
from famseg.metrics import Mask, Spacing

KINDS = ("good", "shifted", "noise")
SKULLFIX = "222 x 512 x 512"
# Millimeters; the slices of SkullFix are thicker than their pixels.
_SKULLFIX_SPACING: Spacing = (1.0, 0.45, 0.45)
_HEAD_MM = 224.0
# Edge of a knob's top, in mm.
_KNOB = 12.0


@dataclass(frozen=True)
class Pair:
    """The input of all contestants."""

    grid: str
    kind: str
    prediction: Mask
    truth: Mask
    spacing: Spacing


@dataclass(frozen=True)
class Known:
    """A pair with analytic distances in mm."""

    name: str
    pair: Pair
    distances: dict[str, float]


def skulls(quick: bool) -> Iterator[Pair]:
    """Create the pairs one at a time: first cubic voxels, then the size of SkullFix."""
    for size in (64,) if quick else (64, 128, 256):
        truth = phantom(subject=1, seed=0, size=size).astype(bool)
        spacing = _HEAD_MM / size
        for kind in KINDS:
            prediction = _prediction(kind, truth)
            yield Pair(f"{size}^3", kind, prediction, truth, (spacing,) * 3)
    if not quick:
        truth = _skullfix()
        for kind in KINDS:
            yield Pair(SKULLFIX, kind, _prediction(kind, truth), truth, _SKULLFIX_SPACING)


def _skullfix() -> Mask:
    coarse = phantom(subject=1, seed=0, size=256).astype(np.float32).transpose(2, 1, 0)
    mask: Mask = ndi.zoom(coarse, (222 / 256, 2, 2), order=1) > 0.5
    return mask


def _prediction(kind: str, truth: Mask) -> Mask:
    """Return the truth with parts of its surface moved by one voxel, shifted by 5 %, or noise."""
    rng = np.random.default_rng(0)
    if kind == "shifted":
        return np.roll(truth, round(truth.shape[1] * 0.05), axis=1)
    if kind == "noise":
        return rng.random(truth.shape, dtype=np.float32) < 0.5
    places = rng.standard_normal((8, 8, 8)).astype(np.float32)
    outside = ndi.zoom(places, np.array(truth.shape) / 8, order=1) > 0
    return np.where(outside, ndi.binary_dilation(truth), ndi.binary_erosion(truth))


def known(quick: bool) -> list[Known]:
    """Return spheres, shells and boxes, moved or changed, with cubic, flat and long voxels."""
    found = []
    for spacing in ((1.0, 1.0, 1.0), (1.0, 0.45, 0.45), (0.45, 0.45, 3.0))[: 1 if quick else 3]:
        make = partial(_pair, spacing=spacing)
        found += [
            Known(
                "sphere of 30 mm in one of 34 mm",
                make((_ball, 34.0, 0.0), (_ball, 30.0, 0.0)),
                dict.fromkeys(("HD", "HD95", "ASSD"), 4.0),
            ),
            Known(
                "sphere of 30 mm moved by 6 mm",
                make((_ball, 30.0, 6.0), (_ball, 30.0, 0.0)),
                _moved_sphere(30.0, 6.0),
            ),
            *(
                Known(
                    f"shell of 30 to 34 mm, {wider:g} mm wider",
                    make((_shell, (30.0 + wider, 34.0 + wider), 0.0), (_shell, (30.0, 34.0), 0.0)),
                    _wider_shell(30.0, 34.0, wider),
                )
                for wider in (1.0, 4.0)
            ),
            Known(
                "box of 36 mm moved by 6 mm",
                make((_box, 36.0, 6.0), (_box, 36.0, 0.0)),
                _moved_box(36.0, 6.0),
            ),
            Known(
                "box of 36 mm with a knob of 8 mm",
                make((_knob, 36.0, 8.0), (_box, 36.0, 0.0)),
                _knob_distances(36.0, 8.0),
            ),
        ]
    return found


def _pair(prediction, truth, spacing: Spacing) -> Pair:
    shape = [round(90.0 / length) for length in spacing]
    points = np.meshgrid(
        *(
            (np.arange(count) + 0.5) * length - 45.0
            for count, length in zip(shape, spacing, strict=True)
        ),
        indexing="ij",
        sparse=True,
    )
    masks = [shape(points, size, moved) for shape, size, moved in (prediction, truth)]
    return Pair(" x ".join(map(str, shape)), "known", *masks, spacing)


def _ball(points, radius: float, moved: float) -> Mask:
    x, y, z = points
    mask: Mask = (x - moved) ** 2 + y**2 + z**2 <= radius**2
    return mask


def _shell(points, radii: tuple[float, float], moved: float) -> Mask:
    return _ball(points, radii[1], moved) & ~_ball(points, radii[0], moved)


def _box(points, edge: float, moved: float) -> Mask:
    x, y, z = points
    mask: Mask = (np.abs(x - moved) < edge / 2) & (np.abs(y) < edge / 2) & (np.abs(z) < edge / 2)
    return mask


def _knob(points, edge: float, height: float) -> Mask:
    x, y, z = points
    on_top = (x >= 0) & (x < edge / 2 + height) & (np.abs(y) < _KNOB / 2) & (np.abs(z) < _KNOB / 2)
    mask: Mask = _box(points, edge, 0.0) | on_top
    return mask


def _moved_sphere(radius: float, moved: float) -> dict[str, float]:
    """Both directions are alike; the height along the move is evenly spread over a sphere."""
    height = (np.arange(1_000_000) + 0.5) / 500_000 - 1
    away: npt.NDArray[np.float64] = np.abs(
        np.sqrt(radius**2 + moved**2 + 2 * radius * moved * height) - radius
    )
    return {"HD": moved, "HD95": float(np.quantile(away, 0.95)), "ASSD": float(away.mean())}


def _wider_shell(inner: float, outer: float, wider: float) -> dict[str, float]:
    """Each of the four spheres is as far as from the nearer sphere of the other shell.

    More than 5 % of a shell's surface is ``wider`` away.
    """
    spheres = np.array([inner, outer, inner + wider, outer + wider])
    away = np.abs(spheres[:, None] - np.roll(spheres.reshape(2, 2), 1, axis=0).repeat(2, axis=0))
    mean = float(np.average(away.min(axis=1), weights=spheres**2))
    return {"HD": wider, "HD95": wider, "ASSD": mean}


def _moved_box(edge: float, moved: float) -> dict[str, float]:
    """Integrate over the surface of a cube.

    The face ahead is ``moved`` away. The face behind lies inside the other cube, as far from its
    surface as from the nearest edge of the face, at most ``moved``: the integral over t up to
    ``moved`` of the area that is more than t from the edges. On the four sides a strip sticks out,
    from 0 to ``moved`` away. More than 5 % of the surface is ``moved`` away.
    """
    behind = (edge**3 - (edge - 2 * moved) ** 3) / 6
    total = edge**2 * moved + behind + 4 * edge * moved**2 / 2
    return {"HD": moved, "HD95": moved, "ASSD": total / (6 * edge**2)}


def _knob_distances(edge: float, height: float) -> dict[str, float]:
    """Integrate over both surfaces; the knob's share of its surface is more than 5 %.

    Its top is ``height`` away, its four sides 0 to ``height``. What it covers of the box is as far
    from the other surface as from the knob's edges: a pyramid. The rest is where it was.
    """
    box, top, around = 6 * edge**2, _KNOB**2, 4 * _KNOB
    whole = box + around * height
    percentile = height - (0.05 * whole - top) / around
    total = top * height + around * height**2 / 2 + _KNOB**3 / 6
    return {"HD": height, "HD95": percentile, "ASSD": total / (whole + box)}
