"""Files made to fill memory or disk, or to reach what is not theirs: refused at little cost."""

from __future__ import annotations

import gzip
import io
import plistlib
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from bounded import Cost, cost
from dicom_maker import AIR, Series, head
from pydicom.uid import DeflatedExplicitVRLittleEndian

from famseg.files import _archive as archive_module
from famseg.messages import InputError
from famseg.preparation import find_sources

UNSAFE = "the archive is not safe to unpack: {}; do not use it"
NO_TAR = "not a tar archive, cut short or damaged: copy it again"
MIB = 2**20
GZIP_HEAD = b"\x1f\x8b\x08" + bytes(6) + b"\xff"


def tried(root: Path) -> Cost:
    """Return what it costs to look at a file and, if it is not refused before, to read it."""

    def look() -> None:
        found = find_sources(root)
        for source in found.sources:
            source.read()
        if found.refused:
            raise InputError(*(refused.reason for refused in found.refused))

    return cost(look)


def refused(root: Path, *, mib: float = 100) -> str:
    found = tried(root)
    assert found.fault is not None
    assert "\n" not in found.fault
    assert found.mib < mib
    assert found.seconds < 15
    return found.fault


def zeros(mib: int, *, gzipped: bool = True) -> bytes:
    """Return so many MiB of zeros, deflated: one MiB again and again, without an end."""
    packer = zlib.compressobj(9, wbits=-15)
    piece = packer.compress(bytes(MIB)) + packer.flush(zlib.Z_FULL_FLUSH)
    return (GZIP_HEAD if gzipped else b"") + piece * mib


def packed(path: Path, content: bytes) -> Path:
    path.write_bytes(gzip.compress(content))
    return path


def member(name: str, content: bytes = b"", **changes: object) -> bytes:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for key, value in changes.items():
        setattr(info, key, value)
    return info.tobuf(tarfile.GNU_FORMAT) + content + bytes(-len(content) % 512)


def test_members_that_share_their_bytes(tmp_path: Path) -> None:
    """A thousand entries for one member: each is small beside its own bytes."""
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.nii", bytes(4 * MIB))
        first = archive.infolist()[0]
        for number in range(1000):
            copy = zipfile.ZipInfo(f"{number}.nii")
            for slot in ("compress_type", "CRC", "compress_size", "file_size", "header_offset"):
                setattr(copy, slot, getattr(first, slot))
            archive.filelist.append(copy)
    assert refused(path).startswith("its members unpack to 4198498304 bytes, 500 times its size")


@pytest.mark.parametrize(
    ("kind", "linked"),
    [(tarfile.SYMTYPE, "/etc/passwd"), (tarfile.LNKTYPE, "main.plist"), (tarfile.FIFOTYPE, "")],
)
def test_links_in_projects(kind: bytes, linked: str, tmp_path: Path) -> None:
    content = member("x/main.plist", type=kind, linkname=linked) + bytes(1024)
    path = packed(tmp_path / "a.inv3", content)
    assert refused(path) == UNSAFE.format("a member is a link or a device")


def test_names_that_lead_out_of_projects(tmp_path: Path) -> None:
    path = packed(tmp_path / "a.inv3", member("../main.plist") + bytes(1024))
    assert refused(path) == UNSAFE.format("a member is outside the folder (..)")
    packed(path, member("/main.plist") + bytes(1024))
    assert refused(path) == UNSAFE.format("a member has an absolute path")


def test_a_project_that_unpacks_without_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive_module, "MAX_MEMBER_BYTES", 256 * MIB)
    path = tmp_path / "a.inv3"
    head = gzip.compress(member("big", size=2**30))
    path.write_bytes(head + zeros(300))
    assert refused(path).startswith("the archive unpacks to more than 268435456 bytes")


@pytest.mark.slow
def test_a_name_of_gigabytes(tmp_path: Path) -> None:
    path = tmp_path / "a.inv3"
    for kind in (tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME):
        path.write_bytes(gzip.compress(member("x", type=kind, size=2**30)) + zeros(40))
        assert refused(path) == NO_TAR


