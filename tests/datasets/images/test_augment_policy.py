from __future__ import annotations

import pytest
import torch
from pillow_augment import changed, drawn_images, from_pillow, to_pillow

from famseg.datasets.images._augment_policy import (
    POLICIES,
    POLICY_NUMBERS,
    AutoAugment,
    Policy,
    amount,
    parameter,
)
from famseg.datasets.images._augment_random import random_bits

FILL = [110, 112, 120]


def operation_names() -> set[str]:
    return {step[0] for policy in POLICIES.values() for steps in policy for step in steps}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("policy", ["cifar10", "svhn"])
def test_a_batch_is_what_pillow_makes_of_its_images_one_by_one(
    policy: Policy, channels: int
) -> None:
    batch = drawn_images(400, channels, 32, 32)
    bits = random_bits(0, torch.arange(len(batch)), POLICY_NUMBERS)
    before = batch.clone()
    found = AutoAugment(policy, fill=FILL[:channels])(batch, bits)
    assert torch.equal(batch, before)
    fill = tuple(FILL) if channels == 3 else FILL[0]
    done = set()
    for image, own, numbers in zip(batch, found, (bits / 2**32).tolist(), strict=True):
        expected = to_pillow(image)
        for step, (operation, probability, level) in enumerate(
            POLICIES[policy][int(25 * numbers[0])]
        ):
            happens, sign = numbers[1 + 2 * step : 3 + 2 * step]
            if happens < probability:
                expected = changed(expected, operation, level, 1 if sign < 0.5 else -1, fill)
                done.add(operation)
        assert torch.equal(own, from_pillow(expected))
    assert done == {
        operation
        for steps in POLICIES[policy]
        for operation, probability, _ in steps
        if probability > 0
    }


def test_the_policies_have_25_sub_policies_of_two_steps() -> None:
    assert len(operation_names()) == 14
    for policy in POLICIES.values():
        assert [len(steps) for steps in policy] == [2] * 25
        for steps in policy:
            assert all(0 <= chance <= 1 and level in range(10) for _, chance, level in steps)


def test_levels_mean_what_they_do_in_the_authors_program() -> None:
    assert [amount("TranslateX", level, (32, 32)) for level in range(10)] == list(range(10))
    assert amount("TranslateX", 8, (64, 224)) == 56
    assert amount("TranslateY", 8, (64, 224)) == 16
    assert [amount("Rotate", level, (32, 32)) for level in (2, 3, 4, 9)] == [6, 9, 12, 27]
    assert amount("ShearX", 9, (32, 32)) == pytest.approx(0.27)
    assert amount("ShearY", 4, (32, 32)) == pytest.approx(0.12)
    assert [parameter("Solarize", level) for level in (2, 3, 6, 8)] == [205, 180, 103, 52]
    assert parameter("Posterize", 7) == 0b11000000
    for operation in ("Contrast", "Color", "Brightness", "Sharpness"):
        assert [parameter(operation, level) for level in (0, 5, 9)] == pytest.approx(
            [0.1, 1.0, 1.72]
        )
    assert {parameter(operation, 5) for operation in ("Invert", "Equalize", "AutoContrast")} == {0}


def test_a_image_is_changed_alike_in_any_batch() -> None:
    batch = drawn_images(60, 3, 16, 24)
    bits = random_bits(2, torch.arange(60), POLICY_NUMBERS)
    augment = AutoAugment("cifar10", fill=FILL)
    whole = augment(batch, bits)
    order = torch.randperm(60, generator=torch.Generator().manual_seed(1))[:23]
    assert torch.equal(augment(batch[order], bits[order]), whole[order])
    for k in (0, 17):
        assert torch.equal(augment(batch[k : k + 1], bits[k : k + 1]), whole[k : k + 1])


def test_other_numbers_of_channels_are_refused() -> None:
    with pytest.raises(ValueError, match=r"needs images of 1 or 3 channels, these have 4\. Set"):
        AutoAugment("svhn", fill=[1, 2, 3, 4])
