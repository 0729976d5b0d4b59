"""The braincase of the phantom: outer surface, wall between the tables, base."""

from __future__ import annotations

import numpy as np

from famseg.datasets.phantoms._implicit import Array, Field, smooth_max
from famseg.datasets.phantoms._scene import MIN_WALL_VOXELS, Scene, smoothstep

_DIPLOE_SPACING_MM = 1.0  # coarser voxels do not show the marrow between the tables


def outer_surface(scene: Scene) -> Array:
    """Return the signed distance to the outer table, base included, in mm.

    It is a superellipse whose semi-axes vary along the head, with a narrower front, a sloping
    forehead and a bulging occiput, cut off below by the fossae of the base.
    """
    p, x, y, z = scene.p, scene.x, scene.y, scene.z
    front = np.float32(scene.front)
    v = y / front - np.float32(p.widest_at)
    breadth = 1 - np.float32(p.frontal_narrowing) * smoothstep(v + np.float32(0.1))
    breadth -= np.float32(0.10) * smoothstep(-v - np.float32(0.35))
    breadth *= 1 - np.float32(0.10) * smoothstep(-z / np.float32(45))  # squama slopes inwards
    a = np.abs(x) / (np.float32(scene.side) * breadth)
    lean = np.float32(p.forehead_slope) * np.maximum(z, 0) * smoothstep(v)
    bun = np.exp(-(((z + np.float32(8)) / np.float32(30)) ** 2))
    bun = np.where(y < 0, np.float32(p.occipital_bun) * front * bun, np.float32(0))
    b = np.abs(y + lean + bun) / front
    vertex = y / front - np.float32(p.vertex_at)
    roof = np.float32(scene.top_z) * (1 - np.float32(0.10) * vertex**2)
    c = np.abs(z) / np.where(z > 0, roof, np.float32(12 - scene.base_z))
    e = np.float32(p.squareness)
    rho = np.maximum((a**e + b**e + c**e) ** (1 / e), np.float32(1e-3))
    radius = np.sqrt(x * x + y * y + z * z)
    vault = _as_distance(radius * (1 - 1 / rho), scene.spacing)
    return smooth_max(vault, _below_floor(scene), 10.0)


def wall_thickness(scene: Scene) -> Array:
    """Return the thickness of the wall at each point in mm, never below 1.1 voxels.

    It has ripples, a thin temporal squama and a thick occipital protuberance.
    """
    p, x, y, z = scene.p, scene.x, scene.y, scene.z
    ripple = np.zeros_like(x)
    for wave in p.waves[:2].astype(np.float32):
        ripple += np.sin(np.float32(1.8) * (wave[3] * x + wave[4] * y + wave[5] * z) + wave[6])
    t = p.thickness_mm * (1 + np.float32(p.thickness_variation / 2) * ripple)
    squama = np.exp(-(((y - 15) / 35) ** 2) - ((z + 5) / 28) ** 2)
    lateral = smoothstep(np.asarray(np.abs(x) / 50, dtype=np.float32))
    t = t * (1 - np.float32(p.temporal_thinning) * np.asarray(squama * lateral))
    inion = np.exp(-((x / 30) ** 2) - ((y + scene.front) / 30) ** 2 - ((z + 22) / 22) ** 2)
    t = t + np.float32(p.occipital_thickening_mm) * inion
    return np.maximum(t, np.float32(MIN_WALL_VOXELS * scene.spacing)).astype(np.float32)


def carve_diploe(shell: Array, scene: Scene, head: Array, thickness: Array) -> Array:
    """Return the shell with marrow cells between its tables if the voxels are fine enough."""
    if scene.spacing > _DIPLOE_SPACING_MM:
        return shell
    p = scene.p
    # Depends only on the anatomy, so that the cells are the same at every resolution.
    rng = np.random.default_rng(int(p.length_mm * 1e6))
    cells = np.zeros_like(head)
    for direction in rng.normal(size=(8, 3)):
        k = 2 * np.pi / rng.uniform(5.0, 9.0) * direction / np.linalg.norm(direction)
        phase = np.float32(rng.uniform(0, 2 * np.pi))
        kx, ky, kz = k.astype(np.float32)
        cells += np.sin(kx * scene.x + ky * scene.y + kz * scene.z + phase)
    middle = np.abs(head + thickness / 2) - thickness * np.float32(0.5 - p.table_share)
    marrow = np.maximum(middle, np.float32(0.8) - cells)
    return np.asarray(np.maximum(shell, -marrow), dtype=np.float32)


