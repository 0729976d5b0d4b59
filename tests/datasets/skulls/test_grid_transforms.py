from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from monai.transforms import LoadImaged

from famseg.datasets import VolumeReader, phantom, prepare_transform
from famseg.datasets.skulls._grid_transforms import prepare_file
from famseg.messages import InputError

Save = Callable[..., Path]


def prepare(path: Path, size: int = 16, spacing_mm: float = 1.0, **options: object):
    return prepare_file(path, prepare_transform(size, spacing_mm, **options))


def fault(path: Path, *arguments: float, **options: object) -> str:
    with pytest.raises(InputError) as caught:
        prepare(path, *arguments, **options)
    assert str(caught.value).startswith(f"{path}: ")
    return str(caught.value).removeprefix(f"{path}: ")


def turned(axes: tuple[int, int, int], flips: tuple[int, int, int], spacing: float = 1.0):
    """An affine with permuted or flipped array axes."""
    affine = np.zeros((4, 4))
    for column, (row, sign) in enumerate(zip(axes, flips, strict=True)):
        affine[row, column] = sign * spacing
    affine[3, 3] = 1
    return affine


def bone_in_world(mask: np.ndarray, affine: np.ndarray) -> set[tuple[float, ...]]:
    points = np.argwhere(mask) @ affine[:3, :3].T + affine[:3, 3]
    return {tuple(p) for p in points.round(3)}


# Raised in LoadImaged, which creates all readers of MONAI, even without their packages.
@pytest.mark.filterwarnings("ignore:NvImgCodecPydicomReader:UserWarning")
def test_loadimaged_takes_the_reader(save: Save, blob: np.ndarray) -> None:
    path = save(blob, "a.mha", np.diag([1.0, 2.0, 3.0, 1.0]))
    image = LoadImaged("image", image_only=True)({"image": path}, reader=VolumeReader())["image"]
    assert image.shape == blob.shape
    assert image.affine.tolist() == np.diag([1.0, 2.0, 3.0, 1.0]).tolist()
    assert VolumeReader().verify_suffix(["a.nii.gz", "b.mhd"])
    assert not VolumeReader().verify_suffix("a.png")
    with pytest.raises(InputError, match="2 files given for one volume: give one"):
        VolumeReader().read(["a.nii", "b.nii"])


def test_the_result_is_a_metatensor_on_the_grid(save: Save, blob: np.ndarray) -> None:
    image = prepare_transform(16, 1.0)({"image": save(blob)})["image"]
    assert image.dtype == torch.uint8
    assert image.shape == (1, 16, 16, 16)
    assert set(image.unique().tolist()) == {0, 1}
    assert image.affine[:3, :3].tolist() == np.eye(3).tolist()


@pytest.mark.parametrize("center", ["head", "keep"])
@pytest.mark.parametrize(
    ("axes", "flips"),
    [
        ((0, 1, 2), (1, 1, 1)),
        ((0, 1, 2), (-1, -1, 1)),
        ((1, 2, 0), (1, -1, 1)),
        ((2, 0, 1), (-1, 1, -1)),
    ],
)
def test_a_volume_of_the_same_spacing_is_only_moved(
    axes: tuple, flips: tuple, center: str, save: Save, blob: np.ndarray
) -> None:
    source = turned(axes, flips)
    mask, affine = prepare(save(blob, affine=source), 20, 1.0, center=center)
    assert bone_in_world(mask, affine) == bone_in_world(blob, source)
    assert affine[:3, :3].tolist() == np.eye(3).tolist(), "axes to the right, front and top"


def test_a_volume_on_the_grid_stays_as_it_is(save: Save) -> None:
    mask = phantom(0, 0, 32)
    source = np.diag([7.0, 7.0, 7.0, 1.0])
    source[:3, 3] = (-3.0, 8.0, 1.5)
    once, affine = prepare(save(mask, affine=source), 32, 7.0)
    assert np.array_equal(once, mask)
    assert affine == pytest.approx(source, abs=1e-5)
    twice, again = prepare(save(once, "b.nii.gz", affine), 32, 7.0)
    assert np.array_equal(twice, once)
    assert again == pytest.approx(affine)


def test_the_head_goes_into_the_middle(save: Save) -> None:
    mask = np.zeros((30, 30, 30), dtype=np.uint8)
    mask[0:6, 20:30, 3:7] = 1
    prepared, _ = prepare(save(mask), 12, 1.0, center="head")
    points = np.argwhere(prepared)
    assert points.min(axis=0).tolist() == [3, 1, 4]
    assert points.max(axis=0).tolist() == [8, 10, 7]


