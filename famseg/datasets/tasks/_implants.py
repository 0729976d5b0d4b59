"""Torch data sets for implants: from a defective skull to its missing part."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from famseg.datasets.defects import RegionDefect, SkullBreakDefect, inject
from famseg.datasets.skulls import PreparedSkull
from famseg.datasets.tasks._deform import Deformation, deform
from famseg.messages import InputError

_logger = logging.getLogger("famseg")

ANY = "any"
"""Class of training cases, whose class is not determined."""

_ATTEMPTS = 4  # deformed heads that are tried before the original head
_CUT_MM = (95.0, 170.0)  # range of the distance from the top at which the lower part may be cut off
_SMALLEST_VOXELS = 8  # smallest implant that is used for training
_CHIPS = (1, 8)  # smallest number of holes in base and face, and one above the largest
_LOW = 0.53  # of the grid's height; base and face lie below


class ImplantItem(TypedDict):
    """One case.

    ``image`` (defective skull), ``label`` (complete skull) and ``implant`` (the difference):
    float32 ``(1, S, S, S)``, 0 and 1; ``region`` (what was removed, bone or not): bool of the same
    shape; ``subject``: its name; ``where``: class of the defect; ``spacing_mm``: float32 ``(3,)``;
    ``affine``: float64 ``(4, 4)``, voxel to mm in RAS+.
    """

    image: Tensor
    label: Tensor
    implant: Tensor
    region: Tensor
    subject: str
    where: str
    spacing_mm: Tensor
    affine: Tensor


@dataclass(frozen=True)
class ImplantAugmentation:
    """Random changes of heads and defective skulls in training.

    Args:
        mirror: Left and right are swapped in half of the draws.
        deformation: How heads are moved and bent, before a defect is cut.
        cut: Share of the defective skulls whose lower part, face and base, is cut off.
        chips: Share of them that get small holes in base and face, as thin bone has in a scan.
    """

    mirror: bool = True
    deformation: Deformation = field(default_factory=Deformation)
    cut: float = 0.5
    chips: float = 0.4

    def __post_init__(self) -> None:
        if not (0 <= self.cut <= 1 and 0 <= self.chips <= 1):
            raise InputError(f"augment: cut {self.cut:g} and chips {self.chips:g} must be 0 to 1")


class ImplantTrainingSet(Dataset[ImplantItem]):
    """Complete skulls, each deformed and given several new defects in every epoch.

    ``epoch, sample = divmod(index, len(self))``; the sample is the ``sample // skulls``-th defect
    of its skull. The item is a pure function of (seed, epoch, number of the defect, subject):
    a resumed run sees what an uninterrupted one would have seen, whatever the number of workers.
    Takes 16 ms per item at 64^3.

    Args:
        skulls: The training split, all on cubes of one size.
        defect: The classes of defects.
        seed: Seed of everything drawn, 0 or more.
        draws: Defects per skull and epoch.
        augmentation: What is done to the heads.

    Raises:
        ValueError: If there is no skull or the grids differ.
        InputError: One line for each skull that no defect can be cut into.
    """

    def __init__(
        self,
        skulls: Sequence[PreparedSkull],
        defect: SkullBreakDefect,
        seed: int,
        *,
        draws: int = 4,
        augmentation: ImplantAugmentation | None = None,
    ) -> None:
        _check(skulls)
        self._skulls = tuple(skulls)
        self._keys = tuple(subject_key(skull.id) for skull in skulls)
        self._defect = defect
        self._seed = seed
        self._draws = draws
        self._augmentation = augmentation or ImplantAugmentation()
        faults = []
        for skull, key in zip(self._skulls, self._keys, strict=True):
            try:
                inject(skull.mask, defect, skull.spacing_mm, np.random.default_rng([seed, key]))
            except InputError as error:
                faults += [f"subject {skull.id}: {fault}" for fault in error.faults]
        if faults:
            raise InputError(*faults)

    def __len__(self) -> int:
        return len(self._skulls) * self._draws

    def __getitem__(self, index: int) -> ImplantItem:
        if index < 0:
            raise IndexError(
                f"index {index} is negative: epoch * {len(self)} + sample is expected."
            )
        epoch, sample = divmod(index, len(self))
        draw, number = divmod(sample, len(self._skulls))
        skull = self._skulls[number]
        rng = np.random.default_rng([self._seed, epoch, draw, self._keys[number], 5])
        for _ in range(_ATTEMPTS):
            mask = self._head(skull, rng)
            try:
                defective, region = inject(mask, self._defect, skull.spacing_mm, rng)
            except InputError:
                continue
            implant = mask * region
            self._spoil(defective, implant, skull.spacing_mm[2], rng)
            if np.count_nonzero(implant) >= _SMALLEST_VOXELS:
                return _item(skull, skull.id, ANY, defective, implant, region)
        # Rare, for skulls with little wall; this draw was tried when the set was created.
        rng = np.random.default_rng([self._seed, self._keys[number]])
        defective, region = inject(skull.mask, self._defect, skull.spacing_mm, rng)
        return _item(skull, skull.id, ANY, defective, skull.mask * region, region)

    def _head(self, skull: PreparedSkull, rng: np.random.Generator) -> NDArray[np.uint8]:
        """Return the head for this draw, mirrored and deformed if so drawn."""
        flip = self._augmentation.mirror and rng.random() < 0.5
        mask = skull.mask[::-1] if flip else skull.mask
        return np.ascontiguousarray(
            deform(mask, self._augmentation.deformation, skull.spacing_mm[0], rng)
        )

    def _spoil(
        self,
        defective: NDArray[np.uint8],
        implant: NDArray[np.uint8],
        spacing_mm: float,
        rng: np.random.Generator,
    ) -> None:
        """Cut off the lower part and add small holes below the vault, in place."""
        if rng.random() < self._augmentation.cut:
            top = int(np.flatnonzero(defective.any(axis=(0, 1)))[-1])
            floor = max(top - round(rng.uniform(*_CUT_MM) / spacing_mm), 0)
            defective[:, :, :floor] = 0
            implant[:, :, :floor] = 0
        if rng.random() < self._augmentation.chips:
            bone = np.argwhere(defective[:, :, : int(_LOW * defective.shape[2])])
            for _ in range(int(rng.integers(*_CHIPS)) if len(bone) else 0):
                center, radius = bone[rng.integers(len(bone))], int(rng.integers(1, 3))
                defective[tuple(slice(max(c - radius, 0), c + radius) for c in center)] = 0


@dataclass(frozen=True)
class _Case:
    skull: int
    where: str
    region: NDArray[np.uint8]  # packed bits


class ImplantCases(Dataset[ImplantItem]):
    """Complete skulls with one fixed defect of each class, for validation and test.

    A case is a pure function of (seed, name, class, subject). A class that a skull has no place
    for, as its wall is cut off by the scan, has no case; ``missing`` counts them, and a warning
    says so.

    Args:
        skulls: The validation or test split.
        defect: The classes.
        seed: Seed of the defects, 0 or more.
        name: Name of the set, part of the draw.

    Attributes:
        missing: Cases that could not be made, by class.

    Raises:
        ValueError: If there is no skull or the grids differ.
        InputError: If no skull has a place for any defect.
    """

    def __init__(
        self, skulls: Sequence[PreparedSkull], defect: SkullBreakDefect, seed: int, name: str
    ) -> None:
        _check(skulls)
        self.name = name
        self.missing: dict[str, int] = {}
        self._skulls = tuple(skulls)
        self._cases: list[_Case] = []
        for number, skull in enumerate(self._skulls):
            for where in defect.classes:
                one = RegionDefect(where, defect.area_cm2, defect.spread, defect.roughness_mm)
                key = [seed, subject_key(f"{name}/{skull.id}/{where}"), 6]
                try:
                    region = inject(skull.mask, one, skull.spacing_mm, np.random.default_rng(key))[
                        1
                    ]
                except InputError:
                    self.missing[where] = self.missing.get(where, 0) + 1
                    continue
                self._cases.append(_Case(number, where, np.packbits(region)))
        if not self._cases:
            raise InputError(
                f"{name}: no skull has a place for a defect. Are the vaults cut off by the scan?"
            )
        if self.missing:
            left_out = ", ".join(f"{n} of {where}" for where, n in self.missing.items())
            _logger.warning(
                "%s: skulls without a place for a defect are left out: %s", name, left_out
            )

    def __len__(self) -> int:
        return len(self._cases)

    def __getitem__(self, index: int) -> ImplantItem:
        if not 0 <= index < len(self):
            raise IndexError(f"index {index} is outside 0 to {len(self) - 1}.")
        case = self._cases[index]
        skull = self._skulls[case.skull]
        region = np.unpackbits(case.region, count=skull.mask.size).reshape(skull.mask.shape) > 0
        name = f"{skull.id}/{case.where}"
        implant = skull.mask * region
        return _item(skull, name, case.where, skull.mask * ~region, implant, region)


def subject_key(subject: str) -> int:
    """Return a number that represents a name in the seeds of draws."""
    return int.from_bytes(hashlib.sha256(subject.encode()).digest()[:7], "big")


def _check(skulls: Sequence[PreparedSkull]) -> None:
    if not skulls:
        raise ValueError("a data set needs at least one skull: this split is empty.")
    for skull in skulls:
        if skull.mask.shape != skulls[0].mask.shape or len(set(skull.mask.shape)) != 1:
            raise ValueError(
                f"skull {skull.id} has the grid {skull.mask.shape}, the first one "
                f"{skulls[0].mask.shape}. All must be cubes of one size."
            )


def _item(
    skull: PreparedSkull,
    name: str,
    where: str,
    defective: NDArray[np.uint8],
    implant: NDArray[np.uint8],
    region: NDArray[np.bool_],
) -> ImplantItem:
    return ImplantItem(
        image=_channel(defective),
        label=_channel(defective | implant),
        implant=_channel(implant),
        region=torch.from_numpy(region)[None],
        subject=name,
        where=where,
        spacing_mm=torch.tensor(skull.spacing_mm, dtype=torch.float32),
        affine=torch.tensor(skull.affine, dtype=torch.float64),
    )


def _channel(mask: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(mask.astype(np.float32))[None]
