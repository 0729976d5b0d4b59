"""Accuracy of surfaces of masks: a cap of known shape, meshed in five ways.

python benchmarks/meshes.py --out benchmarks/results/meshes.md

A part of a spherical shell stands for an implant of the vault: its volume and the direction of its
surface are known everywhere. It is sampled on grids of CT and of networks, meshed, and the meshes
are compared with it. Takes a minute on one core.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import trimesh
from _measure import environment, say, table
from scipy import ndimage
from skimage.measure import marching_cubes

from famseg.files import write_atomically
from famseg.meshes import Mesh, distances_mm, is_manifold, simplify, surface_mesh, write_mesh

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

AXIS = np.array([0.525, 0.21, 0.825]) / np.linalg.norm([0.525, 0.21, 0.825])
ANGLE = 0.55
_RIM = 0.06  # radians from the edge that are left out where normals are compared
_HEAD = ("way", "volume error %", "normals deg: mean", "p95", "wall mm rms", "watertight")
_HEAD += ("status", "faces", "CPU s", "STL MB")


SAME_CAP = 80.0, 86.0
SAME_MM = (0.5, 1.0, 1.75)
OTHER_GRIDS = "One cap, 6 mm thick, on other grids of about {edge:g} mm"
_SAME_HEAD = ("grid", "apart mm: mean", "p95", "p99", "max", "off the sphere mm: mean", "max")


class Grid(NamedTuple):
    """A cap between two radii, on a grid of a spacing."""

    spacing_mm: tuple[float, float, float]
    inner_mm: float
    outer_mm: float

    @property
    def title(self) -> str:
        """Description of the grid as a heading."""
        size = " x ".join(f"{edge:g}" for edge in self.spacing_mm)
        return f"{self.outer_mm - self.inner_mm:g} mm thick, voxels of {size} mm"

    @property
    def volume_mm3(self) -> float:
        """The exact volume."""
        shell = (self.outer_mm**3 - self.inner_mm**3) / 3
        return float(2 * np.pi * (1 - np.cos(ANGLE)) * shell)

    def sampled(self, turn: Floats | None = None) -> tuple[Mask, Floats]:
        """Return the mask and its affine; the axes of the grid may be turned about the cap."""
        wide = 2 * self.outer_mm * np.sin(ANGLE) + 8
        affine = np.eye(4)
        affine[:3, :3] = (np.eye(3) if turn is None else turn) * self.spacing_mm
        shape = np.ceil(wide / np.array(self.spacing_mm)).astype(int)
        middle = (self.inner_mm + self.outer_mm) / 2 * AXIS
        affine[:3, 3] = middle - affine[:3, :3] @ (wide / 2 / np.array(self.spacing_mm))
        index = np.moveaxis(np.indices(tuple(shape)), 0, -1)
        points = index @ affine[:3, :3].T + affine[:3, 3]
        radius = np.linalg.norm(points, axis=-1)
        within = (radius >= self.inner_mm) & (radius <= self.outer_mm)
        return within & (points @ AXIS >= radius * np.cos(ANGLE)), affine


GRIDS = (
    Grid((0.45, 0.45, 1.0), 80.0, 86.0),
    Grid((0.45, 0.45, 1.0), 80.0, 82.0),
    Grid((1.0, 1.0, 1.0), 80.0, 86.0),
    Grid((1.0, 1.0, 1.0), 80.0, 82.0),
    Grid((3.5, 3.5, 3.5), 80.0, 87.0),
)


def marched(field: npt.NDArray[np.float32], affine: Floats, level: float) -> Mesh:
    """Return plain marching cubes at a level."""
    vertices, faces, _, _ = marching_cubes(field, level, gradient_direction="ascent")
    return Mesh(vertices @ affine[:3, :3].T + affine[:3, 3], faces)


def binary(mask: Mask, affine: Floats) -> Mesh:
    """Return marching cubes of the unsmoothed mask."""
    return marched(mask.astype(np.float32), affine, 0.5)


def taubin(mask: Mask, affine: Floats, iterations: int) -> Mesh:
    """Return the same after Taubin smoothing of the mesh (trimesh)."""
    mesh = binary(mask, affine)
    smooth = trimesh.Trimesh(mesh.vertices.copy(), mesh.faces.copy(), process=False)
    trimesh.smoothing.filter_taubin(smooth, lamb=0.5, nu=0.53, iterations=iterations)
    return Mesh(smooth.vertices, smooth.faces)


def half(mask: Mask, affine: Floats) -> Mesh:
    """Return the level 0.5 of the mask, smoothed as `surface_mesh` smooths it."""
    edges = np.linalg.norm(affine[:3, :3], axis=0)
    field = ndimage.gaussian_filter(mask.astype(np.float32), 1.5 * edges.max() / edges)
    return marched(field, affine, 0.5)


def simplified(mask: Mask, affine: Floats) -> Mesh:
    """Return our surface with an error of 0.05 mm and fewer faces."""
    return simplify(surface_mesh(mask, affine), max_error_mm=0.05)


WAYS: dict[str, Callable[[Mask, Floats], Mesh]] = {
    "binary marching cubes": binary,
    "+ Taubin, 20 steps": partial(taubin, iterations=20),
    "+ Taubin, 60 steps": partial(taubin, iterations=60),
    "Gauss, level 0.5": half,
    "surface_mesh": surface_mesh,
    "surface_mesh, simplified to 0.05 mm": simplified,
}


def row(name: str, grid: Grid, mask: Mask, affine: Floats, folder: Path) -> list[object]:
    """Return a row of the table, or the reason for its absence."""
    start = time.process_time()
    try:
        mesh = WAYS[name](mask, affine)
    except ValueError as error:
        return [name, f"failed: {error}", *[""] * (len(_HEAD) - 2)]
    seconds = time.process_time() - start
    deviation, wall = compared(mesh, grid)
    valid, reason = is_manifold(mesh)
    write_mesh(folder / "a.stl", mesh)
    megabytes = (folder / "a.stl").stat().st_size / 1e6
    (folder / "a.stl").unlink()
    return [
        name,
        f"{100 * (mesh.volume_mm3 / grid.volume_mm3 - 1):+.2f}",
        f"{deviation.mean():.2f}",
        f"{np.percentile(deviation, 95):.2f}",
        f"{np.sqrt(np.mean(wall**2)):.3f}",
        "yes" if mesh.is_watertight else "no",
        "NoError" if valid else reason,
        len(mesh.faces),
        f"{seconds:.2f}",
        f"{megabytes:.1f}",
    ]


def compared(mesh: Mesh, grid: Grid) -> tuple[Floats, Floats]:
    """Return the deviation of faces from the cap in direction (degrees) and position (mm)."""
    vectors = mesh.area_vectors_mm2
    middle = mesh.vertices[mesh.faces].mean(axis=1)
    radius = np.linalg.norm(middle, axis=1)
    area = np.linalg.norm(vectors, axis=1)
    kept = (middle @ AXIS > radius * np.cos(ANGLE - _RIM)) & (area > 0)
    outer = radius > (grid.inner_mm + grid.outer_mm) / 2
    way = np.where(outer, 1.0, -1.0)
    cosine = (vectors * middle).sum(axis=1)[kept] * way[kept] / (area * radius)[kept]
    away = radius - np.where(outer, grid.outer_mm, grid.inner_mm)
    return np.degrees(np.arccos(np.clip(cosine, -1, 1))), away[kept]


def turned() -> Floats:
    """Return axes rotated by 10 degrees about the vertical axis and 20 about the left axis."""
    about_z, about_x = np.deg2rad(10), np.deg2rad(20)
    z = [[np.cos(about_z), -np.sin(about_z), 0], [np.sin(about_z), np.cos(about_z), 0], [0, 0, 1]]
    x = [[1, 0, 0], [0, np.cos(about_x), -np.sin(about_x)], [0, np.sin(about_x), np.cos(about_x)]]
    return np.array(z) @ np.array(x)


def other_grids(edge_mm: float) -> str:
    """Return the table of distances between meshes of one cap on grids with similar voxels."""
    plain = Grid((edge_mm,) * 3, *SAME_CAP)
    mask, affine = plain.sampled()
    mesh = surface_mesh(mask, affine)
    backwards = affine.copy()
    backwards[:3, 3] += affine[:3, :2] @ (np.array(mask.shape[:2]) - 1)
    backwards[:3, :2] *= -1
    flat = Grid((0.8 * edge_mm, 0.8 * edge_mm, 1.6 * edge_mm), *SAME_CAP)
    ways: dict[str, tuple[Mask, Floats]] = {
        "the same voxels, LPS": (mask[::-1, ::-1], backwards),
        "the same voxels, axes in another order": (
            mask.transpose(2, 0, 1),
            affine[:, [2, 0, 1, 3]],
        ),
        "axes turned by 10 and 20 degrees": plain.sampled(turned()),
        "flat voxels": flat.sampled(),
        "flat voxels, axes turned": flat.sampled(turned()),
    }
    rows = []
    for name, (values, place) in ways.items():
        other = surface_mesh(values, place)
        pairs = ((mesh, other), (other, mesh))
        apart = np.concatenate([distances_mm(a.vertices[::5], b) for a, b in pairs])
        cells = [apart.mean(), *np.percentile(apart, [95, 99]), apart.max()]
        wall = np.abs(compared(other, plain)[1])
        rows.append([name, *(f"{cell:.3f}" for cell in (*cells, wall.mean(), wall.max()))])
    return table(_SAME_HEAD, rows)


def page(sections: list[str], said: dict[str, str]) -> str:
    """Return the page of results."""
    lines = "\n".join(f"- {key}: {value}" for key, value in said.items())
    return f"""\
