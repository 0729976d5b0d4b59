from __future__ import annotations

import io
import plistlib
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from famseg.messages import InputError
from famseg.preparation import find_sources


def values() -> np.ndarray:
    """HU ``(z, y, x)`` with one bright voxel to the right, in front, at the top."""
    image = np.full((5, 6, 7), -1000, dtype=np.int16)
    image[1:4, 1:5, 1:6] = 40
    image[4, 5, 0] = 1200
    return image


def main_plist(**changes: Any) -> bytes:
    main: dict[str, Any] = {
        "format_version": 1.1,
        "name": "Mustermann Erika",
        "date": "2021-11-03T15:12:08",
        "modality": "CT",
        "orientation": 1,
        "spacing": [0.5, 0.75, 2.0],
        "matrix": {"filename": "matrix.dat", "shape": [5, 6, 7], "dtype": "int16"},
        "masks": {"0": "mask_0.plist"},
    }
    main.update(changes)
    return plistlib.dumps({k: v for k, v in main.items() if v is not None})


def project(
    path: Path, *, extra: Mapping[str, bytes] | None = None, image: bytes | None = None, **main: Any
) -> Path:
    content = {
        "tmpabc/mask_0.plist": plistlib.dumps({"name": "bone"}),
        "tmpabc/matrix.dat": values().tobytes() if image is None else image,
        "tmpabc/main.plist": main_plist(**main),
        **(extra or {}),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as archive:
        for name, data in content.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def reason(path: Path) -> str:
    found = find_sources(path)
    assert found.sources == ()
    return found.refused[0].reason


def test_the_image_is_read_where_it_lies(tmp_path: Path) -> None:
    (source,) = find_sources(project(tmp_path / "head.inv3")).sources
    scan = source.read()
    assert source.subject == "head"
    assert scan.kind == "hounsfield"
    assert scan.volume.array.shape == (7, 6, 5)
    assert scan.volume.spacing_mm == pytest.approx((0.5, 0.75, 2.0))
    bright = np.argwhere(scan.volume.array == 1200)[0]
    middle = (np.array(scan.volume.array.shape) - 1) / 2
    right, front, top = (scan.volume.affine[:3, :3] @ (bright - middle)) > 0
    assert right
    assert front
    assert top
    assert scan.notes == (
        "An InVesalius project: x to the left, y to the front, z to the top, as InVesalius stores "
        "images.",
    )


def test_a_project_of_coronal_slices_is_pointed_out(tmp_path: Path) -> None:
    (source,) = find_sources(project(tmp_path / "head.inv3", orientation=2)).sources
    assert source.read().notes[1] == (
        "The project was made from slices that are not axial: check the axes."
    )


@pytest.mark.parametrize("name", ["Erika", "mustermann-1", "2021-11-03", "03.11.2021"])
def test_the_patient_names_nothing(name: str, tmp_path: Path) -> None:
    project(tmp_path / name / f"{name}.inv3")
    (source,) = find_sources(tmp_path).sources
    assert source.subject.startswith("project_")
    assert source.origin == f"***/*** ({source.subject})"
    source.read()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"modality": "MRI"}, "modality MRI, not CT: bone is found by CT numbers"),
        ({"spacing": [0, 1, 1]}, "its spacing is missing or not above 0: save the project again"),
        ({"spacing": None}, "its spacing is missing or not above 0: save the project again"),
        ({"matrix": None}, "its main.plist announces no image: save the project again"),
        (
            {"matrix": {"filename": "m.dat", "shape": [5, 6, 7], "dtype": "object"}},
            "its main.plist announces no image: save the project again",
        ),
    ],
)
def test_projects_that_are_refused(changes: dict[str, Any], words: str, tmp_path: Path) -> None:
    assert reason(project(tmp_path / "head.inv3", **changes)) == words


def test_an_image_of_another_size(tmp_path: Path) -> None:
    (source,) = find_sources(project(tmp_path / "head.inv3", image=b"12345")).sources
    with pytest.raises(
        InputError,
        match=r"^head\.inv3: its image has 5 bytes, 420 are announced: save the project again$",
    ):
        source.read()


def test_an_image_that_is_missing(tmp_path: Path) -> None:
    matrix = {"filename": "other.dat", "shape": [5, 6, 7], "dtype": "int16"}
    (source,) = find_sources(project(tmp_path / "head.inv3", matrix=matrix)).sources
    with pytest.raises(InputError, match=r"the file of its image is missing: save the project"):
        source.read()


@pytest.mark.parametrize("name", ["../evil.dat", "/etc/evil.dat", "a/../../evil.dat"])
def test_members_that_lead_out_are_refused(name: str, tmp_path: Path) -> None:
    path = project(tmp_path / "in" / "head.inv3", extra={name: b"x"})
    assert reason(path).startswith("the archive is not safe to unpack: a member ")
    assert not list(tmp_path.rglob("evil.dat"))


def test_links_are_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "head.inv3", "w:gz") as archive:
        link = tarfile.TarInfo("tmp/matrix.dat")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    assert reason(tmp_path / "head.inv3") == (
        "the archive is not safe to unpack: a member is a link or a device; do not use it"
    )


def test_files_that_are_no_project(tmp_path: Path) -> None:
    (tmp_path / "a.inv3").write_bytes(b"hello" * 200)
    assert reason(tmp_path / "a.inv3").startswith("not a tar archive")
    path = project(tmp_path / "b.inv3")
    path.write_bytes(path.read_bytes()[:300])
    assert reason(path) == "not a tar archive, cut short or damaged: copy it again"
    with tarfile.open(tmp_path / "c.inv3", "w:gz") as archive:
        info = tarfile.TarInfo("readme.txt")
        archive.addfile(info, io.BytesIO())
    assert reason(tmp_path / "c.inv3") == (
        "not an InVesalius 3 project: there is no main.plist in it"
    )
    for number, content in enumerate((b"hello", plistlib.dumps([1]))):
        with tarfile.open(tmp_path / f"d{number}.inv3", "w:gz") as archive:
            info = tarfile.TarInfo("main.plist")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        assert reason(tmp_path / f"d{number}.inv3") == (
            "its main.plist cannot be read: save the project again"
        )
