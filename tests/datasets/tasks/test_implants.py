from __future__ import annotations

import logging

import numpy as np
import pytest
import torch

from famseg.datasets import (
    WHERES,
    Deformation,
    ImplantAugmentation,
    ImplantCases,
    ImplantTrainingSet,
    PreparedSkull,
    SkullBreakDefect,
)
from famseg.messages import InputError

DEFECT = SkullBreakDefect()
PLAIN = ImplantAugmentation(mirror=False, deformation=Deformation(share=0), cut=0, chips=0)


def same(one: dict, two: dict) -> bool:
    return all(
        torch.equal(one[key], two[key])
        if isinstance(one[key], torch.Tensor)
        else one[key] == two[key]
        for key in one
    )


def test_an_item(skulls: list[PreparedSkull]) -> None:
    items = ImplantTrainingSet(skulls, DEFECT, seed=0, draws=3)
    assert len(items) == 12
    item = items[5]
    assert item["subject"] == "s1"
    for key in ("image", "label", "implant"):
        assert item[key].dtype == torch.float32
        assert item[key].shape == (1, 32, 32, 32)
        assert set(item[key].unique().tolist()) == {0.0, 1.0}
    assert not (item["image"] * item["implant"]).any()
    assert torch.equal(item["label"], item["image"] + item["implant"])
    assert bool(item["region"][item["implant"] > 0].all())
    assert item["spacing_mm"].tolist() == [7.0, 7.0, 7.0]


def test_without_augmentation_the_label_is_the_skull(skulls: list[PreparedSkull]) -> None:
    items = ImplantTrainingSet(skulls, DEFECT, seed=0, augmentation=PLAIN)
    for index in range(4):
        assert np.array_equal(items[index]["label"][0].numpy(), skulls[index].mask)


def test_an_item_is_a_pure_function_of_seed_epoch_draw_and_subject(
    skulls: list[PreparedSkull],
) -> None:
    items = ImplantTrainingSet(skulls, DEFECT, seed=0, draws=2)
    assert same(items[13], items[13])
    turned = ImplantTrainingSet(skulls[::-1], DEFECT, seed=0, draws=2)
    assert same(items[8 + 4 + 1], turned[8 + 4 + 2]), "the place in the list does not matter"
    draws = [items[index]["image"] for index in (1, 5, 9)]  # two of an epoch, one of the next
    assert not torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    other = ImplantTrainingSet(skulls, DEFECT, seed=1, draws=2)
    assert not torch.equal(items[13]["image"], other[13]["image"])


def test_the_lower_part_is_cut_off_in_input_and_implant(skulls: list[PreparedSkull]) -> None:
    cut = ImplantAugmentation(mirror=False, deformation=Deformation(share=0), cut=1, chips=0)
    for index in range(8):
        item = ImplantTrainingSet(skulls, DEFECT, seed=0, augmentation=cut)[index]
        heights = np.flatnonzero(item["label"][0].numpy().any(axis=(0, 1)))
        depth_mm = (heights[-1] - heights[0]) * 7.0
        assert depth_mm <= 170 + 7


def test_chips_take_bone_below_the_vault_only(skulls: list[PreparedSkull]) -> None:
    chips = ImplantAugmentation(mirror=False, deformation=Deformation(share=0), cut=0, chips=1)
    one = ImplantTrainingSet(skulls, DEFECT, seed=0, augmentation=chips)
    lost = 0
    for index in range(4):
        item = one[index]
        gone = torch.from_numpy(skulls[index].mask)[None] - item["label"]
        assert float(gone.min()) == 0
        assert not gone[..., 19:].any()
        lost += int(gone.sum())
    assert lost > 0


def test_cases_have_every_class_and_stay_the_same(skulls: list[PreparedSkull]) -> None:
    cases = ImplantCases(skulls[:2], DEFECT, 0, "test")
    assert len(cases) == 10
    assert [cases[index]["subject"] for index in range(5)] == [f"s0/{where}" for where in WHERES]
    assert same(cases[3], ImplantCases(skulls[:2], DEFECT, 0, "test")[3])
    assert same(cases[3], ImplantCases(skulls[:1], DEFECT, 0, "test")[3]), "others do not matter"
    other = ImplantCases(skulls[:2], DEFECT, 0, "validation")[3]
    assert not torch.equal(cases[3]["image"], other["image"])
    for case in (cases[index] for index in range(10)):
        assert float(case["implant"].sum()) > 0
        assert torch.equal(case["label"], case["image"] + case["implant"])
        assert torch.equal(case["image"] > 0, (case["label"] > 0) & ~case["region"])


def test_a_class_without_a_place_is_left_out_and_counted(
    skulls: list[PreparedSkull], caplog: pytest.LogCaptureFixture
) -> None:
    mask = skulls[0].mask.copy()
    mask[:, 16:, :] = 0  # no front
    half = PreparedSkull("half", mask, skulls[0].affine)
    with caplog.at_level(logging.WARNING, logger="famseg"):
        cases = ImplantCases([skulls[1], half], SkullBreakDefect(("frontoorbital",)), 0, "test")
    assert len(cases) == 1
    assert cases.missing == {"frontoorbital": 1}
    assert (
        "test: skulls without a place for a defect are left out: 1 of frontoorbital" in caplog.text
    )


def test_skulls_that_no_defect_fits_are_named(skulls: list[PreparedSkull]) -> None:
    empty = PreparedSkull("nobody", np.zeros((32, 32, 32), dtype=np.uint8), skulls[0].affine)
    with pytest.raises(InputError, match="subject nobody: inject: the mask is empty"):
        ImplantTrainingSet([skulls[0], empty], DEFECT, 0)
    with pytest.raises(InputError, match="test: no skull has a place for a defect"):
        ImplantCases([empty], DEFECT, 0, "test")


def test_bad_arguments_are_refused(skulls: list[PreparedSkull]) -> None:
    small = PreparedSkull("small", np.ones((16, 16, 16), dtype=np.uint8), skulls[0].affine)
    with pytest.raises(ValueError, match="needs at least one skull: this split is empty"):
        ImplantTrainingSet([], DEFECT, 0)
    with pytest.raises(ValueError, match=r"skull small has the grid \(16, 16, 16\)"):
        ImplantCases([skulls[0], small], DEFECT, 0, "test")
    items = ImplantTrainingSet(skulls, DEFECT, 0)
    with pytest.raises(IndexError, match="index -1 is negative"):
        items[-1]
    with pytest.raises(InputError, match=r"cut 2 and chips 0\.4 must be 0 to 1"):
        ImplantAugmentation(cut=2)
