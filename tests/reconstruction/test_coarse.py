from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from famseg.models import ImplantNetwork
from famseg.reconstruction import CoarseNetwork, fit_curve
from famseg.reconstruction._coarse import _shifted


def network(model: nn.Module, **options: object) -> CoarseNetwork:
    given = {"size": 16, "spacing_mm": 14.0, "threshold": 0.5, "name": "toy"} | options
    return CoarseNetwork(model=model, device=torch.device("cpu"), **given)


@pytest.fixture
def volume() -> np.ndarray:
    return np.random.default_rng(0).random((16, 16, 16)) < 0.2


class Neighbor(nn.Module):
    """Logits that are large to the right of bone: commutes with shifts, not with the mirror."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(20 * _shifted(x, (1, 0, 0)) - 10)


def test_a_shift_moves_and_comes_back() -> None:
    cube = torch.arange(27.0).reshape(1, 1, 3, 3, 3)
    moved = _shifted(cube, (1, 0, -1), fill=-5.0)
    assert torch.equal(moved[..., 1:, :, :2], cube[..., :2, :, 1:])
    assert (moved[..., 0, :, :] == -5).all()
    assert (moved[..., 2] == -5).all()
    back = _shifted(moved, (-1, 0, 1), fill=0.0)
    assert torch.equal(back[..., :2, :, 1:], cube[..., :2, :, 1:])
    assert torch.equal(_shifted(cube, (0, 0, 0)), cube)


def test_the_prediction_is_the_mean_over_mirror_and_shifts(volume: np.ndarray) -> None:
    probability = network(Neighbor()).predict(volume)
    right, left = np.zeros_like(volume), np.zeros_like(volume)
    right[1:], left[:-1] = volume[:-1], volume[1:]
    inner = (slice(2, -2),) * 3  # what came in from outside is another matter
    expected = (right.astype(float) + left) / 2 * ~volume
    assert probability.dtype == np.float32
    np.testing.assert_allclose(probability[inner], expected[inner], atol=1e-4)


def test_implant_and_skull_share_no_voxel(volume: np.ndarray) -> None:
    torch.manual_seed(0)
    net = network(ImplantNetwork(size=16, channels=(8, 16)), threshold=0.01)
    implant = net.implant(volume)
    assert implant.any()
    assert not (implant & volume).any()
    assert not net.predict(volume)[volume].any()


def test_small_pieces_are_left_out_and_two_of_like_size_stay() -> None:
    net = network(Neighbor())
    probability = np.zeros((16, 16, 16), dtype=np.float32)
    probability[1:5, 2:7, 3] = 0.9  # 20 voxels
    probability[10:14, 2, 3] = 0.9  # 4, a fifth
    probability[8, 12:15, 9] = 0.9  # 3
    implant = net.implant_of(probability, np.zeros((16, 16, 16), dtype=bool))
    assert implant.sum() == 24
    assert not implant[8].any()
    bone = np.zeros((16, 16, 16), dtype=bool)
    bone[3:5] = True  # takes half of the first piece
    assert net.implant_of(probability, bone).sum() == 10 + 4 + 3


def test_an_autoencoder_completes_and_the_implant_is_what_it_adds(volume: np.ndarray) -> None:
    class Complete(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            logits = 20 * x - 10
            logits[..., 5, 5, 5] = 10
            return logits

    volume[4:7, 4:7, 4:7] = False
    net = network(Complete(), output="skull", layer="")
    found = net._probability(Complete()(net._tensor(volume)), volume) > 0.5
    assert np.argwhere(found).tolist() == [[5, 5, 5]]


def test_the_predictions_are_the_same_each_time_and_leave_the_model_as_it_was(
    volume: np.ndarray,
) -> None:
    torch.manual_seed(0)
    model = ImplantNetwork(size=16, channels=(8, 16))
    model.train()
    net = network(model, threshold=0.02)
    one, state = net.agreement(volume), torch.get_rng_state()
    again = net.agreement(volume)
    assert torch.equal(torch.get_rng_state(), state), "the global generator is not used"
    for first, second in zip(one, again, strict=True):
        np.testing.assert_array_equal(first, second)
    assert model.training
    assert not model.head._forward_pre_hooks
    np.testing.assert_array_equal(one[0], net.predict(volume))


def test_noise_on_the_features_lowers_the_agreement(volume: np.ndarray) -> None:
    class Steep(nn.Module):
        """Its features decide by a hair."""

        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Conv3d(1, 1, 1)
            nn.init.constant_(self.head.weight, 100.0)
            nn.init.constant_(self.head.bias, 0.0)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(x - 0.5)

    class Flat(Steep):
        def forward(self, x: Tensor) -> Tensor:
            return self.head(torch.where(x > 0, -1.0, 1.0))

    class Torn(Steep):
        def forward(self, x: Tensor) -> Tensor:
            even = torch.arange(16) % 2
            return self.head(torch.where(x > 0, -1.0, 0.05) * (1 + 19 * even))

    flat, torn = (network(model()).agreement(volume) for model in (Flat, Torn))
    inner = (slice(1, -1),) * 3  # what came in from outside is another matter
    assert flat[1][inner].min() == 1
    assert torn[1][inner].min() < 1
    assert torn[2] < flat[2] - 0.01


def test_the_confidence_is_calibrated_and_0_for_an_empty_implant(volume: np.ndarray) -> None:
    curve = fit_curve([0.0, 1.0], [0.5, 0.6])
    sure = network(Neighbor(), curve=curve)
    number = sure.raw_agreement(volume)[1]
    empty = sure.agreement(np.zeros_like(volume))
    assert empty[2] == 0.0
    assert 0.0 <= number <= 1.0
    one_sided = network(Neighbor(), curve=curve, threshold=0.3).agreement(volume)
    assert 0.5 < one_sided[2] <= 0.6


def test_a_volume_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="toy takes a cube of 16 voxels of 14 mm"):
        network(Neighbor()).predict(np.zeros((8, 8, 8), dtype=bool))
