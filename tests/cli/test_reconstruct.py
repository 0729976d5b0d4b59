"""`famseg reconstruct` with the built-in model, on phantoms with a hole."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK
from click.testing import Result
from numpy.typing import NDArray
from typer.testing import CliRunner

from famseg.cli._main import app
from famseg.datasets import RegionDefect, inject, phantom
from famseg.meshes import read_mesh
from famseg.messages import InputError
from famseg.volumes import Volume, read_volume, write_volume

SIZE, SPACING_MM = 96, 2.4
AFFINE = np.diag([SPACING_MM] * 3 + [1.0])
AFFINE[:3, 3] = (-110, -108, 12)


def reconstruct(*arguments: str | Path) -> Result:
    """Run the command in this process."""
    return CliRunner().invoke(app, ["reconstruct", "builtin", *map(str, arguments)])


def faults(done: Result) -> tuple[str, ...]:
    assert isinstance(done.exception, InputError), done.exception
    return done.exception.faults


def holed(subject: int = 0) -> NDArray[np.uint8]:
    skull = phantom(subject, 0, SIZE, SPACING_MM)
    defect = RegionDefect("random_1", area_cm2=(22, 25))  # small: quick
    return inject(skull, defect, (SPACING_MM,) * 3, np.random.default_rng(1))[0]


def digests(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file() and path.name[0] != ".")
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    """One skull with a hole, reconstructed once with all optional files."""
    folder = tmp_path_factory.mktemp("run")
    write_volume(Volume(holed(), AFFINE), folder / "head.nrrd")
    done = reconstruct(folder / "head.nrrd", "--out", folder / "out", "--seg-nrrd", "--json")
    assert done.exit_code == 0, done.exception
    return folder, done


@pytest.mark.slow
def test_a_skull_gets_volumes_meshes_and_a_record(run: tuple[Path, Result]) -> None:
    folder, done = run
    out = folder / "out" / "head"
    assert sorted(path.name for path in out.iterdir()) == [
        "agreement.nrrd",
        "case.json",
        "completed.nrrd",
        "implant.nrrd",
        "implant.ply",
        "implant.stl",
        "reconstruction.3mf",
        "segmentation.seg.nrrd",
        "skull.ply",
        "skull.stl",
    ]
    case: dict[str, Any] = json.loads((out / "case.json").read_text())
    assert json.loads(done.stdout)["cases"][0]["case"] == case
    assert case["files"] == {k: v for k, v in digests(out).items() if k != "case.json"}
    assert case["implant"]["watertight"]
    assert case["gap_mm"]["requested"] == 0.5
    assert case["gap_mm"]["p1"] >= 0.4
    assert case["defect"]["left_open_cm2"] == 0
    assert 0 < case["confidence"]["value"] <= 1
    assert np.linalg.norm(case["insertion"]["direction_ras"]) == pytest.approx(1, abs=1e-4)
    thick = case["implant"]["thickness_mm"]
    assert thick["min"] <= thick["p5"] <= thick["median"] < 15


@pytest.mark.slow
def test_implant_and_input_are_the_completed_skull(run: tuple[Path, Result]) -> None:
    folder, _ = run
    given = read_volume(folder / "head.nrrd")
    completed, implant = (
        read_volume(folder / "out" / "head" / f"{name}.nrrd") for name in ("completed", "implant")
    )
    for each in (completed, implant):
        assert each.array.shape == given.array.shape
        assert each.affine == pytest.approx(given.affine, abs=1e-6)
    assert not (implant.array & given.array).any()
    assert (completed.array == (implant.array | given.array)).all()
    mesh = read_mesh(folder / "out" / "head" / "implant.stl")
    voxels_mm3 = implant.array.sum() * SPACING_MM**3
    assert mesh.volume_mm3 == pytest.approx(voxels_mm3, rel=0.1)
    # The implant is where the hole is, in mm of the world of the input.
    removed = (phantom(0, 0, SIZE, SPACING_MM) > 0) & (given.array == 0)
    middle = AFFINE[:3, :3] @ np.argwhere(removed).mean(axis=0) + AFFINE[:3, 3]
    assert np.linalg.norm(mesh.centroid_mm - middle) < 8
    both = 2 * (removed & (implant.array > 0)).sum() / (removed.sum() + implant.array.sum())
    assert both > 0.6


@pytest.mark.slow
def test_the_segmentation_names_its_parts(run: tuple[Path, Result]) -> None:
    folder, _ = run
    reader = SimpleITK.ImageFileReader()
    reader.SetFileName(str(folder / "out" / "head" / "segmentation.seg.nrrd"))
    labels = SimpleITK.GetArrayFromImage(reader.Execute()).transpose(2, 1, 0)
    implant = read_volume(folder / "out" / "head" / "implant.nrrd").array
    assert ((labels == 2) == (implant > 0)).all()
    assert ((labels == 1) == (read_volume(folder / "head.nrrd").array > 0)).all()
    names = [reader.GetMetaData(f"Segment{k}_Name") for k in (0, 1)]
    assert names == ["skull", "implant"]
    given = SimpleITK.ReadImage(str(folder / "head.nrrd"))
    assert reader.GetOrigin() == pytest.approx(given.GetOrigin())
    assert reader.GetDirection() == pytest.approx(given.GetDirection())


@pytest.mark.slow
def test_what_is_done_is_not_done_again_and_the_same_gives_the_same_bytes(
    run: tuple[Path, Result], tmp_path: Path
) -> None:
    folder, _ = run
    shutil.copytree(folder / "out", tmp_path / "out")
    before = digests(tmp_path / "out" / "head")
    options = ("--out", tmp_path / "out", "--seg-nrrd", "--json")
    again = reconstruct(folder / "head.nrrd", *options)
    assert json.loads(again.stdout)["cases"][0]["status"] == "unchanged"
    (tmp_path / "out" / "head" / "implant.stl").write_bytes(b"cut short")
    redone = reconstruct(folder / "head.nrrd", *options)
    assert json.loads(redone.stdout)["cases"][0]["status"] == "done"
    assert digests(tmp_path / "out" / "head") == before
    fewer = reconstruct(folder / "head.nrrd", "--out", tmp_path / "out", "--format", "stl")
    assert fewer.exit_code == 0, fewer.exception
    kept = sorted(path.name for path in (tmp_path / "out" / "head").glob("*.*"))
    assert [name for name in kept if not name.endswith(".nrrd")] == [
        "case.json",
        "implant.stl",
        "skull.stl",
    ]
    assert "segmentation.seg.nrrd" not in kept, "nothing of other options stays"


@pytest.fixture
def bad(tmp_path: Path) -> Path:
    """Inputs for which no implant can be made."""
    folder = tmp_path / "bad"
    folder.mkdir()
    noise = np.random.default_rng(0).random((64, 64, 64)) < 0.2
    skull = phantom(1, 0, 64)
    coarse = AFFINE @ np.diag([1.46, 1.46, 1.46, 1.0])
    volumes = {
        "cut": skull[:, :, :48],
        "empty": np.zeros_like(skull),
        "intact": skull,
        "noise": noise.astype(np.uint8),
    }
    for name, array in volumes.items():
        write_volume(Volume(array, coarse), folder / f"{name}.nii.gz")
    (folder / "broken.nii.gz").write_bytes(b"no volume")
    return folder


@pytest.mark.slow
def test_each_input_without_a_defect_gets_one_line(bad: Path, tmp_path: Path) -> None:
    done = reconstruct(bad, "--out", tmp_path / "out")
    lines = faults(done)
    assert [line.split(":")[0] for line in lines] == ["broken", "cut", "empty", "intact", "noise"]
    assert "the vault is cut off by the border of the scan" in lines[1]
    assert "the mask is all zero" in lines[2]
    assert "no defect was found: the vault is whole" in lines[3]
    assert not list((tmp_path / "out").rglob("*.stl")), "no empty meshes"


@pytest.mark.slow
def test_bad_inputs_beside_a_good_one_end_with_1(
    bad: Path, run: tuple[Path, Result], tmp_path: Path
) -> None:
    shutil.copytree(run[0] / "out", tmp_path / "out")
    options = ("--out", tmp_path / "out", "--seg-nrrd", "--report")
    done = reconstruct(run[0] / "head.nrrd", bad / "empty.nii.gz", *options)
    assert done.exit_code == 1
    page = tmp_path / "out" / "report.html"
    assert f"report: {page.as_uri()}" in done.stdout
    assert "empty failed: " in page.read_text()
    assert "Reconstruction of head" in (tmp_path / "out" / "head" / "report.html").read_text()
    assert "reconstructed 1 of 2 (unchanged: 1), failed: 1, refused: 0" in done.stdout
    assert "2/2  empty  failed: " in done.stderr
    assert "For research only: not a medical device." in done.stdout


def test_a_single_input_that_fails_is_told_once(tmp_path: Path) -> None:
    head = tmp_path / "head.nii.gz"
    write_volume(Volume(np.zeros((32, 32, 32), np.uint8), np.diag([7.0, 7, 7, 1])), head)
    done = reconstruct(head, "--out", tmp_path / "out")
    assert faults(done) == ("head: the mask is all zero: there is no bone in it",)
    assert "failed" not in done.stderr


def test_wrong_arguments_are_refused_before_anything_is_read(tmp_path: Path) -> None:
    head = tmp_path / "head.nii.gz"
    assert faults(reconstruct(head, "--out", tmp_path / "out")) == (
        f"{head}: there is no such file or folder",
    )
    assert faults(reconstruct(head, "--out", "out", "--gap", "9", "--min-thickness", "-1")) == (
        "--gap 9: give 0 to 5 mm",
        "--min-thickness -1: give 0 to 10 mm",
    )
    assert faults(reconstruct(head, "--out", "out", "--format", "stl,obj")) == (
        "--format: obj: meshes are written as stl, ply, 3mf",
    )
    write_volume(Volume(phantom(0, 0, 32), np.diag([7.0, 7, 7, 1])), head)
    assert faults(reconstruct(head, "--out", tmp_path / "out", "--device", "tpu")) == (
        "training.device: must be auto, cpu, cuda or cuda:N, got tpu",
    )
    done = CliRunner().invoke(app, ["predict", "none", str(head), "--out", str(tmp_path / "out")])
    assert "there is no such model" in faults(done)[0]
