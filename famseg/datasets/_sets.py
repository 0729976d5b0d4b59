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

from famseg.config import InputError
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
    """Skulls held as bytes and turned into floats item by item.

    Worker processes that are forked share the masks: nothing ever writes to them.
    """

    def __init__(
        self, skulls: Sequence[PreparedSkull], defect: Defect, seed: int, *, first: tuple[int, ...]
    ) -> None:
        if not skulls:
            raise ValueError("a data set needs at least one skull: this split is empty.")
        if seed < 0:
            raise ValueError(f"seed must be 0 or more, got {seed}.")
        for skull in skulls:
            if skull.mask.shape != skulls[0].mask.shape:
                raise ValueError(
                    f"skull {skull.id} has the grid {skull.mask.shape}, others have "
                    f"{skulls[0].mask.shape}."
                )
        self.subjects = tuple(skull.id for skull in skulls)
        self._skulls = tuple(skulls)
        self._keys = tuple(_subject_key(skull.id) for skull in skulls)
        self._defect = defect
        self._seed = seed
        self._check_holes(first)

    def __len__(self) -> int:
        return len(self._skulls)

    def __iter__(self) -> Iterator[Item]:
        # Without this, iteration would go on from epoch to epoch: an index has no upper end.
        return (self[index] for index in range(len(self)))

    def _generator(self, index: int, entropy: Sequence[int]) -> np.random.Generator:
        return np.random.default_rng([self._seed, *entropy, self._keys[index]])

    def _item(self, index: int, entropy: Sequence[int], *, flip: bool = False) -> Item:
        skull = self._skulls[index]
        mask = np.ascontiguousarray(skull.mask[::-1]) if flip else skull.mask
        rng = self._generator(index, entropy)
        holed, region = inject(mask, self._defect, skull.spacing_mm, rng)
        return Item(
            image=_channel(holed),
            label=_channel(mask),
            region=torch.from_numpy(region)[None],
            subject=skull.id,
            spacing_mm=torch.tensor(skull.spacing_mm, dtype=torch.float32),
            affine=torch.tensor(skull.affine, dtype=torch.float64),
        )

    def _check_holes(self, entropy: tuple[int, ...]) -> None:
        """Report every skull that no hole can be cut into now, not in the middle of an epoch."""
        faults = []
        for index, skull in enumerate(self._skulls):
            try:
                inject(skull.mask, self._defect, skull.spacing_mm, self._generator(index, entropy))
            except InputError as error:
                faults += [f"subject {skull.id}: {fault}" for fault in error.faults]
        if faults:
            raise InputError(*faults)


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
        ValueError: If there is no skull, the grids differ or the seed is negative.
        InputError: One line for each skull that no hole can be cut into.
    """

    def __init__(
        self, skulls: Sequence[PreparedSkull], defect: Defect, seed: int, *, mirror: bool = False
    ) -> None:
        super().__init__(skulls, defect, seed, first=(0,))
        self._mirror = mirror

    def __getitem__(self, index: int) -> Item:
        if index < 0:
            raise IndexError(f"index {index} is negative: epoch * {len(self)} + subject is wanted.")
        epoch, subject = divmod(index, len(self))
        flip = False
        if self._mirror:
            key = [self._seed, epoch, self._keys[subject], 1]
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
        ValueError: If there is no skull, the grids differ or the seed is negative.
        InputError: One line for each skull that no hole can be cut into.
    """

    def __init__(
        self,
        skulls: Sequence[PreparedSkull],
        defect: Defect,
        seed: int,
        name: Literal["set1", "set2"] = "set1",
    ) -> None:
        self.name = name
        self._entropy = (zlib.crc32(name.encode()), 2)
        super().__init__(skulls, defect, seed, first=self._entropy)

    def __getitem__(self, index: int) -> Item:
        if not 0 <= index < len(self):
            raise IndexError(f"index {index} is outside 0 to {len(self) - 1}.")
        return self._item(index, self._entropy)


def _subject_key(subject: str) -> int:
    return int.from_bytes(hashlib.sha256(subject.encode()).digest()[:7], "big")


def _channel(mask: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(mask.astype(np.float32))[None]
