"""`famseg defects`, and the evaluation of a run on its files."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from command import Run
from typer.testing import CliRunner

from famseg.cli._main import app
from famseg.datasets import phantom, read_fixed_set
from famseg.messages import InputError
from famseg.volumes import Volume, read_volume, write_volume

AFFINE = np.diag([7.0, 7.0, 7.0, 1.0])
SUBJECTS = 6


@pytest.fixture(scope="module")
def skulls(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six phantoms of 32 voxels of 7 mm."""
    root = tmp_path_factory.mktemp("skulls")
    for k in range(SUBJECTS):
        write_volume(Volume(phantom(k, 0, 32), AFFINE), root / f"s{k}.nii.gz")
    return root


def defects(*arguments: object) -> Result:
    """Run the command in this process; importing in a new one takes seconds."""
    return CliRunner().invoke(app, ["defects", *map(str, arguments)])


def fault(*arguments: object) -> str:
    """Return the single line of the command's error."""
    done = defects(*arguments)
    assert done.stdout == ""
    assert isinstance(done.exception, InputError), done.exception
    (line,) = done.exception.faults
    return line


def test_a_set_is_written_and_said(skulls: Path, tmp_path: Path) -> None:
    done = defects(skulls, "--out", tmp_path / "set", "--classes", "bilateral,random_1")
    assert (done.exit_code, done.stderr) == (0, "")
    fixed = read_fixed_set(tmp_path / "set")
    assert len(fixed.cases) == 2 * SUBJECTS
    assert "12 defects in 6 skulls; not cut: 0" in done.stdout
    assert fixed.sha256 in done.stdout
    again = defects(
        skulls, "--out", tmp_path / "set", "--classes", "bilateral", "--classes", "random_1"
    )
    assert "12 defects in 6 skulls, 12 of them existed already; not cut: 0" in again.stdout


def test_json_and_options(skulls: Path, tmp_path: Path) -> None:
    done = defects(
        skulls,
        "--out",
        tmp_path / "set",
        "--classes=parietotemporal",
        "--per-subject=2",
        "--area-cm2=30,40",
        "--spread=lognormal",
        "--roughness-mm=2",
        "--seed=3",
        "--pattern=s[01]*",
        "--json",
    )
    content = json.loads(done.stdout)
    area = content["classes"]["parietotemporal"]["area_cm2"]
    assert content["classes"]["parietotemporal"]["n"] == content["holes"] == 4
    assert 27 <= area["min"] <= area["mean"] <= area["max"] <= 44
    assert content["failed"] == []
    settings = json.loads((tmp_path / "set" / "defects.json").read_text())
    assert (settings["seed"], settings["per_subject"], settings["roughness_mm"]) == (3, 2, 2.0)
    assert (settings["spread"], settings["area_cm2"]) == ("lognormal", [30.0, 40.0])


def test_what_could_not_be_cut_is_listed_and_the_status_says_so(tmp_path: Path) -> None:
    cut = phantom(0, 0)
    cut[:, :, 40:] = 0
    fine = np.diag([3.5, 3.5, 3.5, 1.0])
    (tmp_path / "in").mkdir()
    write_volume(Volume(cut, fine), tmp_path / "in" / "cut.nii.gz")
    write_volume(Volume(np.zeros_like(cut), fine), tmp_path / "in" / "empty.nii.gz")
    write_volume(Volume(phantom(1, 0), fine), tmp_path / "in" / "whole.nii.gz")
    options = "--out", tmp_path / "set", "--classes=frontoorbital", "--area-cm2=60,70"
    done = defects(tmp_path / "in", *options)
    assert done.exit_code == 1
    first, second = done.stderr.splitlines()
    assert first.startswith("famseg: not cut: cut frontoorbital: no frontoorbital defect of 60 to")
    assert second.startswith("famseg: not cut: empty: ")
    assert second.endswith("empty.nii.gz: the mask is all zero: there is no bone in it")
    assert [case.subject for case in read_fixed_set(tmp_path / "set").cases] == ["whole"]
    (tmp_path / "in" / "whole.nii.gz").unlink()
    (tmp_path / "in" / "cut.nii.gz").unlink()
    assert "empty.nii.gz: the mask is all zero" in fault(
        tmp_path / "in", "--out", tmp_path / "none", "--classes=frontoorbital"
    )


