"""The task as torch data sets: a skull with a hole goes in, the complete skull comes out."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterator, Sequence
from typing import Literal, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from famseg.datasets._defects import Defect
from famseg.datasets._inject import inject
from famseg.datasets._skulls import PreparedSkull


class Item(TypedDict):
    """One case.

    ``image`` (skull with the hole), ``label`` (complete skull): float32 ``(1, S, S, S)``, 0 and 1;
    ``region`` (what was removed, bone or not): bool of the same shape; ``subject``: its id;
    ``spacing_mm``: float32 ``(3,)``; ``affine``: float64 ``(4, 4)``, voxel to mm in RAS+.
    """

    image: Tensor
    label: Tensor
    region: Tensor
    subject: str
    spacing_mm: Tensor
    affine: Tensor


class _HoledSkulls(Dataset[Item]):
    """Skulls held as one uint8 tensor, so that worker processes share its memory."""

    def __init__(self, skulls: Sequence[PreparedSkull], defect: Defect, seed: int) -> None:
        if not skulls:
            raise ValueError("a data set needs at least one skull: this split is empty.")
        if seed < 0:
            raise ValueError(f"seed must be 0 or more, got {seed}.")
        self.subjects = tuple(skull.id for skull in skulls)
        self._masks = torch.from_numpy(np.stack([skull.mask for skull in skulls]))
        self._affines = torch.from_numpy(np.stack([skull.affine for skull in skulls]))
        self._keys = np.array([_subject_key(skull.id) for skull in skulls], dtype=np.int64)
        self._defect = defect
        self._seed = seed

    def __iter__(self) -> Iterator[Item]:
        # Without this, iteration would go on from epoch to epoch: an index has no upper end.
        return (self[index] for index in range(len(self.subjects)))

    def _item(self, index: int, entropy: Sequence[int], *, flip: bool = False) -> Item:
        mask = self._masks[index].numpy()
        affine = self._affines[index]
        spacing = torch.linalg.vector_norm(affine[:3, :3], dim=0)
        if flip:
            mask = np.ascontiguousarray(mask[::-1])
        rng = np.random.default_rng([self._seed, *entropy, int(self._keys[index])])
        x, y, z = spacing.tolist()
        holed, region = inject(mask, self._defect, (x, y, z), rng)
        return Item(
            image=_channel(holed),
            label=_channel(mask),
            region=torch.from_numpy(region)[None],
            subject=self.subjects[index],
            spacing_mm=spacing.float(),
            affine=affine.clone(),
        )


class TrainingSet(_HoledSkulls):
    """Complete skulls, each with a fresh hole in every epoch.

    An index of ``n`` or more asks for a later epoch: ``epoch, subject = divmod(index, n)``. The
    hole is a pure function of (seed, epoch, subject), so a resumed run sees the holes that an
    uninterrupted one would have seen, whatever the number of worker processes.

    Args:
        skulls: The training split.
        defect: What holes to cut.
        seed: Seed of the holes, 0 or more.
        mirror: Swap left and right in half of the draws (the same pure function decides).

    Raises:
        ValueError: If there is no skull or the seed is negative.
    """

    def __init__(
        self, skulls: Sequence[PreparedSkull], defect: Defect, seed: int, *, mirror: bool = False
    ) -> None:
        super().__init__(skulls, defect, seed)
        self._mirror = mirror

    def __len__(self) -> int:
        return len(self.subjects)

    def __getitem__(self, index: int) -> Item:
        if index < 0:
            raise IndexError(f"index {index} is negative: epoch * {len(self)} + subject is wanted.")
        epoch, subject = divmod(index, len(self))
        flip = False
        if self._mirror:
            key = [self._seed, epoch, int(self._keys[subject]), 1]
            flip = bool(np.random.default_rng(key).integers(2))
        return self._item(subject, [epoch], flip=flip)


class EvaluationSet(_HoledSkulls):
    """Complete skulls with one fixed hole each: a pure function of (seed, name, subject).

    Args:
        skulls: The validation or test split.
        defect: What holes to cut.
        seed: Seed of the holes, 0 or more.
        name: ``set1`` for holes like those trained on, ``set2`` for others.

    Raises:
        ValueError: If there is no skull or the seed is negative.
    """

    def __init__(
        self,
        skulls: Sequence[PreparedSkull],
        defect: Defect,
        seed: int,
        name: Literal["set1", "set2"] = "set1",
    ) -> None:
        super().__init__(skulls, defect, seed)
        self.name = name
        self._set_key = zlib.crc32(name.encode())

    def __len__(self) -> int:
        return len(self.subjects)

    def __getitem__(self, index: int) -> Item:
        if not 0 <= index < len(self):
            raise IndexError(f"index {index} is outside 0 to {len(self) - 1}.")
        return self._item(index, [self._set_key, 2])


def _subject_key(subject: str) -> int:
    return int.from_bytes(hashlib.sha256(subject.encode()).digest()[:7], "big")


def _channel(mask: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(mask.astype(np.float32))[None]
