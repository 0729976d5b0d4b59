"""Distances, gaps, thickness and undercut, compared with exact values for simple solids."""

from __future__ import annotations

import manifold3d
import numpy as np
import pytest
import trimesh
from numpy.typing import NDArray
from solids import CT, Cap, grid

from famseg.meshes import (
    Mesh,
    blunted,
    distances_mm,
    gap_mm,
    insertion_direction,
    intersect,
    is_manifold,
    offset,
    separated,
    subtract,
    surface_mesh,
    thickness_mm,
    undercut,
    without_undercut,
)
from famseg.meshes._distance import closest

Floats = NDArray[np.float64]


def mesh_of(solid: trimesh.Trimesh) -> Mesh:
    return Mesh(solid.vertices, solid.faces)


def box(size: tuple[float, float, float], center: tuple[float, float, float] = (0, 0, 0)) -> Mesh:
    solid = trimesh.creation.box(extents=size)
    solid.apply_translation(center)
    return mesh_of(solid)


def cone(lower_mm: float, upper_mm: float, height_mm: float) -> Mesh:
    """A frustum around the z axis, its middle at 0, of 256 sides."""
    turn = np.arange(256) * (2 * np.pi / 256)
    ring = np.stack([np.cos(turn), np.sin(turn), 0 * turn], axis=1)
    bottom, top = ring * lower_mm, ring * upper_mm
    bottom[:, 2], top[:, 2] = -height_mm / 2, height_mm / 2
    ends = [[0, 0, -height_mm / 2], [0, 0, height_mm / 2]]
    here, there = np.arange(256), (np.arange(256) + 1) % 256
    low, high = np.full(256, 512), np.full(256, 513)
    faces = [
        np.stack(three, axis=1)
        for three in (
            (here, there, here + 256),
            (there, there + 256, here + 256),
            (low, there, here),
            (high, here + 256, there + 256),
        )
    ]
    return Mesh(np.concatenate([bottom, top, ends]), np.concatenate(faces))


def slow_distances(points: Floats, mesh: Mesh) -> Floats:
    """The smallest distance to the edges and, where a point is above a triangle, its plane."""
    best = np.full(len(points), np.inf)
    for a, b, c in mesh.vertices[mesh.faces]:
        normal = np.cross(b - a, c - a)
        above = np.full(len(points), bool(normal.any()))
        for start, end in ((a, b), (b, c), (c, a)):
            edge, off = end - start, points - start
            along = np.clip(off @ edge / max(edge @ edge, 1e-300), 0, 1)
            best = np.minimum(best, np.linalg.norm(off - along[:, None] * edge, axis=1))
            above &= np.cross(edge, off) @ normal >= 0
        height = np.abs((points - a) @ normal) / max(float(np.linalg.norm(normal)), 1e-300)
        best = np.where(above, np.minimum(best, height), best)
    return best


def test_distances_are_those_of_all_triangles() -> None:
    mesh = surface_mesh(np.pad(np.ones((5, 3, 2)), 1), np.diag([0.5, 1.0, 3.0, 1.0]))
    mesh = Mesh(  # with triangles of very different sizes
        np.concatenate([mesh.vertices, [[20, 0, 0], [0, 30, 0], [0, 0, 40]]]),
        np.concatenate([mesh.faces, [np.arange(3) + len(mesh.vertices)]]),
    )
    rng = np.random.default_rng(0)
    points = np.concatenate([rng.uniform(-5, 12, (300, 3)), mesh.vertices[::9]])
    slow = slow_distances(points, mesh)
    assert distances_mm(points, mesh) == pytest.approx(slow, abs=1e-9)
    bounded = distances_mm(points, mesh, max_mm=2.0)
    assert np.array_equal(np.isfinite(bounded), slow <= 2.0)
    assert bounded[np.isfinite(bounded)] == pytest.approx(slow[slow <= 2], abs=1e-9)


def test_distances_are_right_for_triangles_without_area_and_with_one_middle() -> None:
    rng = np.random.default_rng(0)
    for _ in range(10):  # many triangles share their middle, some are lines or points
        mesh = Mesh(rng.integers(0, 4, (30, 3)), rng.integers(0, 30, (40, 3)))
        points = rng.normal(1.5, 2, (200, 3))
        slow = slow_distances(points, mesh)
        assert distances_mm(points, mesh) == pytest.approx(slow, abs=1e-9)
        bounded = distances_mm(points, mesh, max_mm=0.5)
        assert np.array_equal(np.isfinite(bounded), slow <= 0.5)


def test_of_points_far_from_a_mesh_nothing_is_found() -> None:
    mesh = box((2, 2, 2))
    far = closest([[50.0, 0, 0], [0, 0, -50]], mesh, max_mm=3.0)
    assert np.isinf(far.away_mm).all()
    assert distances_mm([[50.0, 0, 0], [3, 0, 0]], mesh, max_mm=3.0).tolist() == [np.inf, 2.0]
    assert len(distances_mm(np.zeros((0, 3)), mesh, max_mm=3.0)) == 0


