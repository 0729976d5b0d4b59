from __future__ import annotations

import pytest
import torch
from monai.losses import DiceLoss
from torch import nn

from famseg.flatness import relative_flatness
from famseg.models import AutoencoderConfig, ShapeAutoencoder


def test_the_paper_s_network_has_its_layers_and_about_a_million_parameters() -> None:
    model = ShapeAutoencoder()
    assert model.latent.weight.shape == (8, 64)
    assert model.expand.weight.shape == (64, 8)
    assert sum(parameter.numel() for parameter in model.parameters()) == 1_026_394
    assert not any(isinstance(module, nn.InstanceNorm3d) for module in model.modules())


def test_sizes_are_free() -> None:
    model = ShapeAutoencoder(size=(16, 24, 32), channels=(4, 4), strides=(2, 4), latent=5)
    assert model(torch.zeros(2, 1, 16, 24, 32)).shape == (2, 1, 16, 24, 32)


def test_the_output_depends_on_the_input() -> None:
    torch.manual_seed(0)
    model = ShapeAutoencoder(size=16, channels=(4, 4), strides=(2, 2), latent=3)
    a, b = model(torch.rand(2, 1, 16, 16, 16))
    assert not torch.allclose(a, b)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 20}, "size 20x20x20 is not divisible by the product of the strides, 32"),
        ({"size": 32}, r"strides \[2, 2, 2, 2, 2\] shrink size 32 to a single voxel"),
        ({"channels": (8, 8)}, "channels and strides must have the same length, got 2 and 5"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ShapeAutoencoder(**options)


def test_a_fault_of_the_section_names_its_key() -> None:
    with pytest.raises(Exception, match="model: size 20x20x20 is not divisible") as caught:
        AutoencoderConfig().build(size=20)
    assert type(caught.value).__name__ == "InputError"


def test_the_gradient_of_kappa_is_right_through_the_very_decoder() -> None:
    # The decoder that is trained, narrow and in float64; native InstanceNorm fails this test.
    torch.manual_seed(0)
    model = ShapeAutoencoder(size=8, channels=(2, 2), strides=(2, 2), latent=2).double()
    images = (torch.rand(2, 1, 8, 8, 8, dtype=torch.float64) > 0.5).double()
    loss = DiceLoss(sigmoid=True)
    names = ["expand.weight", "latent.weight", "decode.decode_0.conv.conv.weight"]
    state = dict(model.named_parameters())

    def kappa(*weights: torch.Tensor) -> torch.Tensor:
        chosen = dict(zip(names, weights, strict=True))

        def of_layer(weight: torch.Tensor) -> torch.Tensor:
            used = {**state, **chosen, "expand.weight": weight}
            return loss(torch.func.functional_call(model, used, (images,)), images)

        return relative_flatness(of_layer, chosen["expand.weight"])

    inputs = [state[name].detach().clone().requires_grad_() for name in names]
    assert torch.autograd.gradcheck(kappa, inputs, atol=1e-8, rtol=1e-4, fast_mode=True)
