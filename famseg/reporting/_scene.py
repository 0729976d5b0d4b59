"""What the interactive view of a page shows: surfaces and volumes, as text inside the page."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from famseg.datasets import Volume, write_volume
from famseg.meshes import Mesh, write_mesh

Color = tuple[int, int, int]

BONE: Color = (222, 212, 192)
# Okabe and Ito's palette: told apart with any color vision.
IMPLANT: Color = (0, 114, 178)
REFERENCE: Color = (230, 159, 0)
BOTH: Color = (0, 158, 115)


@dataclass(frozen=True)
class Part:
    """A surface of a scene.

    Args:
        name: A word for it.
        label: What people read.
        color: Red, green and blue, 0 to 255.
        mesh: The surface, in mm.
        opacity: 0 to 1.
        visible: Whether it is shown at first.
    """

    name: str
    label: str
    color: Color
    mesh: Mesh
    opacity: float = 1.0
    visible: bool = True


@dataclass(frozen=True)
class Layer:
    """A volume of a scene, which its slices show.

    Args:
        name: A word for it.
        label: What people read.
        volume: Small whole numbers; it is shown by ``classes`` or in gray.
        classes: Label and color of each value but 0, which is empty.
        opacity: 0 to 1.
    """

    name: str
    label: str
    volume: Volume
    classes: Mapping[int, tuple[str, Color]] = field(default_factory=dict)
    opacity: float = 1.0


@dataclass(frozen=True)
class Scene:
    """A case that can be turned and cut.

    Args:
        title: What stands over it.
        name: A file name without ending, for images that people save.
        parts: Its surfaces.
        layers: Its volumes, on one grid.
        still: What is shown where the viewer is not, and in print: a PNG file.
        alt: What the still shows, in words.
        side: From where the surfaces are seen at first: azimuth and elevation in degrees, 0 from
            the back, 90 from the left, 180 from the front; see `side_of`.
    """

    title: str
    name: str
    parts: Sequence[Part]
    layers: Sequence[Layer]
    still: bytes
    alt: str
    side: tuple[float, float] = (135.0, 15.0)


def scene_json(scene: Scene) -> str:
    """Return the data of a scene as JSON that is safe inside a script element."""
    content = {
        "name": scene.name,
        "side": list(scene.side),
        "parts": [
            {
                "name": part.name,
                "label": part.label,
                "color": list(part.color),
                "opacity": part.opacity,
                "visible": part.visible,
                "data": _text(_as_file(part.mesh)),
            }
            for part in scene.parts
        ],
        "volumes": [
            {
                "name": layer.name,
                "label": layer.label,
                "opacity": layer.opacity,
                "labels": _color_map(layer.classes),
                "data": _text(_as_file(layer.volume)),
            }
            for layer in scene.layers
        ],
    }
    # No tag can end the element, or begin a comment in it.
    return json.dumps(content).replace("<", "\\u003c")


def side_of(part: Mesh, whole: Mesh) -> tuple[float, float]:
    """Return from where to look at a part of a head so that it is in front.

    Args:
        part: Such as an implant.
        whole: The skull that it belongs to.

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


def _as_file(content: Mesh | Volume) -> bytes:
    """Return a mesh as MZ3, a volume as NIfTI, both compressed."""
    with tempfile.TemporaryDirectory() as folder:
        if isinstance(content, Mesh):
            path = Path(folder, "part.mz3")
            write_mesh(path, content)
        else:
            path = Path(folder, "layer.nii.gz")
            write_volume(content, path)
        return path.read_bytes()


def _text(content: bytes) -> str:
    return base64.b64encode(content).decode()