def test_distances_to_a_box_by_hand() -> None:
    points = [[2, 0, 0], [2, 2, 0], [2, 2, 2], [0, 0, 0.5], [1, 1, 1]]
    away = [1, np.sqrt(2), np.sqrt(3), 0.5, 0]
    assert distances_mm(points, box((2, 2, 2))) == pytest.approx(away)


def test_the_side_is_known_at_edges_and_corners() -> None:
    points = np.random.default_rng(0).uniform(-2, 2, (2000, 3))
    solid = subtract(box((2, 2, 2)), box((1, 1, 2), (0.75, 0.75, 0.75)))  # with an inner corner
    inside = (np.abs(points) < 1).all(axis=1)
    inside &= ~((points[:, 0] > 0.25) & (points[:, 1] > 0.25) & (points[:, 2] > -0.25) & inside)
    assert np.array_equal(closest(points, solid).outside < 0, inside)


def test_the_gap_between_boxes() -> None:
    wall = box((10, 10, 10))
    found = gap_mm(box((10, 10, 10), (10.7, 0, 0)), wall)
    assert found.minimum_mm == pytest.approx(0.7)
    assert found.p1_mm == pytest.approx(0.7)
    assert found.samples > 400
    assert gap_mm(box((10, 10, 10), (9.5, 0, 0)), wall).minimum_mm == pytest.approx(-0.5)
    assert gap_mm(box((1, 1, 1), (30, 0, 0)), wall).samples == 0


