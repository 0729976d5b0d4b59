from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from famseg.metrics import dice, score, surface_scores
from famseg.metrics._masks import as_mask


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64, torch.float32])
def test_tensors_score_as_arrays(blob, dtype):
    prediction, truth = blob(1), blob(2)
    pair = [torch.from_numpy(mask).to(dtype) for mask in (prediction, truth)]
    spacing = (0.5, 1.3, 4.0)
    assert dice(*pair) == dice(prediction, truth)
    assert surface_scores(*pair, spacing) == surface_scores(prediction, truth, spacing)
    assert score(*pair, spacing) == score(prediction, truth, spacing)


def test_a_meta_tensor_that_needs_gradients_is_a_mask(box):
    tensor = MetaTensor(torch.from_numpy(box).float()).requires_grad_()
    found = as_mask(tensor, "prediction")
    assert type(found) is np.ndarray
    assert np.array_equal(found, box)


def test_bool_is_not_copied(box):
    assert as_mask(box, "truth") is box
    assert np.shares_memory(as_mask(torch.from_numpy(box), "truth"), box)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            torch.full((2, 2, 2), 0.4),
            r"truth must contain only 0 and 1, but it contains only 0\.4: probabilities",
        ),
        (
            torch.tensor([0, 255]),
            r"0 and 255\. Choose the one that is the mask: truth == 255",
        ),
        (
            torch.tensor([0, -1]),
            r"it contains -1 and 0\. Choose the one that is the mask: truth == 0",
        ),
        (
            torch.arange(9),
            r"9 values from 0 to 8: labels or intensities\. Choose one label: truth",
        ),
        (torch.full((2, 2, 2), torch.nan), r"it contains NaN or infinity\. Threshold it"),
        (torch.full((2, 2, 2), -torch.inf), r"it contains NaN or infinity\. Threshold it"),
    ],
)
def test_a_tensor_that_is_no_mask_is_refused(values, message):
    with pytest.raises(ValueError, match=message):
        as_mask(values, "truth")


@pytest.mark.cuda
def test_a_tensor_on_a_gpu_scores_as_an_array(blob):
    pair = [torch.from_numpy(blob(seed)).cuda() for seed in (1, 2)]
    assert score(*pair, (1, 1, 2)) == score(blob(1), blob(2), (1, 1, 2))
