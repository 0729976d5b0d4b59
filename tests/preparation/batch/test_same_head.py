"""A head that was scanned twice is found whatever its pose; different heads are not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.transform import Rotation

from famseg.datasets import phantom
from famseg.messages import InputError
from famseg.preparation.batch._leakage import duplicates, signature
from famseg.preparation.batch._same_head import (
    SAME_HEAD_DICE,
    agreement,
    aligned,
    as_head,
    refined,
    same_heads,
)
from famseg.volumes import Volume, read_volume, write_volume

HEIGHT_MM = 150.0


def turned(volume: Volume, degrees: tuple[float, float, float]) -> Volume:
    """The head in another pose, resampled, and cut at the same height below its vertex."""
    spacing = volume.spacing_mm[0]
    turn = Rotation.from_rotvec(np.deg2rad(degrees)).as_matrix()
    size = int(1.25 * volume.array.shape[0])
    middle, other = (np.array(volume.array.shape) - 1) / 2, np.full(3, (size - 1) / 2)
    level = ndimage.affine_transform(
        (volume.array > 0).astype(np.float32),
        turn.T,
        offset=middle - turn.T @ other + [0.3, 0.8, 0.1],
        output_shape=(size,) * 3,
        order=1,
    )
    mask = (level > 0.5).astype(np.uint8)
    top = int(np.flatnonzero(mask.any(axis=(0, 1)))[-1])
    mask[:, :, : max(0, top - round(HEIGHT_MM / spacing))] = 0
    return Volume(mask, np.diag([spacing, spacing, spacing, 1.0]))


def head(number: int) -> Volume:
    """A phantom, cut as prepared skulls are."""
    return turned(Volume(phantom(number, 0, 64), np.diag([3.5, 3.5, 3.5, 1.0])), (0, 0, 0))


def angle_deg(matrix: NDArray[np.float64]) -> float:
    return float(np.rad2deg(np.linalg.norm(Rotation.from_matrix(matrix[:3, :3]).as_rotvec())))


@pytest.mark.parametrize("degrees", [(15, 0, 0), (-15, 0, 0), (0, 12, 0), (8, 6, -10)])
def test_the_pose_is_found(degrees: tuple[float, float, float]) -> None:
    one = head(0)
    fixed, moving = as_head(one), as_head(turned(one, degrees))
    motion = refined(moving, fixed, aligned(moving, fixed))
    back = Rotation.from_rotvec(np.deg2rad(degrees)).as_matrix()
    assert angle_deg(motion[:3, :3] @ back) < 1
    assert agreement(moving, fixed, motion) >= SAME_HEAD_DICE


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """Four heads, and the second of them turned by 15 degrees."""
    volumes = {f"p{i}": head(i) for i in range(4)}
    volumes["again"] = turned(volumes["p1"], (15, 0, 0))
    for name, volume in volumes.items():
        write_volume(volume, tmp_path / f"{name}.nii.gz")
    return {name: tmp_path / f"{name}.nii.gz" for name in volumes}


def test_a_turned_head_is_found_where_its_shape_as_it_lies_is_not(files: dict[str, Path]) -> None:
    shapes = {name: signature(read_volume(file)) for name, file in files.items()}
    assert not duplicates({name: name for name in files}, shapes)
    seen: list[tuple[int, int]] = []
    (pair,) = same_heads(files, {}, progress=lambda *at: seen.append(at))
    assert (pair.first, pair.second, pair.kind) == ("again", "p1", "same head")
    assert pair.dice >= SAME_HEAD_DICE
    assert seen == sorted(seen)
    assert seen[-1][0] == seen[-1][1]


def test_what_is_known_is_not_told_again(files: dict[str, Path]) -> None:
    assert same_heads(files, {"p1": "Ann", "again": "Ann"}) == []


def test_a_mask_without_bone_is_named(tmp_path: Path) -> None:
    file = tmp_path / "a.nii.gz"
    write_volume(Volume(np.zeros((8, 8, 8), dtype=np.uint8), np.eye(4)), file)
    with pytest.raises(InputError, match=r"^empty: .*a\.nii\.gz: contains no bone: remove it from"):
        same_heads({"empty": file}, {})


def test_nothing_is_compared_with_nothing() -> None:
    assert same_heads({}, {}) == []


@pytest.mark.slow
def test_real_heads_are_told_apart(real_data: Path) -> None:
    paths = sorted((real_data / "skulls" / "heads128").glob("*.nii.gz"))[:6]
    if len(paths) < 6:
        pytest.skip("needs the folder heads128")
    heads = [as_head(read_volume(path)) for path in paths]
    for i in range(0, 6, 2):
        again = as_head(turned(read_volume(paths[i]), (15, 0, 0)))
        motion = refined(again, heads[i], aligned(again, heads[i]))
        assert agreement(again, heads[i], motion) >= 0.96, paths[i].name
        motion = refined(heads[i + 1], heads[i], aligned(heads[i + 1], heads[i]))
        assert agreement(heads[i + 1], heads[i], motion) <= 0.92, paths[i].name
