"""The face of the phantom: bones as rods and solids, with orbits, nose and sinuses carved out."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from famseg.datasets.phantoms._implicit import Array, Field, smooth_max, tapered
from famseg.datasets.phantoms._scene import Scene


def add_face(scene: Scene, field: Field) -> None:
    """Add brow, cheekbones, orbital rims, nasal bones, maxilla, pterygoids and alveolar arch."""
    p, f, cheek, teeth = scene.p, scene.front, scene.cheek, scene.teeth_z
    jaw_y = 0.60 * f + p.prognathism_mm
    for s in (-1, 1):
        brow = (s * 0.36 * cheek, 0.90 * f, -6.0)
        corner = (s * 0.78 * cheek, 0.66 * f, -11.0)
        rods = (
            ((s * 6.0, 0.93 * f, -13.0), brow, (p.brow_mm, p.brow_mm)),
            (brow, corner, (p.brow_mm, 4.5)),
            (corner, (s * 0.80 * cheek, 0.64 * f, -42.0), (4.5, 6.0)),
            ((s * 12.0, 0.86 * f, -44.0), (s * 0.76 * cheek, 0.66 * f, -47.0), (4.0, 8.0)),
            ((s * 8.0, 0.93 * f, -14.0), (s * 14.0, 0.85 * f, -46.0), (4.5, 5.0)),
            ((s * 12.0, 0.33 * f, -40.0), (s * 15.0, 0.33 * f, teeth + 12), (5.0, 4.0)),
        )
        for start, end, radii in rods:
            scene.capsule(field, start, end, radii, blend=4.0)
        scene.solid(field, (s * 0.78 * cheek, 0.62 * f, -47), (10, 14, 9), blend=5.0)
        scene.solid(field, (s * 22, jaw_y, -50), (20, 24, 24), blend=6.0)
    scene.capsule(field, (0, 0.95 * f, -10), (0, 1.00 * f, -34), (5, 5), blend=4.0)
    scene.solid(field, (0, jaw_y, teeth + 16), (29, 30, 13), blend=6.0)
    angles = np.deg2rad([-105, -70, -35, 0, 35, 70, 105])
    arch = [(float(26 * np.sin(t)), float(jaw_y - 4 + 30 * np.cos(t)), teeth + 5.0) for t in angles]
    for start, end in pairwise(arch):
        scene.capsule(field, start, end, (6, 6), blend=3.0)


def open_face(scene: Scene, field: Field) -> None:
    """Carve nose, maxillary sinuses and orbits, leaving walls that the grid can represent."""
    _open_nose(scene, field)
    for s in (-1, 1):
        middle = (s * 25.0, 0.60 * scene.front + scene.p.prognathism_mm, -52.0)
        scene.hollow(field, middle, (11, 16, 14))
        _open_orbit(scene, field, s)


def add_arches(scene: Scene, field: Field) -> None:
    """Add the zygomatic arches: cheekbone to temporal bone, free of the skull in between."""
    f, cheek = scene.front, scene.cheek
    r = scene.p.arch_radius_mm
    for s in (-1, 1):
        points = (
            (s * 0.80 * cheek, 0.60 * f, -46.0),
            (s * 0.95 * cheek, 0.42 * f, -44.0),
            (s * 1.02 * cheek, 0.22 * f, -42.0),
            (s * 0.98 * cheek, 0.02 * f, -40.0),
            (s * 0.84 * scene.side, -14.0, -38.0),
        )
        for start, end in pairwise(points):
            scene.capsule(field, start, end, (r, r), blend=1.5)


def _open_nose(scene: Scene, field: Field) -> None:
    """Carve the airway, which is pear-shaped in front, and add the septum."""
    p, f = scene.p, scene.front
    height = np.float32(p.nasal_height_mm)
    low = np.float32(max(scene.teeth_z + 18, -28 - p.nasal_height_mm))
    half = np.float32(p.nasal_width_mm / 2)

    def airway(x: Array, y: Array, z: Array) -> Array:
        rise = np.clip((z - low) / height, 0, 1)
        across = np.abs(x) - half * (1 - np.float32(0.65) * rise)
        within = np.maximum(across, np.maximum(low - z, z - low - height))
        back_end: Array = np.float32(0.30 * f) - y
        return smooth_max(within, back_end, 2.0)

    floor, roof = float(low), float(low + height)
    field.carve(airway, (-20, 0.25 * f, floor - 2), (20, 1.4 * f, roof + 2), blend=2.0)
    half_wall = np.float32(scene.wall(1.5) / 2)
    back, front = np.float32(0.36 * f), np.float32(0.78 * f)

    def septum(x: Array, y: Array, z: Array) -> Array:
        plate = np.maximum(np.abs(x) - half_wall, np.maximum(y - front, back - y))
        ends = np.maximum(low - 3 - z, z - low - height - 3)
        return np.asarray(np.maximum(plate, ends), dtype=np.float32)

    corners = (-5.0, 0.36 * f, floor - 3), (5.0, 0.78 * f, roof + 3)
    field.join(septum, *corners)


def _open_orbit(scene: Scene, field: Field, s: int) -> None:
    """Carve one orbit: a cone from its rim to the apex in a shell of bone; s is 1 on the right."""
    p, f = scene.p, scene.front
    radius = p.orbit_height_mm / 2
    stretch = p.orbit_height_mm / p.orbit_width_mm  # the opening is wider than high
    apex = np.array([s * 13.0, 0.36 * f, -20.0])
    rim = np.array([s * (p.interorbital_mm + p.orbit_width_mm) / 2, 0.90 * f, -27.0])
    beyond = rim + 0.5 * (rim - apex)  # the cone continues in front of the face
    squeeze = np.array([stretch, 1.0, 1.0])
    cone = tapered(apex * squeeze, beyond * squeeze, 3.0, 3.0 + 1.5 * (radius - 3.0))
    medial = np.float32(p.interorbital_mm / 2 - 1)
    wall = np.float32(scene.wall(2.0))

    def inside(x: Array, y: Array, z: Array) -> Array:
        # Never across the nasal bones, although the cone is wide in front of the rim.
        body = cone(x * np.float32(stretch), y, z)
        return np.asarray(np.maximum(body, medial - s * x), dtype=np.float32)

    def socket(x: Array, y: Array, z: Array) -> Array:
        # The lateral rim lies farther back than the medial one.
        edge = np.float32(0.88 * f) - np.maximum(np.abs(x) - 20, 0) * np.float32(0.55)
        return np.asarray(np.maximum(inside(x, y, z) - wall, y - edge), dtype=np.float32)

    low = (min(s * 4.0, s * 64.0), 0.25 * f, -58.0)
    high = (max(s * 4.0, s * 64.0), 1.35 * f, 6.0)
    field.join(socket, low, high, blend=3.0)
    field.carve(inside, low, high, blend=1.0)
