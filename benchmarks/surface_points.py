"""Which points should stand for the surface of a mask? Distances of known shapes, five ways.

python benchmarks/surface_points.py --out benchmarks/results/surface_points.md

Three definitions are published: border voxels, each direction by itself (MONAI) or both pooled
(medpy), and surface elements on the corners of voxels, by area (surface-distance), which is what
``hd95_mm`` and ``assd_mm`` take. Two are not: elements moved to the centroid of the piece of
surface that they stand for, with exact distances between those; and the same with the distance to
the element that is nearest on the grid. Takes half a minute on one core.
"""

from __future__ import annotations

import argparse
import functools
import time
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from _measure import environment, table
from _metrics_pairs import Known, Pair, known, skulls
from scipy.spatial import cKDTree

from famseg.files import write_atomically
from famseg.metrics import Mask, Spacing, border, elements, loops, surface_distances

Floats = npt.NDArray[np.float64]
DISTANCES = ("HD95", "ASSD")
PUBLISHED = ("borders, directed", "borders, pooled", "elements on the grid")
_CORNERS = np.array([(b & 1, b >> 1 & 1, b >> 2 & 1) for b in range(8)], dtype=float) - 0.5
_ROUNDING_MM = 1e-3
# Of the pair that is timed.
_SIZE, _KIND = "128^3", "shifted"


class Cloud(NamedTuple):
    """Points of a surface, shape ``(N, 3)`` in mm, and the weight of each."""

    points: Floats
    weights: Floats


def distances(start: Cloud, end: Cloud) -> Floats:
    """Return the exact distance from each point of one cloud to the other."""
    return cKDTree(end.points).query(start.points)[0]


def percentile(away: Floats, weights: Floats) -> float:
    """Return the smallest distance that 95 % of the weight does not exceed."""
    order = np.argsort(away)
    reached = np.cumsum(weights[order])
    return float(away[order][np.searchsorted(reached, reached[-1] * 0.95 * (1 - 1e-12))])


def borders(pair: Pair, *, pooled: bool) -> dict[str, float]:
    """Score as MONAI does, or as medpy."""
    clouds = [_voxels(mask, pair.spacing) for mask in (pair.prediction, pair.truth)]
    away = [distances(*clouds), distances(*clouds[::-1])]
    both = np.concatenate(away)
    high = np.percentile(both, 95) if pooled else max(np.percentile(one, 95) for one in away)
    return {"HD95": float(high), "ASSD": float(both.mean())}


def on_grid(pair: Pair) -> dict[str, float]:
    """Score as famseg and surface-distance do."""
    found = surface_distances(pair.prediction, pair.truth, pair.spacing)
    both = (found.element_to_truth, found.element_to_prediction)
    return {
        "HD95": max(one.percentile(95) for one in both),
        "ASSD": both[0].pooled(both[1]).mean(),
    }


def centroids(pair: Pair) -> dict[str, float]:
    """Score elements at the centroids of their pieces of surface."""
    clouds = [_pieces(mask, pair.spacing)[1] for mask in (pair.prediction, pair.truth)]
    return _by_area(clouds, [distances(*clouds), distances(*clouds[::-1])])


def nearest_on_grid(pair: Pair) -> dict[str, float]:
    """Score the same, the distance being that to the element that is nearest on the grid."""
    pieces = [_pieces(mask, pair.spacing) for mask in (pair.prediction, pair.truth)]
    away = []
    for (grid, moved), (other_grid, other_moved) in (pieces, pieces[::-1]):
        _, nearest = cKDTree(other_grid.points).query(grid.points)
        away.append(np.linalg.norm(moved.points - other_moved.points[nearest], axis=1))
    return _by_area([moved for _, moved in pieces], away)


DEFINITIONS: dict[str, Callable[[Pair], dict[str, float]]] = {
    PUBLISHED[0]: functools.partial(borders, pooled=False),
    PUBLISHED[1]: functools.partial(borders, pooled=True),
    PUBLISHED[2]: on_grid,
    "elements at centroids": centroids,
    "nearest on the grid, at centroids": nearest_on_grid,
}


def _by_area(clouds: list[Cloud], away: list[Floats]) -> dict[str, float]:
    weights = [cloud.weights for cloud in clouds]
    return {
        "HD95": max(percentile(*one) for one in zip(away, weights, strict=True)),
        "ASSD": float(np.average(np.concatenate(away), weights=np.concatenate(weights))),
    }


def _voxels(mask: Mask, spacing: Spacing) -> Cloud:
    places = np.argwhere(border(mask))
    return Cloud(places * np.array(spacing), np.ones(len(places)))