def test_padding_keeps_the_volumes_own_middle(save: Save, blob: np.ndarray) -> None:
    prepared, _ = prepare(save(blob), 20, 1.0, center="keep")
    assert np.array_equal(prepared[4:16, 3:17, 2:18], blob)


def test_resampling_keeps_the_shape(save: Save) -> None:
    axis = (np.arange(60) - 29.5) * 0.5
    x, y, z = np.meshgrid(axis, axis, axis, indexing="ij")
    shell = ((np.sqrt(x**2 + y**2 + z**2) - 10.0) ** 2 < 2.0**2).astype(np.uint8)
    affine = np.diag([0.5, 0.5, 0.5, 1.0])
    mask, grid = prepare(save(shell, affine=affine), 32, 1.0)
    c = np.arange(32) + grid[0, 3] - 14.75
    radius = np.sqrt(sum(a**2 for a in np.meshgrid(c, c, c, indexing="ij")))
    assert mask[np.abs(radius - 10) < 1.4].all()
    assert not mask[np.abs(radius - 10) > 2.6].any()
    assert mask.sum() == pytest.approx(shell.sum() / 8, rel=0.03)


def test_coarser_voxels_hold_the_mean_of_the_finer_ones(save: Save) -> None:
    fine = phantom(0, 0, 128)
    mask, _ = prepare(save(fine, affine=np.diag([1.75, 1.75, 1.75, 1.0])), 64, 3.5)
    share = fine.reshape(64, 2, 64, 2, 64, 2).mean(axis=(1, 3, 5))

    def dice(a: np.ndarray, b: np.ndarray) -> float:
        return 2 * (a & b).sum() / (a.sum() + b.sum())

    sampled = fine[::2, ::2, ::2] == 1  # the result of resampling without smoothing
    assert dice(mask == 1, share >= 0.5) > 0.9 > dice(sampled, share >= 0.5)
    assert mask.sum() == pytest.approx(fine.sum() / 8, rel=0.05)


def test_anisotropic_and_oblique_volumes_end_up_where_they_lie(save: Save) -> None:
    angle = np.deg2rad(25)
    affine = np.eye(4)
    affine[:3, :3] = np.array(
        [[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]]
    ) * [0.5, 0.8, 1.5]
    affine[:3, 3] = (5.0, -3.0, 11.0)
    array = np.zeros((40, 30, 20), dtype=np.uint8)
    array[8:32, 6:24, 4:16] = 1
    mask, grid = prepare(save(array, affine=affine), 32, 1.0)
    assert np.allclose(grid[:3, :3], np.eye(3))
    inverse = np.linalg.inv(affine)
    points = np.argwhere(np.ones_like(mask)) @ grid[:3, :3].T + grid[:3, 3]
    index = points @ inverse[:3, :3].T + inverse[:3, 3]
    depth = np.minimum(index - [7.5, 5.5, 3.5], [31.5, 23.5, 15.5] - index) * [0.5, 0.8, 1.5]
    depth = depth.min(axis=1).reshape(mask.shape)
    assert mask[depth > 0.8].all()
    assert not mask[depth < -0.8].any()


def test_resize_fills_the_grid_and_tells_the_spacing(save: Save) -> None:
    array = np.zeros((40, 60, 30), dtype=np.uint8)
    array[5:35, 5:55, 5:25] = 1
    mask, affine = prepare(save(array), 22, 3.0, fit="resize")
    assert affine[0, 0] == pytest.approx(50 / 20)
    points = np.argwhere(mask)
    extent = (points.max(axis=0) - points.min(axis=0) + 1).tolist()
    assert extent == [12, 20, 8]
    assert points[:, 1].min() == 1


@pytest.mark.parametrize(
    ("values", "kept"),
    [
        (np.uint8([0, 1]), [1]),
        (np.uint8([0, 255]), [255]),
        (np.int16([0, 1, 2, 7]), [1, 2, 7]),
        (np.float32([0, 1]), [1]),
        (np.float32([0, 0.3, 0.6, 1.0]), [0.6, 1.0]),
        (np.float32([0, 0.1, 0.35, 0.5]), [0.35, 0.5]),
    ],
)
def test_what_counts_as_bone(values: np.ndarray, kept: list[float], save: Save) -> None:
    array = np.zeros((8, 8, 8), dtype=values.dtype)
    for i, value in enumerate(values):
        array[i, 2:6, 2:6] = value
    mask, _ = prepare(save(array), 8, 1.0)
    expected = [i for i, value in enumerate(values) if np.isclose(value, kept).any()]
    assert np.flatnonzero(mask.any(axis=(1, 2))).tolist() == expected


