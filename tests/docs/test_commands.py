"""Every shell command of the pages names real commands, options and keys; nearly all are run.

Run means: on phantoms, in an empty folder, with small networks, one epoch, in the order of the
page.
What is not run is listed below with the reason.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import warm
from scipy import ndimage
from tiny import TINY

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "preparation"))

from dicom_maker import AIR, BONE, SIZE, SPACING_MM, WATER, Series  # found through the lines above
from shell import PAGES, ROOT, Command, check, shell_commands

from famseg.datasets import RegionDefect, inject, phantom
from famseg.volumes import Volume, write_volume

RUN = (
    "README.md",
    "docs/quick-start.md",
    "docs/compare-lambda.md",
    "docs/compare.md",
    "docs/defects.md",
    "docs/metrics.md",
    "docs/own-ct-data.md",
    "docs/prepare.md",
    "docs/report.md",
    "docs/runs.md",
    "docs/reconstruct.md",
    "docs/several-gpus.md",
)
# The others take a minute and more each, and run every night. What they name is checked always.
OFTEN = ("docs/metrics.md",)
# Pages and commands that are not run, by the beginning of the page's name and a pattern.
NOT_RUN = {
    ("", r"make |\. \.venv/"): "sets up what the tests run in",
    ("", r"famseg ui"): "serves until it is stopped; tests/cli/test_ui.py starts it",
    ("", r"famseg prepare (cifar|svhn|fashion|rte)"): "downloads; see tests/cli/test_download.py",
    ("", r"pip "): "changes the environment",
    (
        "",
        r".*(data\.root=(cifar|rte)|language/|smoke/rte)",
    ): "needs data; tests/smoke runs a variant",
    ("", r".*--nnodes 2"): "needs two machines",
    ("", r".*(CUDA_VISIBLE_DEVICES|device=cuda)"): "needs a GPU",
    ("", r".*tracking\.uri=http"): "needs a server; tests/cli/test_ui.py has one",
    ("README.md", r"torchrun"): "docs/several-gpus.md has it",
    ("docs/runs.md", r"famseg runs .*"): "needs a sweep, and an answer; see tests/cli/test_runs.py",
    ("docs/compare.md", r"famseg sweep"): "many trainings; tests/sweep runs sweeps",
    ("docs/compare.md", r".*--checkpoint last"): "other runs; see tests/cli/test_compare.py",
    ("docs/compare.md", r".*weight decay"): "needs such a group; see tests/cli/test_compare.py",
    ("docs/classification", r".*"): "tests/smoke runs these pipelines",
    (
        "docs/report.md",
        r"famseg report runs( |/skull|$)",
    ): "needs several runs; tests/reporting writes the page",
    ("docs/results/implants.md", r".*"): "half an hour of trainings",
    ("docs/sweeps.md", r".*"): "needs many trainings, and clusters; tests/sweep runs sweeps",
    ("docs/faq.md", r".*"): "test_faq.py runs them, and looks at what they print",
    ("docs/own-pipeline.md", r".*"): "test_own_pipeline.py installs and trains it",
    ("docs/reference/", r".*"): "examples of the help of each command",
    ("", r"docker "): "needs an engine; docker/test_image.sh builds and runs the image",
    ("docs/sharing.md", r".*"): "needs runs, and the web; tests/export runs MONAI's commands",
    ("docs/docker.md", r".*"): "needs an engine; docker/test_image.sh builds and runs the image",
    ("docker/", r".*"): "needs an engine; docker/test_image.sh builds and runs the image",
    ("data/", r".*"): "needs the data set; the other pages have the same commands",
    ("CONTRIBUTING.md", r".*"): "sets up what the tests run in",
}
NOT_HELD = {
    "docs/faq.md",  # its commands fail
    "docs/own-pipeline.md",  # its configuration is installed by its test
}
SMALL = [
    "model.channels=[4,4,4,4]",
    "model.strides=[2,2,2,2]",
    "model.latent=2",
    "training.epochs=1",
    "training.batch_size=2",
]


COARSE = ["data.size=32", "data.spacing_mm=7"]


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def why_not(page: str, command: str) -> str | None:
    reasons = (
        reason
        for (where, pattern), reason in NOT_RUN.items()
        if page.startswith(where) and re.match(pattern, command)
    )
    return next(reasons, None)


def in_small(words: list[str], page: str) -> list[str]:
    """A command with small networks and grids, and folders of the test."""
    # Openings by region need a finer grid.
    small = SMALL if page == "docs/own-ct-data.md" else [*SMALL, *COARSE]
    words = [re.sub(r"^/data/", "data/", word) for word in words]
    if "train" in words and "--config" in words:
        config = words[words.index("--config") + 1]
        if config.startswith("classification/"):
            words[words.index(config)] = config.replace("classification/", "smoke/")
        elif config == "skull.yaml":
            words += [*small, "data.subjects=8"]
        elif config == "skull_folder.yaml":
            words += small
    if words[:2] == ["famseg", "sweep"]:
        words = [re.sub(r"^seed=1\.\.5$", "seed=1", word) for word in words]
        words += [*TINY, "training.epochs=1", "training.threads=1", "--limit", "1"]
    if words[:2] == ["famseg", "prepare"] and "--size" not in words:
        words += ["--size", "64", "--spacing-mm", "3.5"]
    return words


def put_data(folder: Path, page: str) -> None:
    """Write what a page takes for there: scans, skulls or masks to score."""
    if page == "docs/own-ct-data.md":
        for subject in range(5):
            write_ct(subject, folder / "scans" / f"head{subject}")
    if page == "docs/prepare.md":
        (folder / "exclude.txt").write_text("head4\n")  # as its report gives it
    sources = {"README.md": "FOLDER", "docs/prepare.md": "data/ct", "docs/defects.md": "prepared"}
    for subject in range(5 if page in sources else 0):
        write_mask(subject, folder / sources[page] / f"head{subject}.nii.gz")
    patients = {"README.md": "HEAD.nii.gz", "docs/quick-start.md": "patient.nii.gz"}
    patients["docs/reconstruct.md"] = "patient.nii.gz"
    patients["docs/report.md"] = "patient.nii.gz"
    if page in patients:
        write_patient(folder / patients[page])
    if page in ("README.md", "docs/metrics.md"):
        for place in ("PREDICTIONS", "predictions"):
            write_mask(0, folder / place / "head.nii.gz")
        for place in ("REFERENCES", "references"):
            write_mask(1, folder / place / "head.nii.gz")
        write_mask(1, folder / "defective_skulls" / "head.nii.gz", cut=True)
        write_mask(0, folder / "prediction.nii.gz")
        write_mask(1, folder / "reference.nii.gz")


def write_patient(path: Path) -> None:
    """Write a skull with a defect at the side."""
    skull = phantom(0, 0, SIZE)
    spacing = (SPACING_MM,) * 3
    defect = RegionDefect("random_1", area_cm2=(22, 25))  # small: quick
    holed, _ = inject(skull, defect, spacing, np.random.default_rng(0))
    write_volume(Volume(holed, np.diag([*spacing, 1.0])), path)


def write_mask(subject: int, path: Path, *, cut: bool = False) -> None:
    mask = phantom(subject, 0, SIZE).copy()
    if cut:
        mask[:, :, 48:] = 0
    path.parent.mkdir(parents=True, exist_ok=True)
    write_volume(Volume(mask, np.diag([SPACING_MM, SPACING_MM, SPACING_MM, 1.0])), path)


def write_ct(subject: int, folder: Path) -> None:
    """Write a DICOM series of a phantom with skin and brain."""
    bone = phantom(subject, 0, SIZE)
    skin = ndimage.binary_dilation(bone, iterations=3)
    body = ndimage.binary_closing(np.pad(skin, 8), iterations=8)[8:-8, 8:-8, 8:-8]
    values = np.where(bone, BONE, np.where(body, WATER, AIR))
    # As scanners store it: feet first, axes to the left and back.
    slices = values[::-1, ::-1].transpose(2, 1, 0)
    Series(slices, [SPACING_MM * k for k in range(SIZE)]).write(folder)


def run(words: list[str], folder: Path) -> warm.Done:
    """Run a command as a shell does; what it prints goes where it says."""
    target = None
    if ">" in words:
        words, target = words[: words.index(">")], words[-1]
    if words[0] == "torchrun":
        words = [sys.executable, "-m", "torch.distributed.run", *words[1:]]
    if words[:2] == ["famseg", "sweep"]:
        done = warm.run(
            str(ROOT / "tests" / "support" / "forking_sweep.py"), *words[1:], cwd=folder
        )
    elif words[0] == "famseg":
        done = warm.run("-m", *words, cwd=folder)
    else:
        done = subprocess.run(words, cwd=folder, capture_output=True, text=True)
    if target is not None:
        (folder / target).write_text(done.stdout)
    return done


def first_rounds(commands: list[Command], most: int = 2) -> list[Command]:
    """Of the rounds of a loop the first ones; each is a command of the same line."""
    lines = [command.line for command in commands]
    return [each for n, each in enumerate(commands) if lines[:n].count(each.line) < most]


def to_run(page: Path) -> list[Command]:
    return [each for each in shell_commands(page) if why_not(name(page), each.text) is None]


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_commands_options_and_keys_exist(page):
    for command in shell_commands(page):
        arguments = command.famseg()
        if arguments is not None and name(page) not in NOT_HELD:
            try:
                check(arguments)
            except BaseException as error:
                raise AssertionError(f"{name(page)}:{command.line}: {command.text}") from error


def test_every_command_is_run_or_listed_with_a_reason():
    forgotten = {
        f"{name(page)}:{command.line}: {command.text}"
        for page in PAGES
        for command in to_run(page)
        if name(page) not in RUN
    }
    assert forgotten == set()


@pytest.mark.parametrize(("where", "pattern"), NOT_RUN)
def test_no_reason_outlives_its_commands(where, pattern):
    pages = [page for page in PAGES if name(page).startswith(where)]
    assert any(re.match(pattern, each.text) for page in pages for each in shell_commands(page))


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "page",
    [pytest.param(page, marks=() if page in OFTEN else pytest.mark.nightly) for page in RUN],
)
def test_the_commands_of_a_page_run(page, tmp_path, monkeypatch):
    put_data(tmp_path, page)
    monkeypatch.setenv("FAMSEG_CACHE", str(tmp_path / "cache"))
    for command in first_rounds(to_run(ROOT / page)):
        done = run(in_small(command.words(), page), tmp_path)
        said = done.stderr or done.stdout
        assert done.returncode == 0, f"{page}:{command.line}: {command.text}: {said}"
