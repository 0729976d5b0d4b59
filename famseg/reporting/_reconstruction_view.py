"""The content of a reconstruction's page: volumes with coarser voxels, surfaces and slices."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray
from scipy import ndimage

from famseg.figures import encode, new_figure, styled
from famseg.meshes import Mesh, read_mesh, simplify, surface_mesh
from famseg.messages import InputError
from famseg.preparation.steps import to_ras
from famseg.reporting._scene import BONE, BOTH, IMPLANT, Color, Layer, Part, Scene, side_of
from famseg.volumes import Volume, read_volume, volume_suffix

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

ADVICE = "Reconstruct the case again with --force."

# Colors by Okabe and Ito, from warm to cold, without that of the implant.
CONFIDENCE: tuple[tuple[str, Color], ...] = (
    ("below 60 %", (213, 94, 0)),
    ("60 to 70 %", (230, 159, 0)),
    ("70 to 80 %", (240, 228, 66)),
    ("80 to 90 %", (86, 180, 233)),
    ("90 to 100 %", BOTH),
)
_LEVELS = (60, 70, 80, 90)

_VOXEL_MM, _SURFACE_MM = 1.05, 1.8  # finer voxels are merged
_MOST_VOXELS = 10_000_000
_MARGIN = 3  # voxels around the bone
_BONE_SHARE = 0.4  # share of bone in a larger voxel, so that thin walls stay closed
_BONE_FACES, _IMPLANT_FACES = 50_000, 20_000
_BONE_ERROR_MM, _IMPLANT_ERROR_MM = 0.2, 0.03
_PLANES = (("axial", 2, "RLPA"), ("coronal", 1, "RLIS"), ("sagittal", 0, "PAIS"))
_WAYS = (("right of", "left of"), ("in front of", "behind"), ("above", "below"))
_DARK = 0.08
_BAR_MM = 50.0
_PAINT_MM, _LEAST = 3.0, 1e-3  # width of the mean that colors a surface, and its smallest weight


@dataclass(frozen=True, eq=False)
class Shown:
    """A reconstruction in the form shown on a page, with axes to the right, front and top.

    Args:
        bone: Bone of the input.
        implant: The implant.
        agreement: Percentage of predictions that agree.
        affine: Maps voxels of these volumes to mm.
        steps: Number of voxels of the output in each of these voxels, along each axis.
        implant_mesh: The surface of the implant in mm.
        implant_faces: Number of triangles in the file of the implant; None without such a file.
    """

    bone: Mask
    implant: Mask
    agreement: Bytes
    affine: Floats
    steps: tuple[int, int, int]
    implant_mesh: Mesh
    implant_faces: int | None


def read_shown(folder: Path, files: Mapping[str, Any]) -> Shown:
    """Read the volumes and the implant's mesh of a case, cropped to the bone and downsampled.

    Takes 8 bytes per voxel of the output while reading.

    Args:
        folder: The folder of the case.
        files: The files listed in its ``case.json``.

    Raises:
        InputError: If a file is missing, damaged or has another grid.
    """
    completed, implant, agreement = (
        to_ras(read_volume(_volume_file(folder, files, name)))
        for name in ("completed", "implant", "agreement")
    )
    if not implant.array.any():
        raise InputError(f"{folder}: the implant is empty. {ADVICE}")
    for other in (implant, agreement):
        same = other.array.shape == completed.array.shape
        if not same or not np.allclose(other.affine, completed.affine, atol=1e-3):
            raise InputError(f"{other.path}: is not on the grid of {completed.path}. {ADVICE}")
    box, affine = _box(completed.array > 0, completed.affine)
    whole, part = completed.array[box] > 0, implant.array[box] > 0
    steps = _steps(whole.shape, completed.spacing_mm, _VOXEL_MM)
    bone, placed = coarser(whole & ~part, affine, steps)
    share, _ = coarser(part, affine, steps)
    percent, _ = coarser(agreement.array[box], affine, steps)
    mesh, faces = _implant(folder, files, part, affine)
    return Shown(
        bone=bone > _BONE_SHARE,
        implant=(share >= 0.5) & (share >= bone),
        agreement=np.rint(percent).astype(np.uint8),
        affine=placed,
        steps=steps,
        implant_mesh=mesh,
        implant_faces=faces,
    )


def coarser(
    array: NDArray[Any], affine: Floats, steps: tuple[int, int, int]
) -> tuple[NDArray[np.float32], Floats]:
    """Return means over blocks of voxels, and their affine; the border is padded by its value.

    Args:
        array: A mask or small integers, shape ``(X, Y, Z)``.
        affine: Maps its indices to mm.
        steps: Voxels per block along each axis.

    Example:
        >>> means, placed = coarser(np.eye(4).reshape(4, 2, 2) > 0, np.eye(4), (2, 1, 2))
        >>> means.shape, placed[:3, 3].tolist()
        ((2, 2, 1), [0.5, 0.0, 0.5])
    """
    padded = np.pad(
        array, [(0, -n % step) for n, step in zip(array.shape, steps, strict=True)], mode="edge"
    )
    total: NDArray[Any] = padded.view(np.uint8) if padded.dtype == bool else padded
    for axis, step in enumerate(steps):
        shape = (*total.shape[:axis], -1, step, *total.shape[axis + 1 :])
        total = total.reshape(shape).sum(axis=axis + 1, dtype=np.uint32)
    placed = affine @ np.diag([*map(float, steps), 1.0])
    placed[:3, 3] = affine[:3, 3] + affine[:3, :3] @ ((np.array(steps) - 1) / 2)
    return np.asarray(total / np.float32(np.prod(steps)), dtype=np.float32), placed


def scene_of(shown: Shown, title: str, name: str) -> Scene:
    """Return the interactive view of a reconstruction.

    Args:
        shown: From `read_shown`.
        title: The text above it.
        name: A file name without suffix, for images that users save.
    """
    surface = _steps(shown.bone.shape, _spacing(shown.affine), _SURFACE_MM)
    skull = _surface(shown.bone, shown.affine, surface)
    completed = _surface(shown.bone | shown.implant, shown.affine, surface)
    implant = shown.implant_mesh
    masks = (shown.bone + 2 * shown.implant.astype(np.uint8)).astype(np.uint8)
    doubted = _doubted(shown)
    confidence = np.where(doubted, 1 + _level(shown.agreement), 0).astype(np.uint8)
    levels = dict(enumerate(CONFIDENCE, start=1))
    return Scene(
        title=title,
        name=name,
        parts=[
            Part("skull", "Input skull", BONE, skull),
            Part("implant", "Implant", IMPLANT, implant),
            Part(
                "confidence",
                "Implant, by confidence",
                CONFIDENCE[2][1],
                implant,
                visible=False,
                painted=_painted(implant, shown),
                instead_of=("implant",),
            ),
            Part(
                "completed",
                "Completed skull",
                BONE,
                completed,
                visible=False,
                instead_of=("skull", "implant", "confidence"),
            ),
        ],
        layers=[
            Layer(
                "masks",
                "Slices: skull and implant",
                Volume(masks, shown.affine),
                {1: ("bone", BONE), 2: ("implant", IMPLANT)},
            ),
            Layer(
                "confidence",
                "Slices: confidence map",
                Volume(confidence, shown.affine),
                levels,
                visible=False,
            ),
        ],
        still=slices(shown),
        alt="Input skull with the implant, and the confidence map",
        side=side_of(implant, skull),
        focus_mm=_world(shown.affine, _middle(shown.implant)),
        legend={
            "Parts": [("bone of the input", BONE), ("implant", IMPLANT)],
            "Confidence map, predictions that agree": CONFIDENCE,
        },
        note=_note(shown, surface, skull),
    )


@styled()
def slices(shown: Shown) -> bytes:
    """Draw the planes through the middle of the implant, and below them the confidence map.

    Each plane has its position in mm, a scale bar and letters for the directions; the patient's
    right is on the left.

    Returns:
        A PNG file; the same bytes for the same case.
    """
    figure = new_figure(9.6, 7.1, constrained=False)
    grid = figure.add_gridspec(
        2, 3, left=0.005, right=0.995, bottom=0.05, top=0.96, wspace=0.02, hspace=0.08
    )
    middle = _middle(shown.implant)
    place = _world(shown.affine, middle)
    spacing = _spacing(shown.affine)
    edge = max(n * step for n, step in zip(shown.bone.shape, spacing, strict=True))
    for column, (plane, axis, edges) in enumerate(_PLANES):
        wide, high = (length for k, length in enumerate(spacing) if k != axis)
        way = _WAYS[axis][0 if place[axis] >= 0 else 1]
        for row, painted in enumerate((_parts(shown), _confidence(shown))):
            axes = figure.add_subplot(grid[row, column])
            image = np.take(painted, middle[axis], axis).swapaxes(0, 1)
            image = _square(image if axis == 0 else image[:, ::-1], wide, high, edge)
            axes.imshow(image, origin="lower", interpolation="nearest", aspect=high / wide)
            axes.set_axis_off()
            _write(axes, edges)
            _bar(axes, image.shape[1], wide)
            title = f"{plane}, {abs(place[axis]):.0f} mm {way} the origin"
            axes.set_title(title if row == 0 else f"{plane}, confidence map", fontsize=10)
    entries = [("bone", BONE), ("implant", IMPLANT), *CONFIDENCE]
    handles = [Patch(color=f"#{bytes(color).hex()}", label=label) for label, color in entries]
    figure.legend(handles=handles, loc="lower center", ncols=len(handles), columnspacing=1.2)
    return encode(figure)


def _parts(shown: Shown) -> Bytes:
    painted = np.full((*shown.bone.shape, 3), round(255 * _DARK), dtype=np.uint8)
    painted[shown.bone], painted[shown.implant] = BONE, IMPLANT
    return painted


def _confidence(shown: Shown) -> Bytes:
    painted = np.full((*shown.bone.shape, 3), round(255 * _DARK), dtype=np.uint8)
    painted[shown.bone] = (110, 110, 110)
    doubted = _doubted(shown)
    colors = np.array([color for _, color in CONFIDENCE], dtype=np.uint8)
    painted[doubted] = colors[_level(shown.agreement[doubted])]
    return painted


def _doubted(shown: Shown) -> Mask:
    """Return where the confidence is shown: in the implant, and where predictions differ."""
    return np.asarray(~shown.bone & (shown.implant | (shown.agreement < _LEVELS[-1])))


def _square(image: Bytes, wide_mm: float, high_mm: float, edge_mm: float) -> Bytes:
    """Return an image on a dark square, so that all planes have the same scale."""
    rows, columns = (
        max(int(np.ceil(edge_mm / step)) - count, 0)
        for step, count in zip((high_mm, wide_mm), image.shape[:2], strict=True)
    )
    sides = ((rows // 2, rows - rows // 2), (columns // 2, columns - columns // 2), (0, 0))
    return np.pad(image, sides, constant_values=round(255 * _DARK))


def _write(axes: Axes, edges: str) -> None:
    halo = [withStroke(linewidth=2, foreground="black")]
    places = ((0.03, 0.5), (0.97, 0.5), (0.5, 0.04), (0.5, 0.96))
    for place, letter in zip(places, edges, strict=True):
        text = axes.text(*place, letter, transform=axes.transAxes, color="white", fontsize=10)
        text.set(ha="center", va="center", path_effects=halo)


def _bar(axes: Axes, voxels: int, spacing_mm: float) -> None:
    length = _BAR_MM / spacing_mm / voxels
    axes.plot([0.04, 0.04 + length], [0.04, 0.04], transform=axes.transAxes, color="white", lw=2)
    text = axes.text(0.04, 0.06, f"{_BAR_MM / 10:g} cm", transform=axes.transAxes, fontsize=8)
    text.set(color="white", path_effects=[withStroke(linewidth=2, foreground="black")])


def _volume_file(folder: Path, files: Mapping[str, Any], name: str) -> Path:
    """Return the file of a volume, which must be listed in the case and inside its folder."""
    for file in files:
        if file == Path(file).name and file == f"{name}{volume_suffix(Path(file))}":
            return folder / file
    raise InputError(f"{folder}: case.json names no volume {name}. {ADVICE}")


def _implant(
    folder: Path, files: Mapping[str, Any], mask: Mask, affine: Floats
) -> tuple[Mesh, int | None]:
    """Return the surface of the implant from its file, else from its voxels."""
    for name in ("implant.stl", "implant.ply"):
        if name in files:
            mesh = read_mesh(folder / name)
            return _simpler(mesh, _IMPLANT_ERROR_MM, _IMPLANT_FACES), len(mesh.faces)
    mesh = surface_mesh(mask, affine)
    return _simpler(mesh, _IMPLANT_ERROR_MM, _IMPLANT_FACES), None


def _surface(mask: Mask, affine: Floats, steps: tuple[int, int, int]) -> Mesh:
    share, placed = coarser(mask, affine, steps)
    return _simpler(surface_mesh(share > _BONE_SHARE, placed), _BONE_ERROR_MM, _BONE_FACES)


def _simpler(mesh: Mesh, error_mm: float, faces: int) -> Mesh:
    """Return a simplified mesh within a tolerance, with a maximum number of faces."""
    return simplify(simplify(mesh, max_error_mm=error_mm), max_faces=faces)


def _painted(mesh: Mesh, shown: Shown) -> Bytes:
    """Return the color of the agreement at each vertex, averaged over the implant around it.

    Directly at the surface, predictions differ by a voxel everywhere, which is not informative.
    """
    sigma = _PAINT_MM / np.array(_spacing(shown.affine))
    weight = ndimage.gaussian_filter(shown.implant.astype(np.float32), sigma)
    mean = ndimage.gaussian_filter(shown.agreement * shown.implant.astype(np.float32), sigma)
    np.divide(mean, weight, out=mean, where=weight > _LEAST)
    to_index = np.linalg.inv(shown.affine)
    places = mesh.vertices @ to_index[:3, :3].T + to_index[:3, 3]
    found = ndimage.map_coordinates(mean, places.T, order=1, mode="nearest")
    return np.array([color for _, color in CONFIDENCE], dtype=np.uint8)[_level(found)]


def _level(percent: NDArray[Any]) -> NDArray[np.intp]:
    return np.asarray(np.digitize(percent, _LEVELS), dtype=np.intp)


def _box(mask: Mask, affine: Floats) -> tuple[tuple[slice, ...], Floats]:
    """Return the bounding box of a mask with a margin, and the affine of its content."""
    sides = []
    for axis, count in enumerate(mask.shape):
        seen = np.flatnonzero(mask.any(axis=tuple(k for k in range(3) if k != axis)))
        sides.append(slice(max(int(seen[0]) - _MARGIN, 0), min(int(seen[-1]) + 1 + _MARGIN, count)))
    moved = affine.copy()
    moved[:3, 3] += affine[:3, :3] @ [side.start for side in sides]
    return tuple(sides), moved


def _steps(
    shape: tuple[int, ...], spacing_mm: tuple[float, float, float], target_mm: float
) -> tuple[int, int, int]:
    """Return the number of voxels merged along each axis."""
    while True:
        steps = np.maximum(np.floor(target_mm / np.array(spacing_mm)), 1).astype(int)
        if np.prod(np.ceil(np.array(shape) / steps)) <= _MOST_VOXELS:
            x, y, z = steps.tolist()
            return x, y, z
        target_mm *= 1.25


def _spacing(affine: Floats) -> tuple[float, float, float]:
    x, y, z = np.linalg.norm(affine[:3, :3], axis=0).tolist()
    return x, y, z


def _middle(mask: Mask) -> tuple[int, int, int]:
    """Return the voxel of a mask that is closest to its center."""
    voxels = np.argwhere(mask)
    x, y, z = voxels[np.linalg.norm(voxels - voxels.mean(axis=0), axis=1).argmin()].tolist()
    return x, y, z


def _world(affine: Floats, voxel: tuple[int, int, int]) -> tuple[float, float, float]:
    x, y, z = (affine[:3, :3] @ voxel + affine[:3, 3]).tolist()
    return x, y, z


def _note(shown: Shown, surface: tuple[int, int, int], skull: Mesh) -> str:
    """Return a note about what was reduced."""
    _, placed = coarser(np.zeros(surface, dtype=bool), shown.affine, surface)
    edges, coarse = (_times(_spacing(affine), ".3g") for affine in (shown.affine, placed))
    slices_are = f"The slices show the output's own voxels of {edges} mm"
    if max(shown.steps) > 1:
        blocks = _times(shown.steps, "d")
        slices_are = f"The slices show blocks of {blocks} voxels of the output, {edges} mm"
    implant = f"{len(shown.implant_mesh.faces):,} triangles"
    if shown.implant_faces is not None and shown.implant_faces > len(shown.implant_mesh.faces):
        implant += f", simplified from {shown.implant_faces:,} in the file"
    return (
        f"{slices_are}, cropped to the bone; they are masks, without the gray values of the scan. "
        f"Surfaces of the skull are made from voxels of {coarse} mm and simplified to "
        f"{len(skull.faces):,} triangles; the implant has {implant}, and its colors are the mean "
        f"of some {_PAINT_MM:g} mm around. Measure what matters in the files of the case."
    )


def _times(numbers: Iterable[float], form: str) -> str:
    return " \N{MULTIPLICATION SIGN} ".join(format(number, form) for number in numbers)
