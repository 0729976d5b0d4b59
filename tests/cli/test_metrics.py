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
from famseg.messages import InputError
from famseg.metrics import SCORES, score
from famseg.statistics import bootstrap_interval
from famseg.volumes import Volume, write_volume

AFFINE = np.diag([1.0, 1.0, 2.0, 1.0])


def write(path: Path, mask: np.ndarray, affine: np.ndarray = AFFINE) -> None:
    path.parent.mkdir(exist_ok=True)
    write_volume(Volume(mask, affine), path)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three cases, the last one missed: implants and their skulls."""
    truth = np.zeros((20, 20, 20), dtype=bool)
    truth[4:10, 4:9, 4:8] = True
    skull = np.zeros_like(truth)
    skull[2:12, 2:11, 2:10] = True
    skull &= ~truth
    for case in range(3):
        prediction = np.roll(truth, case, axis=0) if case < 2 else np.zeros_like(truth)
        write(tmp_path / "pred" / f"{case}.nrrd", prediction)
        write(tmp_path / "truth" / f"{case}.nii.gz", truth)
        write(tmp_path / "skull" / f"{case}.mha", skull)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def metrics(*arguments: str) -> Result:
    """Run the command in this process; importing in a new one takes seconds."""
    return CliRunner().invoke(app, ["metrics", *arguments])


def fault(*arguments: str) -> str:
    """Return the single line of the command's error."""
    done = metrics(*arguments)
    assert done.stdout == ""
    assert isinstance(done.exception, InputError), done.exception
    (line,) = done.exception.faults
    return line


def test_two_folders_are_scored_by_name(root: Path) -> None:
    done = metrics("pred", "truth", "--defective", "skull")
    assert (done.exit_code, done.stderr) == (0, "")
    header, *cases = done.stdout.splitlines()[:4]
    columns = "case DSC bDSC HD HD95 ASSD NSD volume pieces rough"
    assert header.split() == columns.split()
    assert cases[0].split()[:7] == ["0", "1.000", "1.000", "0.00", "0.00", "0.00", "1.000"]
    assert cases[1].split()[:4] == ["1", "0.833", "0.833", "1.00"]
    assert cases[2].split()[1:4] == ["0.000", "0.000", "48.99"]
    assert cases[2].endswith("failed")
    mean = bootstrap_interval([1, 5 / 6, 0], [0, 0, 1]).text()
    assert f"dsc                         {mean}" in done.stdout
    assert done.stdout.count("(n 3, failed 1)") == len(SCORES)
    assert "failed: one of the masks is empty; it is included in the means" in done.stdout


