"""Several series of one head in one study: which one is used, and messages about the others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dicom_maker import Series, head

from famseg.preparation import Found, find_sources
from famseg.preparation.dicom._choice import is_sharp

STUDY = {"study_uid": "1.2.3.4.5"}


def series(
    folder: Path, every: int = 8, *, slices: slice = slice(None), study: bool = True, **tags: Any
) -> Path:
    """A series of every n-th slice of a head of 224 mm, in one study with the others."""
    values = head()[::every][slices]
    heights = 3.5 * every * np.arange(len(head()[::every]))[slices]
    shared = STUDY if study else {}
    tags = {"FrameOfReferenceUID": "1.2.3.9", "SeriesNumber": 3, **tags}
    return Series(values, [float(h) / 4 for h in heights], tags=tags, **shared).write(folder)


def taken(found: Found) -> list[str]:
    return [source.subject for source in found.sources]


@pytest.mark.parametrize(
    ("better", "worse", "said"),
    [
        ({}, {"ImageType": ["DERIVED", "PRIMARY", "AXIAL"]}, "derived images"),
        ({}, {"ContrastBolusAgent": "Iomeprol"}, "with contrast agent"),
        ({"ConvolutionKernel": "H30s"}, {"ConvolutionKernel": "H60s"}, "another kernel"),
        ({"AcquisitionNumber": 1}, {"AcquisitionNumber": 2}, "acquisition 2"),
    ],
)
@pytest.mark.parametrize("first", [0, 1])
def test_the_better_of_two_series_is_taken(
    better: dict[str, Any], worse: dict[str, Any], said: str, first: int, tmp_path: Path
) -> None:
    names = ("a", "b") if first == 0 else ("b", "a")
    series(tmp_path / names[0], **better)
    series(tmp_path / names[1], **worse)
    found = find_sources(tmp_path)
    assert taken(found) == [names[0]]
    (other,) = found.refused
    assert other.left_out
    assert other.subject == names[1]
    assert other.reason == (
        f"another series of the same head and study as {names[0]}, which is used instead ({said}); "
        "--every-series uses all"
    )


def test_closer_slices_are_better_than_a_smooth_kernel(tmp_path: Path) -> None:
    series(tmp_path / "thick", 8, ConvolutionKernel="H30s")
    series(tmp_path / "thin", 4, ConvolutionKernel="H60s")
    found = find_sources(tmp_path)
    assert taken(found) == ["thin"]
    assert "(slices 7 mm apart, not 3.5, another kernel)" in found.refused[0].reason


def test_a_whole_head_is_better_than_a_thin_part_of_it(tmp_path: Path) -> None:
    series(tmp_path / "base", 4, slices=slice(0, 4))
    series(tmp_path / "whole", 8)
    assert taken(find_sources(tmp_path)) == ["whole"]


def test_parts_of_the_body_that_lie_apart_are_scans_of_their_own(tmp_path: Path) -> None:
    series(tmp_path / "head", 8, slices=slice(4, None))
    series(tmp_path / "neck", 8, slices=slice(0, 4))
    assert taken(find_sources(tmp_path)) == ["head", "neck"]


def test_other_studies_and_frames_are_scans_of_their_own(tmp_path: Path) -> None:
    series(tmp_path / "a")
    series(tmp_path / "later", study=False)
    series(tmp_path / "moved", FrameOfReferenceUID="1.2.3.10")
    found = find_sources(tmp_path)
    assert taken(found) == ["a", "later", "moved"]
    assert not found.refused


def test_every_series_is_taken_on_demand(tmp_path: Path) -> None:
    series(tmp_path / "a")
    series(tmp_path / "b", ContrastBolusAgent="Iomeprol")
    found = find_sources(tmp_path, every_series=True)
    assert taken(found) == ["a", "b"]
    assert found.sources[0].identity[-2:] == found.sources[1].identity[-2:]


@pytest.mark.parametrize(
    "kernel", ["H60s", "Hr64h", "J70h", "BONEPLUS", "EDGE", "FC30", "FC81", "YC"]
)
def test_kernels_for_bone_are_sharp(kernel: str) -> None:
    assert is_sharp(kernel.upper())


@pytest.mark.parametrize("kernel", ["H31s", "J45s", "Hr40f", "STANDARD", "SOFT", "FC21", "UB", ""])
def test_kernels_for_soft_tissue_are_not(kernel: str) -> None:
    assert not is_sharp(kernel.upper())
