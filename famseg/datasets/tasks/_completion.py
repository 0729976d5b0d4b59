"""Torch data sets for skull completion: from a defective skull to the complete one."""

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

from famseg.datasets.defects import Defect, FixedSet, PlacedHole, inject, place
from famseg.datasets.skulls import PreparedSkull
from famseg.messages import InputError


class Item(TypedDict):
    """One case.

    ``image`` (skull with the defect), ``label`` (complete skull): float32 ``(1, S, S, S)``, 0 and
    1; ``region`` (what was removed, bone or not): bool of the same shape; ``subject``: its id;
    ``spacing_mm``: float32 ``(3,)``; ``affine``: float64 ``(4, 4)``, voxel to mm in RAS+.
    """

    image: Tensor
    label: Tensor
    region: Tensor
    subject: str
    spacing_mm: Tensor
    affine: Tensor


class _Skulls(Dataset[Item]):
    """Skulls stored as bytes and converted to floats per item.

    Forked workers share the memory of the masks, which are never written to.
    """

    def __init__(self, skulls: Sequence[PreparedSkull], seed: int) -> None:
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
        self._seed = seed

    def __len__(self) -> int:
        return len(self._skulls)

    def __iter__(self) -> Iterator[Item]:
        # Without this, iteration would never end, since indices continue into later epochs.
        return (self[index] for index in range(len(self)))

    def _generator(self, index: int, entropy: Sequence[int]) -> np.random.Generator:
        return np.random.default_rng([self._seed, *entropy, self._keys[index]])

    def _cut(
        self, index: int, defect: Defect, entropy: Sequence[int], *, flip: bool = False
    ) -> Item:
        skull = self._skulls[index]
        mask = np.ascontiguousarray(skull.mask[::-1]) if flip else skull.mask
        rng = self._generator(index, entropy)
        holed, region = inject(mask, defect, skull.spacing_mm, rng)
        return _item(skull, skull.id, mask, holed, region)

    def _check_holes(self, defect: Defect, entropy: Sequence[int]) -> None:
        """Report every skull into which no defect can be cut, before the first epoch."""
        faults = []
        for index, skull in enumerate(self._skulls):
            try:
                inject(skull.mask, defect, skull.spacing_mm, self._generator(index, entropy))
            except InputError as error:
                faults += [f"subject {skull.id}: {fault}" for fault in error.faults]
        if faults:
            raise InputError(*faults)


class TrainingSet(_Skulls):
    """Complete skulls, each with a fresh defect in every epoch.

    An index of ``n`` or more asks for a later epoch: ``epoch, subject = divmod(index, n)``. The
    defect is a pure function of (seed, epoch, subject), so a resumed run sees the defects that an
    uninterrupted one would have seen, with any number of workers. Where a later epoch finds no
    place for a defect, the subject gets the defect of the first one, which is tried at once.

    Args:
        skulls: The training split.
        defect: What defects to cut.
        seed: Seed of the defects, 0 or more.
        mirror: Swap left and right in half of the draws (the same pure function decides).

    Raises:
        ValueError: If there is no skull, the grids differ or the seed is negative.
        InputError: One line for each skull that no defect can be cut into.
    """

    def __init__(
        self, skulls: Sequence[PreparedSkull], defect: Defect, seed: int, *, mirror: bool = False
    ) -> None:
        super().__init__(skulls, seed)
        self._defect = defect
        self._mirror = mirror
        self._check_holes(defect, (0,))

    def __getitem__(self, index: int) -> Item:
        if index < 0:
            raise IndexError(
                f"index {index} is negative: epoch * {len(self)} + subject is expected."
            )
        epoch, subject = divmod(index, len(self))
        flip = False
        if self._mirror:
            key = [self._seed, epoch, self._keys[subject], 1]
            flip = bool(np.random.default_rng(key).integers(2))
        try:
            return self._cut(subject, self._defect, [epoch], flip=flip)
        except InputError:
            # Rare, for skulls with little wall; one failed draw must not end a run of hours.
            return self._cut(subject, self._defect, [0])


class EvaluationSet(_Skulls):
    """Complete skulls with fixed defects.

    Defects that are drawn: one per skull, a pure function of (seed, name, subject). Defects of a
    fixed set: all that it has for the skulls; where a subject has several, the item's ``subject``
    is ``ID/CLASS`` (``ID/CLASS-N``), so that every case has a name of its own.

    Args:
        skulls: The validation or test split.
        defect: What defects to cut, or the set that contains them.
        seed: Seed of the defects, 0 or more.
        name: ``set1`` for defects like those trained on, ``set2`` for others.

    Raises:
        ValueError: If there is no skull, the grids differ or the seed is negative.
        InputError: One line for each skull that no defect can be cut into, or that a defect of the
            fixed set does not fit.
    """

    def __init__(
        self,
        skulls: Sequence[PreparedSkull],
        defect: Defect | FixedSet,
        seed: int,
        name: Literal["set1", "set2"] = "set1",
    ) -> None:
        super().__init__(skulls, seed)
        self.name = name
        self._entropy = (zlib.crc32(name.encode()), 2)
        self._holes: list[PlacedHole] = []
        self._defect: Defect | None = None
        if isinstance(defect, FixedSet):
            self._holes = place(defect, skulls)
        else:
            self._defect = defect
            self._check_holes(defect, self._entropy)

    def __len__(self) -> int:
        return len(self._holes) if self._defect is None else len(self._skulls)

    def __getitem__(self, index: int) -> Item:
        if not 0 <= index < len(self):
            raise IndexError(f"index {index} is outside 0 to {len(self) - 1}.")
        if self._defect is not None:
            return self._cut(index, self._defect, self._entropy)
        hole = self._holes[index]
        skull = self._skulls[hole.skull]
        region = hole.region(skull.mask.shape)
        return _item(skull, hole.name, skull.mask, skull.mask * ~region, region)


def _subject_key(subject: str) -> int:
    return int.from_bytes(hashlib.sha256(subject.encode()).digest()[:7], "big")


def _channel(mask: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(mask.astype(np.float32))[None]


def _item(
    skull: PreparedSkull,
    name: str,
    mask: NDArray[np.uint8],
    holed: NDArray[np.uint8],
    region: NDArray[np.bool_],
) -> Item:
    return Item(
        image=_channel(holed),
        label=_channel(mask),
        region=torch.from_numpy(region)[None],
        subject=name,
        spacing_mm=torch.tensor(skull.spacing_mm, dtype=torch.float32),
        affine=torch.tensor(skull.affine, dtype=torch.float64),
    )
