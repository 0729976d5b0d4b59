"""Resampling of a scan to the final grid in one interpolation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import nibabel
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from famseg.messages import InputError
from famseg.preparation._settings import Settings
from famseg.preparation.steps._along_axes import Axis, shares_along_axes
from famseg.preparation.steps._bone import Mask, Scale, distance_mm
from famseg.preparation.steps._clean import Spacing, bounding_box
from famseg.volumes import MAX_VOXELS, Volume

Matrix = NDArray[np.float64]
Points = NDArray[np.float64]
Turn = NDArray[np.float64]  # the linear part of an affine, (3, 3)

_FULL_SCALE = 127  # maximum of the int8 field
_UNEVEN = 1.5  # with slices this many times farther apart than pixels, masks become distances
_ABOVE_VERTEX = 1 / 16  # share of the grid left free above the vertex: 8 voxels of 128
_SAME_VOXELS = 1e-3  # share of a voxel by which the steps of equal grids may differ
_MARGIN = 2  # voxels around a skull if the grid is fitted to it


class BoneField(NamedTuple):
    """A field whose zero is the surface of the bone: positive in bone, negative outside.

    Args:
        values: int8, -127 to 127, interpolated linearly; the bounding box of the bone with a border
            of -127.
        affine: Maps indices to mm of the scan's world, shape ``(4, 4)``.
    """

    values: NDArray[np.int8]
    affine: Matrix


class Grid(NamedTuple):
    """The voxel grid of a result.

    Args:
        shape: Voxels to the right, front and top.
        affine: Maps indices to mm of the result's frame, with axes parallel to those of the frame.
        vertex: Index of the layer that contains the highest bone.
    """

    shape: tuple[int, int, int]
    affine: Matrix
    vertex: int

    @property
    def spacing_mm(self) -> Spacing:
        """Edge of a voxel along each axis."""
        x, y, z = np.diag(self.affine)[:3].tolist()
        return x, y, z

    def widened(self, voxels: int) -> Grid:
        """Return the grid with additional voxels on all sides."""
        affine = self.affine.copy()
        affine[:3, 3] -= voxels * np.diag(affine)[:3]
        x, y, z = (n + 2 * voxels for n in self.shape)
        return Grid((x, y, z), affine, self.vertex + voxels)


def to_ras(volume: Volume) -> Volume:
    """Return the volume with its axes permuted and flipped to right, front and top.

    Values are unchanged. An oblique volume stays oblique: its axes have the closest direction.
    """
    turn = nibabel.orientations.io_orientation(volume.affine)
    array = nibabel.orientations.apply_orientation(volume.array, turn)
    affine = volume.affine @ nibabel.orientations.inv_ornt_aff(turn, volume.array.shape)
    return Volume(array, np.asarray(affine, dtype=np.float64), volume.path)


def bone_field(
    mask: Mask, affine: Matrix, values: NDArray[Any] | None = None, scale: Scale | None = None
) -> BoneField:
    """Return the field whose zero is the surface of the bone, positive exactly in the mask.

    With gray values, soft tissue is -1, the threshold 0 and solid bone 1, with linear interpolation
    between them, so that gray values locate the surface within a voxel. The scale is clipped on
    both sides of the threshold, because otherwise dense bone would appear thicker than less dense
    bone. A mask has no gray values. If its slices are much farther apart than its pixels, the field
    is the distance to the outline within each slice, so that the outlines of adjacent slices are
    joined by a slope instead of a step (shape-based interpolation, Raya and Udupa, IEEE TMI 9,
    1990).

    Args:
        mask: Cleaned bone, shape ``(X, Y, Z)``, not empty.
        affine: Maps its indices to mm.
        values: The scan, same shape.
        scale: Reference values of the scan.
    """
    box = bounding_box(mask)
    inside = mask[box]
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    if values is not None and scale is not None:
        field = _from_values(inside, values[box], scale)
    elif spacing.max() > _UNEVEN * spacing.min():
        field = _from_outlines(inside, spacing)
    else:
        field = np.where(inside, np.int8(_FULL_SCALE), np.int8(-_FULL_SCALE))
    moved = affine.copy()
    moved[:3, 3] += affine[:3, :3] @ np.array([s.start - 1 for s in box])
    return BoneField(np.pad(field, 1, constant_values=-_FULL_SCALE), moved)


def _from_values(inside: Mask, values: NDArray[Any], scale: Scale) -> NDArray[np.int8]:
    near = grown(inside)
    marks = (scale.soft, scale.threshold, scale.solid)
    field = np.empty_like(inside, dtype=np.int8)
    if values.dtype in (np.int16, np.uint16):
        return _looked_up(field, inside, near, values, marks)
    for i in range(len(field)):  # in slabs, to avoid a second volume in floating point
        level = np.interp(values[i], marks, (-1.0, 0.0, 1.0))
        level[~near[i]] = -1.0  # removed bone beyond the reach of blurred edges
        level[inside[i] & (level <= 0)] = 1.0  # filled cavities
        field[i] = _quantized(level, inside[i])
    return field


def _looked_up(
    field: NDArray[np.int8],
    inside: Mask,
    near: Mask,
    values: NDArray[Any],
    marks: tuple[float, float, float],
) -> NDArray[np.int8]:
    """Fill a field like `_from_values`, with a lookup table since there are few distinct values."""
    limits = np.iinfo(values.dtype)
    every = np.arange(limits.min, limits.max + 1)
    level = np.interp(every, marks, (-1.0, 0.0, 1.0))
    outer = np.roll(_quantized(level, np.zeros(len(every), dtype=bool)), limits.min)
    inner = np.where(level <= 0, 1.0, level)
    inner = np.roll(_quantized(inner, np.ones(len(every), dtype=bool)), limits.min)
    field.fill(-_FULL_SCALE)
    # Transposed: scans are stored slice by slice.
    field, inside, rim, values = field.T, inside.T, (near & ~inside).T, values.T
    field[rim] = outer[values[rim]]  # negative values index from the end of the table
    field[inside] = inner[values[inside]]
    return field.T


def _from_outlines(inside: Mask, spacing: NDArray[np.float64]) -> NDArray[np.int8]:
    """Return distances to the outline within the slices perpendicular to the longest voxel edge."""
    axis = int(np.argmax(spacing))
    in_plane = np.delete(spacing, axis)
    half_pixel = float(in_plane.mean()) / 2
    reach = 2 * float(spacing[axis])  # outlines that move farther between slices keep a step
    field = np.empty(inside.shape, dtype=np.int8)
    for k in range(inside.shape[axis]):
        at = tuple(k if a == axis else slice(None) for a in range(3))
        outline = inside[at]
        if not outline.any():
            field[at] = -_FULL_SCALE
            continue
        level = (half_pixel - distance_mm(outline, in_plane.tolist())) / reach
        field[at] = _quantized(np.clip(level, -1, 1), outline)
    return field


def _quantized(level: NDArray[Any], inside: Mask) -> NDArray[np.int8]:
    """Return values from -1 to 1 as int8, with the sign determined by the mask."""
    scaled = level * _FULL_SCALE
    whole = np.where(inside, np.clip(np.ceil(scaled), 1, None), np.clip(np.floor(scaled), None, -1))
    quantized: NDArray[np.int8] = whole.astype(np.int8)
    return quantized


def grown(mask: Mask) -> Mask:
    """Return the mask dilated by one voxel, including corners."""
    for axis in range(3):
        wider = mask.copy(order="K")
        lower = tuple(slice(None, -1) if a == axis else slice(None) for a in range(3))
        upper = tuple(slice(1, None) if a == axis else slice(None) for a in range(3))
        wider[lower] |= mask[upper]
        wider[upper] |= mask[lower]
        mask = wider
    return mask


def coverage(field: BoneField, to_source: Matrix, grid: Grid) -> NDArray[np.float32]:
    """Return the share of every voxel of the grid that is bone.

    A voxel is sampled at 1, 3 or 5 points along each edge, about as densely as the voxels of the
    scan. This is supersampling for anti-aliasing: a voxel is bone if more than half of it is bone.
    The numbers are odd because with two or four points exactly half may be in bone. On the grid of
    its scan, a mask is unchanged.

    Args:
        field: The bone field in the voxels of the scan.
        to_source: Maps mm of the result's frame to mm of the scan's world, shape ``(4, 4)``.
        grid: The voxel grid of the result.

    Returns:
        Shares from 0 to 1, shape of the grid. Time is proportional to the number of sampling
        points.
    """
    to_index = np.linalg.inv(field.affine) @ to_source @ grid.affine
    box = _reached(field.values.shape, to_index, grid.shape)
    shape = tuple(s.stop - s.start for s in box)
    shares = np.zeros(grid.shape, dtype=np.float32)
    if 0 in shape:
        return shares
    steps = np.linalg.norm(to_index[:3, :3], axis=0)  # edge of a voxel in voxels of the scan
    counts = [1 if step < 1.5 else 3 if step < 4 else 5 for step in steps]
    start = np.array([s.start for s in box], dtype=np.float64)
    turn = to_index[:3, :3]
    scales = np.diag(turn)
    if (turn == np.diag(scales)).all() and (scales > 0).all():
        axes = [
            Axis.of(scale * _places(s, count) + shift, n)
            for s, scale, count, shift, n in zip(
                box, scales, counts, to_index[:3, 3], field.values.shape, strict=True
            )
        ]
        shares[box] = shares_along_axes(field.values, axes)
        return shares
    offsets = [
        turn @ (start + [(p + 0.5) / n - 0.5 for p, n in zip(place, counts, strict=True)])
        + to_index[:3, 3]
        for place in np.ndindex(*counts)
    ]
    near, covered = _Neighborhood.of(field, turn), shares[box]
    for k in range(shape[0]):  # in slabs, since a fine grid has more voxels than the scan
        voxels = np.indices((1, *shape[1:])).reshape(3, -1)
        voxels[0] = k
        some, whole = near.bone(_mapped(voxels, turn, turn @ start + to_index[:3, 3]))
        covered[tuple(voxels[:, whole])] = 1
        edge = voxels[:, some & ~whole]
        covered[tuple(edge)] = _share(field, edge, turn, offsets)
    return shares


def _places(voxels: slice, count: int) -> NDArray[np.float64]:
    """Return sampling positions along one axis of the grid, in its voxels, shape ``(n, count)``."""
    inner = (np.arange(count) + 0.5) / count - 0.5
    return np.arange(voxels.start, voxels.stop)[:, None] + inner


def _share(
    field: BoneField, voxels: NDArray[np.intp], turn: Turn, offsets: Sequence[NDArray[np.float64]]
) -> NDArray[np.float32]:
    """Return the share of sampling points in bone for each of the voxels ``(3, N)``."""
    inside = np.zeros(voxels.shape[1], dtype=np.float32)
    turned = _mapped(voxels, turn, np.zeros(3))
    for offset in offsets:
        level = ndimage.map_coordinates(
            field.values,
            turned + offset[:, None],
            output=np.float32,
            order=1,
            mode="constant",
            cval=-_FULL_SCALE,
            prefilter=False,
        )
        inside += level > 0
    inside /= len(offsets)
    return inside


def _mapped(
    voxels: NDArray[np.intp], turn: Turn, offset: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Map voxels ``(3, N)`` to voxels of the scan, with a fixed order of summation.

    Matrix products are summed in an order that depends on the processor, so that a point exactly on
    the surface would be bone on some processors only.
    """
    mapped = np.zeros(voxels.shape)
    for row, out in zip(turn, mapped, strict=True):
        for factor, index in zip(row, voxels, strict=True):
            out += factor * index
    mapped += offset[:, None]
    return mapped


