from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

from famseg.flatness import FAM, cross_entropy_flatness
from famseg.models import (
    Classifier,
    convnet,
    efficientnet,
    monai_network,
    resnet18,
    wide_resnet,
)

DENSE = {"block_config": [1, 1], "init_features": 8, "growth_rate": 4, "dropout_prob": 0.1}
KINDS: dict[str, Callable[[], Classifier]] = {
    "convnet": lambda: convnet(classes=10, width=8),
    "resnet18": lambda: resnet18(classes=10),
    "resnet18, imagenet": lambda: resnet18(classes=10, stem="imagenet", features=64),
    "wide_resnet": lambda: wide_resnet(classes=10, depth=10, width=1, dropout=0.3, features=64),
    "efficientnet": lambda: efficientnet(classes=10, size=32, variant="b0", features=64),
    "monai": lambda: monai_network("DenseNet", classes=10, arguments=DENSE),
}


@pytest.fixture(params=KINDS)
def model(request: pytest.FixtureRequest) -> Classifier:
    torch.manual_seed(0)
    return KINDS[request.param]()


@pytest.fixture
def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(4, 3, 32, 32, generator=generator), torch.tensor([0, 3, 9, 3])


def test_the_penalty_of_the_head_is_its_closed_form_and_norms_see_the_batch_once(
    model: Classifier, batch: tuple[Tensor, Tensor]
) -> None:
    plain = copy.deepcopy(model)
    torch.manual_seed(2)  # of dropout
    loss = nn.functional.cross_entropy(plain(batch[0]), batch[1])
    seen: list[Tensor] = []
    model.head.register_forward_hook(lambda _, inputs, output: seen.extend((inputs[0], output)))
    objective = FAM(
        model, layer="head", loss=nn.CrossEntropyLoss(), weight=0.1, estimator="closed_form"
    )
    torch.manual_seed(2)
    terms = objective(*batch)
    features, logits = seen[-2:]
    kappa = cross_entropy_flatness(features, logits, batch[1], model.head.weight).mean()
    assert kappa > 0
    torch.testing.assert_close(terms.penalty, kappa)
    torch.testing.assert_close(terms.loss, loss)
    terms.total.backward()
    assert all(weight.grad is not None for weight in model.parameters())
    expected = dict(plain.named_buffers())
    assert any("running_mean" in name for name in expected)
    for name, buffer in model.named_buffers():
        torch.testing.assert_close(buffer, expected[name])
        assert "num_batches" not in name or buffer == 1


def test_channels_last_changes_nothing(model: Classifier, batch: tuple[Tensor, Tensor]) -> None:
    expected = model.eval()(batch[0])
    model.to(memory_format=torch.channels_last)
    found = model(batch[0].to(memory_format=torch.channels_last))
    assert found.shape == (4, 10)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def test_nothing_works_in_place(model: Classifier) -> None:
    assert not any(getattr(module, "inplace", False) for module in model.modules())


def test_middle_layers_can_be_penalized_too(batch: tuple[Tensor, Tensor]) -> None:
    torch.manual_seed(0)
    model = wide_resnet(classes=10, depth=10, width=1)
    layer = "body.layers.group3.0.conv2"
    objective = FAM(model, layer=layer, loss=nn.CrossEntropyLoss(), weight=1e-3, every=1)
    terms = objective(*batch)
    terms.total.backward()
    assert terms.penalty > 0
    assert model.get_submodule(layer).weight.grad.isfinite().all()


def leaves(model: nn.Module) -> Iterator[nn.Module]:
    return (module for module in model.modules() if not list(module.children()))


@pytest.mark.parametrize("make", [convnet, resnet18, wide_resnet])
def test_the_initialization_is_that_of_the_residual_networks(
    make: Callable[..., Classifier],
) -> None:
    torch.manual_seed(0)
    options = {"depth": 16, "width": 2} if make is wide_resnet else {}
    model = make(classes=10, features=64, **options)
    for layer in leaves(model):
        if isinstance(layer, nn.Conv2d):
            fan_out = layer.out_channels * layer.kernel_size[0] ** 2
            n = layer.weight.numel()
            spread = layer.weight.std().item() * (fan_out / 2) ** 0.5
            assert spread == pytest.approx(1, abs=5 / (2 * n) ** 0.5)  # five standard errors
            assert layer.bias is None
        elif isinstance(layer, nn.BatchNorm2d):
            assert (layer.weight == 1).all()
            assert (layer.bias == 0).all()
        elif isinstance(layer, nn.Linear):
            assert (layer.bias == 0).all()


def test_without_an_extra_layer_the_features_are_the_body_s() -> None:
    body = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    model = Classifier(body, width=3, classes=2)
    assert isinstance(model.features, nn.Identity)
    assert model.head.in_features == 3
    assert [name for name, _ in model.named_parameters()] == ["head.weight", "head.bias"]


def test_a_head_that_does_not_fit_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"head maps 5 features to 2 classes, but here are 3 features"
    ):
        Classifier(nn.Flatten(), width=3, classes=2, head=nn.Linear(5, 2))