def _pieces(mask: Mask, spacing: Spacing) -> tuple[Cloud, Cloud]:
    """Return the elements of a mask on the grid, and at their centroids."""
    where, areas = elements(mask, spacing)
    groups = np.lib.stride_tricks.sliding_window_view(np.pad(mask, 1), (2, 2, 2))[where]
    codes = groups.transpose(0, 3, 2, 1).reshape(-1, 8) @ (1 << np.arange(8))
    places = np.argwhere(where) * np.array(spacing)
    return Cloud(places, areas), Cloud(places + _offsets(spacing)[codes], areas)


@functools.lru_cache
def _offsets(spacing: Spacing) -> Floats:
    """Return the centroid of the surface through a group of 2 x 2 x 2 voxels for each code, in mm.

    Like the areas it is the mean over both readings of ambiguous faces.
    """
    offsets = np.zeros((256, 3))
    for code in range(1, 255):
        parts, areas = [], []
        for loop in (*loops(code), *loops(255 - code)):
            points = np.array([_CORNERS[list(edge)].mean(axis=0) for edge in loop]) * spacing
            following, middle = np.roll(points, -1, axis=0), points.mean(axis=0)
            normals = np.cross(points - middle, following - middle)
            parts.append((points + following + middle) / 3)
            areas.append(np.linalg.norm(normals, axis=1))
        offsets[code] = np.average(np.concatenate(parts), axis=0, weights=np.concatenate(areas))
    return offsets


def errors(shapes: list[Known]) -> dict[str, list[dict[str, float]]]:
    """Return for each definition how far it is off for each shape, in mm."""
    return {
        name: [
            {each: score(one.pair)[each] - one.distances[each] for each in DISTANCES}
            for one in shapes
        ]
        for name, score in DEFINITIONS.items()
    }


def summary(off: dict[str, list[dict[str, float]]]) -> str:
    """Return mean errors, and on how many shapes a definition is as near as all published ones."""
    rows: list[list[object]] = []
    for name, own in off.items():
        row: list[object] = [name]
        for each in DISTANCES:
            sizes = [abs(one[each]) for one in own]
            best = [min(abs(off[other][k][each]) for other in PUBLISHED) for k in range(len(own))]
            nearest = sum(a <= b + _ROUNDING_MM for a, b in zip(sizes, best, strict=True))
            row += [f"{fmean(sizes):.3f}", f"{max(sizes):.3f}", f"{nearest} of {len(own)}"]
        rows.append(row)
    head = [f"{each}: {what}" for each in DISTANCES for what in ("mean", "largest", "nearest")]
    return table(["definition", *head], rows)


def cost() -> str:
    """Time the definitions on one pair of skulls."""
    pair = next(one for one in skulls(quick=False) if (one.grid, one.kind) == (_SIZE, _KIND))
    rows = []
    for name, score in DEFINITIONS.items():
        began = time.process_time()
        score(pair)
        rows.append([name, f"{time.process_time() - began:.2f}"])
    return table(["definition", "processor, s"], rows)


def page() -> str:
    """Measure and return the page."""
    shapes = known(quick=False)
    off = errors(shapes)
    single = [
        [one.name, " x ".join(f"{length:g}" for length in one.pair.spacing), each]
        + [f"{off[name][k][each]:+.3f}" for name in DEFINITIONS]
        for k, one in enumerate(shapes)
        for each in DISTANCES
    ]
    about = environment("cpu", 1, ["numpy", "scipy"])
    return f"""# Points that stand for a surface

Written by `python benchmarks/surface_points.py`:

{chr(10).join(f"- {name}: {value}" for name, value in about.items())}

Errors in mm over {len(shapes)} pairs of shapes whose distances a formula gives, those of
[metrics.md](metrics.md). *nearest*: on how many a definition is as near to the truth as the best of
the three published ones (to {_ROUNDING_MM:g} mm). *borders* are voxels as in MONAI (directed) and
medpy (pooled); *elements on the grid* are those of surface-distance and of famseg.

{summary(off)}

No definition is nearest everywhere. Where a grid is, errors cancel: its nearest point is too near,
and its points scatter to either side of the surface. Centroids take most of the bias from the mean
and nothing from the percentile.

## Cost

All distances of one pair of skulls, {_SIZE}, {_KIND}; those not on the grid by a nearest-neighbor
tree.

{cost()}

## Each shape

{table(["shapes", "voxels, mm", "score", *DEFINITIONS], single)}
"""


def main() -> None:
    """Print the page and write it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, help="page to write")
    arguments = parser.parse_args()
    text = page()
    print(text)
    if arguments.out:
        write_atomically(arguments.out, text.encode())


if __name__ == "__main__":
    main()
