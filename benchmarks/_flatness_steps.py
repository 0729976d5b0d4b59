"""Training steps with and without a flatness penalty, on two networks."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from _measure import Contestant, Step, missing
from monai.losses import DiceLoss
from monai.networks.nets import resnet18
from torch import Tensor, nn

from famseg.flatness import FAM
from famseg.models import ShapeAutoencoder

SAM_PACKAGE = "pytorch_optimizer==4.1.0"
SAM_MISSING = missing("pytorch_optimizer", SAM_PACKAGE)
Network = Literal["resnet", "autoencoder"]


class Scene(NamedTuple):
    """A network with a penalized layer, a loss and a batch."""

    model: nn.Module
    layer: str
    loss: Callable[[Any, Any], Tensor]
    inputs: Tensor
    targets: Tensor
    optimizer: type[torch.optim.Optimizer]
    options: dict[str, float]


def scene(network: Network, device: str, *, quick: bool = False) -> Scene:
    """Return one of the two networks with its batch, the same at every call.

    Args:
        network: ``"resnet"``: ResNet18 with the stem for images of 32 x 32, batch 128, SGD.
            ``"autoencoder"``: the paper's autoencoder at 64 x 64 x 64, batch 4, Adam.
        device: Where it lies.
        quick: Use small sizes.
    """
    torch.manual_seed(0)
    if network == "resnet":
        model = resnet18(
            spatial_dims=2,
            n_input_channels=3,
            conv1_t_size=3,
            conv1_t_stride=1,
            no_max_pool=True,
            bias_downsample=False,
            num_classes=10,
            pretrained=False,
        )
        edge, n = (8, 8) if quick else (32, 128)
        data = torch.randn(n, 3, edge, edge), torch.randint(0, 10, (n,))
        head = ("fc", nn.CrossEntropyLoss())
        optimizer, options = torch.optim.SGD, {"lr": 0.03, "momentum": 0.9, "weight_decay": 5e-4}
    else:
        model = bottleneck_network(16 if quick else 64)
        data = balls(4, 16 if quick else 64)
        head = ("expand", DiceLoss(sigmoid=True))
        optimizer, options = torch.optim.Adam, {"lr": 1e-4}
    inputs, targets = (tensor.to(device) for tensor in data)
    return Scene(model.to(device), *head, inputs, targets, optimizer, options)


def bottleneck_network(size: int) -> ShapeAutoencoder:
    """Return the paper's autoencoder, or a small one whose layer ``expand`` is 64 x 8 as well."""
    if size >= 64:
        return ShapeAutoencoder(size=size)
    return ShapeAutoencoder(size=size, channels=(8, 16, 8), strides=(2, 2, 2))


def balls(n: int, size: int) -> tuple[Tensor, Tensor]:
    """Return shells with an octant cut out, and whole; both ``(n, 1, size, size, size)``."""
    axis = torch.linspace(-1, 1, size)
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    radius = (x**2 + y**2 + z**2).sqrt()
    middle = torch.linspace(0.5, 0.8, n)[:, None, None, None]
    whole = ((radius - middle).abs() < 0.1).float()[:, None]
    return whole * ~((x > 0) & (y > 0) & (z > 0)), whole


def plain(setting: Scene) -> Step:
    """A step of plain training."""
    optimizer = setting.optimizer(setting.model.parameters(), **setting.options)

    def run() -> None:
        optimizer.zero_grad()
        setting.loss(setting.model(setting.inputs), setting.targets).backward()
        optimizer.step()

    return Step(run)


def fam(setting: Scene, **arguments: Any) -> Step:
    """A step with the penalty."""
    objective = FAM(setting.model, layer=setting.layer, loss=setting.loss, **arguments)
    optimizer = setting.optimizer(objective.parameters(), **setting.options)

    def run() -> None:
        optimizer.zero_grad()
        objective(setting.inputs, setting.targets).total.backward()
        optimizer.step()

    return Step(run, lambda: objective.period)


def sam(setting: Scene) -> Step:
    """A step of sharpness-aware minimization (Foret et al. 2021)."""
    from pytorch_optimizer import SAM

    optimizer = SAM(setting.model.parameters(), setting.optimizer, rho=0.05, **setting.options)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = setting.loss(setting.model(setting.inputs), setting.targets)
        loss.backward()
        return loss

    def run() -> None:
        closure()
        optimizer.step(closure)

    return Step(run)


def naive(setting: Scene, weight: float) -> Step:
    """A step with one probe of the weight and double backward through the whole network.

    The most direct implementation: unbiased, with the full gradient, not optimized.
    """
    optimizer = setting.optimizer(setting.model.parameters(), **setting.options)
    matrix = setting.model.get_submodule(setting.layer).weight
    assert isinstance(matrix, Tensor)  # noqa: S101

    def run() -> None:
        optimizer.zero_grad()
        loss = setting.loss(setting.model(setting.inputs), setting.targets)
        v = matrix @ torch.randn(matrix.shape[1], matrix.shape[1], device=matrix.device)
        (slope,) = torch.autograd.grad(loss, matrix, create_graph=True)
        (moved,) = torch.autograd.grad((slope * v.detach()).sum(), matrix, create_graph=True)
        (loss + weight * (moved * (2 * v - v.detach())).sum()).backward()
        optimizer.step()

    return Step(run)


def resnet_contestants(device: str, *, quick: bool) -> list[Contestant]:
    """Return the contestants on the classifier; the first is the reference for the others."""
    make = partial(_make, "resnet", device, quick)
    return [
        Contestant("plain step", partial(make, plain)),
        Contestant("FAM, closed form", partial(make, fam, weight=0.1)),
        Contestant("SAM", partial(make, sam), each=4, missing=SAM_MISSING),
    ]


def autoencoder_contestants(device: str, *, quick: bool) -> list[Contestant]:
    """Return the contestants on the autoencoder; the first is the reference for the others."""
    make = partial(_make, "autoencoder", device, quick)
    one = partial(make, fam, weight=0.002)
    whole = partial(one, every=1, samples="all")
    return [
        Contestant("plain step", partial(make, plain)),
        Contestant("FAM, default: mean over the steps", one),
        Contestant("FAM, noise", partial(one, estimator="noise"), repeat=2),
        Contestant("FAM, noise both ways", partial(one, estimator="noise", antithetic=True)),
        Contestant("FAM, penalized step on a quarter", partial(one, every=1), each=2),
        Contestant("FAM, penalized step on all samples", whole, each=2),
        Contestant("FAM, Gauss-Newton on all", partial(whole, estimator="gauss_newton"), each=2),
        Contestant("FAM, columns (exact) on all", partial(whole, estimator="columns"), each=4),
        Contestant("SAM", partial(make, sam), missing=SAM_MISSING),
        Contestant("naive double backward", partial(make, naive, weight=0.002), each=2),
    ]


def _make(
    network: Network,
    device: str,
    quick: bool,
    step: Callable[..., Step],
    **arguments: Any,
) -> Step:
    return step(scene(network, device, quick=quick), **arguments)
