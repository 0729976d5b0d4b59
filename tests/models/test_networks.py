"""Sizes, shapes and faults of the single networks."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from monai.networks.nets import EfficientNetBN
from torch import nn
from torch.nn import functional as F

from famseg.models import (
    Classifier,
    WideResNet,
    convnet,
    efficientnet,
    monai_network,
    resnet18,
    wide_resnet,
)


def size(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("make", "options", "count"),
    [
        (wide_resnet, {"classes": 10}, 36_479_194),
        (wide_resnet, {"classes": 10, "features": 64}, 36_479_194 + 64 * 640 + 64 - 576 * 10),
        (resnet18, {"classes": 10}, 11_173_962),
        (resnet18, {"classes": 10, "stem": "imagenet"}, 11_173_962 + 64 * 3 * (49 - 9)),
        (efficientnet, {"classes": 10}, 63_812_570),
        (convnet, {"classes": 10}, 242_474),
        (convnet, {"classes": 10, "width": 16}, 61_338),
    ],
)
def test_numbers_of_parameters(
    make: Callable[..., Classifier], options: dict[str, object], count: int
) -> None:
    with torch.device("meta"):  # nothing is stored or drawn
        assert size(make(**options)) == count


@pytest.mark.parametrize(
    "model",
    [
        convnet(classes=7, channels=1, width=4),
        resnet18(classes=7, channels=1, stem="imagenet", features=5),
        wide_resnet(classes=7, channels=1, depth=10, width=1),
        efficientnet(classes=7, channels=1, size=64, variant="b0"),
    ],
    ids=["convnet", "resnet18", "wide_resnet", "efficientnet"],
)
def test_channels_and_edges_are_free(model: Classifier) -> None:
    with torch.no_grad():
        assert model.eval()(torch.zeros(2, 1, 64, 64)).shape == (2, 7)


def test_a_wide_residual_block_is_norm_relu_convolution_twice_beside_a_shortcut() -> None:
    torch.manual_seed(0)
    body = WideResNet(depth=16, width=1).eval()
    x = torch.randn(2, 16, 8, 8)
    same, halved = body.layers.group1[0], body.layers.group2[0]
    active = F.relu(same.norm1(x))
    expected = x + same.conv2(F.relu(same.norm2(same.conv1(active))))
    torch.testing.assert_close(same(x), expected)
    active = F.relu(halved.norm1(x))
    inner = halved.conv2(F.relu(halved.norm2(halved.conv1(active))))
    torch.testing.assert_close(halved(x), halved.shortcut(active) + inner)
    assert halved(x).shape == (2, 32, 4, 4)
    assert [len(body.layers.get_submodule(f"group{k}")) for k in (1, 2, 3)] == [2, 2, 2]


@pytest.mark.parametrize("depth", [4, 27])
def test_a_depth_that_does_not_exist_is_refused(depth: int) -> None:
    with pytest.raises(ValueError, match=rf"depth must be 6 n \+ 4 .*, got {depth}"):
        wide_resnet(classes=10, depth=depth)


def test_efficientnet_is_monai_s_with_the_padding_of_its_images() -> None:
    with torch.device("meta"):
        theirs = EfficientNetBN("efficientnet-b0", pretrained=False, num_classes=10).state_dict()
        ours = efficientnet(classes=10, variant="b0").state_dict()
    named = {key.replace("_fc.", "head."): value for key, value in theirs.items()}
    shapes = {key.removeprefix("body."): value.shape for key, value in ours.items()}
    assert shapes == {key: value.shape for key, value in named.items()}
    small = efficientnet(classes=10, size=224, variant="b0")
    # "Same" padding of a stride of two on an even edge adds one row and column at the end.
    strided = [m for n, m in small.named_modules() if n.endswith("_depthwise_conv_padding")]
    assert {module.padding for module in strided} == {
        (1, 1, 1, 1),
        (0, 1, 0, 1),
        (2, 2, 2, 2),
        (1, 2, 1, 2),
    }


def test_a_network_of_monai_keeps_its_head_unless_features_are_asked_for() -> None:
    options = {
        "patch_size": 16,
        "hidden_size": 24,
        "mlp_dim": 8,
        "num_layers": 1,
        "num_heads": 2,
        "classification": True,
        "post_activation": "none",
    }
    model = monai_network("ViT", classes=5, channels=1, size=32, arguments=options)
    assert model.head.weight.shape == (5, 24)
    assert not any(isinstance(m, nn.Linear) and m.out_features == 5 for m in model.body.modules())
    assert model(torch.zeros(2, 1, 32, 32)).shape == (2, 5)
    model = monai_network("ViT", classes=5, channels=1, arguments=options, features=6)
    assert model.head.weight.shape == (5, 6)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("DenseNe121", {}, r"no network class DenseNe121\. Did you mean DenseNet121\?"),
        ("__builtins__", {}, "no network class __builtins__"),
        ("DenseNet", {"grwth_rate": 4}, r"no argument grwth_rate \(did you mean growth_rate\?\)"),
        ("DenseNet", {"init_features": "x"}, r"DenseNet rejects its arguments: \S"),
        ("EfficientNetBN", {}, "rejects its arguments: .* missing 1 required .* 'model_name'"),
        ("UNet", {"channels": [2, 2], "strides": [2]}, "UNet has no linear layer that could be"),
        ("ViT", {"patch_size": 8, "num_layers": 1}, r"does not end in .* \(blocks.0.mlp.linear2\)"),
        ("Classifier", {"channels": [2], "strides": [2]}, r"does not end in .* \(final.1\)"),
        ("AutoEncoder", {"channels": [2] * 9, "strides": [2] * 9}, "takes no images of 3 x 32 x"),
    ],
)
def test_what_cannot_be_a_classifier_is_refused(
    name: str, arguments: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        monai_network(name, classes=10, arguments=arguments)
    assert "\n" not in str(caught.value)
