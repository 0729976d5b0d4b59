from __future__ import annotations

import pytest
import torch
from torch import nn

from famseg.flatness import FAM
from famseg.messages import InputError
from famseg.models import ImplantNetwork, SegResNetConfig, UNetConfig
from famseg.models._implant_network import _fold, _unfold

SMALL = {"size": 16, "channels": (8, 16)}


def test_blocks_become_channels_and_come_back() -> None:
    volume = torch.arange(4.0**3).reshape(1, 1, 4, 4, 4)
    folded = _fold(volume, 2)
    assert folded.shape == (1, 8, 2, 2, 2)
    # Channels count the voxels of a block in the order of the axes.
    assert folded[0, :, 1, 0, 1].tolist() == volume[0, 0, 2:4, 0:2, 2:4].flatten().tolist()
    assert torch.equal(_unfold(folded, 2), volume)
    two = torch.cat([volume, volume + 100], dim=1)
    assert torch.equal(_fold(two, 2)[:, 8:], _fold(volume + 100, 2))


@pytest.mark.parametrize("fold", [1, 2, 4])
@pytest.mark.parametrize("kind", ["unet", "segresnet"])
def test_logits_have_the_shape_of_the_input(kind: str, fold: int) -> None:
    net = ImplantNetwork(kind=kind, fold=fold, **SMALL)
    assert net(torch.zeros(2, 1, 16, 16, 16)).shape == (2, 1, 16, 16, 16)


def test_every_norm_is_a_group_norm_of_more_than_one_voxel() -> None:
    for kind in ("unet", "segresnet"):
        norms = [
            m for m in ImplantNetwork(kind=kind, **SMALL).modules() if "Norm" in type(m).__name__
        ]
        assert norms
        assert all(isinstance(norm, nn.GroupNorm) for norm in norms)


def test_the_first_prediction_is_that_implants_are_rare() -> None:
    torch.manual_seed(0)
    share = ImplantNetwork(**SMALL)(torch.rand(1, 1, 16, 16, 16).round()).sigmoid().mean()
    assert 0.003 < share.item() < 0.1


def test_the_mirror_image_is_seen_only_when_asked_for() -> None:
    torch.manual_seed(0)
    skull = torch.zeros(1, 1, 16, 16, 16)
    skull[..., 2, 8, 8] = 1
    other = skull.clone()
    other[:, :, 15, 8, 8] = 1  # far from the voxel below, and next to it in the mirror
    place = (0, 0, 0, 8, 8)
    for mirror in (True, False):
        # Without norms, which spread the mean over all positions.
        net = ImplantNetwork(size=16, channels=(8, 16), fold=1, mirror=mirror).double()
        for name, module in list(net.named_modules()):
            if isinstance(module, nn.GroupNorm):
                net.set_submodule(name, nn.Identity())
        with torch.no_grad():
            differs = net(skull.double())[place] != net(other.double())[place]
        assert bool(differs) is mirror


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fold": 3}, r"fold is 3\. Choose 1, 2 or 4 voxels\."),
        ({"channels": (8,)}, r"channels \[8\] do not make levels"),
        ({"channels": (4, 8)}, r"channels begin with 4; the head needs at least 8 channels"),
        ({"size": 18}, r"size 18 must be a multiple of 4 and larger than it"),
        ({"size": 4}, r"size 4 must be a multiple of 4 and larger than it"),
        (
            {"kind": "segresnet", "channels": (8, 12)},
            r"channels \[8, 12\]: a SegResNet doubles them",
        ),
    ],
)
def test_sizes_that_do_not_fit_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ImplantNetwork(**{**SMALL, **options})


def test_a_configuration_says_where_the_fault_is() -> None:
    with pytest.raises(InputError, match="model: size 40 must be a multiple of 16"):
        UNetConfig().build(size=40)
    net = SegResNetConfig(kind="segresnet", channels=(8, 16), fold=1, mirror=False).build(size=8)
    assert net(torch.zeros(1, 1, 8, 8, 8)).shape == (1, 1, 8, 8, 8)


@pytest.mark.parametrize("kind", ["unet", "segresnet"])
def test_the_head_can_be_penalized(kind: str) -> None:
    """The value of the cheap estimator is that of the exact Hessian, and its gradient flows."""
    torch.manual_seed(0)
    net = ImplantNetwork(kind=kind, size=8, channels=(8, 16), fold=2).double()
    skull = torch.rand(2, 1, 8, 8, 8, dtype=torch.float64).round()
    implant = (1 - skull) * torch.rand_like(skull).round()

    def loss(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return nn.functional.binary_cross_entropy_with_logits(logits, target)

    exact = FAM(net, layer="head", loss=loss, weight=1.0, estimator="exact", bound="none")
    cheap = FAM(net, layer="head", loss=loss, weight=1.0, bound="none", every=1, probes=200)
    value = exact(skull, implant).penalty
    found = cheap(skull, implant).penalty
    assert value.item() > 0
    torch.testing.assert_close(found, value, rtol=0.2, atol=0)
    gradients = torch.autograd.grad(found, [net.head.weight, next(net.body.parameters())])
    assert all(gradient.norm().item() > 0 for gradient in gradients)
