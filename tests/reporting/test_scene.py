from __future__ import annotations

import base64
import gzip
import io
import json
import struct
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from scenes import scene

from famseg.meshes import Mesh
from famseg.reporting._scene import scene_json, scene_views, side_of
from famseg.volumes import read_volume


def test_a_scene_holds_its_files(tmp_path):
    made = scene()
    data = json.loads(scene_json(made))
    assert data["side"] == [225.0, 30.0]
    assert [part["label"] for part in data["parts"]] == ["Skull", "Implant"]
    surface = gzip.decompress(base64.b64decode(data["parts"][0]["data"]))
    assert surface[:2] == b"MZ"
    path = tmp_path / "layer.nii.gz"
    path.write_bytes(base64.b64decode(data["volumes"][0]["data"]))
    volume = read_volume(path)
    assert np.array_equal(volume.array, made.layers[0].volume.array)
    assert np.allclose(volume.affine, made.layers[0].volume.affine)
    labels = data["volumes"][0]["labels"]
    assert (labels["I"], labels["A"]) == ([0, 1, 2], [0, 255, 255])
    assert labels["B"] == [0, 192, 178]


@pytest.mark.parametrize(
    ("towards", "azimuth", "elevation"),
    [
        ((0, -1, 0), 0, 0),
        ((-1, 0, 0), 90, 0),
        ((0, 1, 0), 180, 0),
        ((1, 0, 0), 270, 0),
        ((0, 1, 1), 180, 45),
        ((0, 0, 1), None, 60),
    ],
)
def test_the_side_of_a_part_is_where_it_is_seen_from(towards, azimuth, elevation):
    def block(middle, size):
        corners = np.array([[x, y, z] for x in (0, 1) for y in (0, 1) for z in (0, 1)], float)
        faces = [[0, 2, 1], [1, 2, 3], [4, 5, 6], [5, 7, 6], [0, 1, 4], [1, 5, 4]]
        faces += [[2, 6, 3], [3, 6, 7], [0, 4, 2], [2, 4, 6], [1, 3, 5], [3, 7, 5]]
        return Mesh((corners - 0.5) * size + middle, np.array(faces, np.int32))

    whole = block([10.0, 20.0, 30.0], 100.0)
    found = side_of(block(np.array([10.0, 20.0, 30.0]) + 40 * np.array(towards), 5.0), whole)
    if azimuth is not None:
        assert found[0] == pytest.approx(azimuth, abs=1e-6)
    assert found[1] == pytest.approx(elevation, abs=1e-6)


def test_a_painted_part_has_a_color_for_each_vertex():
    made = scene()
    skull = made.parts[0]
    painted = np.random.default_rng(0).integers(0, 255, (len(skull.mesh.vertices), 3), np.uint8)
    data = json.loads(scene_json(replace(made, parts=[replace(skull, painted=painted)])))
    content = gzip.decompress(base64.b64decode(data["parts"][0]["data"]))
    magic, holds, faces, vertices, _ = struct.unpack("<HHIII", content[:16])
    assert (magic, holds) == (0x5A4D, 7)  # faces, vertices and colors
    colors = np.frombuffer(content[16 + 12 * faces + 12 * vertices :], np.uint8).reshape(-1, 4)
    assert np.array_equal(colors[:, :3], painted)
    assert (colors[:, 3] == 255).all()


def test_the_slices_meet_in_the_last_part_or_where_they_are_told():
    made = scene()
    assert json.loads(scene_json(made))["focus"] == made.parts[-1].mesh.centroid_mm.tolist()
    told = replace(made, focus_mm=(1.0, 2.0, 3.0))
    assert json.loads(scene_json(told))["focus"] == [1.0, 2.0, 3.0]
    assert json.loads(scene_json(replace(made, parts=[])))["focus"] == [23.0, 23.0, 23.0]


def test_the_views_show_what_is_visible():
    made = scene()
    hidden = replace(made, parts=[replace(part, visible=False) for part in made.parts])
    assert scene_views(hidden) is None
    both, alone = scene_views(made), scene_views(replace(made, parts=made.parts[:1]))
    assert blue(both) > 100 > blue(alone)


def blue(content):
    red, _, blue = np.moveaxis(np.asarray(Image.open(io.BytesIO(content)).convert("RGB")), 2, 0)
    return np.count_nonzero(blue.astype(int) > red.astype(int) + 40)