# Surfaces of masks

Written in one run:

{lines}

A part of a spherical shell of known volume, half angle {ANGLE} rad, sampled at the middles of
voxels. Volume error: against the exact volume. Normals: angle between a face and the sphere, over
all faces on both walls, {_RIM} rad of the rim left out. Wall: distance of the faces' middles from
the sphere, root mean square. Status: what manifold3d says of the solid. One run each, CPU time.

The last tables compare the mesh of a cap on cubic voxels with meshes of the same cap on other
grids: distances of the vertices of either from the other, and of the walls from the sphere without
the rim. Grids that hold the same voxels in another order give the same surface. Other voxels see
another mask: how far apart their surfaces are is how well a mask tells where a surface lies, and
grows with the voxel, most at the sharp rim. Flat voxels are of 0.8 x 0.8 x 1.6 of the edge.

""" + "\n\n".join(sections)


def main() -> None:
    """Measure and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="the page, .md")
    parser.add_argument("--quick", action="store_true", help="the smallest grid alone")
    options = parser.parse_args()
    said = environment("cpu", 1, ["scikit-image", "manifold3d", "trimesh", "scipy", "numpy"])
    said["command"] = "python benchmarks/meshes.py --out benchmarks/results/meshes.md"
    sections = []
    for grid in GRIDS[-1:] if options.quick else GRIDS:
        say(grid.title)
        mask, affine = grid.sampled()
        rows = [row(name, grid, mask, affine, options.out.parent) for name in WAYS]
        sections.append(f"## {grid.title}\n\n{table(_HEAD, rows)}\n")
        print(sections[-1])
    for edge in SAME_MM[-1:] if options.quick else SAME_MM:
        say(f"other grids, {edge:g} mm")
        sections.append(f"## {OTHER_GRIDS.format(edge=edge)}\n\n{other_grids(edge)}\n")
        print(sections[-1])
    write_atomically(options.out, page(sections, said).encode())


if __name__ == "__main__":
    main()
