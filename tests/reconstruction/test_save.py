from __future__ import annotations

import hashlib
import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from famseg.meshes import read_mesh, surface_mesh
from famseg.messages import InputError
from famseg.reconstruction._save import CASE, Outputs, Result, save_case
from famseg.reconstruction._seg_nrrd import seg_nrrd
from famseg.volumes import read_volume

sys.path.insert(0, str(Path(__file__).parents[1] / "preparation"))

from dicom_maker import PERSONAL, Series, ct  # found through the line above

FACTS: dict[str, Any] = {"name": "head", "warnings": []}
STATED = {"PatientName": "Mustermann^Erika", "PatientID": "PID4711"}


@pytest.fixture(scope="module")
def result() -> Result:
    """A plate with a hole in it and a plug, on an oblique grid."""
    bone = np.zeros((30, 32, 12), dtype=bool)
    bone[4:26, 4:28, 4:8] = True
    bone[10:20, 10:22] = False
    implant = np.zeros_like(bone)
    implant[11:19, 11:21, 4:8] = True
    angle = np.deg2rad(20)
    affine = np.eye(4)
    affine[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    affine[:3, :3] *= [0.5, 0.5, 1.25]
    affine[:3, 3] = (-20, 30, 5)
    return Result(
        completed=bone | implant,
        implant=implant,
        agreement=np.linspace(0, 100, bone.size).astype(np.uint8).reshape(bone.shape),
        affine=affine,
        implant_mesh=surface_mesh(implant, affine),
        skull_mesh=surface_mesh(bone, affine),
        case={},
    )


@pytest.mark.parametrize("ending", [".nii", ".nii.gz", ".nrrd", ".mha"])
def test_volumes_have_the_grid_and_the_format_of_the_input(
    result: Result, tmp_path: Path, ending: str
) -> None:
    save_case(result, tmp_path, Outputs(("stl",)), facts=FACTS, ending=ending)
    for name, array in (("completed", result.completed), ("implant", result.implant)):
        volume = read_volume(tmp_path / f"{name}{ending}")
        assert (volume.array == array).all()
        assert volume.array.dtype == np.uint8
        assert volume.affine == pytest.approx(result.affine, abs=1e-5)
    percent = read_volume(tmp_path / f"agreement{ending}").array
    assert (percent == result.agreement).all()


@pytest.mark.parametrize("space", ["RAS", "LPS"])
def test_meshes_lie_where_the_volumes_lie(result: Result, tmp_path: Path, space: Any) -> None:
    save_case(result, tmp_path, Outputs(), facts=FACTS, space=space)
    for name in ("implant.stl", "implant.ply"):
        mesh = read_mesh(tmp_path / name)
        assert mesh.centroid_mm == pytest.approx(result.implant_mesh.centroid_mm, abs=1e-3)
    assert f"SPACE={space}".encode() in (tmp_path / "implant.stl").read_bytes()[:80]
    assert (tmp_path / "reconstruction.3mf").is_file()


def test_the_record_is_last_and_has_all_hashes(result: Result, tmp_path: Path) -> None:
    case = save_case(result, tmp_path, Outputs(seg_nrrd=True), facts=FACTS, extra={"a.bin": b"1"})
    names = {path.name for path in tmp_path.iterdir()} - {CASE}
    assert set(case["files"]) == names
    for name in names:
        digest = hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()
        assert case["files"][name] == digest


def test_a_kill_while_files_are_written_leaves_no_record(
    result: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_case(result, tmp_path, Outputs(("stl",)), facts=FACTS)

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("famseg.reconstruction._save.write_mesh", killed)
    with pytest.raises(KeyboardInterrupt):
        save_case(result, tmp_path, Outputs(("stl",)), facts=FACTS)
    assert not (tmp_path / CASE).exists()


def test_the_same_result_gives_the_same_bytes(result: Result, tmp_path: Path) -> None:
    for name in ("a", "b"):
        save_case(result, tmp_path / name, Outputs(seg_nrrd=True), facts=FACTS)
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes(), path.name


def test_formats_that_do_not_exist_are_refused() -> None:
    with pytest.raises(InputError, match="--format: obj: meshes are written as stl, ply, 3mf"):
        Outputs(("obj",))  # type: ignore[arg-type]


def test_segments_have_names_extents_and_a_place(result: Result) -> None:
    text = seg_nrrd({"skull": result.completed, "implant": result.implant}, result.affine)
    head = text.partition(b"\n\n")[0].decode()
    assert "Segment1_Name:=implant" in head
    assert "Segment1_Extent:=11 18 11 20 4 7" in head
    assert "Segment1_LabelValue:=2" in head
    assert "space origin: (20,-30,5)" in head


@pytest.fixture
def series(tmp_path: Path) -> Series:
    made = ct(2, tags=dict(PERSONAL))
    made.write(tmp_path / "series")
    return made


def test_a_dicom_segmentation_lies_on_the_slices_of_its_series(
    series: Series, tmp_path: Path
) -> None:
    highdicom = pytest.importorskip("highdicom", reason="highdicom is not installed")
    import pydicom

    from famseg.reconstruction._dicom_seg import dicom_seg, on_slices, plan_of
    from famseg.reconstruction._inputs import find_inputs

    source = find_inputs([tmp_path / "series"]).found[0].source
    plan = plan_of(source)
    assert plan is not None
    assert on_slices(plan)
    volume = source.read().volume
    implant = np.zeros(volume.array.shape, dtype=bool)
    implant[30:36, 28:33, 20:24] = True
    parts = {"skull": (volume.array > 226) & ~implant, "implant": implant}
    content = dicom_seg(plan, parts, volume.affine)
    assert content == dicom_seg(plan, parts, volume.affine), "the same bytes"
    found = pydicom.dcmread(io.BytesIO(content))
    assert found.PatientID == PERSONAL["PatientID"], "the standard asks for it"
    assert found.StudyInstanceUID == series.study_uid
    assert [part.SegmentLabel for part in found.SegmentSequence] == ["skull", "implant"]
    assert PERSONAL["InstitutionName"].encode() not in content
    assert PERSONAL["PatientAddress"].encode() not in content
    read = highdicom.seg.Segmentation.from_dataset(found).get_volume(segment_numbers=[2])
    index = np.argwhere(read.array[..., 0])
    lps = index @ read.affine[:3, :3].T + read.affine[:3, 3]
    ras = np.argwhere(implant) @ volume.affine[:3, :3].T + volume.affine[:3, 3]
    assert sorted(map(tuple, lps.round(3))) == sorted(map(tuple, (ras * [-1, -1, 1]).round(3)))