class _Neighborhood(NamedTuple):
    """The neighborhood of each block of a field, which decides most voxels of a grid.

    Args:
        some: Whether a block or one of its neighbors contains bone; number of blocks plus 2 along
            each axis.
        whole: Whether they contain only bone.
        edges: Number of voxels of the field along each edge of a block.
    """

    some: Mask
    whole: Mask
    edges: NDArray[np.intp]

    @classmethod
    def of(cls, field: BoneField, turn: Turn) -> _Neighborhood:
        """Divide a field into blocks so large that voxels of the grid reach only adjacent ones."""
        reach = np.abs(turn).sum(axis=1) / 2 + 1
        edges = np.ceil(reach).astype(np.intp)
        bone = field.values > 0
        some = ndimage.maximum_filter(np.pad(_blocks(bone, edges, np.logical_or), 1), 3)
        whole = ndimage.minimum_filter(np.pad(_blocks(bone, edges, np.logical_and), 1), 3)
        return cls(some, whole, edges)

    def bone(self, places: NDArray[np.float64]) -> tuple[Mask, Mask]:
        """Return whether points ``(3, N)`` have some bone around them, and whether only bone."""
        block = np.floor(places / self.edges[:, None]).astype(np.intp) + 1
        last = np.array(self.some.shape)[:, None] - 1
        at = tuple(np.clip(block, 0, last))
        return self.some[at], self.whole[at]


