"""AutoAugment (Cubuk et al. 2019, arXiv 1805.09501) on batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from famseg.datasets.images import _augment_operations as operations
from famseg.datasets.images._augment_operations import Geometric
from famseg.datasets.images._augment_random import BITS, below, happens

Policy = Literal["cifar10", "svhn"]
Operation = Literal[
    Geometric,
    "Invert",
    "Solarize",
    "Posterize",
    "Contrast",
    "Color",
    "Brightness",
    "Sharpness",
    "AutoContrast",
    "Equalize",
]
Step = tuple[Operation, float, int]
"""An operation, its probability, and its level from 0 to 9 (0 if it has none)."""

POLICY_NUMBERS = 5
"""Random numbers per image: one for the sub-policy, and for each step whether and which sign."""

# The two steps of each sub-policy, from the paper's appendix.
POLICIES: dict[Policy, tuple[tuple[Step, Step], ...]] = {
    "cifar10": (
        (("Invert", 0.1, 0), ("Contrast", 0.2, 6)),
        (("Rotate", 0.7, 2), ("TranslateX", 0.3, 9)),
        (("Sharpness", 0.8, 1), ("Sharpness", 0.9, 3)),
        (("ShearY", 0.5, 8), ("TranslateY", 0.7, 9)),
        (("AutoContrast", 0.5, 0), ("Equalize", 0.9, 0)),
        (("ShearY", 0.2, 7), ("Posterize", 0.3, 7)),
        (("Color", 0.4, 3), ("Brightness", 0.6, 7)),
        (("Sharpness", 0.3, 9), ("Brightness", 0.7, 9)),
        (("Equalize", 0.6, 0), ("Equalize", 0.5, 0)),
        (("Contrast", 0.6, 7), ("Sharpness", 0.6, 5)),
        (("Color", 0.7, 7), ("TranslateX", 0.5, 8)),
        (("Equalize", 0.3, 0), ("AutoContrast", 0.4, 0)),
        (("TranslateY", 0.4, 3), ("Sharpness", 0.2, 6)),
        (("Brightness", 0.9, 6), ("Color", 0.2, 8)),
        (("Solarize", 0.5, 2), ("Invert", 0.0, 0)),
        (("Equalize", 0.2, 0), ("AutoContrast", 0.6, 0)),
        (("Equalize", 0.2, 0), ("Equalize", 0.6, 0)),
        (("Color", 0.9, 9), ("Equalize", 0.6, 0)),
        (("AutoContrast", 0.8, 0), ("Solarize", 0.2, 8)),
        (("Brightness", 0.1, 3), ("Color", 0.7, 0)),
        (("Solarize", 0.4, 5), ("AutoContrast", 0.9, 0)),
        (("TranslateY", 0.9, 9), ("TranslateY", 0.7, 9)),
        (("AutoContrast", 0.9, 0), ("Solarize", 0.8, 3)),
        (("Equalize", 0.8, 0), ("Invert", 0.1, 0)),
        (("TranslateY", 0.7, 9), ("AutoContrast", 0.9, 0)),
    ),
    "svhn": (
        (("ShearX", 0.9, 4), ("Invert", 0.2, 0)),
        (("ShearY", 0.9, 8), ("Invert", 0.7, 0)),
        (("Equalize", 0.6, 0), ("Solarize", 0.6, 6)),
        (("Invert", 0.9, 0), ("Equalize", 0.6, 0)),
        (("Equalize", 0.6, 0), ("Rotate", 0.9, 3)),
        (("ShearX", 0.9, 4), ("AutoContrast", 0.8, 0)),
        (("ShearY", 0.9, 8), ("Invert", 0.4, 0)),
        (("ShearY", 0.9, 5), ("Solarize", 0.2, 6)),
        (("Invert", 0.9, 0), ("AutoContrast", 0.8, 0)),
        (("Equalize", 0.6, 0), ("Rotate", 0.9, 3)),
        (("ShearX", 0.9, 4), ("Solarize", 0.3, 3)),
        (("ShearY", 0.8, 8), ("Invert", 0.7, 0)),
        (("Equalize", 0.9, 0), ("TranslateY", 0.6, 6)),
        (("Invert", 0.9, 0), ("Equalize", 0.6, 0)),
        (("Contrast", 0.3, 3), ("Rotate", 0.8, 4)),
        (("Invert", 0.8, 0), ("TranslateY", 0.0, 2)),
        (("ShearY", 0.7, 6), ("Solarize", 0.4, 8)),
        (("Invert", 0.6, 0), ("Rotate", 0.8, 4)),
        (("ShearY", 0.3, 7), ("TranslateX", 0.9, 3)),
        (("ShearX", 0.1, 6), ("Invert", 0.6, 0)),
        (("Solarize", 0.7, 2), ("TranslateY", 0.6, 7)),
        (("ShearY", 0.8, 4), ("Invert", 0.8, 0)),
        (("ShearX", 0.7, 9), ("TranslateY", 0.8, 3)),
        (("ShearY", 0.8, 5), ("AutoContrast", 0.7, 0)),
        (("ShearX", 0.7, 2), ("Invert", 0.1, 0)),
    ),
}

_GEOMETRIC: tuple[Geometric, ...] = get_args(Geometric)
_NOTHING, _MOVED = 0, 1
# Families of operations, numbered from 2; an inversion is a solarization with threshold 0.
_FAMILIES = (
    "Solarize",
    "Posterize",
    "Contrast",
    "Color",
    "Brightness",
    "Sharpness",
    "AutoContrast",
    "Equalize",
)
_SHEAR, _TRANSLATION, _ROTATION = 0.3, 10 / 32, 30.0


class _Tables(NamedTuple):
    """The steps of a policy by (sub-policy, step), for one device and one image size.

    Attributes:
        family: Family of the operation, int64.
        probability: Its probability, float64.
        number: Its parameter, float32.
        place: Row of ``sources`` for a positive amount; the next row is for the negative one.
        sources: Indices of source pixels, int64, shape ``(places, h * w)``.
    """

    family: Tensor
    probability: Tensor
    number: Tensor
    place: Tensor
    sources: Tensor


class AutoAugment:
    """One of the policies that AutoAugment found, on batches of bytes.

    An image draws one of 25 sub-policies; each of its two steps happens with its own probability,
    geometric ones with a random sign. Levels have the meaning of the authors' program: at level 10,
    the shear goes to 0.3, the rotation to 30 degrees, the translation to 10 pixels of 32 (the same
    share of other edges), the blending factors from 0.1 to 1.9, the threshold from 256 to 0, and
    posterizing leaves 4 to 0 bits. Pixels from outside the image get the color ``fill``.

    Args:
        policy: Which one.
        fill: Color for pixels from outside, one value per channel of 0 to 255.

    Raises:
        ValueError: If the images have neither one nor three channels.
    """

    def __init__(self, policy: Policy, *, fill: Sequence[int]) -> None:
        if len(fill) not in (1, 3):
            raise ValueError(
                f"autoaugment needs images of 1 or 3 channels, these have {len(fill)}. Set "
                "autoaugment to none."
            )
        self.policy = policy
        self._fill = torch.tensor(fill, dtype=torch.uint8)
        self._tables: dict[tuple[int, int, torch.device], _Tables] = {}

    def __call__(self, images: Tensor, bits: Tensor) -> Tensor:
        """Return augmented images.

        Args:
            images: Images, uint8, shape ``(n, c, h, w)``; they are not modified.
            bits: Random bits, shape ``(n, 5)``.
        """
        tables = self._tables_for(images)
        chosen = below(bits[:, 0], len(POLICIES[self.policy]))
        happen = happens(bits[:, 1::2], tables.probability[chosen])
        family = torch.where(happen, tables.family[chosen], _NOTHING)
        number = tables.number[chosen]
        place = tables.place[chosen] + (bits[:, 2::2] >> BITS - 1)
        now_at = torch.arange(len(images), device=images.device)
        for step in range(2):
            # Images are sorted by operation, so that those with the same operation form a slice.
            order = family[:, step].argsort(stable=True)
            images = images.index_select(0, now_at[order])
            now_at = order.argsort()
            counts = torch.bincount(family[:, step], minlength=len(_FAMILIES) + 2).tolist()
            self._change(images, counts, number[order, step], tables.sources, place[order, step])
        return images.index_select(0, now_at)

    def _change(
        self,
        images: Tensor,
        counts: Sequence[int],
        number: Tensor,
        sources: Tensor,
        place: Tensor,
    ) -> None:
        """Change images in place.

        Args:
            images: The images, sorted by operation.
            counts: Number of images in each family.
            number: Parameters.
            sources: Rows of source pixels.
            place: Row of each image with a geometric operation.
        """
        start = 0
        for what, count in enumerate(counts):
            group = slice(start, start + count)
            start += count
            if what == _NOTHING or not count:
                continue
            if what == _MOVED:
                taken = sources.index_select(0, place[group])
                fill = self._fill.to(images.device)
                images[group] = operations.moved(images[group], taken, fill)
            else:
                family = _FAMILIES[what - 2]
                images[group] = _done(family, images[group], number[group])

    def _tables_for(self, images: Tensor) -> _Tables:
        height, width = images.shape[-2:]
        key = (height, width, images.device)
        if key not in self._tables:
            tables = _tables(self.policy, (height, width))
            self._tables[key] = _Tables(*(table.to(images.device) for table in tables))
        return self._tables[key]


def amount(operation: Geometric, level: int, size: tuple[int, int]) -> float:
    """Return the magnitude of a geometric operation: a factor, pixels or degrees.

    Args:
        operation: Which one.
        level: 0 to 10.
        size: Height and width of the images.

    Example:
        >>> amount("TranslateY", 7, (32, 32)), amount("Rotate", 3, (32, 32))
        (7, 9)
    """
    if operation in ("ShearX", "ShearY"):
        return level * _SHEAR / 10
    if operation == "Rotate":
        return int(level * _ROTATION / 10)
    edge = size[0] if operation == "TranslateY" else size[1]
    return int(level * _TRANSLATION * edge / 10)


def parameter(operation: Operation, level: int) -> float:
    """Return the parameter of any other operation; 0 if it has none.

    Example:
        >>> parameter("Solarize", 5), parameter("Posterize", 7), parameter("Color", 9)
        (128, 192, 1.72)
    """
    if operation == "Solarize":
        return 256 - int(level * 256 / 10)
    if operation == "Posterize":
        kept = 4 - int(level * 4 / 10)
        return 256 - (1 << 8 - kept)
    if operation in ("Contrast", "Color", "Brightness", "Sharpness"):
        return 0.1 + level * 1.8 / 10
    return 0


def _tables(policy: Policy, size: tuple[int, int]) -> _Tables:
    rows: dict[tuple[str, int], int] = {}
    sources: list[Tensor] = []
    family, probability, number, place = [], [], [], []
    for operation, chance, level in (step for steps in POLICIES[policy] for step in steps):
        probability.append(chance)
        number.append(parameter(operation, level))
        if operation in _GEOMETRIC and (operation, level) not in rows:
            rows[operation, level] = len(sources)
            far = amount(operation, level, size)
            for signed in (far, -far):
                affine = operations.matrix(operation, signed, size)
                sources.append(operations.source_pixels(affine, size))
        place.append(rows.get((operation, level), 0))
        what = "Solarize" if operation == "Invert" else operation
        family.append(_MOVED if operation in _GEOMETRIC else _FAMILIES.index(what) + 2)
    return _Tables(
        torch.tensor(family).view(-1, 2),
        torch.tensor(probability, dtype=torch.float64).view(-1, 2),
        torch.tensor(number, dtype=torch.float32).view(-1, 2),
        torch.tensor(place).view(-1, 2),
        torch.stack(sources),
    )


def _done(family: str, images: Tensor, number: Tensor) -> Tensor:
    """Return images after an operation on their values."""
    if family == "Solarize":
        return operations.solarize(images, number.to(torch.uint8))
    if family == "Posterize":
        return operations.posterize(images, number.to(torch.uint8))
    if family == "AutoContrast":
        return operations.autocontrast(images)
    if family == "Equalize":
        return operations.equalize(images)
    blends = {
        "Contrast": operations.contrast,
        "Color": operations.color,
        "Brightness": operations.brightness,
        "Sharpness": operations.sharpness,
    }
    return blends[family](images, number)