def add_base(scene: Scene, field: Field) -> None:
    """Add the structures on the base: petrous ridges, sphenoid, mastoids, condyles, inion."""
    p, b = scene.p, scene.base_z
    wide = 0.74 * scene.side
    for s in (-1, 1):
        ridge = ((s * wide, -22, b + 12), (s * 12, 8, b + 12))
        scene.capsule(field, *ridge, radii=(9, 5), blend=6.0)
        mastoid = ((s * wide, -20, b + 6), (s * (wide - 5), -12, b + 9 - p.mastoid_mm))
        scene.capsule(field, *mastoid, radii=(12, 6), blend=6.0)
        scene.solid(field, (s * 13, -12, b - 4), (5, 11, 6), blend=3.0)
        lesser_wing = ((s * 10, 30, -18), (s * 0.62 * scene.side, 38, -14))
        scene.capsule(field, *lesser_wing, radii=(4, 2.5), blend=4.0)
    scene.solid(field, (0, 18, b + 12), (13, 18, 11), blend=5.0)
    inion = ((0, 8 - scene.front, -24), (0, 3 - scene.front, -26))
    scene.capsule(field, *inion, radii=(5, 3), blend=4.0)


def open_foramen(scene: Scene, field: Field) -> None:
    """Carve the foramen magnum: an oval canal that is tilted forwards."""
    p, b = scene.p, scene.base_z
    half_x, half_y = np.float32(p.foramen_width_mm / 2), np.float32(p.foramen_length_mm / 2)
    middle = -0.10 * scene.front - p.foramen_length_mm / 2

    def canal(x: Array, y: Array, z: Array) -> Array:
        along = y - np.float32(middle) + np.float32(0.25) * (z - np.float32(b))
        rho = np.sqrt((x / half_x) ** 2 + (along / half_y) ** 2)
        ends = np.abs(z - np.float32(b - 5)) - 24
        return np.asarray(np.maximum((rho - 1) * half_x, ends), dtype=np.float32)

    field.carve(canal, (-25, middle - 35, b - 30), (25, middle + 35, b + 20), blend=2.0)


def _below_floor(scene: Scene) -> Array:
    """Return the signed distance to the head above the underside of its base, in mm."""
    f, d = scene.front, scene.p.base_depth
    b = scene.base_z / d
    knots = np.array([-1.0, -0.80, -0.52, -0.10, 0.16, 0.40, 0.68, 1.0]) * f
    heights = np.array([0.60 * b, 0.88 * b, b, b, 0.76 * b, -19, -13, -10]) * d
    slope = np.interp(scene.y, knots, np.gradient(heights, knots)).astype(np.float32)
    floor = np.interp(scene.y, knots, heights).astype(np.float32)
    # The middle fossae contain the temporal lobes: deeper at the sides than below the pituitary.
    lobe = np.exp(-(((np.abs(scene.x) - 36) / 17) ** 2) - ((scene.y - 0.20 * f) / 20) ** 2)
    distance = (floor - np.float32(13 * d) * lobe - scene.z) / np.sqrt(1 + slope**2)
    return np.asarray(distance, dtype=np.float32)


def _as_distance(f: Array, spacing: float) -> Array:
    """Return f divided by the norm of its gradient, approximately a distance near its zero."""
    gx, gy, gz = np.gradient(f, np.float32(spacing))
    slope = np.sqrt(gx * gx + gy * gy + gz * gz)
    return np.asarray(f / np.clip(slope, 0.5, 3.0), dtype=np.float32)
