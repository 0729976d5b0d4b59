from __future__ import annotations

import pytest
import torch

from famseg.flatness import bounded

KAPPA = torch.tensor([3.0, -1.0, -5.0])


@pytest.mark.parametrize(
    ("bound", "value"),
    [("positive", 1.0), ("batch_positive", 0.0), ("absolute", 3.0), ("none", -1.0)],
)
def test_by_hand(bound, value):
    assert bounded(KAPPA, bound).item() == pytest.approx(value)


@pytest.mark.parametrize("bound", ["positive", "batch_positive", "absolute"])
def test_takes_the_value_of_a_batch(bound):
    assert bounded(torch.tensor(-2.0), bound).item() == (2 if bound == "absolute" else 0)


@pytest.mark.parametrize("bound", ["positive", "batch_positive", "absolute", "none"])
def test_keeps_nan(bound):
    assert bounded(torch.tensor([1.0, float("nan")]), bound).isnan()


def test_a_mean_of_positive_parts_is_that_of_its_parts():
    halves = [bounded(part, "positive") for part in torch.tensor([3.0, -1.0, -5.0, 2.0]).split(2)]
    assert torch.stack(halves).mean() == bounded(torch.tensor([3.0, -1.0, -5.0, 2.0]), "positive")
