"""Prepared skulls in memory, in three splits, and the mean of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from famseg.datasets._manifest import SkullSubject
from famseg.messages import InputError


@dataclass(frozen=True, eq=False)
class PreparedSkull:
    """One complete skull on the grid of the network.

    Args:
        id: Name of the subject, unique within a data set.
        mask: 0 and 1, shape ``(S, S, S)``, axes to the right, front and top (RAS+).
        affine: Maps voxel indices to mm in RAS+, shape ``(4, 4)``.
    """

    id: str
    mask: NDArray[np.uint8]
    affine: NDArray[np.float64]

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Edge of a voxel along each axis in mm."""
        x, y, z = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(x), float(y), float(z)


@dataclass(frozen=True, eq=False)
class Skulls:
    """A data set split by subject.

    Args:
        train: Skulls to learn from.
        validation: Skulls that choose (best epoch, early stopping).
        test: Skulls that are scored once.
        fingerprint: SHA-256 over subjects, file hashes, splits and settings: the same fingerprint
            means the same data.
        subjects: The subjects with split, file and hash, as `write_manifest` writes them.
    """

    train: Sequence[PreparedSkull]
    validation: Sequence[PreparedSkull]
    test: Sequence[PreparedSkull]
    fingerprint: str
    subjects: Sequence[SkullSubject] = ()

    def require_splits(self) -> None:
        """Refuse a data set in which a split has no subject.

        Raises:
            InputError: If there is such a split.
        """
        for split in ("train", "validation", "test"):
            if not getattr(self, split):
                raise InputError(
                    f"data: no subject is left to the split {split}. Add subjects, or change "
                    "data.validation and data.test; a manifest must name all three splits."
                )

    @property
    def size(self) -> int:
        """Voxels along each edge of the grid."""
        return int(next(iter((*self.train, *self.validation, *self.test))).mask.shape[0])


def mean_skull(skulls: Sequence[PreparedSkull]) -> NDArray[np.float32]:
    """Return the share of skulls that have bone at each voxel.

    Args:
        skulls: The training skulls; at least one, all on the same grid.

    Returns:
        Values from 0 to 1, shape ``(S, S, S)``.

    Raises:
        ValueError: If there is no skull or the grids differ.
    """
    if not skulls:
        raise ValueError("mean_skull needs at least one skull: give the training split.")
    total = np.zeros(skulls[0].mask.shape, dtype=np.float64)
    for skull in skulls:
        if skull.mask.shape != total.shape:
            raise ValueError(
                f"skull {skull.id} has the grid {skull.mask.shape}, others have {total.shape}."
            )
        total += skull.mask
    return np.asarray(total / len(skulls), dtype=np.float32)


def mean_skull_mask(skulls: Sequence[PreparedSkull]) -> NDArray[np.uint8]:
    """Return the constant prediction that scores best on the training skulls.

    The mean skull is thresholded where its mean Dice coefficient over ``skulls`` is highest: at the
    usual 0.5, thin walls that hardly overlap would vanish and make the baseline too weak.

    Args:
        skulls: The training skulls; the test split must not choose the threshold.

    Returns:
        0 and 1, shape ``(S, S, S)``.

    Raises:
        ValueError: If there is no skull or the grids differ.
    """
    mean = mean_skull(skulls)
    levels = np.unique(mean[mean > 0])
    if levels.size > 64:
        levels = np.quantile(levels, np.linspace(0, 1, 64))
    counts = np.array([s.mask.sum(dtype=np.int64) for s in skulls])
    stacked = np.stack([s.mask.ravel() for s in skulls])
    scores = []
    for level in levels:
        guess = (mean >= level).ravel()
        overlap = stacked[:, guess].sum(axis=1, dtype=np.int64)
        scores.append((2 * overlap / (counts + guess.sum())).mean())
    best = levels[int(np.argmax(scores))] if len(levels) else np.float32(0.5)
    return np.asarray(mean >= best, dtype=np.uint8)
