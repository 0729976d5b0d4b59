from __future__ import annotations

import pytest
import torch

from famseg.evaluation import dice_rows
from famseg.metrics import dice


def batch_of(label):
    return {"label": label.float(), "subject": ["a", "b", "c"][: len(label)]}


def test_each_case_has_its_dice():
    generator = torch.Generator().manual_seed(0)
    probability = torch.rand(3, 1, 5, 4, 3, generator=generator)
    label = torch.rand(3, 1, 5, 4, 3, generator=generator) < 0.5
    label[2] = False
    probability[2] = 0.2
    rows = dice_rows(probability, batch_of(label))
    assert [row["subject"] for row in rows] == ["a", "b", "c"]
    wanted = [dice((p > 0.5).numpy(), t.numpy()) for p, t in zip(probability, label, strict=True)]
    assert [row["dsc"] for row in rows] == wanted
    assert rows[2]["dsc"] == 1.0


def test_masks_need_no_threshold():
    label = torch.ones(1, 1, 2, 2, 2, dtype=torch.bool)
    assert dice_rows(label, batch_of(label))[0]["dsc"] == 1.0
    assert dice_rows(~label, batch_of(label))[0]["dsc"] == 0.0


def test_logits_are_refused():
    label = torch.ones(1, 1, 2, 2, 2)
    for value, found in ((3.0, "3 to 3"), (float("nan"), "nan to nan")):
        with pytest.raises(ValueError, match=f"found {found}\\. Put a sigmoid on logits"):
            dice_rows(torch.full_like(label, value), batch_of(label))


def test_two_channels_are_refused():
    label = torch.ones(1, 1, 2, 2, 2)
    with pytest.raises(
        ValueError, match=r"\(1, 2, 2, 2, 2\) and label \(1, 1, 2, 2, 2\)\. Give one"
    ):
        dice_rows(torch.ones(1, 2, 2, 2, 2), batch_of(label))