def test_json_and_csv_hold_the_scores_with_every_digit(root: Path) -> None:
    done = metrics("pred", "truth", "--defective", "skull", "--json", "--csv", "scores.csv")
    content = json.loads(done.stdout)
    assert content["not_scored"] == []
    masks = [np.zeros((20, 20, 20), dtype=bool) for _ in range(2)]
    masks[0][5:11, 4:9, 4:8] = masks[1][4:10, 4:9, 4:8] = True
    wanted = score(*masks, (1, 1, 2))
    case = content["cases"][1]
    assert (case["case"], case["label"], case["failed"]) == ("1", None, False)
    for name in ("dsc", "hd_mm", "hd95_mm", "assd_mm", "volume_ml", "components"):
        assert case[name] == getattr(wanted, name)
    (dsc,) = [each for each in content["summary"] if each["metric"] == "dsc"]
    assert dsc["mean"] == pytest.approx(11 / 18)
    assert dsc["low"] < dsc["mean"] < dsc["high"]
    assert (dsc["n"], dsc["failed"]) == (3, 1)
    with Path("scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["case"] for row in rows] == ["0", "1", "2"]
    assert [float(row["hd95_mm"]) for row in rows] == [c["hd95_mm"] for c in content["cases"]]
    assert [row["failed"] for row in rows] == ["False", "False", "True"]


def test_two_files_are_one_case(root: Path) -> None:
    done = metrics("pred/1.nrrd", "truth/0.nii.gz", "--tolerance-mm", "0.5", "--json")
    (case,) = json.loads(done.stdout)["cases"]
    assert (case["case"], case["tolerance_mm"], case["bdsc"]) == ("1", 0.5, None)
    assert case["roughness_mm"] is None
    assert case["nsd"] < 1
    implant = metrics("pred/1.nrrd", "truth/0.nii.gz", "--kind", "implant", "--json")
    assert json.loads(implant.stdout)["cases"][0]["roughness_mm"] > 0


def test_another_grid_is_resampled_on_request(root: Path) -> None:
    moved = AFFINE.copy()
    moved[0, 3] = 1
    mask = np.zeros((20, 20, 20), dtype=bool)
    mask[3:9, 4:9, 4:8] = True
    write(root / "moved.nrrd", mask, moved)
    assert "or fix the header that is wrong" in fault("moved.nrrd", "truth/0.nii.gz")
    done = metrics("moved.nrrd", "truth/0.nii.gz", "--resample", "--tolerance-mm", "0", "--json")
    (case,) = json.loads(done.stdout)["cases"]
    assert (case["dsc"], case["hd_mm"], case["nsd"]) == (1.0, 0.0, 1.0)


def test_what_cannot_be_scored_is_listed_and_the_rest_goes_on(root: Path) -> None:
    mask = np.ones((20, 20, 19), dtype=bool)
    write(root / "pred" / "3.nrrd", mask)
    write(root / "truth" / "3.nrrd", np.ones((20, 20, 20), dtype=bool))
    (root / "pred" / "4.nrrd").write_bytes(b"NRRD0004\n")
    write(root / "truth" / "4.nrrd", mask)
    write(root / "truth" / "5.nrrd", mask)
    done = metrics("pred", "truth", "--json")
    assert done.exit_code == 1
    content = json.loads(done.stdout)
    assert [case["case"] for case in content["cases"]] == ["0", "1", "2"]
    assert len(content["not_scored"]) == 3
    lines = done.stderr.splitlines()
    assert lines[0] == "famseg: not scored: truth/5.nrrd: no prediction with this name"
    assert "pred/3.nrrd: is not on the grid of truth/3.nrrd: shape 20 x 20 x 19" in lines[1]
    assert lines[2].startswith("famseg: not scored: pred/4.nrrd: ")


def test_nothing_scored_is_faulty_input(root: Path) -> None:
    write(root / "other" / "0.nrrd", np.ones((3, 3, 3), dtype=bool))
    assert fault("other", "truth/0.nii.gz").startswith("truth/0.nii.gz: is a file, but another")
    line = fault("other/0.nrrd", "truth/0.nii.gz")
    assert line.startswith("other/0.nrrd: is not on the grid of truth/0.nii.gz: shape 3 x 3")


def test_a_rule_for_empty_masks_can_be_chosen(root: Path) -> None:
    done = metrics("pred", "truth", "--empty", "nan", "--json", "--csv", "scores.csv")
    content = json.loads(done.stdout)
    assert content["cases"][2]["hd_mm"] is None
    (hd,) = [each for each in content["summary"] if each["metric"] == "hd_mm"]
    assert (hd["mean"], hd["undefined"], hd["failed"]) == (None, 1, 1)
    assert hd["text"] == "no mean: undefined in 1 (n 3, failed 1)"
    assert ",nan," in Path("scores.csv").read_text().splitlines()[3]
    done = metrics("pred", "truth", "--empty", "raise")
    assert done.exit_code == 1
    assert done.stderr.startswith("famseg: not scored: pred/2.nrrd: prediction is empty.")


def test_labels_have_rows_and_figures_of_their_own(root: Path) -> None:
    labels = np.zeros((20, 20, 20), dtype=np.uint8)
    labels[2:6], labels[8:12] = 1, 2
    for case in range(2):
        write(root / "a" / f"{case}.nrrd", np.roll(labels, case, axis=1))
        write(root / "b" / f"{case}.nrrd", labels)
    done = metrics("a", "b", "--labels", "all")
    assert [line.split()[:2] for line in done.stdout.splitlines()[1:5]] == [
        [case, label] for case in "01" for label in "12"
    ]
    assert "  label 2  dsc " in done.stdout
    one = json.loads(metrics("a", "b", "--labels", "2,7", "--json").stdout)
    assert {case["label"] for case in one["cases"]} == {2, 7}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--labels", "one"), "--labels: must be all or whole numbers, such as 1,2; got 'one'"),
        (
            ("--labels", "1", "--defective", "skull"),
            "--defective: cannot be combined with --labels",
        ),
        (("--tolerance-mm", "-1"), "--tolerance-mm: must be a length in mm, 0 or more, got -1"),
        (("--csv", "none/scores.csv"), "none/scores.csv: cannot be written: check that its"),
        (("--csv", "pred"), "pred: cannot be written: check that its"),
    ],
)
def test_faulty_options_are_one_line(root: Path, arguments: tuple[str, ...], said: str) -> None:
    assert fault("pred", "truth", *arguments).startswith(said)


@pytest.mark.slow
def test_the_command_by_itself(root: Path, famseg: Run) -> None:
    done = famseg("metrics", "pred", "truth", cwd=root)
    assert (done.returncode, done.stderr) == (0, "")
    write(root / "truth" / "9.nrrd", np.ones((3, 3, 3), dtype=bool))
    assert famseg("metrics", "pred", "truth", cwd=root).returncode == 1
    missing = famseg("metrics", "pred", "nowhere", cwd=root)
    assert missing.returncode == 2
    assert missing.stderr == "famseg: nowhere: there is no such file or folder\n"


@pytest.mark.slow
def test_real_skulls(root: Path, real_data: Path) -> None:
    """Two complete heads on one grid are far apart, but not farther than the grid's width."""
    heads = sorted((real_data / "skulls" / "heads128").glob("*.nii.gz"))[:2]
    from famseg.volumes import read_volume

    other = read_volume(heads[1])
    write(root / "one.nii.gz", read_volume(heads[0]).array, other.affine)
    (case,) = json.loads(metrics("one.nii.gz", str(heads[1]), "--json").stdout)["cases"]
    assert 0.1 < case["dsc"] < 0.9
    assert 1.75 < case["hd95_mm"] < case["hd_mm"] < 128 * 1.75
    assert case["bdsc"] is None