def test_a_mask_without_bone(save: Save) -> None:
    path = save(np.zeros((9, 9, 9), dtype=np.uint8))
    assert fault(path) == "the mask is all zero: there is no bone in it"


def test_a_mask_without_background(save: Save) -> None:
    path = save(np.ones((9, 9, 9), dtype=np.uint8))
    assert fault(path) == "the mask is full: every voxel is bone, none is background"


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_no_numbers(value: float, save: Save, blob: np.ndarray) -> None:
    array = blob.astype(np.float32)
    array[0, 0, 0] = value
    assert fault(save(array)) == (
        "the volume holds NaN or infinite values: repair it or mask them out"
    )


def test_a_ct_instead_of_a_mask(save: Save, blob: np.ndarray) -> None:
    assert fault(save((blob * 1500.0 - 1000).astype(np.int16))) == (
        "values from -1000 to 500: a mask has 0 for background and nothing below; threshold a CT "
        "first"
    )


def test_a_head_larger_than_the_grid(save: Save) -> None:
    array = np.zeros((20, 30, 20), dtype=np.uint8)
    array[1:19, 1:29, 1:19] = 1
    assert fault(save(array), 16, 1.0) == (
        "the head of 18 x 28 x 18 mm does not fit into 16 voxels of 1 mm (16 mm): use spacing_mm "
        "1.75 or more, a larger size, fit: resize"
    )
    prepare(save(array), 16, 1.75)


def test_a_head_off_the_middle(save: Save) -> None:
    array = np.zeros((20, 20, 60), dtype=np.uint8)
    array[5:15, 5:15, 40:58] = 1
    assert fault(save(array), 24, 1.0) == (
        "the head of 10 x 10 x 18 mm, off the center of its volume, does not fit into 24 voxels of "
        "1 mm (24 mm): use spacing_mm 2.34 or more, a larger size, fit: resize or center: head"
    )
    prepare(save(array), 24, 1.0, center="head")


def test_bone_thinner_than_the_grid_sees(save: Save) -> None:
    array = np.zeros((60, 60, 60), dtype=np.uint8)
    array[10:50, 30, 10:50] = 1
    assert fault(save(array), 16, 8.0) == (
        "no bone is left at 8 mm: thinner than a voxel; use a smaller spacing_mm with a larger "
        "size, or a lower threshold"
    )


def test_a_lower_threshold_keeps_thinner_bone(save: Save) -> None:
    array = np.zeros((60, 60, 60), dtype=np.uint8)
    array[10:50, 29:31, 10:50] = 1
    path = save(array)
    assert "no bone is left" in fault(path, 16, 4.0)
    assert prepare(path, 16, 4.0, threshold=0.1)[0].any()


def test_faults_of_the_reader_come_through(tmp_path: Path) -> None:
    assert fault(tmp_path / "none.nii.gz") == "there is no such file"


@pytest.mark.parametrize("arguments", [(4, 1.0, 0.5), (16, 0.0, 0.5), (16, 1.0, 1.0)])
def test_arguments_out_of_range(arguments: tuple[int, float, float]) -> None:
    size, spacing, threshold = arguments
    with pytest.raises(InputError) as caught:
        prepare_transform(size, spacing, threshold=threshold)
    assert str(caught.value) == (
        f"preparation: size {size} (8 or more), spacing_mm {spacing:g} (above 0), threshold "
        f"{threshold:g} (between 0 and 1)"
    )


def test_real_heads_on_the_grid_stay_bit_for_bit(real_data: Path) -> None:
    path = min((real_data / "skulls" / "truncated64").glob("*.nii.gz"))
    mask, affine = prepare(path, 64, 3.5)
    image = nibabel.as_closest_canonical(nibabel.load(path))
    assert np.array_equal(mask, np.asarray(image.dataobj) > 0)
    assert affine == pytest.approx(image.affine, abs=1e-4)


def _smallest(folder: Path, count: int) -> list[Path]:
    return sorted(folder.glob("*.nii.gz"), key=lambda f: f.stat().st_size)[:count]


@pytest.mark.slow
def test_real_native_heads_become_closed_skulls(real_data: Path) -> None:
    for path in _smallest(real_data / "skulls" / "native", 4):
        mask, affine = prepare(path, 64, 3.8, center="head")
        assert affine[0, 0] == pytest.approx(3.8)
        assert 0.02 < mask.mean() < 0.10
