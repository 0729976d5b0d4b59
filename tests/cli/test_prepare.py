from __future__ import annotations

import csv
import hashlib
import json
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from click.testing import Result
from command import Run, environment
from typer.testing import CliRunner

from famseg.cli._main import app
from famseg.messages import InputError, RunError

GRID = ("--size", "64", "--spacing-mm", "3.5")


@pytest.fixture
def scans(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two phantoms as masks, and a file that is not a volume."""
    from famseg.datasets import phantom
    from famseg.volumes import Volume, write_volume

    folder = tmp_path / "scans"
    folder.mkdir()
    for i, name in enumerate(("anna", "bert")):
        mask = phantom(i, 0, 64)
        write_volume(Volume(mask, np.diag([3.5, 3.5, 3.5, 1.0])), folder / f"{name}.nii.gz")
    (folder / "broken.nii.gz").write_bytes(b"no volume")
    monkeypatch.chdir(tmp_path)
    return folder


def prepare(*arguments: str) -> Result:
    """Run the command in this process; the subjects are prepared in others."""
    return CliRunner().invoke(app, ["prepare", *arguments])


def faults(done: Result) -> tuple[str, ...]:
    assert isinstance(done.exception, InputError), done.exception
    return done.exception.faults


def subjects(out: Path) -> list[dict[str, str]]:
    with (out / "report.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_a_folder_is_prepared_reported_and_gone_on_with(scans: Path) -> None:
    before = {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in scans.iterdir()}
    done = prepare("scans", "--out", "out", *GRID, "--workers", "1")
    assert done.exit_code == 1, "one of them is broken"
    lines = done.stdout.splitlines()
    assert lines[0].startswith(
        "prepared 2 of 3 (unchanged: 0), failed: 1, refused: 0, left out: 0, worth a look: "
    )
    assert lines[2:] == [
        "report       out/report.html",
        "table        out/report.csv",
        "manifest     out/manifest.csv",
        "split        famseg split out",
        "train        famseg train --config skull_folder.yaml data.root=out",
    ]
    assert "layout folder: 3 to prepare in 1 process" in done.stderr
    assert "  broken  failed: broken.nii.gz: " in done.stderr
    rows = {row["subject"]: row for row in subjects(scans.parent / "out")}
    assert {name: row["status"] for name, row in rows.items()} == {
        "anna": "done",
        "bert": "done",
        "broken": "failed",
    }
    assert str(scans) not in rows["broken"]["reason"]
    assert {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in scans.iterdir()} == before

    (scans / "broken.nii.gz").unlink()
    again = prepare("scans", "--out", "out", *GRID, "--json")
    assert again.exit_code == 0, again.exception
    result = json.loads(again.stdout)
    assert result["counts"] == {
        "subjects": 2,
        "done": 2,
        "unchanged": 2,
        "failed": 0,
        "refused": 0,
        "left_out": 0,
        "worth_a_look": result["counts"]["worth_a_look"],
    }
    assert [s["subject"] for s in result["subjects"]] == ["anna", "bert"]

    other = prepare("scans", "--out", "out", "--size", "32", "--spacing-mm", "7")
    assert faults(other) == (
        "out: was prepared with size 64 (now 32), spacing_mm 3.5 (now 7.0): give the same "
        "settings, choose "
        "another --out, or prepare everything again with --force",
    )


@pytest.mark.slow
def test_the_result_is_a_data_set_to_train_on(scans: Path) -> None:
    from famseg.datasets import scan_folder, split_subjects
    from famseg.volumes import read_volume

    assert prepare("scans", "--out", "out", *GRID).exit_code == 1
    people = split_subjects(scan_folder(scans.parent / "out"), 0.0, 0.5, seed=0)
    assert sorted(p.id for p in people) == ["anna", "bert"]
    assert sorted(p.split or "" for p in people) == ["test", "train"]
    for person in people:
        assert person.file is not None
        volume = read_volume(person.file)
        assert volume.array.shape == (64, 64, 64)
        assert set(np.unique(volume.array)) == {0, 1}


def test_a_dry_run_lists_and_writes_nothing(scans: Path) -> None:
    done = prepare("scans", "--out", "out", "--dry-run")
    assert done.exit_code == 0, done.exception
    assert "prepare    anna  (anna.nii.gz)\n" in done.stdout
    assert done.stdout.endswith("refused, 0 left out; nothing was written\n")
    assert not (scans.parent / "out").exists()
    plan = json.loads(prepare("scans", "--out", "out", "--dry-run", "--json").stdout)
    assert {s["subject"] for s in plan["prepare"]} >= {"anna", "bert"}
    assert (plan["layout"], plan["unchanged"]) == ("folder", [])


@pytest.mark.slow
def test_nothing_prepared_is_faulty_input(scans: Path) -> None:
    (scans / "anna.nii.gz").unlink()
    (scans / "bert.nii.gz").unlink()
    (line,) = faults(prepare("scans", "--out", "out"))
    assert line.startswith("broken: broken.nii.gz: ")
    assert (scans.parent / "out" / "report.html").exists(), "says why"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere: there is no such file or folder: give the folder of the scans"),
        (["scans", "--size", "big"], "--size: must be a number or fit, got 'big'"),
        (["scans", "--spacing-mm", "x"], "--spacing-mm: must be a number or keep, got 'x'"),
        (["scans", "--spacing-mm", "keep"], "preparation: size 128 needs a spacing_mm; leave the"),
        (["scans", "--template", "t.nii"], "--template t.nii: cannot be read (No such file or"),
        (
            ["scans", "--template", "t.nii", "--align", "none"],
            "--align: cannot be combined with --template, which aligns already; give one of them",
        ),
        (["scans", "--threshold-hu", "9"], "preparation: threshold_hu 9: give 100 to 1500 HU"),
        (["scans", "--out", "scans/out"], "--out scans/out: overlaps with the source scans, whose"),
    ],
)
def test_faulty_input_is_said_before_anything_is_written(
    scans: Path, arguments: list[str], message: str
) -> None:
    out = [] if "--out" in arguments else ["--out", "out"]
    (line,) = faults(prepare(*arguments, *out))
    assert line.startswith(message)
    assert not (scans.parent / "out").exists()


def test_an_empty_folder_is_refused(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (line,) = faults(prepare("empty", "--out", "out"))
    assert line.startswith("empty: nothing to prepare: looked for DICOM files")


def test_a_full_disk_is_one_line(scans: Path, monkeypatch) -> None:
    import errno

    def full(*arguments: object, **options: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "out/skulls/x")

    monkeypatch.setattr("famseg.preparation.prepare_folder", full)
    done = prepare("scans", "--out", "out")
    assert isinstance(done.exception, RunError), done.exception
    assert str(done.exception) == (
        "out: the disk is full. Free some space, then resume with the same command."
    )


def test_the_names_of_the_options_are_those_of_the_library() -> None:
    from famseg.cli._prepare import CropName, HolesName, LayoutName
    from famseg.preparation import LAYOUTS, Crop, Holes, Settings

    assert tuple(LayoutName) == LAYOUTS
    assert tuple(CropName) == get_args(Crop)
    assert tuple(HolesName) == get_args(Holes)
    import inspect

    from famseg.cli._prepare import prepare as command

    defaults = {n: p.default for n, p in inspect.signature(command).parameters.items()}
    settings = vars(Settings())
    assert not set(settings) - set(defaults), "every setting has an option"
    given = {**defaults, "size": int(defaults["size"]), "spacing_mm": float(defaults["spacing_mm"])}
    assert {name: given[name] for name in settings} == settings


def test_default_workers_follow_cores_and_memory(monkeypatch) -> None:
    from famseg.cli import _prepare

    monkeypatch.setattr("famseg.tracking.usable_cores", lambda: 8)
    monkeypatch.setattr("famseg.tracking.free_memory", lambda: 7 * 1024**3)
    assert [_prepare.default_workers(n) for n in (0, 1, 50)] == [1, 1, 2]
    monkeypatch.setattr("famseg.tracking.free_memory", lambda: 2 * 1024**3)
    assert _prepare.default_workers(50) == 1


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_and_says_how_to_go_on(scans: Path, number: int) -> None:
    command = [sys.executable, "-m", "famseg", "prepare", "scans", "--out", "out", *GRID]
    with subprocess.Popen(
        [*command, "--workers", "1"],
        cwd=scans.parent,
        env=environment(scans.parent),
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as run:
        assert run.stderr is not None
        assert run.stderr.readline() == "layout folder: 3 to prepare in 1 process\n"
        os.killpg(run.pid, number)  # like a terminal: to its child processes, too
        said = run.stderr.read()
    assert run.returncode == 128 + number
    name = signal.Signals(number).name
    assert said.splitlines()[-1] == (
        f"famseg: ended by {name}; finished subjects are kept; resume with the same command"
    )
    assert "Traceback" not in said


@pytest.mark.slow
def test_a_terminal_gets_a_bar(scans: Path) -> None:
    (scans / "bert.nii.gz").unlink()
    screen, end = pty.openpty()
    command = [sys.executable, "-m", "famseg", "prepare", "scans", "--out", "out", *GRID]
    env = {**environment(scans.parent), "TERM": "xterm"}
    run = subprocess.Popen(
        command, cwd=scans.parent, env=env, stderr=end, stdout=subprocess.DEVNULL
    )
    os.close(end)
    said = b""
    while True:
        try:
            said += os.read(screen, 4096)
        except OSError:  # the other end is closed
            break
    os.close(screen)
    assert run.wait() == 1
    text = said.decode()
    assert "preparing" in text
    assert "2/2" in text
    assert "broken  failed: broken.nii.gz: " in text


def test_help_has_examples(famseg: Run) -> None:
    for command in ("prepare", "split"):
        done = famseg(command, "--help")
        assert done.returncode == 0
        assert f"famseg {command} " in done.stdout