def test_members_that_lead_back_for_ever(tmp_path: Path) -> None:
    pax = b"13 size=-512\n"
    content = member("a", b"x" * 512) + member("p", pax, type=tarfile.XHDTYPE) + member("b", b"x")
    assert refused(packed(tmp_path / "a.inv3", content + bytes(1024))) == NO_TAR


@pytest.mark.slow
def test_headers_of_headers(tmp_path: Path) -> None:
    pax = member("p", b"11 path=ab\n", type=tarfile.XHDTYPE)
    assert refused(packed(tmp_path / "a.inv3", pax * 5000 + bytes(1024))) == NO_TAR


@pytest.mark.slow
def test_members_without_number(tmp_path: Path) -> None:
    content = b"".join(member(str(number)) for number in range(1000)) * 11
    message = "the archive has more than 10000 members: do not use it"
    assert refused(packed(tmp_path / "a.inv3", content + bytes(1024))) == message


BILLION_LAUGHS = b"""<?xml version="1.0"?><!DOCTYPE plist [<!ENTITY a "aaaaaaaaaa">
<!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;"><!ENTITY c "&b;&b;&b;&b;&b;&b;&b;&b;&b;&b;">]>
<plist><dict><key>name</key><string>&c;</string></dict></plist>"""


@pytest.mark.parametrize(
    "plist",
    [
        pytest.param(BILLION_LAUGHS, id="entities"),
        pytest.param(b"<plist>" + b"<array>" * 50_000, id="deep"),
        pytest.param(b"bplist00\xa1\x00" + bytes(32), id="binary"),
        pytest.param(plistlib.dumps({"x": "y" * 5 * MIB}), id="large"),
    ],
)
def test_hostile_settings_of_projects(plist: bytes, tmp_path: Path) -> None:
    path = packed(tmp_path / "a.inv3", member("main.plist", plist) + bytes(1024))
    assert refused(path) == "its main.plist cannot be read: save the project again"


PLY = (
    "ply\nformat {kind} 1.0\n{more}element vertex {vertices}\nproperty float x\n"
    "property float y\nproperty float z\nelement face {faces}\n"
    "property list uchar int vertex_indices\nend_header\n"
)
TRIANGLE = "0 0 0\n1 0 0\n0 1 0\n3 0 1 2\n"


