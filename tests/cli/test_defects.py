from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from command import Run
from typer.testing import CliRunner

from famseg.cli._main import app
from famseg.config import InputError
from famseg.datasets import Volume, phantom, read_fixed_set, write_volume

AFFINE = np.diag([3.5, 3.5, 3.5, 1.0])


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with one phantom."""
    folder = tmp_path / "data"
    folder.mkdir()
    write_volume(Volume(phantom(0, 0), AFFINE), folder / "p0.nii.gz")
    monkeypatch.chdir(tmp_path)
    return folder


def defects(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["defects", "data", "--out", "holes", *arguments])


def test_a_set_is_written_and_summed_up(data: Path) -> None:
    done = defects("--classes", "random_1,frontoorbital", "--area-cm2", "20,40")
    assert done.exit_code == 0, done.exception
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines[1:3]] == ["random_1", "frontoorbital"]
    assert "2 holes in 1 skull; not cut: 0" in lines
    cases = read_fixed_set(Path("holes")).cases
    assert [case.where for case in cases] == ["random_1", "frontoorbital"]
    assert all(19 < case.area_cm2 < 42 for case in cases)


def test_json_names_the_set(data: Path) -> None:
    found = json.loads(defects("--classes", "random_1", "--json").stdout)
    assert found["sha256"] == read_fixed_set(Path("holes")).sha256


def test_some_fail_and_the_rest_goes_on(data: Path) -> None:
    write_volume(Volume(np.zeros((16, 16, 16), np.uint8), AFFINE), data / "bad.nii.gz")
    done = defects("--classes", "random_1")
    assert done.exit_code == 1
    assert "bad: " in done.output
    assert len(read_fixed_set(Path("holes")).cases) == 1


def test_nothing_that_can_be_cut_is_faulty_input(data: Path) -> None:
    write_volume(Volume(np.zeros((16, 16, 16), np.uint8), AFFINE), data / "p0.nii.gz")
    done = defects("--classes", "random_1")
    assert isinstance(done.exception, InputError)
    assert "all zero" in done.exception.faults[0]


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        (("--area-cm2", "20"), "--area-cm2: '20' is not two numbers as 20,80"),
        (("--classes", "temporal"), "temporal"),
    ],
)
def test_faulty_arguments_are_named(data: Path, arguments: tuple[str, ...], fault: str) -> None:
    done = defects(*arguments)
    assert isinstance(done.exception, InputError)
    assert fault in done.exception.faults[0]


@pytest.mark.slow
def test_the_installed_command_ends_with_status_2(famseg: Run, tmp_path: Path) -> None:
    done = famseg("defects", str(tmp_path / "nowhere"), "--out", str(tmp_path / "holes"))
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "there is no such folder" in done.stderr
