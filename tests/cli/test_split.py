from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from command import Run
from typer.testing import CliRunner

from famseg.cli._main import app
from famseg.datasets import phantom, read_manifest, scan_folder, write_manifest
from famseg.messages import InputError
from famseg.volumes import Volume, write_volume


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight phantoms."""
    root = tmp_path_factory.mktemp("phantoms")
    for i in range(8):
        volume = Volume(phantom(i, 0, 32), np.diag([7.0, 7.0, 7.0, 1.0]))
        write_volume(volume, root / f"p{i}.nii.gz")
    return root


@pytest.fixture
def data(phantoms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Eight phantoms in their own folder, and a table with their properties."""
    folder = Path(shutil.copytree(phantoms, tmp_path / "data"))
    rows = "".join(f"p{i},{'fm'[i // 4]}\n" for i in range(8))
    (tmp_path / "people.csv").write_text(f"subject,sex\n{rows}")
    monkeypatch.chdir(tmp_path)
    return folder


def split(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["split", "data", *arguments])


def test_counts_are_printed_and_the_manifest_is_written(data: Path) -> None:
    done = split("--validation", "0.25", "--test", "0.25")
    assert done.exit_code == 0, done.exception
    assert done.stdout.splitlines() == [
        "split       subjects",
        "train              4",
        "validation         2",
        "test               2",
        "",
        "written to data/manifest.csv",
    ]
    splits = [s.split for s in read_manifest(data / "manifest.csv")]
    assert [splits.count(s) for s in ("train", "validation", "test")] == [4, 2, 2]
    again = split("--seed", "5")
    assert again.stdout.splitlines()[-1] == ("The existing split is kept; --force replaces it.")
    assert [s.split for s in read_manifest(data / "manifest.csv")] == splits


def test_strata_have_columns_of_their_own(data: Path) -> None:
    options = ("--stratify", "sex", "--table", "people.csv", "--validation", "0.25")
    done = split(*options, "--test", "0.25")
    assert done.stdout.splitlines()[:4] == [
        "split       subjects  f  m",
        "train              4  2  2",
        "validation         2  1  1",
        "test               2  1  1",
    ]


def test_json_has_the_splits_that_are_written(data: Path) -> None:
    options = ("--json", "--seed", "3", "--stratify", "sex", "--table", "people.csv")
    first = json.loads(split(*options).stdout)
    assert first["subjects"] == {"train": 5, "validation": 1, "test": 2}
    assert first["strata"]["f"]["test"] + first["strata"]["m"]["test"] == 2
    written = {s.id: s.split for s in read_manifest(data / "manifest.csv")}
    assert first["splits"] == written
    assert (first["kept"], first["duplicates"], first["left_out"]) == (False, [], {})
    again = json.loads(split("--json").stdout)
    assert (again["kept"], again["splits"]) == (True, written)


def test_who_is_left_out_is_said_with_the_way_back(data: Path) -> None:
    for number in (4, 5, 6, 7):
        (data / f"p{number}.nii.gz").unlink()
    flags = {"p1": ("cut_vault",), "p2": ("metal",), "p3": ("vessels",)}
    people = [replace(s, flags=flags.get(s.id, ())) for s in scan_folder(data)]
    write_manifest(people, data / "manifest.csv")
    for arguments, message in (
        (["--exclude", "metall"], "--exclude: there is no flag 'metall': did you mean metal?"),
        (["--exclude-list", "people.csv"], "people.csv:1: there is no subject subject,sex"),
    ):
        faulty = split(*arguments)
        assert isinstance(faulty.exception, InputError)
        assert faulty.exception.faults[0].startswith(message)
    done = split("--exclude", "metal,vessels", "--test", "0", "--validation", "0")
    assert done.stdout.splitlines()[1:] == [
        "train              1",
        "validation         0",
        "test               0",
        "",
        "3 of 4 subjects are not used as targets: 1 with cut_vault, 1 with metal, 1 with "
        "vessels. To use those with cut_vault: --include cut_vault.",
        "",
        "written to data/manifest.csv",
    ]


def test_leakage_is_refused_or_kept_together(data: Path) -> None:
    for number in (4, 5, 6, 7):
        (data / f"p{number}.nii.gz").unlink()
    (data / "p9.nii.gz").write_bytes((data / "p2.nii.gz").read_bytes())
    done = split()
    assert isinstance(done.exception, InputError)
    assert done.exception.faults == (
        "split: p2 and p9 are the same file: remove one from the manifest, give both the same "
        "group there, or keep both in one split with --allow-duplicates",
    )
    allowed = split("--allow-duplicates")
    assert "in one split: p2 and p9 (same file, Dice 1.000)" in allowed.stdout
    splits = {s.id: s.split for s in read_manifest(data / "manifest.csv")}
    assert splits["p2"] == splits["p9"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--test", "1.5"], "split: validation 0.1 and test 1.5 must be 0 or more, together below"),
        (
            ["--stratify", "sex"],
            "data/report.csv: there is no such file: name a table with --table",
        ),
        (
            ["--stratify", "age", "--table", "people.csv"],
            "people.csv: has no column 'age': its columns are subject, sex",
        ),
    ],
)
def test_faulty_input_leaves_the_manifest_alone(
    data: Path, arguments: list[str], message: str
) -> None:
    done = split(*arguments)
    assert isinstance(done.exception, InputError)
    assert done.exception.faults[0].startswith(message)
    assert not (data / "manifest.csv").exists()


def test_a_folder_that_is_not_there_is_one_line(famseg: Run) -> None:
    done = famseg("split", "nowhere")
    assert done.returncode == 2
    assert done.stderr.strip() == (
        "famseg: nowhere: there is no such folder: name the folder of the prepared skulls"
    )