def test_a_manifest_says_which_skulls(skulls: Path, tmp_path: Path) -> None:
    manifest = tmp_path / "few.csv"
    manifest.write_text(f"subject,file,sha256,split\nanna,{skulls / 's2.nii.gz'},,\n")
    done = defects(manifest, "--out", tmp_path / "set", "--classes=random_2", "--json")
    assert json.loads(done.stdout)["holes"] == 1
    assert (tmp_path / "set" / "region" / "random_2" / "anna.nii.gz").is_file()


def test_incomplete_skulls_are_left_out_and_flags_choose(skulls: Path, tmp_path: Path) -> None:
    manifest = tmp_path / "few.csv"
    flags = ("cut_vault", "metal", "")
    rows = "".join(f"s{k},{skulls}/s{k}.nii.gz,,,{flag}\n" for k, flag in enumerate(flags))
    manifest.write_text(f"subject,file,sha256,split,flags\n{rows}")
    out = "--out", tmp_path / "set", "--classes=random_2"
    done = defects(manifest, *out)
    assert "2 defects in 2 skulls; not cut: 0" in done.stdout
    assert done.stdout.endswith(
        "\n1 of 3 subjects is not used as a target: 1 with cut_vault. To use them: --include "
        "cut_vault.\n"
    )
    options = "--exclude=metal", "--include=cut_vault", "--json"
    content = json.loads(defects(manifest, *out, *options).stdout)
    assert (content["holes"], content["left_out"]) == (2, {"s1": ["metal"]})
    assert fault(manifest, *out, "--exclude=metall") == (
        "--exclude: there is no flag 'metall': did you mean metal?"
    )


def test_faulty_arguments(skulls: Path, tmp_path: Path) -> None:
    out = "--out", tmp_path / "set"
    assert fault(tmp_path / "nowhere", *out).startswith(f"{tmp_path / 'nowhere'}: there is no such")
    assert (
        fault(skulls, *out, "--area-cm2=20")
        == "--area-cm2: must be two numbers, such as 20,80; got '20'"
    )
    assert fault(skulls, *out, "--classes=top").startswith("classes: top: choose from bilateral,")
    assert "roughness_mm 9 must be 0 to 5" in fault(skulls, *out, "--roughness-mm=9")
    assert not (tmp_path / "set").exists()
    defects(skulls, *out, "--classes=random_1", "--pattern=s0*")
    assert fault(skulls, *out, "--classes=random_1", "--seed=1") == (
        f"{tmp_path / 'set'}: contains a set that was made with other settings (seed; see "
        "defects.json): choose another folder"
    )


@pytest.mark.nightly
@pytest.mark.slow
def test_a_run_is_evaluated_on_exactly_the_holes_of_the_files(
    skulls: Path, tmp_path: Path, famseg: Run
) -> None:
    root = tmp_path / "holes"
    classes = "frontoorbital,parietotemporal"
    sha256 = json.loads(defects(skulls, "--out", root, f"--classes={classes}", "--json").stdout)[
        "sha256"
    ]
    done = famseg(
        "train",
        "--config=smoke/skull",
        f"data.root={skulls}",
        f"defects.set1={{kind: files, root: {root}, sha256: {sha256}}}",
        "defects.train={kind: skullbreak}",
        "defects.set2={kind: region, where: bilateral}",
        "--json",
    )
    assert done.returncode == 0, done.stderr
    folder = tmp_path / json.loads(done.stdout)["folder"]
    with (folder / "evaluation" / "cases.csv").open() as stream:
        rows = [row for row in csv.DictReader(stream) if row["set"] == "set1"]
    found = {row["subject"]: int(row["truth_voxels"]) for row in rows if row["region"] == "implant"}
    fixed = read_fixed_set(root)
    wanted = {
        name: int(read_volume(root / case.implant).array.sum())
        for name, case in zip(fixed.names(), fixed.cases, strict=True)
    }
    assert len(found) == 4  # two subjects of the test split, two classes
    assert found == {name: wanted[name] for name in found}
    assert f"sha256: {sha256}" in (folder / "config.yaml").read_text()
