"""Prepared skulls are mapped back to the voxels of their scans."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.transform import Rotation

from famseg.datasets import phantom
from famseg.messages import InputError
from famseg.preparation import (
    Scan,
    Settings,
    back_to_scan,
    find_sources,
    plan_run,
    prepare_folder,
    prepare_scan,
    to_source_of,
)
from famseg.volumes import Volume, read_volume, write_volume

SETTINGS = Settings(size=64, spacing_mm=3.5, crop="none", holes="keep")


def oblique() -> NDArray[np.float64]:
    """Axes of a scan that is stored back to front and is oblique in world coordinates."""
    affine = np.diag([-3.0, 3.0, 4.0, 1.0])
    turn = Rotation.from_euler("xyz", [6, -4, 9], degrees=True).as_matrix()
    affine[:3, :3] = turn @ affine[:3, :3]
    affine[:3, 3] = (120.0, -95.0, 1500.0)
    return affine


def scan_of(affine: NDArray[np.float64]) -> Volume:
    """A phantom on the voxel grid of a scan."""
    bone = phantom(0, 0, 64)
    shape = (76, 80, 60)
    middle = affine @ [*(n / 2 for n in shape), 1]
    world = np.diag([3.5, 3.5, 3.5, 1.0])
    world[:3, 3] = middle[:3] - 3.5 * 31.5
    there = np.linalg.inv(world) @ affine
    level = ndimage.affine_transform(
        bone.astype(np.float32), there[:3, :3], there[:3, 3], output_shape=shape, order=1
    )
    return Volume((level > 0.5).astype(np.uint8), affine)


def surface_error_voxels(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Distance in voxels of the border of one mask to the other mask's border."""
    borders = [m.astype(bool) & ~ndimage.binary_erosion(m) for m in (one, other)]
    return ndimage.distance_transform_edt(~borders[1])[borders[0]]


@pytest.mark.parametrize("affine", [np.diag([3.5, 3.5, 3.5, 1.0]), oblique()])
def test_a_skull_goes_back_to_its_scan(tmp_path: Path, affine: NDArray[np.float64]) -> None:
    root, out = tmp_path / "in", tmp_path / "out"
    root.mkdir()
    scan = scan_of(affine)
    write_volume(scan, root / "head.nii.gz")
    plan = plan_run(find_sources(root), root, out, asdict(SETTINGS))
    prepare_folder(plan, partial(prepare_scan, settings=SETTINGS), workers=0)
    skull = read_volume(out / "skulls" / "head.nii.gz")
    motion = to_source_of(out, "head")
    np.testing.assert_allclose(motion[:3, :3] @ motion[:3, :3].T, np.eye(3), atol=1e-9)

    back = back_to_scan(skull, motion, scan.array.shape, scan.affine)
    np.testing.assert_array_equal(back.affine, scan.affine)
    # The middle of the bone is where it was, and its border within half a voxel on average.
    middles = [np.argwhere(m).mean(axis=0) for m in (back.array, scan.array)]
    assert np.abs(middles[0] - middles[1]).max() < 0.25
    for one, other in ((back.array, scan.array), (scan.array, back.array)):
        assert surface_error_voxels(one, other).mean() < 0.5
    shifted = back_to_scan(skull, np.eye(4), scan.array.shape, scan.affine)
    assert not np.array_equal(shifted.array, back.array)


def test_a_point_goes_to_the_voxel_that_it_came_from() -> None:
    affine = oblique()
    scan = scan_of(affine)
    prepared = prepare_scan(Scan(scan, "mask"), SETTINGS)
    index = np.argwhere(prepared.skull.array)[::50]
    places = prepared.to_source @ prepared.skull.affine @ np.c_[index, np.ones(len(index))].T
    there = np.linalg.inv(affine) @ places
    level = ndimage.map_coordinates(
        scan.array.astype(np.float32), there[:3], order=1, mode="constant"
    )
    outside = level < 0.5
    # A voxel of the skull that lies in none of the scan's touches one.
    touches = ndimage.distance_transform_edt(scan.array == 0)
    rounded = np.rint(there[:3]).astype(int)
    assert touches[tuple(rounded)][outside].max(initial=0) <= 1.5
    assert outside.mean() < 0.1


def test_a_subject_without_a_record_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has no record of head: prepare it again"):
        to_source_of(tmp_path, "head")