def cap_in_bone(spacing: tuple[float, float, float]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """An implant that touches the edge of the surrounding hole everywhere."""
    cap, angle = Cap(angle=0.2), 0.2
    middle = 83 * cap.unit

    def bone(points: np.ndarray) -> np.ndarray:
        radius = np.linalg.norm(points, axis=-1)
        return (np.abs(radius - 83) <= 4) & (points @ cap.unit < radius * np.cos(angle))

    implant, affine = grid(cap, middle, 56, spacing)
    return implant, grid(bone, middle, 56, spacing)[0], affine


@pytest.mark.slow
@pytest.mark.parametrize("asked_mm", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("spacing", [CT, (1.0, 1.0, 1.0)])
def test_a_gap_is_kept(asked_mm: float, spacing: tuple[float, float, float]) -> None:
    implant, bone, affine = cap_in_bone(spacing)
    whole, walls = surface_mesh(implant, affine), surface_mesh(bone, affine)
    assert gap_mm(whole, walls).p1_mm < -0.3
    mesh = separated(implant, bone, affine, asked_mm)
    found = gap_mm(mesh, walls)
    assert found.p1_mm > asked_mm - 0.1
    assert found.p1_mm < asked_mm + 0.1  # and no more than that
    assert is_manifold(mesh) == (True, "")
    assert intersect(mesh, walls).volume_mm3 < 0.5
    assert mesh.volume_mm3 > 0.8 * whole.volume_mm3


def test_an_implant_far_from_bone_stays_as_it_is() -> None:
    implant, bone = np.zeros((2, 30, 30, 30), dtype=bool)
    implant[3:8, 3:8, 3:8], bone[20:28, 20:28, 20:28] = True, True
    assert separated(implant, bone, np.eye(4), 1.0).volume_mm3 == pytest.approx(125, rel=1e-3)
    with pytest.raises(ValueError, match=r"a gap of 9 mm leaves nothing of the implant"):
        separated(implant, np.roll(implant, 6, axis=0), np.eye(4), 9)


@pytest.mark.slow
def test_offsets_of_a_ball() -> None:
    ball = mesh_of(trimesh.creation.icosphere(subdivisions=4, radius=10.0))
    for distance_mm in (1.5, -2.0):
        radius = np.linalg.norm(offset(ball, distance_mm).vertices, axis=1)
        assert radius == pytest.approx(10 + distance_mm, abs=0.03)
    with pytest.raises(ValueError, match="nothing is left"):
        offset(ball, -11.0)


def test_the_thickness_of_a_shell() -> None:
    outer = trimesh.creation.icosphere(subdivisions=4, radius=40.0)
    inner = trimesh.creation.icosphere(subdivisions=4, radius=36.5)
    inner.invert()
    shell = mesh_of(trimesh.util.concatenate([outer, inner]))
    found = thickness_mm(shell, samples=400)
    outside = found[found < 20]  # rays from the inside also cross the wall
    assert len(outside) == 400
    assert outside == pytest.approx(3.5, abs=0.1)


def test_the_thickness_of_a_mask() -> None:
    cap = Cap(angle=0.25)
    found = thickness_mm(*cap.grid(CT), samples=300)
    assert np.percentile(found, [5, 50]) == pytest.approx([6, 6.15], abs=0.15)  # rim is wider
    with pytest.raises(ValueError, match="give a mesh, or a mask with its affine"):
        thickness_mm(cap.grid(CT)[0])


def plate_in_slab(lower_mm: float, upper_mm: float, shear: float = 0.0) -> tuple[Mesh, Mesh]:
    """A plate that fills a hole in a slab of 6 mm, and the slab."""
    slab = subtract(box((70, 70, 6)), cone(lower_mm, upper_mm, 6 + 1e-4))
    plate = cone(lower_mm - 0.05, upper_mm - 0.05, 6)
    lean = np.array([[1, 0, shear], [0, 1, 0], [0, 0, 1]])
    return tuple(Mesh(mesh.vertices @ lean.T, mesh.faces) for mesh in (plate, slab))


@pytest.mark.slow
def test_the_undercut_of_a_plate_in_a_conical_hole() -> None:
    plate, slab = plate_in_slab(23, 20)  # narrow above
    wider = plate.volume_mm3 - np.pi * 19.95**2 * 6
    assert undercut(plate, slab, [0, 0, -2]) == pytest.approx(wider, rel=0.07)
    assert undercut(plate, slab, [0, 0, 1]) == 0
    way, least = insertion_direction(plate, slab)
    assert abs(way[2]) > 0.99
    assert least == pytest.approx(wider if way[2] < 0 else 0, rel=0.07)
    assert insertion_direction(*plate_in_slab(20, 23))[1] < 20  # wide above: it goes in


@pytest.mark.slow
def test_a_hole_at_a_slant_is_entered_at_a_slant() -> None:
    plate, slab = plate_in_slab(20, 20, shear=np.tan(np.radians(20)))
    way, least = insertion_direction(plate, slab)
    assert np.degrees(np.arccos(abs(way[2]))) == pytest.approx(20, abs=4)
    assert least < 0.2 * undercut(plate, slab, [0, 0, -1])


@pytest.mark.slow
def test_a_skull_is_entered_from_outside() -> None:
    implant, bone, affine = cap_in_bone((1.0, 1.0, 1.0))
    way, least = insertion_direction(
        separated(implant, bone, affine, 0.5), surface_mesh(bone, affine)
    )
    assert way @ Cap().unit < -0.99
    assert least < 5
    with pytest.raises(ValueError, match="a direction must be three numbers, not all 0"):
        undercut(box((1, 1, 1)), box((1, 1, 1)), [0, 0, 0])


def wedge() -> Mesh:
    """A plate of 20 x 10 x 4 mm that tapers to a knife edge at x = 16."""
    profile = [[-10, 0], [10, 0], [16, 4], [-10, 4]]
    points = [[x, y, z] for x, z in profile for y in (-10, 10)]
    solid = manifold3d.Manifold.hull_points(np.array(points, dtype=float)).to_mesh64()
    return Mesh(np.asarray(solid.vert_properties), np.asarray(solid.tri_verts).astype(np.int32))


def test_a_rim_as_thin_as_a_knife_goes() -> None:
    plate = wedge()
    assert np.percentile(thickness_mm(plate, samples=1000), 1) < 1
    beside = box((4, 40, 20), (19, 0, 0))
    mesh, removed_mm3 = blunted(plate, 2.0, beside, reach_mm=6.0)
    assert is_manifold(mesh) == (True, "")
    thick = thickness_mm(mesh, samples=1000)
    assert thick.min() > 1.75  # two millimeters, on voxels of 0.6
    angle = np.arctan2(4, 6)  # a ball of 1 mm lies in the edge: what is beyond it, by hand
    tip = 20 * (1 / np.tan(angle / 2) - (np.pi - angle) / 2)
    assert 0.9 * tip < removed_mm3 < 1.6 * tip  # the edges beside it are rounded, too
    assert mesh.bounds_mm[0] == pytest.approx([-10, -10, 0])
    assert mesh.bounds_mm[1, 2] == pytest.approx(4)
    far, nothing = blunted(plate, 2.0, box((4, 40, 20), (-30, 0, 0)), reach_mm=6.0)
    assert far is plate
    assert nothing == 0


def test_what_bone_is_in_the_way_of_is_cut_off() -> None:
    plate, slab = plate_in_slab(14, 12)  # narrow above
    plate = Mesh(plate.vertices * [0.97, 0.97, 1], plate.faces)
    before = undercut(plate, slab, [0, 0, -1])
    assert before > 0.09 * plate.volume_mm3
    free = without_undercut(plate, slab, [0, 0, -1])
    assert is_manifold(free) == (True, "")
    assert undercut(free, slab, [0, 0, -1]) < 0.01 * before
    beside = 0.5 * 6 * 2 * np.pi * 12  # half a millimeter is removed all around
    assert before <= plate.volume_mm3 - free.volume_mm3 < before + 1.2 * beside
    assert without_undercut(plate, slab, [0, 0, 1]) is plate
