"""The data of a page's interactive view: surfaces and volumes as text inside the page."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import struct
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from famseg.meshes import Mesh
from famseg.reporting._shaded import shaded_views, three_sides
from famseg.volumes import Volume, write_volume

Bytes = NDArray[np.uint8]
Color = tuple[int, int, int]

BONE: Color = (222, 212, 192)
# Palette by Okabe and Ito, distinguishable with any color vision.
IMPLANT: Color = (0, 114, 178)
REFERENCE: Color = (230, 159, 0)
BOTH: Color = (0, 158, 115)

FROM_THE_FRONT = (135.0, 15.0)
"""Azimuth and elevation in degrees, slightly from the left and from above."""


@dataclass(frozen=True)
class Part:
    """A surface of a scene.

    Args:
        name: Its identifier.
        label: Its displayed name.
        color: Red, green and blue, 0 to 255.
        mesh: The surface, in mm.
        opacity: 0 to 1.
        visible: Whether it is shown initially.
        painted: A color for each vertex, shape ``(n, 3)``, in place of the one color.
        instead_of: Names of parts that lie in the same place: switching one on switches these off.
    """

    name: str
    label: str
    color: Color
    mesh: Mesh
    opacity: float = 1.0
    visible: bool = True
    painted: Bytes | None = None
    instead_of: Sequence[str] = ()


@dataclass(frozen=True)
class Layer:
    """A volume of a scene, which its slices show.

    Args:
        name: Its identifier.
        label: Its displayed name.
        volume: Small whole numbers; it is shown by ``classes`` or in gray.
        classes: Label and color of each value but 0, which is empty.
        opacity: 0 to 1.
        visible: Whether it is shown initially.
    """

    name: str
    label: str
    volume: Volume
    classes: Mapping[int, tuple[str, Color]] = field(default_factory=dict)
    opacity: float = 1.0
    visible: bool = True


@dataclass(frozen=True)
class Scene:
    """A case that can be turned and cut.

    Args:
        title: The text above it.
        name: A file name without ending, for images that people save.
        parts: Its surfaces.
        layers: Its volumes, on one grid.
        still: The image shown in print and without the viewer: a PNG file.
        alt: A description of the still image in words.
        side: From where the surfaces are seen at first: azimuth and elevation in degrees, 0 from
            the back, 90 from the left, 180 from the front; see `side_of`.
        focus_mm: The initial point where the slices meet; by default the middle of the last part.
        legend: Heading, and what the colors mean: a label and a color each.
        note: What was simplified for the view, and other remarks.
    """

    title: str
    name: str
    parts: Sequence[Part]
    layers: Sequence[Layer]
    still: bytes
    alt: str
    side: tuple[float, float] = FROM_THE_FRONT
    focus_mm: tuple[float, float, float] | None = None
    legend: Mapping[str, Sequence[tuple[str, Color]]] = field(default_factory=dict)
    note: str = ""


def scene_json(scene: Scene) -> str:
    """Return the data of a scene as JSON that is safe inside a script element."""
    content = {
        "name": scene.name,
        "side": list(scene.side),
        "focus": list(_focus(scene)),
        "parts": [
            {
                "name": part.name,
                "label": part.label,
                "color": list(part.color),
                "opacity": part.opacity,
                "visible": part.visible,
                "insteadOf": list(part.instead_of),
                "data": _text(_mesh_file(part)),
            }
            for part in scene.parts
        ],
        "volumes": [
            {
                "name": layer.name,
                "label": layer.label,
                "opacity": layer.opacity,
                "visible": layer.visible,
                "labels": _color_map(layer.classes),
                "data": _text(_volume_file(layer.volume)),
            }
            for layer in scene.layers
        ],
    }
    # No tag can end the element, or begin a comment in it.
    return json.dumps(content).replace("<", "\\u003c")


def scene_views(scene: Scene) -> bytes | None:
    """Return the surfaces that a scene shows at first, shaded, from three sides, as a PNG file.

    Returns:
        None where a scene shows no surface.
    """
    shown = [
        (part.mesh, np.array(part.color, dtype=np.uint8) if part.painted is None else part.painted)
        for part in scene.parts
        if part.visible
    ]
    return shaded_views(shown, three_sides(scene.side[0])) if shown else None


def side_of(part: Mesh, whole: Mesh) -> tuple[float, float]:
    """Return the camera direction that shows a part of a head in front.

    Args:
        part: Such as an implant.
        whole: The skull that contains it.

    Returns:
        Azimuth and elevation in degrees, as `Scene` counts them.
    """
    x, y, z = part.centroid_mm - whole.bounds_mm.mean(axis=0)
    azimuth = float(np.degrees(np.arctan2(-x, -y))) % 360
    elevation = float(np.degrees(np.arctan2(z, np.hypot(x, y))))
    return azimuth, float(np.clip(elevation, -60, 60))


def viewer_source() -> str | None:
    """Return NiiVue's source, or None where this famseg was installed without it.

    A file that is not the one that `niivue.json` names counts as none: a page would refuse to run
    it, by the hash in its policy.
    """
    source = _vendored()
    return None if source is None else source.decode()


def viewer_packed() -> str:
    """Return NiiVue as base64 of its gzip: a third of its size."""
    return _text(gzip.compress(_vendored() or b"", 9, mtime=0))


@cache
def _vendored() -> bytes | None:
    vendor = resources.files("famseg.reporting") / "vendor"
    wanted: dict[str, str] = json.loads((vendor / "niivue.json").read_text())
    file = vendor / Path(wanted["member"]).name
    if not file.is_file():
        return None
    content = file.read_bytes()
    return content if hashlib.sha256(content).hexdigest() == wanted["sha256"] else None


def _color_map(classes: Mapping[int, tuple[str, Color]]) -> dict[str, Any] | None:
    if not classes:
        return None
    rows = {0: ("", (0, 0, 0)), **classes}
    values = sorted(rows)
    channels = np.array([rows[value][1] for value in values])
    return {
        **{name: channels[:, index].tolist() for index, name in enumerate("RGB")},
        "A": [0 if value == 0 else 255 for value in values],
        "I": values,
        "labels": [rows[value][0] for value in values],
    }


def _focus(scene: Scene) -> tuple[float, float, float]:
    """Return where the slices meet at first, in mm."""
    if scene.focus_mm is not None:
        return scene.focus_mm
    if scene.parts:
        x, y, z = scene.parts[-1].mesh.centroid_mm.tolist()
        return x, y, z
    volume = scene.layers[0].volume
    middle = (np.array(volume.array.shape) - 1) / 2
    x, y, z = (volume.affine[:3, :3] @ middle + volume.affine[:3, 3]).tolist()
    return x, y, z


def _mesh_file(part: Part) -> bytes:
    """Return a part as compressed MZ3, with the colors of its vertices if it has some."""
    mesh, painted = part.mesh, part.painted
    has_faces, has_vertices, has_colors = 1, 2, 4
    holds = has_faces | has_vertices | (0 if painted is None else has_colors)
    body = mesh.faces.astype("<i4").tobytes() + mesh.vertices.astype("<f4").tobytes()
    if painted is not None:
        opaque = np.full((len(painted), 1), 255, dtype=np.uint8)
        body += np.concatenate([painted, opaque], axis=1).astype(np.uint8).tobytes()
    head = struct.pack("<HHIII", 0x5A4D, holds, len(mesh.faces), len(mesh.vertices), 0)
    return gzip.compress(head + body, 9, mtime=0)


def _volume_file(volume: Volume) -> bytes:
    """Return a volume as compressed NIfTI."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "layer.nii.gz")
        write_volume(volume, path)
        return path.read_bytes()


def _text(content: bytes) -> str:
    return base64.b64encode(content).decode()