def _blocks(bone: Mask, edges: NDArray[np.intp], join: np.ufunc) -> Mask:
    """Reduce the voxels of each block; outside the field there is no bone."""
    for axis, edge in enumerate(edges):
        missing = -bone.shape[axis] % edge
        bone = np.pad(bone, [(0, missing if a == axis else 0) for a in range(3)])
        parts = [
            bone[tuple(slice(k, None, edge) if a == axis else slice(None) for a in range(3))]
            for k in range(edge)
        ]
        joined = parts[0].copy()
        for part in parts[1:]:
            join(joined, part, out=joined)
        bone = joined
    return bone


def _reached(
    source: tuple[int, ...], to_index: Matrix, target: tuple[int, int, int]
) -> tuple[slice, slice, slice]:
    """Return the bounding box of the field in the grid."""
    corners = np.array(list(np.ndindex(2, 2, 2))) * (np.array(source) - 1)
    back = np.linalg.inv(to_index)
    places = corners @ back[:3, :3].T + back[:3, 3]
    low = np.clip(np.floor(places.min(axis=0)).astype(int), 0, target)
    high = np.clip(np.ceil(places.max(axis=0)).astype(int) + 1, low, target)
    x, y, z = (slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
    return x, y, z


def surface_points(mask: Mask, affine: Matrix) -> Points:
    """Return the centers of the mask's voxels with a free face in mm, shape ``(N, 3)``."""
    box = bounding_box(mask)
    mask = mask[box]
    inner = mask.copy(order="K")
    for axis in range(3):
        lower = tuple(slice(None, -1) if a == axis else slice(None) for a in range(3))
        upper = tuple(slice(1, None) if a == axis else slice(None) for a in range(3))
        inner[lower] &= mask[upper]
        inner[upper] &= mask[lower]
        for end in (0, -1):
            inner[tuple(end if a == axis else slice(None) for a in range(3))] = False
    # Transposed: scans are stored slice by slice.
    places = np.argwhere((mask & ~inner).T)[:, ::-1] + [s.start for s in box]
    return moved_points(places, affine)


def moved_points(points: NDArray[Any], matrix: Matrix) -> Points:
    """Return points ``(N, 3)`` transformed by a matrix of shape ``(4, 4)``."""
    return np.asarray(points @ matrix[:3, :3].T + matrix[:3, 3])


def upright_frame(points_mm: Points, settings: Settings) -> Matrix:
    """Return the map from the result's frame to the scan's world, without turning the head.

    The vertex has z = 0; the bounding box of the kept part is centered at x = y = 0.

    Args:
        points_mm: Surface of the skull in mm of the scan's world, shape ``(N, 3)``.
        settings: Settings of the cut.
    """
    low, high = kept_box(points_mm, float(points_mm[:, 2].max()), settings)
    frame = np.eye(4)
    frame[:3, 3] = [*(low + high)[:2] / 2, high[2]]
    return frame


def on_the_voxels(to_source: Matrix, grid: Grid, source: Matrix) -> Matrix:
    """Return a frame shifted by up to half a voxel, such that equal grids have common voxels.

    Otherwise, walls of one or two voxels would lose detail between two layers. If the voxels differ
    in size or orientation, the frame is unchanged.

    Args:
        to_source: Maps mm of the result's frame to mm of the scan's world.
        grid: The grid in that frame.
        source: Affine of the scan.
    """
    to_index = np.linalg.inv(source) @ to_source @ grid.affine
    if not np.allclose(to_index[:3, :3], np.eye(3), atol=_SAME_VOXELS):
        return to_source
    moved = to_source.copy()
    moved[:3, 3] += source[:3, :3] @ (np.round(to_index[:3, 3]) - to_index[:3, 3])
    return moved


def kept_box(
    points_mm: Points, vertex_mm: float, settings: Settings
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the corners of the bounding box of the points above the cut.

    Args:
        points_mm: Points in a frame whose z axis points up, shape ``(N, 3)``.
        vertex_mm: Height that ``below_vertex_mm`` is measured from.
        settings: Settings of the cut.
    """
    if settings.crop == "vault":
        above = points_mm[points_mm[:, 2] >= vertex_mm - settings.below_vertex_mm]
        # If a skull is aligned badly, all of it may lie below the cut.
        points_mm = above if len(above) else points_mm
    return points_mm.min(axis=0), points_mm.max(axis=0)


def make_grid(
    box: tuple[NDArray[np.float64], NDArray[np.float64]],
    anchor: NDArray[np.float64],
    source_spacing_mm: Spacing,
    settings: Settings,
) -> Grid:
    """Return the grid for a skull.

    Args:
        box: Corners of the bounding box of its kept part, in mm of the result's frame.
        anchor: Point of the frame at the center of the grid (x, y) and in the layer of the vertex
            (z).
        source_spacing_mm: Spacing of the scan.
        settings: Size and spacing.

    Raises:
        InputError: If the skull does not fit; the message states sufficient values.
    """
    low, high = box
    spacing = np.array([settings.spacing_mm] * 3 if settings.spacing_mm else source_spacing_mm)
    half = np.maximum(high - anchor, anchor - low)[:2] / spacing[:2]
    up, down = (high - anchor)[2] / spacing[2], (anchor - low)[2] / spacing[2]
    if settings.size is None:
        x, y = (2 * int(np.ceil(h)) + 1 + 2 * _MARGIN for h in half)
        above = max(int(np.ceil(up)), 0) + _MARGIN
        shape = (x, y, int(np.ceil(down)) + 1 + above + _MARGIN)
        if np.prod(shape, dtype=object) > MAX_VOXELS:
            raise InputError(
                f"the grid would have {'x'.join(map(str, shape))} voxels, more than {MAX_VOXELS}: "
                "is the spacing of the scan in mm? Use a larger spacing_mm"
            )
    else:
        shape = (settings.size,) * 3
        above = round(settings.size * _ABOVE_VERTEX)
        room = np.array([(settings.size - 1) / 2] * 2 + [above, settings.size - 1 - above])
        # Half a voxel of tolerance, since the grid is shifted by whole voxels afterwards.
        if (np.array([*half, up, down]) > room + 0.5).any():
            raise InputError(_too_large(high - low, [*half, up, down], settings))
    vertex = shape[2] - 1 - above
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = anchor - spacing * [(shape[0] - 1) / 2, (shape[1] - 1) / 2, vertex]
    return Grid(shape, affine, vertex)


def _too_large(extent: NDArray[np.float64], needs: list[float], settings: Settings) -> str:
    size, spacing = settings.size or 0, settings.spacing_mm or 0.0
    share = 1 - _ABOVE_VERTEX
    need = max(2 * needs[0] + 1, 2 * needs[1] + 1, needs[2] / _ABOVE_VERTEX, needs[3] / share + 2)
    edges = " x ".join(f"{e:.0f}" for e in extent)
    crop = "" if settings.crop == "vault" else ", or crop: vault"
    return (
        f"the skull of {edges} mm does not fit into {size} voxels of {spacing:g} mm "
        f"({size * spacing:g} mm, a sixteenth of it above the vertex): use size "
        f"{int(np.ceil(need))} or more, spacing_mm {np.ceil(100 * need * spacing / size) / 100:g} "
        f"or more{crop}"
    )
