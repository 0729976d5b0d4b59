from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from famseg.reconstruction import CoarseNetwork, calibrate, confidence_rows
from famseg.reconstruction._confidence import THRESHOLDS


class Known(nn.Module):
    """Gives every voxel the probability that its case was made with."""

    def __init__(self, logit: float) -> None:
        super().__init__()
        self.head = nn.Identity()
        self.logit = logit

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.where(torch.roll(x, 1, 4) > 0, self.logit, -9.0))


def cases(count: int) -> list[dict]:
    """Slabs of bone; the implant is the layer above each, of which more or less is missing."""
    made = []
    for index in range(count):
        skull = torch.zeros(1, 8, 8, 8)
        skull[:, 2:6, 2:6, 3] = 1
        implant = torch.zeros_like(skull)
        implant[:, 2 : 3 + index % 4, 2:6, 4] = 1
        made.append({"image": skull, "implant": implant, "subject": f"s{index}"})
    return made


def network(logit: float) -> CoarseNetwork:
    return CoarseNetwork(
        model=Known(logit),
        size=8,
        spacing_mm=7.0,
        threshold=0.5,
        name="toy",
        device=torch.device("cpu"),
    )


def test_a_timid_network_gets_a_threshold_that_it_reaches() -> None:
    """At 0.5 it would return nothing at all."""
    timid = network(float(np.log(0.3 / 0.7)))
    assert not timid.implant(cases(1)[0]["image"][0].numpy() > 0).any()
    calibrated, dsc = calibrate(timid, cases(8))
    assert calibrated.calibrated
    assert calibrated.threshold < 0.3
    assert calibrated.threshold in THRESHOLDS
    # A layer of 16 voxels for implants of 4, 8, 12 and 16.
    assert dsc == pytest.approx(np.mean([2 * k / (k + 16) for k in (4, 8, 12, 16)]), abs=1e-6)
    assert calibrated.curve.n == 8


def test_every_case_has_a_confidence_and_its_dsc() -> None:
    told: list[tuple[int, int]] = []
    calibrated, _ = calibrate(network(3.0), cases(4), progress=lambda *a: told.append(a))
    assert told[-1] == (8, 8)
    rows = confidence_rows(calibrated, cases(4))
    assert [row["subject"] for row in rows] == ["s0", "s1", "s2", "s3"]
    assert [row["dsc"] for row in rows] == pytest.approx([2 * k / (k + 16) for k in (4, 8, 12, 16)])
    # All cases look the same to the network: its confidence is its mean DSC.
    mean = float(np.mean([row["dsc"] for row in rows]))
    assert [row["confidence"] for row in rows] == pytest.approx([mean] * 4, abs=1e-5)


def test_a_calibration_without_cases_is_refused() -> None:
    with pytest.raises(ValueError, match="needs validation cases: this split is empty"):
        calibrate(network(1.0), [])
