"""Miniature copies of the collections, with their peculiarities."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK
import trimesh
from trimesh.voxel.ops import matrix_to_marching_cubes

from famseg.messages import InputError
from famseg.preparation import Found, Scan, Source, find_sources
from famseg.preparation.sources._layouts import DEFECT_CLASSES

Array = np.ndarray
Pair = tuple[Array, Array]


def write_nrrd(
    path: Path, array: Array, affine: Array, *, packed: bool = True, left: bool = False
) -> Path:
    """Write with SimpleITK, raw or gzip: LPS in the header, and with ``left`` axes turned, too."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
    if left:  # the first voxel to the left and back, as scanners have it; z runs downwards
        array = array[::-1, ::-1, ::-1]
        lps[:3, 3] += lps[:3, :3] @ (np.array(array.shape) - 1)
        lps[:3, :3] *= -1
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image = SimpleITK.GetImageFromArray(np.ascontiguousarray(array.transpose(2, 1, 0)))
    image.SetSpacing(spacing.tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    SimpleITK.WriteImage(image, str(path), packed)
    return path


def anisotropic(affine: Array) -> Array:
    return affine @ np.diag([0.06, 0.06, 0.2, 1.0])


def in_ras(scan: Scan) -> Array:
    """The mask with axes to the right, front and top."""
    array = scan.volume.array > 0
    for axis in range(3):
        if scan.volume.affine[axis, axis] < 0:
            array = np.flip(array, axis)
    return array


def check(source: Source, whole: Array, defects: dict[str, Pair]) -> None:
    """Compare a source and its companions, read as another process would, with the truth."""
    source = pickle.loads(pickle.dumps(source))  # noqa: S301
    scan = source.read()
    assert scan.kind == "mask"
    np.testing.assert_array_equal(in_ras(scan), whole > 0)
    found = {(c.role, c.defect): c.read() for c in source.companions}
    assert set(found) == {(r, d) for d in defects for r in ("defective", "implant")}
    for (role, defect), companion in found.items():
        expected = defects[defect][("defective", "implant").index(role)]
        np.testing.assert_array_equal(in_ras(companion), expected > 0)
        np.testing.assert_allclose(companion.volume.affine, scan.volume.affine, atol=1e-4)


def subjects(found: Found) -> list[str]:
    return [source.subject for source in found.sources]


@pytest.fixture
def skullfix(tmp_path: Path, skull: Array, holed: Pair, affine: Array) -> Path:
    root = tmp_path / "SkullFix"
    for number, options in enumerate(({}, {"packed": False, "left": True})):
        matrix = anisotropic(affine) if number else affine
        kind = (np.uint8, np.int32)[number]
        for folder, mask in zip(
            ("complete_skull", "defective_skull", "implant"), (skull, *holed), strict=True
        ):
            file = root / "training_set" / folder / f"{number:03d}.nrrd"
            write_nrrd(file, mask.astype(kind), matrix, **options)
    write_nrrd(root / "test_set_give_participants" / "000.nrrd", holed[0], affine)
    write_nrrd(root / "additional_test_set_for_participants" / "100.nrrd", holed[0], affine)
    return root


def test_skullfix(skullfix: Path, skull: Array, holed: Pair) -> None:
    found = find_sources(skullfix)
    assert found.layout == "skullfix"
    assert subjects(found) == ["skullfix_training_000", "skullfix_training_001"]
    for source in found.sources:
        assert source.split == "train"
        assert len(source.files) == 3
        check(source, skull, {"": holed})
    assert found.sources[1].read().volume.spacing_mm == pytest.approx((0.42, 0.42, 1.4))
    assert [(r.subject, r.left_out) for r in found.refused] == [
        ("skullfix_additional_100", True),
        ("skullfix_test_000", True),
    ]
    assert found.refused[0].reason == (
        "a defective skull without its implant or the complete skull: there is no target to learn"
    )


def test_a_part_of_skullfix_keeps_its_names(skullfix: Path) -> None:
    found = find_sources(skullfix / "training_set")
    assert found.layout == "skullfix"
    assert subjects(found) == ["skullfix_training_000", "skullfix_training_001"]
    assert find_sources(skullfix / "training_set" / "complete_skull").layout == "skullfix"


@pytest.fixture
def skullbreak(tmp_path: Path, skull: Array, holed: Pair, affine: Array) -> Path:
    root = tmp_path / "SkullBreak"
    for part in ("skullbreak_training", "skullbreak_evaluation"):
        write_nrrd(root / part / "complete_skull" / "007.nrrd", skull * np.uint8(255), affine)
        for number, defect in enumerate(DEFECT_CLASSES):
            for folder, mask in zip(("defective_skull", "implant"), holed, strict=True):
                kind = (np.float32, np.uint8, np.int32, np.int16, np.float64)[number]
                write_nrrd(root / part / folder / defect / "007.nrrd", mask.astype(kind), affine)
    return root


def test_skullbreak(skullbreak: Path, skull: Array, holed: Pair) -> None:
    found = find_sources(skullbreak)
    assert found.layout == "skullbreak"
    assert found.refused == ()
    assert subjects(found) == ["skullbreak_test_007", "skullbreak_training_007"]
    assert [source.split for source in found.sources] == ["test", "train"]
    for source in found.sources:
        assert len(source.files) == 11
        check(source, skull, dict.fromkeys(DEFECT_CLASSES, holed))


def test_without_complete_skulls_the_union_is_taken(
    skullbreak: Path, skull: Array, holed: Pair
) -> None:
    root = skullbreak / "skullbreak_training"
    (root / "complete_skull" / "007.nrrd").unlink()
    (source,) = find_sources(root).sources
    check(source, skull, dict.fromkeys(DEFECT_CLASSES, holed))
    assert source.read().notes[0] == (
        "The complete skull is the union of the defective one and its implant."
    )


def test_a_companion_on_another_grid_is_refused(skullbreak: Path, skull: Array) -> None:
    root = skullbreak / "skullbreak_training"
    write_nrrd(root / "implant" / "bilateral" / "007.nrrd", skull[1:], np.eye(4))
    (source,) = find_sources(root).sources
    faulty = next(c for c in source.companions if (c.role, c.defect) == ("implant", "bilateral"))
    with pytest.raises(
        InputError,
        match=r"^implant/bilateral/007\.nrrd: 31x32x32 voxels, but its skull has 32x32x32: they "
        "must",
    ):
        faulty.read()


def test_a_companion_with_another_header_is_pointed_out(
    skullbreak: Path, holed: Pair, affine: Array
) -> None:
    root = skullbreak / "skullbreak_training"
    write_nrrd(root / "implant" / "bilateral" / "007.nrrd", holed[1], np.eye(4))
    (source,) = find_sources(root).sources
    scan = next(c for c in source.companions if c.role == "implant").read()
    assert scan.volume.affine == pytest.approx(affine, abs=1e-4)
    assert scan.notes == (
        "Its header gives another position than that of its skull; it was taken to have the same "
        "voxel grid.",
    )


def surface(mask: Array, affine: Array, path: Path, *, ras: bool = False) -> Path:
    mesh = matrix_to_marching_cubes(np.pad(mask, 1))
    points = (np.asarray(mesh.vertices) - 1) @ affine[:3, :3].T + affine[:3, 3]
    points = points if ras else points * [-1, -1, 1]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(trimesh.Trimesh(points, mesh.faces).export(file_type="stl"))
    return path


@pytest.fixture
def mug500(tmp_path: Path, skull: Array, holed: Pair, affine: Array) -> Path:
    root = tmp_path / "MUG500"
    for case in ("A0001", "A0002"):
        folder = root / "A0001-A0020" / case
        write_nrrd(folder / f"{case}.nrrd", skull, affine, left=True)
        surface(skull, affine, folder / f"{case}.stl")
        surface(skull, affine, folder / f"{case}_clear.stl")
        (folder / f"{case}.png").write_bytes(b"picture")
    surface(skull, affine, root / "A0021-A0030" / "A0021" / "A0021_clear.stl")
    for case, ras in (("B0001", False), ("B0002", True)):
        folder = root / "craniotomy_skull" / case
        write_nrrd(folder / f"{case}.nrrd", holed[0], affine)
        surface(holed[0], affine, folder / f"{case}.stl", ras=ras)
        surface(holed[1], affine, folder / f"{case}_implant.stl", ras=ras)
    return root


def packed(root: Path) -> Path:
    """Each folder as an archive next to it."""
    for folder in sorted(root.iterdir()):
        with zipfile.ZipFile(root / f"{folder.name}.zip", "w") as archive:
            for file in sorted(folder.rglob("*")):
                archive.write(file, file.relative_to(root))
        for file in sorted(folder.rglob("*"), reverse=True):
            file.rmdir() if file.is_dir() else file.unlink()
        folder.rmdir()
    return root


@pytest.mark.parametrize("archives", [False, True])
def test_mug500(archives: bool, mug500: Path, skull: Array, holed: Pair) -> None:
    root = packed(mug500) if archives else mug500
    found = find_sources(root)
    assert found.layout == "mug500"
    assert found.refused == ()
    names = ["A0001", "A0002", "A0021", "B0001", "B0002"]
    assert subjects(found) == [f"mug500_{name}" for name in names]
    for source in (found.sources[0], found.sources[1]):
        check(source, skull, {})
        assert source.origin.endswith(".nrrd")
    meshed = found.sources[2].read()
    assert found.sources[2].origin.endswith("A0021_clear.stl")
    volume = meshed.volume.array.sum() * np.prod(meshed.volume.spacing_mm)
    assert volume == pytest.approx(skull.sum() * 7.0**3, rel=0.2)  # corners are cut off
    for source, frame in zip(found.sources[3:], ("LPS", "RAS"), strict=True):
        check(source, skull, {"craniotomy": holed})
        implant = next(c for c in source.companions if c.role == "implant").read()
        assert implant.notes == (f"The mesh was taken as {frame}, where it fits its skull.",)


def test_a_single_archive_of_mug500(mug500: Path) -> None:
    root = packed(mug500)
    found = find_sources(root / "A0001-A0020.zip")
    assert found.layout == "mug500"
    assert subjects(found) == ["mug500_A0001", "mug500_A0002"]
    assert found.sources[0].origin == "A0001-A0020/A0001/A0001.nrrd"


def test_an_implant_that_lies_elsewhere(mug500: Path, holed: Pair, affine: Array) -> None:
    far = affine.copy()
    far[:3, 3] += 900
    surface(holed[1], far, mug500 / "craniotomy_skull" / "B0001" / "B0001_implant.stl")
    source = next(s for s in find_sources(mug500).sources if s.subject == "mug500_B0001")
    with pytest.raises(
        InputError, match=r"the mesh is outside the volume of its skull, both as LPS"
    ):
        source.read()


@pytest.mark.parametrize("folders", [False, True])
def test_scidata2021(
    folders: bool, tmp_path: Path, skull: Array, holed: Pair, affine: Array
) -> None:
    for case in ("Case01", "Case02"):
        below = tmp_path / "data" / case if folders else tmp_path / "data"
        write_nrrd(below / f"{case}.nrrd", skull.astype(np.float64), affine)
        for number in ("01", "02"):
            for kind, mask in zip(("Defects", "Implants"), holed, strict=True):
                folder = below / kind if folders else below
                name = f"{number}.nrrd" if folders else f"{case}_{kind}{number}.nrrd"
                write_nrrd(folder / name, mask.astype(np.float64), affine)
    found = find_sources(tmp_path / "data")
    assert found.layout == "scidata2021"
    assert found.refused == ()
    assert subjects(found) == ["scidata2021_case01", "scidata2021_case02"]
    for source in found.sources:
        check(source, skull, {"defect_01": holed, "defect_02": holed})


def test_what_is_no_part_of_a_collection_is_told(
    mug500: Path, save: Callable[..., Path], skull: Array
) -> None:
    save(mug500 / "other.nrrd", skull)
    (refused,) = find_sources(mug500).refused
    assert refused.reason == "not a part of the layout mug500: prepare it separately"
    assert refused.origin == "other.nrrd"


def test_a_layout_can_be_named(mug500: Path) -> None:
    found = find_sources(mug500 / "A0001-A0020", layout="folder")
    assert found.layout == "folder"
    assert "mug500" not in str(subjects(found))
    with pytest.raises(InputError, match=r"it contains nothing with the layout skullbreak: leave"):
        find_sources(mug500, layout="skullbreak")
    with pytest.raises(InputError, match=r"layout 'mug' is none of auto, folder, dicom, skullfix"):
        find_sources(mug500, layout="mug")  # type: ignore[arg-type]


def test_masks_in_a_folder_are_no_collection(
    tmp_path: Path, save: Callable[..., Path], skull: Array
) -> None:
    for name in ("anna.nrrd", "ben.nii.gz", "A0001.nrrd"):
        save(tmp_path / "masks" / name, skull)
    assert find_sources(tmp_path / "masks").layout == "folder"