def ply(kind: str, vertices: int, faces: int, content: str = "", more: str = "") -> bytes:
    return (PLY.format(kind=kind, vertices=vertices, faces=faces, more=more) + content).encode()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.stl", bytes(80) + struct.pack("<I", 2**32 - 1) + bytes(1000)),
        ("a.stl", b"solid x\n" + b"x" * 4 * MIB),
        ("a.stl", b"solid x\nfacet\nouter loop\nvertex 1e400 nan 0\n"),
        ("a.ply", ply("binary_little_endian", 10**12, 10**12)),
        ("a.ply", ply("binary_little_endian", -5, -5)),
        ("a.ply", ply("ascii", 10**12, 10**12)),
        ("a.ply", ply("ascii", 3, 1, TRIANGLE.replace("3 0", "1000000000000 0"))),
        ("a.ply", ply("ascii", 3, 1, TRIANGLE.replace("1 2", "1 2000000000"))),
        ("a.ply", ply("ascii", 3, 1, TRIANGLE).replace(b"property list", b"0roperty list")),
        ("a.ply", ply("binary_little_endian", 3, 1, "x" * 50).replace(b"property f", b"p f")),
        ("a.ply", b"ply\nformat ascii 1.0\n" + b"element x 1000000000\n" * 10_000),
    ],
)
def test_meshes_that_lie(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    assert refused(tmp_path / name).startswith(f"{name}: ")


def test_triangles_without_a_surface(tmp_path: Path) -> None:
    """Each opening was looked for in all edges: minutes for 5 MB."""
    corners = np.random.default_rng(0).normal(size=(30_000, 9)) * 100
    body = b"".join(struct.pack("<12fH", 0, 0, 0, *each, 0) for each in corners)
    (tmp_path / "a.stl").write_bytes(bytes(80) + struct.pack("<I", len(corners)) + body)
    assert refused(tmp_path / "a.stl") == (
        "a.stl: the mesh is not a surface: 90000 edges without a neighbor in 30000 openings; "
        "repair it, e.g. in MeshLab or Meshmixer"
    )


def test_a_surface_of_a_thousand_layers(tmp_path: Path) -> None:
    sheet = np.array([[0, 0, 0], [200, 0, 0], [0, 200, 200]], float)
    layers = (np.repeat(sheet[None], 4000, axis=0) + np.arange(4000)[:, None, None] * 1e-3).ravel()
    body = b"".join(struct.pack("<12fH", 0, 0, 0, *each, 0) for each in layers.reshape(-1, 9))
    (tmp_path / "a.stl").write_bytes(bytes(80) + struct.pack("<I", 4000) + body)
    assert refused(tmp_path / "a.stl") == (
        "a.stl: the mesh is not a surface: its triangles overlap hundreds of times; repair it"
    )


def slices(folder: Path, **changes: object) -> list[Path]:
    series = Series(values=head()[:8], heights_mm=[3.5 * i for i in range(8)], tags=dict(changes))
    series.write(folder)
    return sorted(folder.iterdir())


def test_a_series_that_announces_too_many_pixels(tmp_path: Path) -> None:
    slices(tmp_path / "a", Rows=65535, Columns=65535)
    assert "65535x65535x8 voxels, more than 1073741824" in refused(tmp_path)


@pytest.mark.slow
def test_a_file_that_inflates_without_end(tmp_path: Path) -> None:
    (path, *others) = slices(tmp_path / "a")
    for other in others:
        other.unlink()
    data = pydicom.dcmread(path)
    data.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    data.PixelData = np.full(head().shape[1:], AIR, np.int16).tobytes()
    data.save_as(path, enforce_file_format=True)
    content = path.read_bytes()
    start = 144 + struct.unpack("<I", content[140:144])[0]
    path.write_bytes(content[:start] + zeros(1000, gzipped=False))
    assert refused(tmp_path) == ("its header cannot be read as DICOM: it is damaged; copy it again")


def links(folder: Path, secret: Path) -> None:
    (folder / "link.nii").symlink_to(secret)
    (folder / "dicom").symlink_to(secret)
    (folder / "below").symlink_to(secret.parent)
    (folder / "notes.txt").symlink_to(secret)
    (folder / "loop.nii").symlink_to(folder / "loop.nii")


def test_links_that_lead_out_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "in").mkdir()
    (tmp_path / "elsewhere" / "secret.nii").write_bytes(bytes(1000))
    links(tmp_path / "in", tmp_path / "elsewhere" / "secret.nii")
    found = find_sources(tmp_path / "in")
    assert found.sources == ()
    reason = (
        "a link that leads out of the folder: copy the file, or prepare a folder that contains both"
    )
    assert {r.origin: r.reason for r in found.refused} == dict.fromkeys(
        ("below", "dicom", "link.nii"), reason
    )


def test_links_within_the_folder_are_files(
    tmp_path: Path, save: Callable[..., Path], skull: np.ndarray
) -> None:
    save(tmp_path / ".store" / "1.nii", skull)
    (tmp_path / "head.nii").symlink_to(Path(".store") / "1.nii")
    (source,) = find_sources(tmp_path).sources
    assert source.read().volume.array.shape == skull.shape


def test_names_are_shown_as_they_can_be_read(tmp_path: Path) -> None:
    names = ("\x1b[31mred\x1b[0m.nii", "two\nlines.nii", "\udcff\udcfe.nii", "\u202egnp.nii")
    for name in names:
        (tmp_path / name).write_bytes(b"x")
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as archive:
        archive.writestr("in\x1b[2J.nii", b"x")
    found = find_sources(tmp_path)
    assert [r.origin for r in found.refused] == [r"\udcff\udcfe.nii"]
    shown = sorted(source.origin for source in found.sources)
    assert shown == sorted(
        [
            r"\u202egnp.nii",
            r"\x1b[31mred\x1b[0m.nii",
            r"two\nlines.nii",
            r"z.zip/in\x1b[2J.nii",
        ]
    )


def test_a_mislabeled_member_is_no_image(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x", io.BytesIO(bytes(128) + b"DICM" + bytes(MIB)).getvalue())
    assert refused(tmp_path / "a.zip").startswith("its header cannot be read as DICOM")
