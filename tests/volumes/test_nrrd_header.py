"""NRRD and MetaImage headers with wrong sizes, or that point to other users' files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from bounded import cost

from famseg.datasets import file_sha256
from famseg.messages import InputError
from famseg.volumes import read_volume

CUT_SHORT = "the header is readable, the voxels are not: the file is cut short or damaged"
META = """ObjectType = Image
NDims = 3
DimSize = {sizes}
ElementType = {kind}
ElementSpacing = 1 1 1
{more}ElementDataFile = {data}
"""
NRRD = """NRRD0004
type: {kind}
dimension: 3
sizes: {sizes}
space: left-posterior-superior
space directions: (1,0,0) (0,1,0) (0,0,1)
encoding: {encoding}
{more}
"""


def meta(
    path: Path, data: str = "LOCAL", sizes: str = "4 4 4", kind: str = "MET_UCHAR", more: str = ""
) -> Path:
    path.write_bytes(META.format(data=data, sizes=sizes, kind=kind, more=more).encode() + bytes(64))
    return path


def nrrd(
    path: Path, sizes: str = "4 4 4", kind: str = "uint8", encoding: str = "raw", more: str = ""
) -> Path:
    text = NRRD.format(sizes=sizes, kind=kind, encoding=encoding, more=more)
    path.write_bytes(text.encode() + bytes(64))
    return path


def refused(path: Path) -> str:
    """Check that refusing a file takes little memory; return the reason."""
    found = cost(lambda: read_volume(path))
    assert found.fault is not None
    assert found.mib < 60
    assert found.seconds < 5
    assert "\n" not in found.fault
    return found.fault.removeprefix(f"{path}: ")


def test_the_files_of_these_tests_can_be_read(tmp_path: Path) -> None:
    assert read_volume(meta(tmp_path / "a.mha")).array.shape == (4, 4, 4)
    assert read_volume(nrrd(tmp_path / "a.nrrd", more="foo:=bar: baz\n# a note\n")).array.sum() == 0
    (tmp_path / "my voxels.raw").write_bytes(bytes(range(64)))
    for beside in (
        meta(tmp_path / "b.mhd", "my voxels.raw"),
        nrrd(tmp_path / "b.nhdr", more="data file: my voxels.raw\n"),
    ):
        assert read_volume(beside).array[3, 3, 3] == 63


@pytest.mark.parametrize(
    "make",
    [
        lambda folder, named: meta(folder / "a.mhd", named),
        lambda folder, named: nrrd(folder / "a.nhdr", more=f"data file: {named}\n"),
        lambda folder, named: nrrd(folder / "a.nhdr", more=f"DataFile: {named}\n"),
    ],
)
@pytest.mark.parametrize("absolute", [True, False])
def test_voxels_in_another_folder_are_not_read(
    make: Callable[[Path, str], Path], absolute: bool, tmp_path: Path
) -> None:
    secret = tmp_path / "secret.raw"
    secret.write_bytes(bytes(64))
    (tmp_path / "in").mkdir()
    named = str(secret) if absolute else "../secret.raw"
    path = make(tmp_path / "in", named)
    assert refused(path).endswith(
        " for its voxels: they must be in a file beside it; copy it there, and write only its name"
    )
    with pytest.raises(InputError, match="they must be in a file beside it"):
        file_sha256(path)


def test_a_link_beside_a_header_leads_nowhere(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(bytes(64))
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.raw").symlink_to(tmp_path / "secret")
    assert refused(meta(tmp_path / "in" / "a.mhd", "a.raw")) == (
        "a.raw is a symbolic link to another folder: copy the file"
    )


def test_a_header_in_one_file_with_its_voxels_in_another(tmp_path: Path) -> None:
    assert refused(meta(tmp_path / "a.mha", "b.raw")) == (
        "its voxels are in another file: name the header .mhd"
    )
    assert refused(nrrd(tmp_path / "a.nrrd", more="data file: b.raw\n")) == (
        "its voxels are in another file: name the header .nhdr"
    )


@pytest.mark.parametrize("named", ["LIST", "LIST 2", "a%03d.raw 1 1000000000 1"])
def test_voxels_in_several_files(named: str, tmp_path: Path) -> None:
    message = "its voxels are in several files: save it as one"
    assert refused(meta(tmp_path / "a.mhd", named)) == message
    assert refused(nrrd(tmp_path / "a.nhdr", more=f"data file: {named}\n")) == message


def test_a_key_cannot_be_said_in_two_ways(tmp_path: Path) -> None:
    twice = meta(tmp_path / "a.mha", more="elementdatafile = /etc/passwd\n")
    assert refused(twice).startswith("the header is damaged: ")
    colon = meta(tmp_path / "b.mha", more="ElementDataFile: /etc/passwd = x\n")
    assert refused(colon).startswith("the header is damaged: 'ElementDataFile: /etc/passwd = x'")
    hidden = nrrd(tmp_path / "c.nrrd", more="content: a\rdata file: /etc/passwd\n")
    assert refused(hidden).startswith(r"the header is damaged: 'content: a\rdata file: /etc/passwd")
    again = nrrd(tmp_path / "d.nrrd", more="sizes: 5 5 5\n")
    assert refused(again) == "the header is damaged: 'sizes: 5 5 5' cannot be read"


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        (
            "10000 10000 10000",
            "the header announces 10000x10000x10000 voxels, more than",
        ),
        ("-4 4 4", "the header is damaged: dimension 3, sizes -4 4 4"),
        ("0 4 4", "the header is damaged: dimension 3, sizes 0 4 4"),
        ("4 4", "the header is damaged: dimension 3, sizes 4 4"),
        ("4 4 x", "the header is damaged: dimension 3, sizes 4 4 x"),
        (" ".join(["1"] * 50), "the header is damaged: dimension 3, sizes 1 1 1"),
        ("9" * 200 + " 1 1", "the header announces 9999"),
        ("1000 1000 1000", CUT_SHORT),
    ],
)
def test_sizes_that_lie(sizes: str, words: str, tmp_path: Path) -> None:
    assert refused(meta(tmp_path / "a.mha", sizes=sizes)).startswith(words)
    assert refused(nrrd(tmp_path / "a.nrrd", sizes=sizes)).startswith(words)


def test_compressed_voxels_that_cannot_be_there(tmp_path: Path) -> None:
    sizes = "1000 1000 1000"
    # Without a check of the file size, 8 GB were allocated and written before its end was reached.
    assert refused(nrrd(tmp_path / "a.nrrd", sizes, "double", "gzip")) == CUT_SHORT
    packed = "CompressedData = True\n"
    assert refused(meta(tmp_path / "a.mha", "LOCAL", sizes, "MET_DOUBLE", packed)) == CUT_SHORT


def test_voxels_that_shrank_too_much(tmp_path: Path) -> None:
    path = nrrd(tmp_path / "a.nrrd", "1000 1000 1000", "double", "gzip")
    with path.open("ab") as stream:
        stream.truncate(2**23)  # the size of so many zeros when compressed
    assert refused(path) == (
        "its voxels unpack to 8000000000 bytes, 500 times its size or more: this may be a file "
        "made to fill "
        "the memory; do not use it"
    )


def test_kinds_that_are_not_read(tmp_path: Path) -> None:
    assert refused(nrrd(tmp_path / "a.nrrd", kind="block")) == "unknown type of voxels 'block'"
    assert refused(meta(tmp_path / "a.mha", kind="MET_OTHER")) == (
        "unknown type of voxels 'met_other'"
    )
    assert refused(nrrd(tmp_path / "b.nrrd", encoding="bzip2")) == (
        "encoding 'bzip2' is not supported: use gzip"
    )


def test_a_header_without_an_end(tmp_path: Path) -> None:
    path = tmp_path / "a.mha"
    path.write_bytes(b"Comment = x\n" * 200_000)
    assert refused(path) == "its content does not have the format of its file name"


# ITK's readers write each of these behind the end of a buffer on the stack.
@pytest.mark.parametrize(
    "more",
    [
        "space: left-posterior-superior" + "x" * 1100,
        "centerings: " + "cell " * 250,
        "spacings: " + "1 " * 600,
        "old min: " + "9" * 1100,
        "foo: " + "v" * 1100,
        "f" * 1100 + ": v",
    ],
)
def test_long_lines_of_nrrd(more: str, tmp_path: Path) -> None:
    text = NRRD.replace("space: left-posterior-superior\n", "") if more[:6] == "space:" else NRRD
    path = tmp_path / "a.nrrd"
    filled = text.format(sizes="4 4 4", kind="uint8", encoding="raw", more=f"{more}\n")
    path.write_bytes(filled.encode() + bytes(64))
    assert refused(path).endswith(" bytes, more than 400")


def test_long_lines_of_metaimage(tmp_path: Path) -> None:
    assert refused(meta(tmp_path / "a.mha", more=f"Name = {'v' * 300}\n")) == (
        f"the header is damaged: 'Name = {'v' * 33}...' has 307 bytes, more than 240"
    )
    long = f"Comment = {'v' * 200}\n0008|0060 = {'v' * 1000}\n"
    assert read_volume(meta(tmp_path / "b.mha", more=long)).array.shape == (4, 4, 4)


def test_long_notes_of_nrrd_stay(tmp_path: Path) -> None:
    path = nrrd(tmp_path / "a.nrrd", more=f"Segment0_Name:={'v' * 5000}\n# {'v' * 5000}\n")
    assert read_volume(path).array.shape == (4, 4, 4)


def test_a_long_path(tmp_path: Path) -> None:
    folder = tmp_path.joinpath(*["d" * 240] * 4)
    folder.mkdir(parents=True)
    path = folder / "a.nrrd"
    path.write_bytes(b"NRRD0004\nfoo: bar\n\n")
    assert refused(path) == "a path of more than 900 bytes: move the file to a shorter path"


def test_fields_that_nrrd_does_not_have(tmp_path: Path) -> None:
    assert refused(nrrd(tmp_path / "a.nrrd", more="foo: bar\n")) == (
        "the header is damaged: no field 'foo'"
    )
