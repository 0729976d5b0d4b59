from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from famseg.datasets import FolderData, PreparedSkull, Skulls, mean_skull, mean_skull_mask


def strip(*voxels: int) -> PreparedSkull:
    mask = np.zeros((6, 1, 1), dtype=np.uint8)
    mask[list(voxels)] = 1
    return PreparedSkull(str(voxels), mask, np.diag([2.0, 3.0, 4.0, 1.0]))


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return float(2 * (a & b).sum() / (a.sum() + b.sum()))


def test_the_mean_is_the_share_of_skulls_with_bone() -> None:
    mean = mean_skull([strip(0, 1), strip(1, 2), strip(1), strip(1, 5)])
    assert mean.dtype == np.float32
    assert mean.ravel().tolist() == [0.25, 1.0, 0.25, 0.0, 0.0, 0.25]


def test_the_baseline_takes_the_threshold_that_is_best_on_the_skulls_given() -> None:
    # At 1: Dice 2/3, 2/3, 1; at 2/3 and above: voxels 1 and 2 give 1, 1, 2/3.
    mask = mean_skull_mask([strip(1, 2), strip(1, 2), strip(1)])
    assert mask.dtype == np.uint8
    assert mask.ravel().tolist() == [0, 1, 1, 0, 0, 0]


def test_the_baseline_does_not_vanish_where_walls_hardly_overlap() -> None:
    # No voxel is bone in half of the skulls: a threshold of 0.5 would give an empty answer.
    assert mean_skull_mask([strip(0), strip(1), strip(2)]).sum() == 3


def test_no_threshold_does_better(skulls: list[PreparedSkull]) -> None:
    best = np.mean([dice(mean_skull_mask(skulls), s.mask) for s in skulls])
    for threshold in np.linspace(0.05, 0.95, 19):
        guess = mean_skull(skulls) >= threshold
        assert np.mean([dice(guess, s.mask == 1) for s in skulls]) <= best + 1e-12


def test_faults() -> None:
    for function in (mean_skull, mean_skull_mask):
        with pytest.raises(ValueError, match="needs at least one skull: give the training split"):
            function([])
    other = PreparedSkull("big", np.zeros((7, 1, 1), np.uint8), np.eye(4))
    with pytest.raises(ValueError, match=r"skull big has the grid \(7, 1, 1\), others have"):
        mean_skull([strip(0), other])


def test_the_spacing_follows_from_the_affine() -> None:
    assert strip(0).spacing_mm == (2.0, 3.0, 4.0)


def test_the_size_of_a_data_set(skulls: list[PreparedSkull]) -> None:
    assert Skulls([], [], skulls[:1], "x").size == 32


@pytest.mark.slow
def test_real_heads_leave_one_out(real_data: Path) -> None:
    # Known beforehand: leave-one-out mean skull of these heads at 64^3, Dice 0.602.
    skulls = FolderData(root=str(real_data / "skulls" / "truncated64")).build(seed=0)
    everyone = [*skulls.train, *skulls.validation, *skulls.test]
    total = np.sum([s.mask for s in everyone], axis=0, dtype=np.int64)
    scores = [dice((total - s.mask) / (len(everyone) - 1) > 0.35, s.mask == 1) for s in everyone]
    assert np.mean(scores) == pytest.approx(0.602, abs=0.005)
